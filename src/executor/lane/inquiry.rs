//! A question that is asked again and again, one at a time: when it was asked last, and whether the
//! answer is still to come.

use std::time::Duration;

use tokio::time::Instant;

/// A question that is asked again and again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inquiry {
    last: Option<Instant>,
    /// The answer is still to come.
    is_open: bool,
}

impl Inquiry {
    /// Asks now, if that was not done within the time `every` and no answer is to come. Returns whether
    /// it is.
    pub fn begin(&mut self, now: Instant, every: Duration) -> bool {
        let is_due = !self.is_open && self.last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        if is_due {
            *self = Self { last: Some(now), is_open: true };
        }
        is_due
    }

    /// Notes that the answer has come, or will not come.
    pub fn end(&mut self) {
        self.is_open = false;
    }

    /// Whether the answer is still to come.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }
}
