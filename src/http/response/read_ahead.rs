//! What downloads have read and their clients have not taken yet: one budget for all of it, of
//! which each owner has a share.
//!
//! A piece counts from before it is read until the last byte of it is with the kernel or dropped,
//! wherever it waits meanwhile: here, in hyper, or in the window of an HTTP/2 stream. Who finds no
//! room waits, and whoever waits has given up what it had read ahead: so that what is taken is on
//! its way to a client, and the server ends streams whose clients take nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};

use super::stream::{Parts, Piece};
use crate::domain::batch::priority::Owner;
use crate::http::shares::room::{Held, SharedRoom};
use crate::store::blocking;
use crate::store::error::StoreError;

/// KiB of all that is read and not taken.
pub const ALL: u32 = 64 << 10;
/// KiB of one owner. A piece that is larger takes all of it.
pub const OF_ONE: u32 = 16 << 10;
/// Parts that are read before the client has taken those before them.
const AHEAD: usize = 3;

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub struct ReadAhead(Arc<SharedRoom>);

/// An owner's share of the budget.
#[derive(Debug, Clone)]
pub struct OwnersShare {
    room: Arc<SharedRoom>,
    owner: Owner,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self(Arc::new(SharedRoom::new(ALL, OF_ONE)))
    }
}

impl ReadAhead {
    /// The share of this owner.
    pub fn of(&self, owner: Owner) -> OwnersShare {
        OwnersShare { room: self.0.clone(), owner }
    }

    /// Bytes that are free, to the KiB.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.0.free() << 10
    }
}

impl OwnersShare {
    /// Whose share it is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Room for a part, if half of the share stays free; and what the part is expected to need.
    fn spare<P: Parts>(&self, part: &P) -> Option<(u64, Held)> {
        let bytes = part.expected()?;
        Some((bytes, self.room.spare(self.owner, bytes)?))
    }

    /// Room for so many bytes, once there is room.
    ///
    /// # Errors
    /// Never: the room is not closed.
    pub async fn acquire(&self, bytes: u64) -> Result<Held, StoreError> {
        self.room.acquire(self.owner, bytes).await.map_err(|closed| StoreError::Unexpected(closed.to_string()))
    }
}

/// A part that is being read.
type Reading<P> = BoxFuture<'static, Result<Read<P>, StoreError>>;

enum Read<P> {
    /// A piece, and the rest of its part.
    Piece(Bytes, P),
    /// The part needs more room than it has.
    Needs(u64, P),
    End,
}

/// The next part of a download.
enum Next<P> {
    Waits(P),
    /// `again` is the part as it was, for a later time: `None` if it can be read but once.
    Begun {
        again: Option<P>,
        reading: Reading<P>,
    },
}

/// A download.
struct Download<P> {
    whole: P,
    share: OwnersShare,
    parts: VecDeque<Next<P>>,
}

/// The pieces of all parts, one after another.
pub fn pieces<P: Parts>(whole: P, share: OwnersShare) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    let download = Download { whole, share, parts: VecDeque::new() };
    futures_util::stream::try_unfold(download, |mut download| async move { Ok(download.next().await?.map(|piece| (piece, download))) })
}

impl<P: Parts> Download<P> {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            let reading = match self.parts.pop_front().or_else(|| self.whole.cut().map(Next::Waits)) {
                None => return Ok(None),
                Some(Next::Begun { reading, .. }) => reading,
                Some(Next::Waits(mut part)) => {
                    if let Some(piece) = part.at_hand() {
                        self.parts.push_front(Next::Waits(part));
                        self.read_ahead();
                        return Ok(Some(piece));
                    }
                    let Some(bytes) = part.expected() else { continue };
                    self.begin(part, bytes).await?
                }
            };
            self.read_ahead();
            match reading.await? {
                Read::Piece(piece, rest) => {
                    self.parts.push_front(Next::Waits(rest));
                    self.read_ahead();
                    return Ok(Some(piece));
                }
                Read::Needs(bytes, part) => {
                    let reading = self.begin(part, bytes).await?;
                    self.parts.push_front(Next::Begun { again: None, reading });
                }
                Read::End => {}
            }
        }
    }

    /// Begins to read the part that the client waits for, once there is room for it.
    async fn begin(&mut self, part: P, bytes: u64) -> Result<Reading<P>, StoreError> {
        let held = match self.share.room.try_acquire(self.share.owner, bytes) {
            Some(held) => held,
            None => {
                // Otherwise all downloads of an owner could wait for room that they themselves have.
                for next in &mut self.parts {
                    if let Next::Begun { again, .. } = next
                        && let Some(part) = again.take()
                    {
                        *next = Next::Waits(part);
                    }
                }
                self.share.acquire(bytes).await?
            }
        };
        Ok(begin(part, bytes, held))
    }

    /// Begins to read the next parts, as far as there is room to spare.
    fn read_ahead(&mut self) {
        while self.parts.len() < AHEAD
            && let Some(part) = self.whole.cut()
        {
            self.parts.push_back(Next::Waits(part));
        }
        let mut spares = true;
        for next in std::mem::take(&mut self.parts) {
            let next = match next {
                Next::Waits(part) if spares => match self.share.spare(&part) {
                    Some((bytes, held)) => Next::Begun { again: part.again(), reading: begin(part, bytes, held) },
                    None => {
                        // Parts are begun in the order in which they are sent.
                        spares = false;
                        Next::Waits(part)
                    }
                },
                Next::Waits(_) | Next::Begun { .. } => next,
            };
            self.parts.push_back(next);
        }
    }
}

/// Begins to read a part, even if the client does not wait for it yet.
fn begin<P: Parts>(mut part: P, bytes: u64, held: Held) -> Reading<P> {
    let most = usize::try_from(bytes).unwrap_or(usize::MAX);
    blocking(move || {
        Ok(match part.read(most)? {
            Piece::Bytes(bytes) => Read::Piece(counted(bytes, held), part),
            Piece::Needs(bytes) => Read::Needs(bytes, part),
            Piece::End => Read::End,
        })
    })
    .boxed()
}

/// Bytes that keep of this room what they need, until the last of them is gone.
pub fn counted(bytes: Bytes, mut held: Held) -> Bytes {
    held.shrink_to(bytes.len());
    Bytes::from_owner(Counted { bytes, _held: held })
}

/// Bytes that have their room for as long as anybody has a part of them.
struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
