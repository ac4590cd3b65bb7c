//! A catalog as it is stored: what callers see of it.

use crate::domain::time::Timestamp;

/// A catalog that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalog {
    /// Grows with each one.
    pub version: u64,
    /// Of the seeds, in hexadecimal.
    pub hash: String,
    pub accepted_at: Timestamp,
    /// The folder that it was read from; `None` for the seeds in the binary.
    pub folder: Option<String>,
    /// What it changed, as JSON of whoever stored it.
    pub changes: Vec<u8>,
}
