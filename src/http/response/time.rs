//! Moments as texts.

use crate::domain::time::Timestamp;

/// RFC 3339 with milliseconds, the form observed in answers of BatchRouter's and Phaseo's servers.
pub fn moment(at: Timestamp) -> String {
    format!("{at:.3}")
}
