//! Holds a lane whose provider refuses every request: a wrong key, an empty account, a model that it
//! does not have. The rows of a held lane wait, uncharged, or take another lane; one of them goes out
//! each minute to find out whether somebody has mended the fault, and at once when something has
//! changed that may have mended it.
//!
//! Pure bookkeeping. Invariant: a lane is held only after so many denials in a row, without a success
//! among them, as the operator has set; any success ends the hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::provider::denial::Denial;

/// How often a row finds out whether a held lane takes rows again.
pub const PROBE_EVERY: Duration = Duration::from_secs(60);
/// How soon after the beginning of a hold that may be due to a few rows alone; the pause then doubles.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// How often the log says again that a lane is held.
const REMIND_EVERY: Duration = Duration::from_secs(300);

/// Why a lane is held, and since when.
#[derive(Debug, Clone)]
pub struct DeniedHold {
    pub denial: Denial,
    pub since: Instant,
    /// What the provider said.
    pub said: Arc<str>,
    next_probe: Instant,
    /// The pause before the probe after the next.
    pause: Duration,
    /// The probe that is in flight went out at that time.
    probing: Option<Instant>,
    reminded: Instant,
}

/// The denials of one lane.
#[derive(Debug, Clone)]
pub struct Denials {
    /// Denials in a row after which the lane is held; at least 1.
    after: u32,
    /// The lane takes the rows of several models.
    is_shared: bool,
    in_a_row: u32,
    hold: Option<DeniedHold>,
}

impl Denials {
    pub const fn new(after: u32, is_shared: bool) -> Self {
        Self { after, is_shared, in_a_row: 0, hold: None }
    }

    /// The hold, if the lane is held.
    pub const fn hold(&self) -> Option<&DeniedHold> {
        self.hold.as_ref()
    }

    /// When a call may go out; `None` while a probe is in flight.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        match &self.hold {
            None => Some(now),
            Some(DeniedHold { probing: Some(_), .. }) => None,
            Some(hold) => Some(hold.next_probe.max(now)),
        }
    }

    /// Whether the next call of a held lane is due.
    pub fn needs_probe(&self, now: Instant) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.probing.is_none() && hold.next_probe <= now)
    }

    /// Notes that a call goes out.
    pub const fn start(&mut self, now: Instant) {
        if let Some(hold) = &mut self.hold {
            hold.probing = Some(now);
        }
    }

    /// Takes a denial that a call met which went out at `sent`.
    pub fn on_denied(&mut self, now: Instant, sent: Instant, denial: Denial, said: &Arc<str>) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match &mut self.hold {
            // Calls that went out before the hold say nothing new.
            Some(hold) if hold.probing == Some(sent) => {
                (hold.probing, hold.next_probe) = (None, now + hold.pause);
                hold.pause = (hold.pause * 2).min(PROBE_EVERY);
                (hold.denial, hold.said) = (denial, said.clone());
            }
            None if self.in_a_row >= self.after => {
                let said = said.clone();
                // Rows of another model may be taken: one of them should soon find out.
                let pause = if self.is_shared && matches!(denial, Denial::Model | Denial::Path) { FIRST_PROBE } else { PROBE_EVERY };
                let hold = DeniedHold { denial, since: now, said, next_probe: now + pause, pause, probing: None, reminded: now };
                self.hold = Some(hold);
            }
            Some(_) | None => {}
        }
    }

    /// Takes a success. Returns whether it ends a hold.
    pub fn on_success(&mut self) -> bool {
        self.in_a_row = 0;
        self.hold.take().is_some()
    }

    /// Takes the end of a call that says nothing about why the lane is held: it failed in another way
    /// after `pause`, or was abandoned.
    pub fn on_nothing(&mut self, now: Instant, sent: Instant, pause: Duration) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.probing == Some(sent)) {
            (hold.probing, hold.next_probe) = (None, now + pause);
        }
    }

    /// Lets a row find out at once whether the lane takes rows again: something has changed.
    pub fn try_now(&mut self, now: Instant) {
        if let Some(hold) = &mut self.hold {
            hold.next_probe = now;
        }
    }

    /// Whether it is time to say again that the lane is held.
    pub fn reminds(&mut self, now: Instant) -> bool {
        let due = self.hold.as_mut().filter(|hold| now.saturating_duration_since(hold.reminded) >= REMIND_EVERY);
        due.map(|hold| hold.reminded = now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_begins_after_denials_in_a_row_and_ends_with_any_success() {
        let (mut denials, mut now) = (Denials::new(3, false), Instant::now());
        let said = Arc::from("no such key");
        let denied = |denials: &mut Denials, now| {
            denials.start(now);
            denials.on_denied(now, now, Denial::Key, &said);
            denials.hold().is_some()
        };
        assert_eq!([denied(&mut denials, now), denied(&mut denials, now)], [false; 2]);
        assert!(!denials.on_success());
        assert_eq!([denied(&mut denials, now), denied(&mut denials, now)], [false; 2]);
        assert!(denied(&mut denials, now));
        // One probe a minute, and none beside it.
        for _ in 0..3 {
            assert_eq!(denials.ready_at(now), Some(now + PROBE_EVERY));
            now += PROBE_EVERY;
            denials.start(now);
            assert_eq!(denials.ready_at(now), None);
            // A call from before the hold comes back.
            denials.on_denied(now, now - PROBE_EVERY, Denial::Key, &Arc::from(""));
            assert!(denials.hold().is_some() && denials.ready_at(now).is_none());
            denials.on_denied(now, now, Denial::Key, &Arc::from("no"));
            assert!(denials.hold().is_some());
        }
        denials.try_now(now);
        assert_eq!(denials.ready_at(now), Some(now));
        assert!(denials.on_success() && denials.ready_at(now) == Some(now));
    }
}
