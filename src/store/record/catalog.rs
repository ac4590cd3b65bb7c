//! Accepted catalogs on disk, version 1.

use serde::{Deserialize, Serialize};

use super::{Record, moment, timestamp};
use crate::store::record::error::RecordError;
use crate::store::record::stored_catalog::StoredCatalog;

/// Version 1 of an accepted catalog's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogRecord {
    hash: String,
    accepted_at: i64,
    folder: Option<String>,
    /// JSON that the store does not interpret.
    #[serde(with = "serde_bytes")]
    changes: Vec<u8>,
}

impl Record for CatalogRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "catalog";
}

impl From<&StoredCatalog> for CatalogRecord {
    fn from(catalog: &StoredCatalog) -> Self {
        Self {
            hash: catalog.hash.clone(),
            accepted_at: moment(catalog.accepted_at),
            folder: catalog.folder.clone(),
            changes: catalog.changes.clone(),
        }
    }
}

impl CatalogRecord {
    /// Returns the catalog, with the version from its key.
    pub fn unpack(self, version: u64) -> Result<StoredCatalog, RecordError> {
        let Self { hash, accepted_at, folder, changes } = self;
        Ok(StoredCatalog { version, hash, accepted_at: timestamp::<Self>(accepted_at)?, folder, changes })
    }
}

/// Version 1 of the files of a catalog. Compressed as a whole, the version byte included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogFilesRecord {
    /// Names and contents.
    pub files: Vec<(String, String)>,
}

impl Record for CatalogFilesRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "catalog files";
}
