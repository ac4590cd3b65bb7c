//! Accepted catalogs: what each was, what it changed, and the files of the latest ones.
//!
//! The store does not read what is in the catalogs. It keeps them so that a start with a broken or
//! missing catalog folder finds the last good one, and so that an operator can see what changed
//! when.

use std::io::Read;

use super::format;
use super::record;
use super::record::catalog::{CatalogFilesRecord, CatalogRecord};
use super::{Store, blocking};
use crate::store::error::StoreError;
use crate::store::record::error::RecordError;
use crate::store::record::stored_catalog::StoredCatalog;

/// Number of catalogs that are remembered; older ones are forgotten.
pub const CATALOGS_KEPT: u64 = 100;
/// Number of the latest remembered catalogs whose files are kept, too.
const FILES_KEPT: u64 = 16;
/// The files are compressed once and seldom read.
const LEVEL: i32 = 6;
/// Limit on the unpacked size of one catalog's files, in bytes.
const MAX_UNPACKED: u64 = 256 << 20;

impl Store {
    /// Records a catalog; `files` are names and contents, empty where they need not be kept.
    /// Forgets catalogs and files beyond the number that is kept.
    ///
    /// # Errors
    /// When the store has failed, or the files are too large.
    pub async fn accept_catalog(&self, catalog: StoredCatalog, files: Vec<(String, String)>) -> Result<(), StoreError> {
        let packed = blocking(move || pack(CatalogFilesRecord { files })).await?;
        self.commit(move |tx| {
            let version = catalog.version;
            tx.put_chunks(&format::catalog(version), &record::encode(&CatalogRecord::from(&catalog))?)?;
            tx.put_chunks(&format::catalog_files(version), &packed)?;
            let forgotten = [(format::CATALOGS, CATALOGS_KEPT), (format::CATALOG_FILES, FILES_KEPT)];
            for (kind, kept) in forgotten {
                let end = [kind, &version.saturating_sub(kept - 1).to_be_bytes()].concat();
                let old: Vec<_> = tx.tree().range(kind.to_vec()..end).keys().collect::<Result<_, _>>()?;
                old.into_iter().for_each(|key| tx.remove(key.to_vec()));
            }
            Ok(())
        })
        .await
    }

    /// The remembered catalogs that can be read, latest first.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn catalogs(&self) -> Result<Vec<StoredCatalog>, StoreError> {
        let store = self.clone();
        let catalogs = blocking(move || {
            let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
            for entry in store.inner.tree.scan_prefix(format::CATALOGS) {
                let (key, part) = entry?;
                let Some(version) = format::catalog_version(&key) else { continue };
                match found.last_mut().filter(|(last, _)| *last == version) {
                    Some((_, bytes)) => bytes.extend_from_slice(&part),
                    None => found.push((version, part.to_vec())),
                }
            }
            let unpack = |(version, bytes): (u64, Vec<u8>)| {
                let catalog = record::decode::<CatalogRecord>(&bytes).and_then(|record| record.unpack(version));
                // The history is shown, not relied upon: an unreadable catalog must not keep the
                // daemon from starting.
                catalog.inspect_err(|error| tracing::warn!(version, %error, "a catalog of the history is left out")).ok()
            };
            Ok(found.into_iter().rev().filter_map(unpack).collect())
        });
        let catalogs = catalogs.await?;
        self.await_durable().await?;
        Ok(catalogs)
    }

    /// The files of a catalog; `None` if they are not kept.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn catalog_files(&self, version: u64) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let store = self.clone();
        blocking(move || {
            let mut packed = Vec::new();
            for entry in store.inner.tree.scan_prefix(format::catalog_files(version)) {
                packed.extend_from_slice(&entry?.1);
            }
            if packed.is_empty() {
                return Ok(None);
            }
            let files = unpack(&packed)?;
            Ok((!files.is_empty()).then_some(files))
        })
        .await
    }
}

/// Unpacks the files of a catalog.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<(String, String)>, RecordError> {
    let damaged = RecordError::damaged::<CatalogFilesRecord>;
    let mut bytes = Vec::new();
    let unpacked = zstd::Decoder::new(packed).map_err(damaged)?;
    unpacked.take(MAX_UNPACKED).read_to_end(&mut bytes).map_err(damaged)?;
    Ok(record::decode::<CatalogFilesRecord>(&bytes)?.files)
}

fn pack(record: CatalogFilesRecord) -> Result<Vec<u8>, StoreError> {
    let bytes = record::encode(&record)?;
    if bytes.len() as u64 >= MAX_UNPACKED {
        return Err(RecordError::damaged::<CatalogFilesRecord>(format!("{} bytes are too many", bytes.len())).into());
    }
    Ok(zstd::encode_all(bytes.as_slice(), LEVEL).map_err(RecordError::damaged::<CatalogFilesRecord>)?)
}
