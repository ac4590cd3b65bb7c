//! Which events of a Phaseo batch its receiver gets, and what became of their deliveries.
//!
//! Invariant: an event always has the same key, and a key is queued once. So no event is delivered
//! twice, except after an attempt whose end was not recorded.

use crate::domain::batch::phaseo::Phase;
use crate::domain::batch::{Batch, BatchState, Progress};
use crate::domain::time::Timestamp;

/// Attempts that are kept individually.
const REMEMBERED: usize = 20;
/// Progress is reported in steps of this many percent, between `FIRST` and `LAST`.
const STEP: u32 = 10;
const FIRST: u32 = 5;
const LAST: u32 = 95;

/// The short word for the state of a batch, as its receivers see it.
pub const fn status(state: &BatchState) -> &'static str {
    match state {
        BatchState::Validating => "pending",
        BatchState::InProgress { .. } | BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => "in_progress",
        BatchState::Completed { .. } => "completed",
        BatchState::Failed { .. } => "failed",
        BatchState::Expired { .. } => "expired",
        BatchState::Cancelled { .. } => "cancelled",
    }
}

/// The progress of a batch, in percent.
pub fn percent(state: &BatchState, progress: &Progress) -> u32 {
    let done = u64::from(progress.succeeded) + u64::from(progress.failed);
    match (state, u64::from(progress.total)) {
        (BatchState::Completed { .. }, _) => 100,
        (_, 0) => 0,
        (_, total) => u32::try_from((done * 100 + total / 2) / total).unwrap_or(100),
    }
}

/// The step of progress that is reported: the nearest ten, and only between the beginning and the
/// end.
pub fn bucket(percent: u32) -> Option<u32> {
    (1..100).contains(&percent).then(|| ((percent + STEP / 2) / STEP * STEP).clamp(FIRST, LAST))
}

/// An event that is due for the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub phase: Phase,
    /// The event's delivery key.
    pub key: String,
    /// The old and the new status, if the event reports a change of status.
    pub change: Option<(String, String)>,
}

impl Event {
    /// An event whose key is its type.
    fn plain(phase: Phase) -> Self {
        Self { phase, key: phase.event(), change: None }
    }
}

/// What has been reported to the receiver of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    /// The last status and the last step of progress that were reported; empty and 0 before the
    /// first look.
    pub status: String,
    pub bucket: u32,
    /// Keys of the events that were queued.
    pub queued: Vec<String>,
    /// Keys of the events that were delivered.
    pub delivered: Vec<String>,
    /// Keys of the events that await another attempt, and the time of that attempt.
    pub waiting: Vec<(String, Timestamp)>,
    pub attempts: u32,
    /// The latest attempts, the oldest first.
    pub latest: Vec<DeliveryAttempt>,
}

/// One attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAttempt {
    pub key: String,
    pub phase: Phase,
    /// Counted from 1.
    pub number: u32,
    pub at: Timestamp,
    pub outcome: TriedOutcome,
    /// The status of the answer, if there was one.
    pub response: Option<u16>,
    /// Why the attempt failed, if it did.
    pub error: Option<String>,
    /// The beginning of the answer's body.
    pub preview: Option<String>,
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriedOutcome {
    Delivered,
    /// Another attempt follows at this time.
    Again(Timestamp),
    GivenUp,
}

impl EventLog {
    /// The events that are due for a batch in its present state, for a receiver that wants these
    /// phases.
    pub fn due(&self, batch: &Batch, phases: &[Phase]) -> Vec<Event> {
        let now = status(&batch.state);
        let mut events = vec![Event::plain(Phase::Created)];
        if !self.status.is_empty() && self.status != now || self.status.is_empty() && now != "pending" {
            let before = if self.status.is_empty() { "pending" } else { &self.status };
            let key = format!("{}:{before}:{now}", Phase::StatusChanged.event());
            events.push(Event { phase: Phase::StatusChanged, key, change: Some((before.to_owned(), now.to_owned())) });
        }
        if let Some(bucket) =
            bucket(percent(&batch.state, &batch.progress)).filter(|bucket| *bucket > self.bucket && !batch.state.is_terminal())
        {
            events.push(Event { phase: Phase::Progress, key: format!("{}:{bucket}", Phase::Progress.event()), change: None });
        }
        let end = match batch.state {
            BatchState::Completed { .. } => Some(Phase::Completed),
            BatchState::Failed { .. } => Some(Phase::Failed),
            BatchState::Expired { .. } => Some(Phase::Expired),
            BatchState::Cancelled { .. } => Some(Phase::Cancelled),
            BatchState::Validating | BatchState::InProgress { .. } | BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => None,
        };
        events.extend(end.map(Event::plain));
        events.retain(|event| phases.contains(&event.phase) && !self.queued.contains(&event.key));
        events
    }

    /// Records the status and the step of progress that are reported now.
    pub fn saw(&mut self, batch_status: &str, bucket: Option<u32>) {
        batch_status.clone_into(&mut self.status);
        self.bucket = self.bucket.max(bucket.unwrap_or(0));
    }

    /// Records an attempt.
    pub fn tried(&mut self, tried: DeliveryAttempt) {
        self.attempts = self.attempts.saturating_add(1);
        self.waiting.retain(|(key, _)| *key != tried.key);
        match tried.outcome {
            TriedOutcome::Delivered if !self.delivered.contains(&tried.key) => self.delivered.push(tried.key.clone()),
            TriedOutcome::Again(at) => self.waiting.push((tried.key.clone(), at)),
            TriedOutcome::Delivered | TriedOutcome::GivenUp => {}
        }
        self.latest.push(tried);
        let surplus = self.latest.len().saturating_sub(REMEMBERED);
        self.latest.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn progress_is_told_by_tens_between_the_ends() {
        assert_eq!(
            [0, 1, 4, 5, 14, 15, 94, 99, 100].map(bucket),
            [None, Some(5), Some(5), Some(10), Some(10), Some(20), Some(90), Some(95), None]
        );
    }

    proptest! {
        #[test]
        fn what_is_remembered_has_a_bound(attempts in proptest::collection::vec((0_usize..5, 0_u8..3), 0..200)) {
            let mut event_log = EventLog::default();
            for (key, outcome) in &attempts {
                let at = Timestamp::UNIX_EPOCH;
                let outcome = [TriedOutcome::Delivered, TriedOutcome::Again(at), TriedOutcome::GivenUp][usize::from(*outcome)];
                let (key, phase) = (key.to_string(), Phase::Created);
                event_log.tried(DeliveryAttempt { key, phase, number: 1, at, outcome, response: None, error: None, preview: None });
            }
            prop_assert!(event_log.latest.len() <= REMEMBERED && event_log.delivered.len() <= 5 && event_log.waiting.len() <= 5);
            prop_assert_eq!(event_log.attempts as usize, attempts.len());
        }
    }
}
