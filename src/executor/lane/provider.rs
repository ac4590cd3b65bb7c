//! One provider at work: its connection, the limits of the provider as a whole, as the provider
//! states them, and whether it is reachable at all. Its lanes share this state.

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

/// A single failure to connect marks the provider as unreachable.
const PATIENCE: BreakerConfig = BreakerConfig { failures: 1, first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// A provider.
pub struct ProviderState {
    pub connection: Connection,
    pub provider: Arc<dyn Dispatch>,
    pub in_flight_gauge: InFlight,
    /// Counts the provider's addresses, up by one with each change: what calls to an earlier
    /// address meet says nothing about the current one.
    pub epoch: u32,
    reach: CircuitBreaker,
    /// When the provider last answered anything.
    pub last_answer: Option<Timestamp>,
    /// The server belongs to the operator.
    pub is_local: bool,
    /// When the provider last gave any sign, or else when it was opened.
    pub heard: Instant,
    /// A probe of whether the provider is reachable is in flight.
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

    /// The same provider at another address. Calls to its earlier address are still in flight.
    pub fn moved(&self, connection: Connection, provider: Arc<dyn Dispatch>) -> Self {
        let mut moved = Self { epoch: self.epoch.wrapping_add(1), ..Self::new(connection, provider, self.is_local) };
        moved.in_flight_gauge.in_flight = self.in_flight_gauge.in_flight;
        moved
    }

    /// Takes the limits from a new catalog. The connection itself stays as it was.
    pub fn set_limits(&mut self, connection: &Connection, now: Instant) {
        self.connection.limits = connection.limits;
        self.in_flight_gauge.set(connection.limits, now);
    }

    /// When a call may start; `None` if more than the passing of time is needed.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.connection.limits.in_flight.is_some_and(|most| self.in_flight_gauge.in_flight >= most) {
            return None;
        }
        Some(self.reach.ready_at(now)?.max(self.in_flight_gauge.paced_until(now)))
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant, tokens: u64) {
        self.in_flight_gauge.start(now, tokens);
        self.reach.start(now);
    }

    /// Takes back a call that was not made after all.
    pub fn refund(&mut self, now: Instant, sent: &CallTicket) {
        self.in_flight_gauge.refund(now, sent.tokens);
        self.reach.on_abandoned(sent.at);
    }

    /// Begins a probe; meanwhile no row goes out to find out whether the provider is reachable.
    pub fn begin_probe(&mut self, now: Instant) {
        self.probing = true;
        self.reach.start(now);
    }

    /// Whether the provider is unreachable.
    pub fn is_unreachable(&self) -> bool {
        self.reach.failing_since().is_some()
    }

    /// The breaker that tracks whether the provider is reachable.
    pub fn reach(&self) -> &CircuitBreaker {
        &self.reach
    }

    /// Learns from the end of a call that went out at `sent`; `failure` is `None` if the call was
    /// abandoned.
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
