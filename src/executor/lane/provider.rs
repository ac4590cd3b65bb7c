//! One provider at work: its connection, what it bears as a whole by its own word, and whether it is
//! there at all. Its lanes share it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::flow_control::CallTicket;
use super::in_flight::InFlight;
use crate::domain::provider::connection::Connection;
use crate::domain::row::retry::FailureClass;
use crate::domain::time::Timestamp;
use crate::flow::CircuitBreaker;
use crate::flow::circuit_breaker::{BreakerConfig, CircuitChange};
use crate::provider::Dispatch;

/// One failure to connect says that nobody is there.
const PATIENCE: BreakerConfig = BreakerConfig { failures: 1, first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// A provider.
pub struct ProviderState {
    pub connection: Connection,
    pub provider: Arc<dyn Dispatch>,
    pub in_flight_gauge: InFlight,
    /// Which address it is at, counted up whenever that changes: what calls to an earlier one meet says
    /// nothing about this one.
    pub epoch: u32,
    reach: CircuitBreaker,
    /// When it last answered anything.
    pub last_answer: Option<Timestamp>,
    /// A server of the operator's own.
    pub is_local: bool,
    /// When anything was last heard of it, or else when it was opened.
    pub heard: Instant,
    /// It is being asked whether it is there.
    pub probing: bool,
}

impl ProviderState {
    pub fn new(connection: Connection, provider: Arc<dyn Dispatch>, is_local: bool) -> Self {
        let in_flight_gauge = InFlight::new(connection.limits);
        Self {
            connection,
            provider,
            in_flight_gauge,
            epoch: 0,
            reach: CircuitBreaker::new(PATIENCE),
            last_answer: None,
            is_local,
            heard: Instant::now(),
            probing: false,
        }
    }

    /// The same provider at another address. Calls to where it was before are still in flight.
    pub fn moved(&self, connection: Connection, provider: Arc<dyn Dispatch>) -> Self {
        let mut moved = Self { epoch: self.epoch.wrapping_add(1), ..Self::new(connection, provider, self.is_local) };
        moved.in_flight_gauge.in_flight = self.in_flight_gauge.in_flight;
        moved
    }

    /// Takes what a new catalog says of the limits. The connection itself is as it was.
    pub fn set_limits(&mut self, connection: &Connection, now: Instant) {
        self.connection.limits = connection.limits;
        self.in_flight_gauge.set(connection.limits, now);
    }

    /// When a call may start; `None` if that is not a question of time alone.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.connection.limits.in_flight.is_some_and(|most| self.in_flight_gauge.in_flight >= most) {
            return None;
        }
        Some(self.reach.ready_at(now)?.max(self.in_flight_gauge.paced_until(now)))
    }

    /// A call goes out.
    pub fn start(&mut self, now: Instant, tokens: u64) {
        self.in_flight_gauge.start(now, tokens);
        self.reach.start(now);
    }

    /// It was not made after all.
    pub fn refund(&mut self, now: Instant, sent: &CallTicket) {
        self.in_flight_gauge.refund(now, sent.tokens);
        self.reach.on_abandoned(sent.at);
    }

    /// It is asked whether it is there; meanwhile no row goes out to find that out.
    pub fn begin_probe(&mut self, now: Instant) {
        self.probing = true;
        self.reach.start(now);
    }

    /// Nobody answers there.
    pub fn is_unreachable(&self) -> bool {
        self.reach.failing_since().is_some()
    }

    /// Whether it can be reached.
    pub fn reach(&self) -> &CircuitBreaker {
        &self.reach
    }

    /// Learns from how a call ended that went out at `sent`; `None` if it was abandoned.
    pub fn learn(&mut self, failure: Option<Option<FailureClass>>, now: Instant, sent: Instant, at: Timestamp) {
        let provider = &self.connection.id;
        let change = match failure {
            None => {
                self.reach.on_abandoned(sent);
                return;
            }
            Some(Some(FailureClass::Connect)) => self.reach.on_failure(now, sent),
            Some(failure) => {
                if !matches!(failure, Some(FailureClass::TimedOut | FailureClass::Interrupted)) {
                    self.last_answer = Some(at);
                    self.heard = now;
                }
                self.reach.on_success(sent)
            }
        };
        match change {
            CircuitChange::None => {}
            CircuitChange::Recovered => tracing::info!(provider, "the provider can be reached again"),
            CircuitChange::Tripped(rest) => {
                tracing::error!(
                    provider,
                    seconds = rest.as_secs(),
                    "the provider cannot be reached; its rows wait until it is tried again"
                );
            }
        }
    }
}
