//! A catalog as it is stored: what callers see of it.

use crate::domain::time::Timestamp;

/// A catalog that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalog {
    /// Grows with each accepted catalog.
    pub version: u64,
    /// The hash of the seeds, in hexadecimal.
    pub hash: String,
    pub accepted_at: Timestamp,
    /// The folder that it was read from; `None` for the seeds in the binary.
    pub folder: Option<String>,
    /// The changes that the catalog made, as JSON whose form is up to the caller that stored it.
    pub changes: Vec<u8>,
}
