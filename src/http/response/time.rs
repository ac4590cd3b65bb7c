//! Moments as texts.

use crate::domain::time::Timestamp;

/// RFC 3339 with milliseconds, as BatchRouter's and Phaseo's servers were observed to write it.
pub fn moment(at: Timestamp) -> String {
    format!("{at:.3}")
}
