//! Packed records, which lie in as many values as they need, read back.

use crate::store::error::StoreError;
use crate::store::format;
use crate::store::record::Record;
use crate::store::record::packed::Packed;
use crate::store::tree::Tree;

/// The packed record below `prefix`; `None` if it, or some of it, is not there: it may be on its way out.
pub fn read_packed<T: Record>(tree: &Tree, prefix: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
    let Some(first) = tree.get(format::chunk(prefix, 0))? else { return Ok(None) };
    let chunks = Packed::open::<T>(&first)?.chunks;
    whole(tree, prefix, &first, chunks)
}

/// All chunks of a record, the first of which is known. `None` if some of them are missing.
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
