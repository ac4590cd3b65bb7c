//! The entries of a damaged log: everything still readable, each entry in the newest form that is
//! left.
//!
//! Where the newest form of a page is damaged, an older form may be left, and later changes. An
//! older page also has entries that were since removed, or moved to another page. So all pages that
//! concern a key are consulted, and the newest evidence counts: that of a page which had the key,
//! or of a page whose range includes the key but which does not have it.
//!
//! A change names its page but not its whole key, and a page that was freed is used again, with
//! another range. So a change counts only for a life of its page that it certainly belongs to
//! ([`super::life`]).
//!
//! Invariant: nothing is made up. Each entry was in the store at some time; `is_newest` says
//! whether it may have been changed or removed since.

use std::collections::BTreeMap;
use std::fs::File;

use super::ImageError;
use super::life::{Begin, Chain, Chains};
use super::message::{LogKind, SEGMENT};
use super::node::{Change, Data, Node};
use super::scan::{LogPlace, MAX_PAGE};
use super::survey::{Survey, each_message, survey};
use super::window::Unreadable;

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
    whole: Option<(LogPlace, Chain)>,
    /// Changes since then.
    changes: Vec<(LogPlace, Chain)>,
    is_free: bool,
    /// The log sequence number of the whole form, or of the end of the page.
    since: u64,
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
        let mut chains = Chains::default();
        for (segment, stretches) in &survey.stretches {
            let base = segment.saturating_mul(SEGMENT as u64);
            for stretch in stretches {
                let chain = chains.of(*segment, stretch, survey.are_absent_lost);
                each_message(log, stretch, |offset, message| {
                    let within = stretch.begin + (offset - stretch.from);
                    let place = LogPlace { lsn: base + within.min(SEGMENT as u64 - 1), offset, bytes: message.bytes };
                    let is_page = matches!(message.kind, LogKind::Node | LogKind::Link | LogKind::Free) && message.pid < MAX_PAGE;
                    if !is_page {
                        return;
                    }
                    let page = pages.entry(message.pid).or_default();
                    match message.kind {
                        LogKind::Node => *page = Remains { whole: Some((place, chain)), since: place.lsn, ..Remains::default() },
                        LogKind::Free => *page = Remains { is_free: true, since: place.lsn, ..Remains::default() },
                        _ => page.changes.push((place, chain)),
                    }
                });
            }
        }
    }

    /// Counts damaged changes of pages that have no whole form as damage of the whole log.
    fn weigh(&mut self) {
        let survey = &mut self.survey;
        for (page, lsn) in &survey.lost_of {
            if self.pages.get(page).is_none_or(|remains| remains.whole.is_none() && !remains.is_free) {
                survey.lost_below = survey.lost_below.max(*lsn);
            }
        }
    }

    /// Calls `each` with every entry, in the order of the keys.
    pub fn entries(&self, mut each: impl FnMut(FoundPiece<'_>)) {
        let mut ranges = self.begins();
        // The last range comes first, so that the next one is at the end of the list.
        ranges.sort_by(|a, b| b.cmp(a));
        let mut open: Vec<Leaf> = Vec::new();
        loop {
            let next = open.iter().filter_map(|leaf| leaf.entries.get(leaf.at)).map(|(key, ..)| key).min().cloned();
            if let Some(begin) = ranges.pop_if(|begin| next.as_ref().is_none_or(|next| begin.lo <= *next)) {
                open.extend(self.leaf(begin));
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

    /// The leaves, as far as it is known where they begin.
    fn begins(&self) -> Vec<Begin> {
        let mut said: BTreeMap<u64, Begin> = BTreeMap::new();
        let mut leaves = Vec::new();
        for (page, remains) in &self.pages {
            let Some((place, chain)) = remains.whole else {
                if !remains.changes.is_empty() {
                    leaves.push(*page);
                }
                continue;
            };
            let Some(node) = self.node(*page, place) else { continue };
            let mut say = |page: u64, lo: Vec<u8>| {
                said.entry(page).or_insert_with(|| Begin { page, ..Begin::default() }).say(lo, place.lsn, chain);
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
        leaves.into_iter().filter_map(|page| said.remove(&page)).collect()
    }

    fn node(&self, page: u64, place: LogPlace) -> Option<Node> {
        Node::read(&super::body(&self.log, page, place, LogKind::Node).ok()?)
    }

    /// Reads a leaf.
    fn leaf(&self, begin: Begin) -> Option<Leaf> {
        let Begin { page, lo, said } = begin;
        let remains = self.pages.get(&page)?;
        let lost_below = self.survey.lost_below.max(self.survey.lost_of.get(&page).copied().unwrap_or(0));
        let node = remains.whole.and_then(|(place, chain)| Some((self.node(page, place)?, place.lsn, chain)));
        let mut leaf = Leaf { lost_below, ..Leaf::default() };
        let mut whole = None;
        match node {
            // The page was freed and reused, with another range: only later changes count.
            Some((node, ..)) if node.lo != lo => {}
            Some((node, lsn, chain)) => {
                let prefix = node.prefix().to_vec();
                whole = Some((prefix.len(), lsn, chain));
                leaf.lsn = lsn;
                leaf.hi = Some(node.hi.clone());
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
        let forms = self.survey.lost_forms.get(&page).map(Vec::as_slice).unwrap_or_default();
        for (place, chain) in &remains.changes {
            let is_of_life = |lsn: u64, other: Chain| {
                let (first, last) = (lsn.min(place.lsn), lsn.max(place.lsn));
                let is_no_loss = last >= self.survey.unknown_below && forms.iter().all(|lost| *lost <= last);
                let is_form_lost = forms.iter().any(|lost| (first..last).contains(lost));
                lsn >= remains.since && !is_form_lost && chain.is_unbroken(other, is_no_loss)
            };
            if !said.iter().any(|(lsn, other)| is_of_life(*lsn, *other)) {
                leaf.lost_below = leaf.lost_below.max(place.lsn.saturating_add(1));
                continue;
            }
            let prefix = whole.filter(|(_, lsn, other)| is_of_life(*lsn, *other)).map(|(prefix, ..)| prefix);
            let Ok(body) = super::body(&self.log, page, *place, LogKind::Link) else { continue };
            match Change::read(&body) {
                Some(Change::Set(key, value)) => leaf.set(self.key_of(&leaf.lo, prefix, key), Some(value.to_vec()), place.lsn),
                Some(Change::Remove(key)) => leaf.set(self.key_of(&leaf.lo, prefix, key), None, place.lsn),
                Some(Change::Merge) | None => {}
            }
        }
        Some(leaf)
    }

    /// The whole key of a change. Without the prefix that the page had at that time, the length of
    /// keys decides, if anything does.
    fn key_of(&self, lo: &[u8], prefix: Option<usize>, suffix: &[u8]) -> Option<Vec<u8>> {
        let join = |prefix: usize| Some([lo.get(..prefix)?, suffix].concat());
        if prefix.is_some() {
            return prefix.and_then(join);
        }
        let mut possible = (0..=lo.len()).filter_map(join).filter(|key| (self.is_key)(key) && key.as_slice() >= lo);
        let first = possible.next();
        first.filter(|_| possible.next().is_none())
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

#[cfg(test)]
mod tests;
