//! Where a fact of the catalog comes from, and when it was checked.

use jiff::civil::Date;

/// Where a fact is published, and when somebody last looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// A URL.
    pub source: String,
    /// The day it was last compared with the source.
    pub verified_at: Date,
}
