//! Runs batches: validates their input, dispatches their rows, retries, and ends them.
//!
//! The rest of the daemon holds a [`Handle`]. Behind the handle one task, the dispatcher, owns all
//! run state, and only the dispatcher moves a batch from state to state. The dispatcher learns of
//! the world through messages, and the world learns of the dispatcher through the store.
//!
//! Invariants others rely on:
//! * what a handle's call returns is durable;
//! * rows dispatched whose results are not durable never exceed the in-flight limit, so that is the
//!   most upstream calls that a crash repeats;
//! * memory does not grow with the number of rows of a batch.

mod attempt;
mod dedup;
mod dispatcher;
mod finish;
mod handle;
mod lane;
mod prepare;
mod run;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use attempt::attachments::describe;
pub use attempt::recordings::RecordingLimits;
#[cfg(test)]
pub use handle::Stub;
pub use handle::{CancelError, ControlError, Gone, Handle, HoldError};
pub use lane::OpenProvider;
pub use lane::status::{LaneLoad, LaneReport, LaneStatuses};
pub use lane::waiting::LaneWait;
pub use prepare::stage::Stage;
pub use prepare::validate::{CheckedInput, InputLimits, ValidationInput, check as check_input};

use self::dispatcher::SeenLanes;
use self::prepare::stage::Stages;
use crate::catalog::Catalog;
use crate::domain::batch::dedup::Dedup;
use crate::domain::row::retry::RetryPolicy;
use crate::domain::time::Clock;
use crate::provider::fetch::Fetcher;
use crate::store::{Recovered, Store};

/// Commands that may wait for the dispatcher; beyond this, callers wait.
const COMMANDS: usize = 1_024;

/// What the executor works with.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub clock: Clock,
    pub open: OpenProvider,
    /// Fetches what rows name by a URL.
    pub fetcher: Fetcher,
}

/// How the executor works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Limit on dispatched rows whose results are not durable, over all lanes; at least 1.
    pub in_flight_limit: u32,
    /// Batches that run at the same time; further batches wait their turn. At least 1.
    pub max_running: usize,
    /// No row is dispatched while the free space on the data directory's disk is below this, in
    /// bytes.
    pub min_free_bytes: u64,
    pub retry: RetryPolicy,
    /// Answers in a row that refuse every request, such as those to a wrong key, after which a lane is
    /// held; at least 1.
    pub hold_after: u32,
    pub input: InputLimits,
    pub recordings: RecordingLimits,
    /// The scope within which equal requests are made once.
    pub dedup: Dedup,
    /// Older answers are not shared with other rows.
    pub dedup_max_age: Duration,
    pub cancel_grace: CancelGrace,
}

/// How long rows in flight of a cancelled batch may still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelGrace {
    /// At hosted providers, which charge for a call whether or not it is waited for.
    pub hosted: Duration,
    /// At the operator's own servers, which are free for others as soon as a call is cut.
    pub local: Duration,
}

/// Creates an executor. The returned future is the executor itself: it runs until it has drained,
/// which begins with `drain`, and no longer than until `abort`.
pub fn start(
    parts: Parts,
    settings: Settings,
    recovered: Recovered,
    drain: CancellationToken,
    abort: CancellationToken,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    // Bounded by the work that it reports on: attempts in flight, and a few tasks for each running
    // batch.
    let (events, reports) = mpsc::unbounded_channel();
    let wall = lane::status::SharedLaneStatuses::default();
    let stages = Stages::default();
    let handle = Handle { commands, store: parts.store.clone(), wall: wall.clone(), stages: stages.clone() };
    let dispatcher = dispatcher::Dispatcher::new(parts, settings, recovered, events, SeenLanes { wall, stages });
    (handle, dispatcher.run(receiver, reports, drain, abort))
}
