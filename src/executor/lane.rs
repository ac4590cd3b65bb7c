//! The lanes: one per provider, with its limiter, its calls in flight, and the batches that have
//! ready rows for it, in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::LaneIndex;
use crate::catalog::Snapshot;
use crate::domain::connection::Connection;
use crate::domain::id::BatchId;
use crate::domain::retry::FailureClass;
use crate::provider::{Dispatch, SetupError};
use crate::route::Limiter;

/// Builds the provider behind a connection; the daemon knows where keys are.
pub type OpenProvider = Arc<dyn Fn(&Connection) -> Result<Arc<dyn Dispatch>, SetupError> + Send + Sync>;

/// How long a lane is held after the first failure to connect; each further one doubles it.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// The longest hold while a provider cannot be reached.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// One lane.
pub(super) struct Lane {
    connection: Connection,
    pub provider: Arc<dyn Dispatch>,
    pub limiter: Limiter,
    pub in_flight: u32,
    /// Failures to connect in a row, each after the hold of the one before.
    outage: u32,
    /// Batches with ready rows; the first one is next. A batch is in it at most once.
    pub rotation: VecDeque<BatchId>,
}

impl Lane {
    /// Whether a call may start now.
    pub fn has_room(&self, now: Instant) -> bool {
        self.in_flight < self.limiter.limit() && self.limiter.hold_until().is_none_or(|until| until <= now)
    }

    /// Learns from how a call ended; `wait` is what the provider asked for.
    pub fn learn(&mut self, failure: Option<FailureClass>, now: Instant) {
        if failure == Some(FailureClass::Connect) {
            self.unreachable(now);
            return;
        }
        if std::mem::take(&mut self.outage) > 0 {
            tracing::info!(provider = self.connection.id, "the provider can be reached again");
        }
        match failure {
            // A refusal is an answer: the lane itself is well.
            None | Some(FailureClass::Refused { .. } | FailureClass::ResponseTooLarge | FailureClass::InvalidResponse) => {
                self.limiter.on_success(now);
            }
            Some(FailureClass::RateLimited { retry_after }) => self.limiter.on_rate_limited(now, retry_after),
            // Whoever says when to come back means everybody.
            Some(FailureClass::Unavailable { retry_after: retry_after @ Some(_), .. }) => {
                self.limiter.on_rate_limited(now, retry_after);
            }
            Some(FailureClass::Unavailable { status: 503 | 529, retry_after: None } | FailureClass::TimedOut) => {
                self.limiter.on_overload(now);
            }
            Some(FailureClass::Unavailable { .. } | FailureClass::Interrupted | FailureClass::Connect) => {}
        }
    }

    /// Nobody is there: the lane is held, longer each time, instead of using up the rows' patience.
    fn unreachable(&mut self, now: Instant) {
        if self.limiter.hold_until().is_some_and(|until| until > now) {
            // Calls that began before the hold say nothing new.
            return;
        }
        let wait = FIRST_HOLD.saturating_mul(1 << self.outage.min(5)).min(LONGEST_HOLD);
        self.outage += 1;
        self.limiter.on_rate_limited(now, Some(wait));
        let seconds = wait.as_secs();
        tracing::error!(provider = self.connection.id, seconds, "the provider cannot be reached; its rows wait until it is tried again");
    }
}

/// All lanes, by index and by provider.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    by_provider: HashMap<String, LaneIndex>,
    open: OpenProvider,
}

impl Lanes {
    pub fn new(open: OpenProvider) -> Self {
        Self { lanes: Vec::new(), by_provider: HashMap::new(), open }
    }

    /// The lane of a provider, opened at first use and again when its connection has changed.
    pub fn of(&mut self, provider: &str, catalog: &Snapshot) -> Option<LaneIndex> {
        let connection = &catalog.provider(provider)?.connection;
        let known = self.by_provider.get(provider).copied();
        if let Some(index) = known
            && self.lanes[index].connection == *connection
        {
            return Some(index);
        }
        let opened = match (self.open)(connection) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(provider, %error, "a provider cannot be used");
                return None;
            }
        };
        let limiter = Limiter::new(connection.limits.in_flight.unwrap_or(u32::MAX));
        match known {
            Some(index) => {
                let lane = &mut self.lanes[index];
                (lane.connection, lane.provider, lane.limiter) = (connection.clone(), opened, limiter);
                Some(index)
            }
            None => {
                let (connection, rotation) = (connection.clone(), VecDeque::new());
                self.lanes.push(Lane { connection, provider: opened, limiter, in_flight: 0, outage: 0, rotation });
                self.by_provider.insert(provider.to_owned(), self.lanes.len() - 1);
                Some(self.lanes.len() - 1)
            }
        }
    }

    pub fn get(&mut self, index: LaneIndex) -> Option<&mut Lane> {
        self.lanes.get_mut(index)
    }

    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// The end of the earliest hold that is still on, and none closer than a millisecond.
    pub fn next_release(&self, now: Instant) -> Option<Instant> {
        let held = self.lanes.iter().filter(|lane| !lane.rotation.is_empty());
        let ends = held.filter_map(|lane| lane.limiter.hold_until()).filter(|until| *until > now);
        ends.min().map(|until| until.max(now + Duration::from_millis(1)))
    }
}
