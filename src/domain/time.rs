//! Time as the product sees it: a wall clock that is passed in, and the completion window.
//!
//! Nothing in `domain` reads the clock. The parts that need the time hold a [`Clock`], which the
//! daemon builds from the system clock and a test builds from tokio's paused clock.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use jiff::Timestamp;

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that calls `read` for the time.
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// `at + by`, held at the last representable instant instead of overflowing.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The time from `now` until `at`; zero if `at` has passed.
pub fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// The time frame in which a batch should be done, as the client wrote it.
///
/// OpenAI knows only `24h`; any whole number of minutes, hours or days from `1m` to `30d` is our
/// extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionWindow {
    amount: u32,
    unit: WindowUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowUnit {
    Minutes,
    Hours,
    Days,
}

impl CompletionWindow {
    /// OpenAI's only window.
    pub const DAY: Self = Self { amount: 24, unit: WindowUnit::Hours };
    const SHORTEST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);

    /// The length of the window.
    pub fn duration(self) -> Duration {
        let seconds = match self.unit {
            WindowUnit::Minutes => 60,
            WindowUnit::Hours => 3_600,
            WindowUnit::Days => 86_400,
        };
        Duration::from_secs(u64::from(self.amount) * seconds)
    }
}

/// The text is not a legal completion window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be `24h`, or a whole number of minutes, hours or days from `1m` to `30d`, such as `90m` or `7d`")]
pub struct WindowError;

impl FromStr for CompletionWindow {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let unit = match text.as_bytes().last() {
            Some(b'm') => WindowUnit::Minutes,
            Some(b'h') => WindowUnit::Hours,
            Some(b'd') => WindowUnit::Days,
            Some(_) | None => return Err(WindowError),
        };
        let digits = &text[..text.len() - 1];
        if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.starts_with('0') {
            return Err(WindowError);
        }
        let window = Self { amount: digits.parse().map_err(|_| WindowError)?, unit };
        if (Self::SHORTEST..=Self::LONGEST).contains(&window.duration()) { Ok(window) } else { Err(WindowError) }
    }
}

impl fmt::Display for CompletionWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            WindowUnit::Minutes => 'm',
            WindowUnit::Hours => 'h',
            WindowUnit::Days => 'd',
        };
        write!(f, "{}{unit}", self.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_from_one_minute_to_thirty_days() {
        for (text, seconds) in [("24h", 86_400), ("1m", 60), ("90m", 5_400), ("30d", 2_592_000), ("720h", 2_592_000)] {
            let window: CompletionWindow = text.parse().unwrap();
            assert_eq!(window.duration().as_secs(), seconds);
            assert_eq!(window.to_string(), text);
        }
        for text in ["", "24", "h", "0m", "024h", "31d", "-1h", "1.5h", "24H", "721h", "9999999999m", "1w", "2４h"] {
            assert!(text.parse::<CompletionWindow>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<CompletionWindow>();
        }
    }
}
