//! A batch: what the client asked for, and the states it goes through.
//!
//! The states are OpenAI's. [`BatchState::apply`] is the only way from one to another; a terminal
//! state absorbs every event, and each state carries the moments that exist by then.

pub mod dedup;
pub mod details;
pub mod metadata;
pub mod phaseo;
pub mod plan;
pub mod priority;
pub mod problem;

use rust_decimal::Decimal;

use self::metadata::Metadata;
use self::phaseo::PhaseoDetails;
use self::priority::{Control, Owner};
use super::dialect::Dialect;
use super::endpoint::Endpoint;
use super::file::{ExpiresAfter, ResultPart};
use super::id::{BatchId, FileId, OrgId, QuoteId};
use super::money::{MaxPrice, Usd};
use super::quote::constraints::Constraints;
use super::quote::{Estimate, Quote};
use super::row::batchrouter::{Defaults, parse_item};
use super::row::openai::{RowFault, RowRequest, parse_line};
use super::time::{CompletionWindow, Timestamp, later};
use super::usage::Usage;
use super::webhook::Webhook;

/// What the client asked for; never changes after creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpec {
    pub id: BatchId,
    /// That of its create: what it is answered in.
    pub dialect: Dialect,
    pub order: BatchInput,
    pub input_file: FileId,
    pub created_at: Timestamp,
    pub metadata: Metadata,
    /// Applies to the output and the error file.
    pub output_expires_after: Option<ExpiresAfter>,
    /// The batch whose unfinished rows this one runs again.
    pub retry_of: Option<BatchId>,
    /// Whose it is: nobody else can see it.
    pub org: OrgId,
    /// Whose share of the lanes it takes.
    pub owner: Owner,
    pub fallback: Fallback,
}

/// What the rows of a batch are and when they must be done: this is what the dialects differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchInput {
    /// OpenAI's: every row is for the same endpoint.
    Unquoted { endpoint: Endpoint, window: CompletionWindow },
    /// BatchRouter's and Phaseo's: items, on the lanes of a quote.
    Quoted(Box<QuotedInput>),
}

/// What a batch of items has from its quote and its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedInput {
    pub quote: QuoteId,
    /// When it must be done: what the quote promised.
    pub deadline: Timestamp,
    pub defaults: Defaults,
    pub demands: Constraints,
    /// What is charged besides what providers charge, in percent of that.
    pub fee: Decimal,
    /// Of all its items; `None` if nobody knows what they cost.
    pub estimate: Option<Estimate>,
    /// What one of them was quoted, the fee included, on average; `None` if nobody knows.
    pub each: Option<Usd>,
    /// What is reserved for them when the batch is created, in whole micro-dollars.
    pub reserve: Usd,
    /// Items, as far as they were counted when it was created.
    pub items: Option<u32>,
    /// The client's own: a JSON object.
    pub metadata: Option<String>,
    /// Who is told when it has ended; the organisation's own receiver if `None`.
    pub webhook: Option<Webhook>,
    /// What a batch of Phaseo's has besides.
    pub gateway: Option<PhaseoDetails>,
}

impl QuotedInput {
    /// What a batch has from its quote alone.
    pub fn of(quote: &Quote) -> Self {
        Self {
            quote: quote.id,
            deadline: quote.deadline,
            defaults: Defaults::default(),
            demands: quote.demands.clone(),
            fee: quote.fee,
            estimate: quote.estimate,
            each: quote.estimate.map(|estimate| Usd(estimate.total().0 / Decimal::from(quote.items.max(1)))),
            reserve: Usd::ZERO,
            items: None,
            metadata: None,
            webhook: None,
            gateway: None,
        }
    }

    /// See [`BatchInput::holds_the_most`].
    pub const fn holds_the_most(&self) -> bool {
        self.gateway.is_some()
    }
}

impl BatchInput {
    /// Reads a line of the input.
    ///
    /// # Errors
    /// Every independent fault of the line, at least one.
    pub fn parse<'a>(&'a self, line: &'a [u8]) -> Result<RowRequest<'a>, Vec<RowFault>> {
        match self {
            Self::Unquoted { endpoint, .. } => parse_line(line, *endpoint),
            Self::Quoted(order) => parse_item(line, &order.defaults),
        }
    }

    /// Whether what is reserved for it is the most that its rows may cost, not what they are expected to.
    pub fn holds_the_most(&self) -> bool {
        matches!(self, Self::Quoted(order) if order.holds_the_most())
    }
}

/// Whether rows may go to another lane than the one that was planned for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fallback {
    /// To lanes that charge no more than the planned one.
    #[default]
    NotDearer,
    /// To lanes that charge no more than this.
    Within(MaxPrice),
    Never,
}

impl BatchSpec {
    /// The completion window that its client has asked for; `None` if that was a tier.
    pub fn window(&self) -> Option<CompletionWindow> {
        match &self.order {
            BatchInput::Unquoted { window, .. } => Some(*window),
            BatchInput::Quoted(order) => order.gateway.as_ref().map(|gateway| gateway.window),
        }
    }

    /// What a batch of Phaseo's has besides; `None` for any other.
    pub fn gateway(&self) -> Option<(&QuotedInput, &PhaseoDetails)> {
        match &self.order {
            BatchInput::Quoted(order) => Some((order, order.gateway.as_ref()?)),
            BatchInput::Unquoted { .. } => None,
        }
    }

    /// Whether its create named somebody who is told of it.
    pub fn has_receiver(&self) -> bool {
        self.gateway().is_some_and(|(_, gateway)| gateway.subscription.is_some())
    }

    /// The moment at which unfinished rows expire.
    pub fn deadline(&self) -> Timestamp {
        match &self.order {
            BatchInput::Unquoted { window, .. } => later(self.created_at, window.duration()),
            BatchInput::Quoted(order) => order.deadline,
        }
    }
}

/// How a batch that stopped running will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every row has its own result.
    Completed,
    /// The deadline passed first.
    Expired,
}

/// The files over a finished batch's results; `None` where no row belongs in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResultFiles {
    pub output: Option<FileId>,
    pub errors: Option<FileId>,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// The input is being checked, line by line.
    Validating,
    /// The input was refused; its problems are kept beside the batch.
    Failed {
        at: Timestamp,
    },
    /// Rows run.
    InProgress {
        since: Timestamp,
    },
    /// No row runs any more; what is left to write is being written.
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
    /// A client wants it to stop.
    CancelRequested,
    /// All that there was to write is durable.
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

    /// `true` if nothing will change any more.
    pub const fn is_terminal(&self) -> bool {
        match self {
            Self::Validating | Self::InProgress { .. } | Self::Finalizing { .. } | Self::Cancelling { .. } => false,
            Self::Failed { .. } | Self::Completed { .. } | Self::Expired { .. } | Self::Cancelled { .. } => true,
        }
    }

    /// When it ended, if it has.
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
    /// [`Conflict`] if the event has no meaning in this state; the state stays.
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
            // Cancelling twice is what impatient people do; the first request counts.
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

/// What is durable of a batch's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows of the input; 0 until validated.
    pub total: u32,
    /// Rows with a result in the output file.
    pub succeeded: u32,
    /// Rows with a result in the error file.
    pub failed: u32,
    /// Those of the failed that a cancel ended before they had a result.
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

/// A batch with all that is known of it, as read in one go.
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
    /// How a batch has ended, as its client sees it; `None` until then. One whose rows have all failed
    /// has failed; that some did does not make it so.
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
