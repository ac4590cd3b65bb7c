//! The time that `batchd keys` takes from the command line.

use std::str::FromStr;
use std::time::Duration;

use crate::daemon::config::DurationText;
use crate::domain::time::{Timestamp, later};

/// An expiry time, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    In(Duration),
    At(Timestamp),
}

/// The text is not a time, or the time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWhen {
    #[error("must be a time such as `30d` or `12h`, or a moment such as `2027-03-01T00:00:00Z`")]
    Unreadable,
    #[error("--expires must lie in the future")]
    Past,
}

impl When {
    /// The moment of expiry.
    ///
    /// # Errors
    /// When the moment is not in the future.
    pub fn after(self, now: Timestamp) -> Result<Timestamp, NoWhen> {
        let at = match self {
            Self::In(time) => later(now, time),
            Self::At(at) => at,
        };
        if at > now { Ok(at) } else { Err(NoWhen::Past) }
    }
}

impl FromStr for When {
    type Err = NoWhen;

    fn from_str(text: &str) -> Result<Self, NoWhen> {
        let time = text.parse::<DurationText>().map(|time| Self::In(time.duration()));
        time.or_else(|_| text.parse().map(Self::At)).map_err(|_| NoWhen::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_expires_after_a_time_or_at_a_moment_to_come() {
        let now: Timestamp = "2026-11-24T15:06:00Z".parse().unwrap();
        let after = |text: &str| text.parse::<When>().and_then(|when| when.after(now)).map(|at| at.to_string());
        assert_eq!(after("30d").as_deref(), Ok("2026-12-24T15:06:00Z"));
        assert_eq!(after("12h").as_deref(), Ok("2026-11-25T03:06:00Z"));
        assert_eq!(after("2027-03-01T01:00:00+01:00").as_deref(), Ok("2027-03-01T00:00:00Z"));
        for past in ["0s", "2026-11-24T15:06:00Z"] {
            assert_eq!(after(past), Err(NoWhen::Past), "{past}");
        }
        for unreadable in ["", "30", "tomorrow", "2027-03-01"] {
            assert_eq!(after(unreadable), Err(NoWhen::Unreadable), "{unreadable}");
        }
    }
}
