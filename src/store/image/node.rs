//! Pages of sled's trees: whole ones, and changes of them.
//!
//! Source: sled 0.34.7, `node.rs`, `serialization.rs`, `prefix.rs`.

use super::message::{bytes, number};

/// A page of a tree: keys from `lo` on and below `hi` (nothing: to the end), of which `prefix` bytes
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
    /// The pages below, from the left.
    Index(Vec<u64>),
}

impl Node {
    /// `None` if the bytes are no page.
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
        // Each key takes a byte at least, so a damaged length allocates nothing much.
        if length > from.len() || prefix > lo.len() {
            return None;
        }
        let keys = (0..length).map(|_| Some(bytes(from)?.to_vec())).collect::<Option<Vec<_>>>()?;
        let data = if is_index {
            Data::Index((0..length).map(|_| number(from)).collect::<Option<_>>()?)
        } else {
            Data::Leaf(keys.into_iter().map(|key| Some((key, bytes(from)?.to_vec()))).collect::<Option<_>>()?)
        };
        Some(Self { next, prefix, lo, hi, data })
    }

    /// Applies a change. `None` if the bytes are none, or one of another kind of page.
    pub fn apply(&mut self, mut from: &[u8]) -> Option<()> {
        let from = &mut from;
        match (byte(from)?, &mut self.data) {
            (0, Data::Leaf(entries)) => {
                let (key, value) = (bytes(from)?, bytes(from)?.to_vec());
                match entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
                    Ok(at) => entries[at].1 = value,
                    Err(at) => entries.insert(at, (key.to_vec(), value)),
                }
            }
            (1, Data::Leaf(entries)) => {
                let key = bytes(from)?;
                if let Ok(at) = entries.binary_search_by(|(other, _)| other.as_slice().cmp(key)) {
                    entries.remove(at);
                }
            }
            // A merge of pages on its way: where keys are does not change before the pages are rewritten.
            (2..=4, _) => {}
            _ => return None,
        }
        Some(())
    }

    /// What all keys here begin with.
    pub fn prefix(&self) -> &[u8] {
        &self.lo[..self.prefix]
    }
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

/// Names of trees and the pages of their roots.
pub(super) fn roots(mut from: &[u8]) -> Option<Vec<(Vec<u8>, u64)>> {
    let mut roots = Vec::new();
    while !from.is_empty() {
        roots.push((bytes(&mut from)?.to_vec(), number(&mut from)?));
    }
    Some(roots)
}
