//! Bytes on disk that are not the record they should be.

use super::Record;

/// Bytes on disk that are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a {what} record is empty")]
    Empty { what: &'static str },
    #[error("a {what} record has version {found}, this build knows up to {known}")]
    Version { what: &'static str, found: u8, known: u8 },
    #[error("a {what} record is damaged: {reason}")]
    Damaged { what: &'static str, reason: String },
}

impl RecordError {
    pub(in crate::store) fn unknown<T: Record>(version: u8) -> Self {
        Self::Version { what: T::NAME, found: version, known: T::VERSION }
    }

    pub(in crate::store) fn damaged<T: Record>(reason: impl ToString) -> Self {
        Self::Damaged { what: T::NAME, reason: reason.to_string() }
    }
}
