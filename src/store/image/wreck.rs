//! The entries of a damaged log: everything still readable, each entry in the newest form that is
//! left.
//!
//! Where the newest form of a page is damaged, an older form may be left, and later changes. An
//! older page also has entries that were since removed, or moved to another page. So all pages that
//! concern a key are consulted, and the newest evidence counts: that of a page which had the key,
//! or of a page whose range includes the key but which does not have it.
//!
//! Invariant: nothing is made up. Each entry was in the store at some time; `is_newest` says
//! whether it may have been changed or removed since.

use std::collections::BTreeMap;
use std::fs::File;

use super::ImageError;
use super::message::{LogKind, SEGMENT, SEGMENT_HEADER};
use super::node::{Change, Data, Node};
use super::scan::{LogPlace, MAX_PAGE};
use super::survey::{Survey, Unreadable, each_message, survey};

/// The remains of a log.
#[derive(Debug)]
pub(in crate::store) struct Wreck {
    log: File,
    pages: BTreeMap<u64, Remains>,
    survey: Survey,
    /// Whether bytes can be a key.
    is_key: fn(&[u8]) -> bool,
}

/// The remains of a page.
#[derive(Debug, Default)]
struct Remains {
    /// The newest whole form of the page.
    whole: Option<LogPlace>,
    /// Changes since then.
    changes: Vec<LogPlace>,
    is_free: bool,
}

/// An entry that was found.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct FoundPiece<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// Whether this is certainly the newest form: no lost message can concern the key later.
    pub is_newest: bool,
}

/// A leaf as it was read.
#[derive(Debug, Default)]
struct Leaf {
    lo: Vec<u8>,
    /// Where the range ends: empty if it has no end, `None` if the leaf is not known to have a
    /// range.
    hi: Option<Vec<u8>>,
    /// The log sequence number of the whole page; 0 if there are only changes.
    lsn: u64,
    /// Each key with its value, or `None` if it was removed, and the log sequence number of that.
    entries: Vec<(Vec<u8>, Option<Vec<u8>>, u64)>,
    /// Changes below this log sequence number may be missing.
    lost_below: u64,
    /// How many of the entries were already given out.
    at: usize,
}

impl Wreck {
    /// Looks for everything that is left. `is_key` says whether bytes can be a key.
    ///
    /// # Errors
    /// When the size of the log cannot be read. Unreadable places in the log are among
    /// [`Self::unreadable`].
    pub fn read(log: File, is_key: fn(&[u8]) -> bool) -> Result<Self, ImageError> {
        let survey = survey(&log)?;
        let mut wreck = Self { log, pages: BTreeMap::new(), survey, is_key };
        wreck.gather();
        wreck.weigh();
        Ok(wreck)
    }

    /// Places that cannot be read from the disk.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.survey.unreadable
    }

    fn gather(&mut self) {
        let Self { log, pages, survey, .. } = self;
        for (segment, stretches) in &survey.stretches {
            let base = segment.saturating_mul(SEGMENT as u64);
            let slot = survey.slots.get(segment).copied();
            // Where a message's place in its segment is unknown, its order is still known.
            let mut next = SEGMENT_HEADER as u64;
            for stretch in stretches {
                each_message(log, stretch, |offset, message| {
                    let within = stretch.within(slot, offset).unwrap_or(next).max(next);
                    next = within + message.bytes as u64;
                    let place = LogPlace { lsn: base + within.min(SEGMENT as u64 - 1), offset, bytes: message.bytes };
                    let is_page = matches!(message.kind, LogKind::Node | LogKind::Link | LogKind::Free) && message.pid < MAX_PAGE;
                    if !is_page {
                        return;
                    }
                    let page = pages.entry(message.pid).or_default();
                    match message.kind {
                        LogKind::Node => *page = Remains { whole: Some(place), ..Remains::default() },
                        LogKind::Free => *page = Remains { is_free: true, ..Remains::default() },
                        _ => page.changes.push(place),
                    }
                });
            }
        }
    }

    /// Finds out how far in the log unidentified messages may be missing.
    fn weigh(&mut self) {
        let survey = &mut self.survey;
        let numbers = || survey.stretches.keys().chain(survey.slots.keys()).copied();
        // Missing segments were freed, or are lost: in blank slots, or behind the end of the file.
        if survey.blank > 0 || survey.lost_below == 0 {
            let last = numbers().max().unwrap_or(0);
            let missing = (0..last).rev().find(|number| !survey.stretches.contains_key(number) && !survey.slots.contains_key(number));
            if let Some(missing) = missing {
                survey.lost_below = survey.lost_below.max((missing + 1).saturating_mul(SEGMENT as u64));
            }
        }
        for (page, lsn) in &survey.lost_of {
            if self.pages.get(page).is_none_or(|remains| remains.whole.is_none() && !remains.is_free) {
                survey.lost_below = survey.lost_below.max(*lsn);
            }
        }
    }

    /// Calls `each` with every entry, in the order of the keys.
    pub fn entries(&self, mut each: impl FnMut(FoundPiece<'_>)) {
        let mut ranges = self.ranges();
        // The last range comes first, so that the next one is at the end of the list.
        ranges.sort_by(|a, b| b.cmp(a));
        let mut open: Vec<Leaf> = Vec::new();
        loop {
            let next = open.iter().filter_map(|leaf| leaf.entries.get(leaf.at)).map(|(key, ..)| key).min().cloned();
            if let Some((lo, _)) = ranges.last()
                && next.as_ref().is_none_or(|next| lo <= next)
            {
                let page = ranges.pop().map(|(lo, page)| self.leaf(page, lo));
                open.extend(page.flatten());
                continue;
            }
            let Some(key) = next else { return };
            open.retain(|leaf| leaf.at < leaf.entries.len() || leaf.covers_from(&key));
            if let Some((value, is_newest)) = newest(&open, &key) {
                each(FoundPiece { key: &key, value: &value, is_newest });
            }
            for leaf in &mut open {
                leaf.at += usize::from(leaf.entries.get(leaf.at).is_some_and(|(other, ..)| *other == key));
            }
        }
    }

    /// The first key and the page of each leaf, as far as they are known.
    fn ranges(&self) -> Vec<(Vec<u8>, u64)> {
        // By page: its first key, and the log sequence number of the page that said so.
        let mut begins: BTreeMap<u64, (Vec<u8>, u64)> = BTreeMap::new();
        let mut leaves = Vec::new();
        for (page, remains) in &self.pages {
            let Some(place) = remains.whole else {
                if !remains.changes.is_empty() {
                    leaves.push(*page);
                }
                continue;
            };
            let Some(node) = self.node(*page, place) else { continue };
            let mut say = |page: u64, lo: Vec<u8>| {
                let said = begins.entry(page).or_default();
                if place.lsn >= said.1 {
                    *said = (lo, place.lsn);
                }
            };
            if let Data::Index(below) = &node.data {
                below.iter().for_each(|(key, page)| say(*page, [node.prefix(), key].concat()));
            } else {
                leaves.push(*page);
            }
            if let Some(next) = node.next {
                say(next, node.hi.clone());
            }
            say(*page, node.lo);
        }
        leaves.into_iter().filter_map(|page| begins.remove(&page).map(|(lo, _)| (lo, page))).collect()
    }

    fn node(&self, page: u64, place: LogPlace) -> Option<Node> {
        Node::read(&super::body(&self.log, page, place, LogKind::Node).ok()?)
    }

    /// The leaf of a page that begins with `lo`.
    fn leaf(&self, page: u64, lo: Vec<u8>) -> Option<Leaf> {
        let remains = self.pages.get(&page)?;
        let lost_below = self.survey.lost_below.max(self.survey.lost_of.get(&page).copied().unwrap_or(0));
        let node = remains.whole.and_then(|place| Some((self.node(page, place)?, place.lsn)));
        let mut leaf = Leaf { lost_below, ..Leaf::default() };
        let mut prefix = None;
        match node {
            // The page was freed and reused, with another range: only later changes count.
            Some((node, _)) if node.lo != lo => {}
            Some((node, lsn)) => {
                prefix = Some(node.prefix().len());
                leaf.lsn = lsn;
                leaf.hi = Some(node.hi.clone());
                let prefix = node.prefix().to_vec();
                let Data::Leaf(entries) = node.data else { return None };
                leaf.entries = entries.into_iter().map(|(key, value)| ([&prefix[..], &key].concat(), Some(value), lsn)).collect();
            }
            None => {}
        }
        // The default tree that sled always has, and that batchd does not use.
        if leaf.hi.as_ref().is_some_and(Vec::is_empty) && lo.is_empty() && leaf.entries.is_empty() {
            leaf.hi = None;
        }
        leaf.lo = lo;
        for place in &remains.changes {
            let Ok(body) = super::body(&self.log, page, *place, LogKind::Link) else { continue };
            match Change::read(&body) {
                Some(Change::Set(key, value)) => leaf.set(self.key_of(&leaf.lo, prefix, key), Some(value.to_vec()), place.lsn),
                Some(Change::Remove(key)) => leaf.set(self.key_of(&leaf.lo, prefix, key), None, place.lsn),
                Some(Change::Merge) | None => {}
            }
        }
        Some(leaf)
    }

    /// The whole key of a change. The page may have been rewritten in between with another prefix,
    /// and that form may be lost: then the length of keys decides, if anything does.
    fn key_of(&self, lo: &[u8], prefix: Option<usize>, suffix: &[u8]) -> Option<Vec<u8>> {
        let join = |prefix: usize| Some([lo.get(..prefix)?, suffix].concat());
        let with = |prefix: usize| join(prefix).filter(|key| (self.is_key)(key) && key.as_slice() >= lo);
        if let Some(key) = prefix.and_then(with) {
            return Some(key);
        }
        let mut possible = (0..=lo.len()).filter_map(with);
        match (possible.next(), possible.next()) {
            (Some(key), None) => Some(key),
            (Some(_), Some(_)) => None,
            // The reader of the entries will find that this is no valid key.
            (None, _) => prefix.and_then(join),
        }
    }
}

impl Leaf {
    fn set(&mut self, key: Option<Vec<u8>>, value: Option<Vec<u8>>, lsn: u64) {
        let Some(key) = key else { return };
        match self.entries.binary_search_by(|(other, ..)| other.cmp(&key)) {
            Ok(at) => self.entries[at] = (key, value, lsn),
            Err(at) => self.entries.insert(at, (key, value, lsn)),
        }
    }

    /// Whether the leaf's range reaches beyond this key.
    fn covers_from(&self, key: &[u8]) -> bool {
        self.hi.as_ref().is_some_and(|hi| hi.is_empty() || key < hi.as_slice())
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.covers_from(key) && key >= self.lo.as_slice()
    }
}

/// The newest value of a key, and whether it is certainly the newest. `None` if the key was
/// removed.
fn newest(open: &[Leaf], key: &[u8]) -> Option<(Vec<u8>, bool)> {
    let words = open.iter().filter_map(|leaf| {
        let (other, value, lsn) = leaf.entries.get(leaf.at)?;
        (other == key).then_some((*lsn, value, leaf.lost_below))
    });
    let (lsn, value, lost_below) = words.max_by_key(|(lsn, ..)| *lsn)?;
    if open.iter().any(|leaf| leaf.lsn > lsn && leaf.covers(key)) {
        return None;
    }
    Some((value.clone()?, lsn >= lost_below))
}
