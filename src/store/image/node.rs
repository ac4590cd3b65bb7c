//! Pages of sled's trees: whole pages, and changes of pages.
//!
//! Source: sled 0.34.7, `node.rs`, `serialization.rs`, `prefix.rs`.

use super::message::{bytes, number};

/// A page of a tree: keys from `lo` on and below `hi` (empty: to the end); the first `prefix` bytes
/// are left out of each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The page to the right.
    pub next: Option<u64>,
    prefix: usize,
    pub lo: Vec<u8>,
    pub hi: Vec<u8>,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Leaf(Vec<(Vec<u8>, Vec<u8>)>),
    /// The pages below, from the left, each with the key that its range begins with.
    Index(Vec<(Vec<u8>, u64)>),
}

impl Node {
    /// Reads a page; `None` if the bytes are no page.
    pub fn read(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        let next = Some(number(from)?).filter(|pid| *pid != 0);
        let _merging_child = number(from)?;
        let _merging = byte(from)?;
        let prefix = usize::from(byte(from)?);
        let lo = bytes(from)?.to_vec();
        let hi = bytes(from)?.to_vec();
        let is_index = match byte(from)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let length = usize::try_from(number(from)?).ok()?;
        // Each key takes at least one byte, so a damaged length does not allocate much.
        if length > from.len() || prefix > lo.len() {
            return None;
        }
        let keys = (0..length).map(|_| Some(bytes(from)?.to_vec())).collect::<Option<Vec<_>>>()?;
        let data = if is_index {
            Data::Index(keys.into_iter().map(|key| Some((key, number(from)?))).collect::<Option<_>>()?)
        } else {
            Data::Leaf(keys.into_iter().map(|key| Some((key, bytes(from)?.to_vec()))).collect::<Option<_>>()?)
        };
        Some(Self { next, prefix, lo, hi, data })
    }

    /// Whether bytes, which may be damaged, begin as a page does: up to the end of its range.
    pub fn begins(mut from: &[u8]) -> bool {
        let from = &mut from;
        let mut range = || {
            let (_next, _merging_child) = (number(from)?, number(from)?);
            let (merging, prefix) = (byte(from)?, usize::from(byte(from)?));
            let (lo, hi) = (bytes(from)?, bytes(from)?);
            Some(merging <= 1 && prefix <= lo.len() && (hi.is_empty() || lo < hi))
        };
        range().unwrap_or(false)
    }

    /// Applies a change. `None` if the bytes are no change, or a change of another kind of page.
    pub fn apply(&mut self, from: &[u8]) -> Option<()> {
        match (Change::read(from)?, &mut self.data) {
            (Change::Set(key, value), Data::Leaf(entries)) => match entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
                Ok(at) => entries[at].1 = value.to_vec(),
                Err(at) => entries.insert(at, (key.to_vec(), value.to_vec())),
            },
            (Change::Remove(key), Data::Leaf(entries)) => {
                if let Ok(at) = entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
                    entries.remove(at);
                }
            }
            (Change::Merge, _) => {}
            (Change::Set(..) | Change::Remove(_), Data::Index(_)) => return None,
        }
        Some(())
    }

    /// The prefix that all keys of this page share.
    pub fn prefix(&self) -> &[u8] {
        &self.lo[..self.prefix]
    }
}

/// A change of a page. Its keys lack the prefix of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change<'a> {
    Set(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    /// A merge of pages in progress: no key moves before the pages are rewritten.
    Merge,
}

impl<'a> Change<'a> {
    /// Reads a change; `None` if the bytes are no change.
    pub fn read(mut from: &'a [u8]) -> Option<Self> {
        let from = &mut from;
        match byte(from)? {
            0 => Some(Self::Set(bytes(from)?, bytes(from)?)),
            1 => Some(Self::Remove(bytes(from)?)),
            2..=4 => Some(Self::Merge),
            _ => None,
        }
    }
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

/// Reads the names of trees and the pages of their roots.
pub(super) fn roots(mut from: &[u8]) -> Option<Vec<(Vec<u8>, u64)>> {
    let mut roots = Vec::new();
    while !from.is_empty() {
        roots.push((bytes(&mut from)?.to_vec(), number(&mut from)?));
    }
    Some(roots)
}
