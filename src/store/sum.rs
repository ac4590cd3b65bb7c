//! A sum over everything that the store holds, kept in the store and recomputed at each start.
//!
//! Every write states what it adds and what it removes, and the new sum becomes durable in one step
//! with the write. So if anything is lost, doubled or changed on disk, by the disk, by a partial
//! restore or by sled itself, the sum no longer fits. The sum adds the first 128 bits of SHA-256,
//! so entries can come in any order. It guards against accidents, not against an attacker who
//! computes an entry that fits.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::format::SUM_KEY;
use super::holdings::found::Found;
use super::image::{Image, ImageError};
use super::record::{self, Record};
use crate::store::error::StoreError;

/// The name of the tree that has all data.
pub(super) const TREE: &[u8] = b"data";
/// What the store records about itself. Version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    /// Which store this is; random.
    pub store: u128,
    /// Writes so far, each of which is atomic.
    pub writes: u64,
    /// Number of entries, without this one.
    pub entries: u64,
    /// Bytes of the entries' keys and values.
    pub bytes: u64,
    /// The sum over the entries.
    pub sum: u128,
}

impl Record for Sum {
    const VERSION: u8 = 1;
    const NAME: &'static str = "sum";
}

impl Sum {
    /// The sum of a store that holds nothing.
    pub fn fresh() -> Self {
        Self { store: uuid::Uuid::new_v4().as_u128(), writes: 0, entries: 0, bytes: 0, sum: 0 }
    }

    /// Counts one changed key of a write, with its old and its new value.
    pub fn count(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        if let Some(old) = old {
            self.entries = self.entries.wrapping_sub(1);
            self.bytes = self.bytes.wrapping_sub((key.len() + old.len()) as u64);
            self.sum = self.sum.wrapping_sub(of(key, old));
        }
        if let Some(new) = new {
            self.entries = self.entries.wrapping_add(1);
            self.bytes = self.bytes.wrapping_add((key.len() + new.len()) as u64);
            self.sum = self.sum.wrapping_add(of(key, new));
        }
    }

    /// Encodes the sum as it is stored.
    pub fn encode(&self) -> Result<Vec<u8>, StoreError> {
        Ok(record::encode(self)?)
    }
}

fn of(key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    let digest: [u8; 32] = hash.finalize().into();
    u128::from_le_bytes(std::array::from_fn(|at| digest[at]))
}

/// The totals of the entries, and the sum that was expected.
#[derive(Debug, Default)]
pub(super) struct AddedUp {
    pub entries: u64,
    pub bytes: u64,
    pub sum: u128,
    /// The sum that the store records of itself; none before format 5.
    pub expected: Option<Vec<u8>>,
    /// The format of the data, as it is stored.
    pub format: Option<Vec<u8>>,
    /// What organisations hold.
    pub held: Found,
}

impl AddedUp {
    /// Adds up an image.
    pub fn of(image: &Image) -> Result<Self, ImageError> {
        let mut found = Self::default();
        image.entries(TREE, |key, value| found.add(key, value))?;
        Ok(found)
    }

    /// Adds an entry.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        match key {
            SUM_KEY => {
                self.expected = Some(value.to_vec());
                return;
            }
            super::format::FORMAT_KEY => self.format = Some(value.to_vec()),
            _ => {}
        }
        self.held.add(key, value);
        self.entries += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.sum = self.sum.wrapping_add(of(key, value));
    }

    /// The sum of the entries, for a store that has no sum yet.
    pub fn as_first(&self) -> Sum {
        Sum { entries: self.entries, bytes: self.bytes, sum: self.sum, ..Sum::fresh() }
    }
}
