//! A batch: what the client asked for, and the states it goes through.
//!
//! The states are OpenAI's. [`BatchState::apply`] is the only transition between states; a terminal
//! state absorbs every event, and each state carries the moments that are known by then.

pub mod dedup;
pub mod details;
pub mod forwarded;
mod input;
pub mod metadata;
pub mod phaseo;
pub mod plan;
pub mod priority;
pub mod problem;
pub mod waiting;

pub use input::{BatchInput, InvalidRows, QuotedInput};

use self::forwarded::Forwarded;
use self::metadata::Metadata;
use self::phaseo::PhaseoDetails;
use self::priority::{Control, Owner};
use super::dialect::Dialect;
use super::file::{ExpiresAfter, ResultPart};
use super::id::{BatchId, FileId, OrgId};
use super::money::{MaxPrice, Usd};
use super::time::{CompletionWindow, Timestamp, later};
use super::usage::Usage;

/// What the client asked for; never changes after creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpec {
    pub id: BatchId,
    /// The dialect of its create. All later answers about the batch use it.
    pub dialect: Dialect,
    pub input: BatchInput,
    pub input_file: FileId,
    pub created_at: Timestamp,
    pub metadata: Metadata,
    /// Applies to both the output file and the error file.
    pub output_expires_after: Option<ExpiresAfter>,
    /// The batch whose unfinished rows this one runs again.
    pub retry_of: Option<BatchId>,
    /// The organisation that owns the batch. No other organisation can see it.
    pub org: OrgId,
    /// The owner whose share of the lanes the batch uses.
    pub owner: Owner,
    pub fallback: Fallback,
    /// Headers of the create for providers that list them.
    pub headers: Forwarded,
}

/// Whether rows may go to a lane other than their planned lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fallback {
    /// To lanes that charge no more than the planned one.
    #[default]
    NotDearer,
    /// To lanes within these rates.
    Within(MaxPrice),
    Never,
}

impl BatchSpec {
    /// The completion window that the client asked for; `None` if the client asked for a tier.
    pub fn window(&self) -> Option<CompletionWindow> {
        match &self.input {
            BatchInput::Unquoted { window, .. } => Some(*window),
            BatchInput::Quoted(order) => order.gateway.as_ref().map(|gateway| gateway.window),
        }
    }

    /// The items and the additional details of a Phaseo batch; `None` for any other batch.
    pub fn gateway(&self) -> Option<(&QuotedInput, &PhaseoDetails)> {
        match &self.input {
            BatchInput::Quoted(order) => Some((order, order.gateway.as_ref()?)),
            BatchInput::Unquoted { .. } => None,
        }
    }

    /// Whether the create of the batch named a receiver of messages.
    pub fn has_receiver(&self) -> bool {
        self.gateway().is_some_and(|(_, gateway)| gateway.subscription.is_some())
    }

    /// The moment at which unfinished rows expire.
    pub fn deadline(&self) -> Timestamp {
        match &self.input {
            BatchInput::Unquoted { window, .. } => later(self.created_at, window.duration()),
            BatchInput::Quoted(order) => order.deadline,
        }
    }
}

/// How a batch ends after it has stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every row ended with a result of its own.
    Completed,
    /// The deadline passed before all rows were done.
    Expired,
}

/// The files over the results of a finished batch; `None` where no row belongs in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResultFiles {
    pub output: Option<FileId>,
    pub errors: Option<FileId>,
}

/// The state of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// The input is being checked, line by line.
    Validating,
    /// The input was refused. Its problems are stored beside the batch.
    Failed {
        at: Timestamp,
    },
    /// Rows run.
    InProgress {
        since: Timestamp,
    },
    /// No row runs any more. The last records are being written.
    Finalizing {
        in_progress_at: Option<Timestamp>,
        since: Timestamp,
        ending: Ending,
    },
    /// Cancelled by a client; rows in flight may still finish.
    Cancelling {
        in_progress_at: Option<Timestamp>,
        since: Timestamp,
    },
    Completed {
        in_progress_at: Option<Timestamp>,
        finalizing_at: Timestamp,
        at: Timestamp,
        files: ResultFiles,
    },
    Expired {
        in_progress_at: Option<Timestamp>,
        finalizing_at: Timestamp,
        at: Timestamp,
        files: ResultFiles,
    },
    Cancelled {
        in_progress_at: Option<Timestamp>,
        cancelling_at: Timestamp,
        at: Timestamp,
        files: ResultFiles,
    },
}

/// What happened to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEvent {
    /// The input is good.
    Validated,
    /// The input has problems.
    Refused,
    /// Every row has a result.
    RowsDone,
    /// The completion window is over.
    DeadlinePassed,
    /// A client asked to cancel the batch.
    CancelRequested,
    /// Everything that had to be written is durable.
    Settled { files: ResultFiles },
}

/// An event that does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch that is {state} cannot take the event {event:?}")]
pub struct Conflict {
    pub state: &'static str,
    pub event: BatchEvent,
}

impl BatchState {
    /// OpenAI's word for the state.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed { .. } => "failed",
            Self::InProgress { .. } => "in_progress",
            Self::Finalizing { .. } => "finalizing",
            Self::Cancelling { .. } => "cancelling",
            Self::Completed { .. } => "completed",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// `true` if the state can no longer change.
    pub const fn is_terminal(&self) -> bool {
        match self {
            Self::Validating | Self::InProgress { .. } | Self::Finalizing { .. } | Self::Cancelling { .. } => false,
            Self::Failed { .. } | Self::Completed { .. } | Self::Expired { .. } | Self::Cancelled { .. } => true,
        }
    }

    /// When the batch ended, if it has ended.
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Validating | Self::InProgress { .. } | Self::Finalizing { .. } | Self::Cancelling { .. } => None,
            Self::Failed { at } | Self::Completed { at, .. } | Self::Expired { at, .. } | Self::Cancelled { at, .. } => Some(*at),
        }
    }

    /// The files of a batch that has ended.
    pub const fn files(&self) -> ResultFiles {
        match self {
            Self::Completed { files, .. } | Self::Expired { files, .. } | Self::Cancelled { files, .. } => *files,
            Self::Validating | Self::Failed { .. } | Self::InProgress { .. } | Self::Finalizing { .. } | Self::Cancelling { .. } => {
                ResultFiles { output: None, errors: None }
            }
        }
    }

    /// The state after `event` at `now`.
    ///
    /// # Errors
    /// [`Conflict`] if the event has no meaning in this state; the state does not change.
    pub fn apply(self, event: BatchEvent, now: Timestamp) -> Result<Self, Conflict> {
        let next = match (self, event) {
            (Self::Validating, BatchEvent::Validated) => Self::InProgress { since: now },
            (Self::Validating, BatchEvent::Refused) => Self::Failed { at: now },
            (Self::Validating, BatchEvent::CancelRequested) => Self::Cancelling { in_progress_at: None, since: now },
            (Self::Validating, BatchEvent::DeadlinePassed) => {
                Self::Finalizing { in_progress_at: None, since: now, ending: Ending::Expired }
            }
            (Self::InProgress { since }, BatchEvent::RowsDone) => {
                Self::Finalizing { in_progress_at: Some(since), since: now, ending: Ending::Completed }
            }
            (Self::InProgress { since }, BatchEvent::DeadlinePassed) => {
                Self::Finalizing { in_progress_at: Some(since), since: now, ending: Ending::Expired }
            }
            (Self::InProgress { since }, BatchEvent::CancelRequested) => Self::Cancelling { in_progress_at: Some(since), since: now },
            // Impatient clients cancel twice; the first request counts.
            (Self::Cancelling { .. }, BatchEvent::CancelRequested) => self,
            (Self::Finalizing { in_progress_at, since, ending }, BatchEvent::Settled { files }) => match ending {
                Ending::Completed => Self::Completed { in_progress_at, finalizing_at: since, at: now, files },
                Ending::Expired => Self::Expired { in_progress_at, finalizing_at: since, at: now, files },
            },
            (Self::Cancelling { in_progress_at, since }, BatchEvent::Settled { files }) => {
                Self::Cancelled { in_progress_at, cancelling_at: since, at: now, files }
            }
            (state, event) => return Err(Conflict { state: state.as_str(), event }),
        };
        Ok(next)
    }
}

/// The durable progress of a batch's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the input; 0 until validated.
    pub total: u32,
    /// Rows with a result in the output file.
    pub succeeded: u32,
    /// Rows with a result in the error file.
    pub failed: u32,
    /// Failed rows that a cancel ended before they had a result.
    pub cancelled: u32,
    /// Exact size of the output file so far, in bytes.
    pub output_bytes: u64,
    /// Exact size of the error file so far, in bytes.
    pub error_bytes: u64,
    pub usage: Usage,
    pub cost: Usd,
}

impl Progress {
    /// Exact size of a part of the results so far, in bytes.
    pub fn bytes(&self, part: ResultPart) -> u64 {
        part.of(self.output_bytes, self.error_bytes)
    }

    /// Rows without a result.
    pub fn unfinished(&self) -> u32 {
        self.total.saturating_sub(self.succeeded).saturating_sub(self.failed)
    }
}

/// A batch with everything known of it, from one consistent read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub spec: BatchSpec,
    pub state: BatchState,
    pub control: Control,
    pub progress: Progress,
    /// Empty until validated.
    pub plan: self::plan::Plan,
    /// Empty unless the state is `Failed`.
    pub problems: Vec<self::problem::Problem>,
}

impl Batch {
    /// How a batch has ended, as its client sees it; `None` until then. A batch has failed only if
    /// all its rows failed; some failed rows do not make it so.
    pub fn end(&self) -> Option<BatchEnd> {
        match self.state {
            BatchState::Validating | BatchState::InProgress { .. } | BatchState::Finalizing { .. } | BatchState::Cancelling { .. } => None,
            BatchState::Completed { .. } if self.progress.succeeded == 0 => Some(BatchEnd::Failed),
            BatchState::Completed { .. } => Some(BatchEnd::Completed),
            BatchState::Failed { .. } => Some(BatchEnd::Failed),
            BatchState::Expired { .. } => Some(BatchEnd::Expired),
            BatchState::Cancelled { .. } => Some(BatchEnd::Cancelled),
        }
    }
}

super::vocabulary::wire_enum! {
    /// How a batch has ended, in BatchRouter's words.
    BatchEnd {
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Expired = "expired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = BatchEvent> {
        let files = ResultFiles { output: Some(FileId::from_u128(1)), errors: None };
        prop_oneof![
            Just(BatchEvent::Validated),
            Just(BatchEvent::Refused),
            Just(BatchEvent::RowsDone),
            Just(BatchEvent::DeadlinePassed),
            Just(BatchEvent::CancelRequested),
            Just(BatchEvent::Settled { files }),
        ]
    }

    proptest! {
        #[test]
        fn terminal_states_absorb_and_no_other_state_is_a_dead_end(events in proptest::collection::vec(any_event(), 0..40)) {
            let now = Timestamp::UNIX_EPOCH;
            let mut state = BatchState::Validating;
            for event in events {
                match state.apply(event, now) {
                    Ok(next) => {
                        prop_assert!(!state.is_terminal());
                        state = next;
                    }
                    Err(conflict) => prop_assert_eq!(conflict.state, state.as_str()),
                }
                let ways_on = [BatchEvent::Validated, BatchEvent::DeadlinePassed, BatchEvent::Settled { files: ResultFiles::default() }];
                prop_assert_eq!(state.is_terminal(), ways_on.iter().all(|e| state.apply(*e, now).is_err()));
                if !state.is_terminal() {
                    prop_assert_eq!(state.files(), ResultFiles::default());
                }
            }
        }
    }

    #[test]
    fn the_usual_ways_through() {
        let now = Timestamp::UNIX_EPOCH;
        let run = |events: &[BatchEvent]| {
            let end = events.iter().try_fold(BatchState::Validating, |state, event| state.apply(*event, now));
            end.map(|state| state.as_str())
        };
        let settled = BatchEvent::Settled { files: ResultFiles::default() };
        assert_eq!(run(&[BatchEvent::Validated, BatchEvent::RowsDone, settled]), Ok("completed"));
        assert_eq!(run(&[BatchEvent::Validated, BatchEvent::DeadlinePassed, settled]), Ok("expired"));
        assert_eq!(run(&[BatchEvent::CancelRequested, BatchEvent::CancelRequested, settled]), Ok("cancelled"));
        assert_eq!(run(&[BatchEvent::Refused]), Ok("failed"));
        assert!(run(&[BatchEvent::Validated, BatchEvent::RowsDone, BatchEvent::CancelRequested]).is_err());
    }
}
