//! The contents of a store, read from sled's log without sled and without a write.
//!
//! sled 0.34 cannot say whether its log is sound. While it opens, it takes anything that it cannot
//! read for the end of the log, forgets everything behind that, and overwrites it. So the log is
//! read here first: an [`Image`] is the pages as sled would recover them, or an error. The store is
//! opened only when the image holds what was last made durable ([`super::verify`] checks that).
//! sled is then handed the pages ([`Image::hand_over`]), so that its own recovery has nothing left
//! to read.
//!
//! Invariant: reading changes no byte on disk. Any bytes are read or refused, and never cause a
//! panic.

mod handover;
mod life;
mod message;
mod node;
mod scan;
mod survey;
#[cfg(test)]
mod tests;
mod window;
mod wreck;

use std::fmt;
use std::fs::File;

use message::LogKind;
use node::{Data, Node};
use scan::{LogPlace, PageState, Scan};
pub(super) use window::Unreadable;
pub(super) use wreck::{FoundPiece, Wreck};

/// sled's page that names the trees.
const META: usize = 0;

/// A log as it is on disk.
#[derive(Debug)]
pub(super) struct Image {
    log: File,
    scan: Scan,
}

/// A damaged place of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageFault {
    /// Bytes from the start of the file.
    pub offset: u64,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The header of a segment is damaged: nothing in the segment can be identified.
    Header,
    /// A message is damaged, and so the rest of its segment is unreadable.
    Message,
    /// Another segment has the same number.
    Twice,
}

impl fmt::Display for ImageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Header => write!(f, "byte {}: the header of a segment is damaged", self.offset),
            What::Message => write!(f, "byte {}: a message is damaged", self.offset),
            What::Twice => write!(f, "byte {}: a segment is there twice", self.offset),
        }
    }
}

/// Why there is no image.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ImageError {
    #[error("{action} the log at byte {offset}: {reason}")]
    Io { action: &'static str, offset: u64, reason: String },
    /// A page cannot be reconstructed from the log.
    #[error("page {page}: {reason}")]
    Page { page: u64, reason: &'static str },
}

impl ImageError {
    fn io(action: &'static str, offset: u64, error: &std::io::Error) -> Self {
        Self::Io { action, offset, reason: error.to_string() }
    }
}

impl Image {
    /// Reads a log.
    ///
    /// # Errors
    /// When the log cannot be read from the disk. Damage is no error here: it is among
    /// [`Self::faults`].
    pub fn read(log: File) -> Result<Self, ImageError> {
        let scan = scan::scan(&log, None)?;
        Ok(Self { log, scan })
    }

    /// The same log as it was before each of its last batches, the last batch first. sled may have
    /// written part of a batch when a read failed in the middle of it; nothing was acknowledged
    /// after that.
    pub fn earlier(&self) -> impl Iterator<Item = Result<Self, ImageError>> {
        self.scan.batches.iter().map(|batch| {
            let log = self.log.try_clone().map_err(|error| ImageError::io("opening", 0, &error))?;
            let scan = scan::scan(&log, Some(*batch))?;
            Ok(Self { log, scan })
        })
    }

    /// The damage that was found, in the order of the file. Damage in free space does no harm; the
    /// entries show whether damage does.
    pub fn faults(&self) -> &[ImageFault] {
        &self.scan.faults
    }

    /// Bytes of the log that hold pages; all other bytes are free.
    #[cfg(test)]
    pub fn live_bytes(&self) -> u64 {
        let bytes = |place: &LogPlace| place.bytes as u64;
        let of = |page: &PageState| match page {
            PageState::Present(whole, changes) => bytes(whole) + changes.iter().map(bytes).sum::<u64>(),
            PageState::Free(place) => bytes(place),
            PageState::Unknown => 0,
        };
        self.scan.pages.iter().map(of).sum()
    }

    /// The root page of the tree with that name; `None` if the log has no such tree.
    ///
    /// # Errors
    /// When the page that names the trees cannot be read.
    pub fn root(&self, tree: &[u8]) -> Result<Option<u64>, ImageError> {
        let Some(PageState::Present(whole, _)) = self.scan.pages.get(META) else { return Ok(None) };
        let meta = body(&self.log, META as u64, *whole, LogKind::Meta)?;
        let roots = node::roots(&meta).ok_or(ImageError::Page { page: META as u64, reason: "it does not name the trees" })?;
        Ok(roots.into_iter().find(|(name, _)| name == tree).map(|(_, root)| root))
    }

    /// Calls `each` with every entry of a tree, in the order of the keys.
    ///
    /// # Errors
    /// When a page cannot be read, or pages do not follow each other without a gap.
    pub fn entries(&self, tree: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), ImageError> {
        let Some(root) = self.root(tree)? else { return Ok(()) };
        let (mut page, mut leaf) = self.first_leaf(root)?;
        let mut key = Vec::new();
        // A damaged chain may be a circle.
        for _ in 0..=self.scan.pages.len() {
            let Data::Leaf(entries) = &leaf.data else { return Err(ImageError::Page { page, reason: "it is not a leaf" }) };
            for (suffix, value) in entries {
                key.clear();
                key.extend_from_slice(leaf.prefix());
                key.extend_from_slice(suffix);
                each(&key, value);
            }
            let Some(next) = leaf.next else {
                return if leaf.hi.is_empty() { Ok(()) } else { Err(ImageError::Page { page, reason: "the pages behind it are missing" }) };
            };
            let following = self.node(next)?;
            if following.lo != leaf.hi {
                return Err(ImageError::Page { page: next, reason: "it does not begin where the one before it ends" });
            }
            (page, leaf) = (next, following);
        }
        Err(ImageError::Page { page, reason: "the pages lead in a circle" })
    }

    /// The leftmost leaf below a page.
    fn first_leaf(&self, root: u64) -> Result<(u64, Node), ImageError> {
        let mut page = root;
        // No tree of pages is as deep as this.
        for _ in 0..64 {
            let node = self.node(page)?;
            let Data::Index(below) = &node.data else { return Ok((page, node)) };
            (_, page) = *below.first().ok_or(ImageError::Page { page, reason: "it leads nowhere" })?;
        }
        Err(ImageError::Page { page, reason: "the pages lead in a circle" })
    }

    /// Reads a page and applies its changes.
    fn node(&self, page: u64) -> Result<Node, ImageError> {
        let state = usize::try_from(page).ok().and_then(|index| self.scan.pages.get(index));
        let Some(PageState::Present(whole, changes)) = state else {
            return Err(ImageError::Page { page, reason: "it is not in the log" });
        };
        let bad = ImageError::Page { page, reason: "it cannot be decoded" };
        let mut node = Node::read(&body(&self.log, page, *whole, LogKind::Node)?).ok_or(bad.clone())?;
        for change in changes {
            node.apply(&body(&self.log, page, *change, LogKind::Link)?).ok_or(bad.clone())?;
        }
        Ok(node)
    }
}

/// Reads the body of a message about a page.
fn body(log: &File, page: u64, place: LogPlace, kind: LogKind) -> Result<Vec<u8>, ImageError> {
    let mut bytes = vec![0; place.bytes];
    scan::read_exact(log, &mut bytes, place.offset)?;
    let body = message::read(&bytes).filter(|message| message.kind == kind && message.pid == page).map(|message| message.body.len());
    let body = body.ok_or(ImageError::Page { page, reason: "it changed while it was read" })?;
    Ok(bytes.split_off(place.bytes - body))
}
