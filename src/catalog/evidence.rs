//! The source of a fact in the catalog, and when the fact was checked.

use jiff::civil::Date;

/// Where a fact is published, and when it was last compared with that source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// A URL.
    pub source: String,
    /// The day the fact was last compared with the source.
    pub verified_at: Date,
}
