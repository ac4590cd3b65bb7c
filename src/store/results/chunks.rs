//! Reads back packed records, which lie in as many values as they need.

use crate::store::error::StoreError;
use crate::store::format;
use crate::store::record::Record;
use crate::store::record::packed::Packed;
use crate::store::tree::Tree;

/// Reads the packed record below `prefix`; `None` if all or part of it is missing: a removal may be
/// under way.
pub fn read_packed<T: Record>(tree: &Tree, prefix: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
    let Some(first) = tree.get(format::chunk(prefix, 0))? else { return Ok(None) };
    let chunks = Packed::open::<T>(&first)?.chunks;
    whole(tree, prefix, &first, chunks)
}

/// Joins all chunks of a record whose first chunk is known. `None` if some chunks are missing.
pub fn whole(tree: &Tree, prefix: &[u8], first: &sled::IVec, chunks: u16) -> Result<Option<sled::IVec>, StoreError> {
    if chunks <= 1 {
        return Ok(Some(first.clone()));
    }
    let mut whole = first.to_vec();
    for number in 1..chunks {
        let Some(chunk) = tree.get(format::chunk(prefix, number))? else { return Ok(None) };
        whole.extend_from_slice(&chunk);
    }
    Ok(Some(whole.into()))
}
