//! Reading the content of uploaded files.

use std::fs::File;

use super::{Store, StoreError};
use crate::domain::id::FileId;

impl Store {
    /// Opens the content of an uploaded file, also of one that was deleted while an unfinished
    /// batch reads it. Blocks.
    ///
    /// # Errors
    /// When it is gone or cannot be read.
    pub fn open_content(&self, id: FileId) -> Result<File, StoreError> {
        let path = self.path_of(super::open::FILES, id.as_u128());
        File::open(&path).map_err(|e| StoreError::io("opening", &path, &e))
    }
}
