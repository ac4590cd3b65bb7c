//! What one atomic write changes.
//!
//! Invariant: every write of the store goes through [`Writes::apply`], which keeps the sum and what
//! organisations hold.

use std::collections::HashMap;

use super::format::{self, SUM_KEY};
use super::record::packed;
use super::sum::Sum;
use super::tree::Tree;
use crate::store::error::StoreError;

/// Keys and their new values, or their removal. The last change to a key counts.
#[derive(Debug, Default)]
pub(super) struct Writes(HashMap<Vec<u8>, Option<sled::IVec>>);

impl Writes {
    pub fn insert(&mut self, key: Vec<u8>, value: impl Into<sled::IVec>) {
        self.0.insert(key, Some(value.into()));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.0.insert(key, None);
    }

    /// Inserts a packed record, in chunks.
    pub fn put(&mut self, prefix: &[u8], packed: &[u8]) {
        for (number, chunk) in packed::chunks(packed) {
            self.insert(format::chunk(prefix, number), chunk);
        }
    }

    /// Number of keys that change.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the keys and values.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len())).sum()
    }

    /// Applies all changes at once, together with the sum. Not durable before the next flush. Adds
    /// the changes to `copy`, too.
    ///
    /// # Errors
    /// When sled fails; the sum then no longer matches the tree.
    pub fn apply(self, tree: &Tree, sum: &mut Sum, mut copy: Option<&mut Self>) -> Result<(), StoreError> {
        if self.0.is_empty() {
            return Ok(());
        }
        // Reads everything that will be changed first: a read that fails in the middle of a batch
        // leaves half of it.
        tree.get(SUM_KEY)?;
        let mut batch = sled::Batch::default();
        let holdings = tree.holdings();
        if let Some(holdings) = holdings {
            holdings.begin(self.0.iter().filter_map(|(key, new)| Some((key.as_slice(), new.as_deref()?))));
        }
        for (key, new) in self.0 {
            let old = tree.get(&key)?;
            sum.count(&key, old.as_deref(), new.as_deref());
            if let Some(holdings) = holdings {
                holdings.count(tree, &key, old.as_deref(), new.as_deref())?;
            }
            if let Some(copy) = &mut copy {
                copy.0.insert(key.clone(), new.clone());
            }
            match new {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        sum.writes += 1;
        batch.insert(SUM_KEY, sum.encode()?);
        tree.apply_batch(batch)?;
        Ok(())
    }
}
