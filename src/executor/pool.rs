//! One provider at work: its connection, how much it bears, and whether it is there at all. Its
//! lanes share it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::gauge::Gauge;
use crate::domain::connection::Connection;
use crate::domain::retry::FailureClass;
use crate::domain::time::Timestamp;
use crate::provider::Dispatch;
use crate::route::Limiter;

/// How long a provider is left alone after the first failure to connect; each further one doubles it.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// The longest hold while a provider cannot be reached.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// A provider.
pub(super) struct Pool {
    pub connection: Connection,
    pub provider: Arc<dyn Dispatch>,
    pub limiter: Limiter,
    pub gauge: Gauge,
    /// Which address it is at, counted up whenever that changes: what calls to an earlier one meet says
    /// nothing about this one.
    pub epoch: u32,
    /// Failures to connect in a row, each after the hold of the one before.
    outage: u32,
    /// When it last answered anything.
    pub last_answer: Option<Timestamp>,
}

impl Pool {
    pub fn new(connection: Connection, provider: Arc<dyn Dispatch>) -> Self {
        let limiter = Limiter::new(connection.limits.in_flight.unwrap_or(u32::MAX));
        let gauge = Gauge::new(connection.limits);
        Self { connection, provider, limiter, gauge, epoch: 0, outage: 0, last_answer: None }
    }

    /// The same provider at another address. Calls to where it was before are still in flight.
    pub fn moved(&self, connection: Connection, provider: Arc<dyn Dispatch>) -> Self {
        let mut moved = Self { epoch: self.epoch.wrapping_add(1), ..Self::new(connection, provider) };
        moved.gauge.in_flight = self.gauge.in_flight;
        moved
    }

    /// Takes what a new catalog says of the limits. The connection itself is as it was.
    pub fn set_limits(&mut self, connection: &Connection, now: Instant) {
        self.connection.limits = connection.limits;
        self.limiter.set_max(connection.limits.in_flight.unwrap_or(u32::MAX));
        self.gauge.set(connection.limits, now);
    }

    /// When a call may start; `None` if that is not a question of time alone.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.gauge.in_flight >= self.limiter.limit() {
            return None;
        }
        let held = self.limiter.hold_until().unwrap_or(now);
        Some(held.max(self.gauge.paced_until(now)).max(now))
    }

    /// Nobody answers there.
    pub fn is_unreachable(&self) -> bool {
        self.outage > 0
    }

    /// Learns from how a call ended; `wait` is what the provider asked for.
    pub fn learn(&mut self, failure: Option<FailureClass>, now: Instant, at: Timestamp) {
        if failure == Some(FailureClass::Connect) {
            self.unreachable(now);
            return;
        }
        if std::mem::take(&mut self.outage) > 0 {
            tracing::info!(provider = self.connection.id, "the provider can be reached again");
        }
        if !matches!(failure, Some(FailureClass::TimedOut | FailureClass::Interrupted)) {
            self.last_answer = Some(at);
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

    /// Nobody is there: the provider is left alone, longer each time, instead of using up the rows'
    /// patience.
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
