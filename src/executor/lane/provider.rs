//! One server of a provider at work: its connection, the limits of the server as a whole, as its
//! provider states them, and whether it is reachable at all. Its lanes share this state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::blame::LONGEST_REST_LOCAL;
use super::call::{CallFeedback, CallTicket};
use super::in_flight::InFlight;
use super::inquiry::Inquiry;
use super::server_queue::ServerQueue;
use crate::domain::provider::connection::{Connection, HostAddresses, ProviderKind, ServerConnection};
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::row::retry::FailureClass;
use crate::domain::time::Timestamp;
use crate::flow::CircuitBreaker;
use crate::flow::circuit_breaker::{BreakerConfig, CircuitChange};
use crate::provider::Dispatch;

/// The longest rest of a provider that cannot be reached, unless it is a server of the operator's own.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How long a server of the operator's own may be silent before it is probed.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a provider is probed while its calls fail, or a server of the operator's own while it
/// answers none, and how long the answer holds.
const DOUBT: Duration = Duration::from_secs(5);

/// A server of a provider.
pub struct ProviderState {
    pub connection: Connection,
    pub provider: Arc<dyn Dispatch>,
    pub in_flight_gauge: InFlight,
    /// Counts the server's keys, up by one with each change: what calls under an earlier key meet says
    /// nothing about the current one.
    pub epoch: u32,
    /// The provider has the server now.
    pub is_listed: bool,
    reach: CircuitBreaker,
    /// When the provider last answered anything.
    pub last_answer: Option<Timestamp>,
    /// The server belongs to the operator.
    pub is_local: bool,
    /// When the provider last gave any sign, or else when it was opened.
    pub heard: Instant,
    /// A probe of whether the provider is reachable is in flight.
    pub probing: bool,
    /// What the provider is asked about its load.
    hints: Inquiry,
    queue: ServerQueue,
    /// When the provider was last probed, and whether it answered, and not with an error of its own.
    last_probe: Option<(Instant, bool)>,
    /// A call has failed, and none has succeeded since.
    is_doubted: bool,
    /// Why the last connection could not be made.
    failure: Option<Arc<str>>,
    /// What the calls hold that have begun since the server was last restarted.
    calls: Arc<CancellationToken>,
}

/// What a call that begins now is made with.
pub struct CallMeans {
    pub provider: Arc<dyn Dispatch>,
    /// Cancelled a little after the server was restarted; `None` where that is not found out.
    pub restarted: Option<Arc<CancellationToken>>,
}

impl ProviderState {
    pub fn new(connection: Connection, provider: Arc<dyn Dispatch>, is_local: bool) -> Self {
        let in_flight_gauge = InFlight::new(connection.limits);
        let longest = if is_local { LONGEST_REST_LOCAL } else { LONGEST_REST };
        Self {
            connection,
            provider,
            in_flight_gauge,
            epoch: 0,
            is_listed: true,
            // A single failure to connect marks the provider as unreachable.
            reach: CircuitBreaker::new(BreakerConfig {
                failures: 1,
                few: 1,
                slowly: Duration::ZERO,
                first: Duration::from_secs(1),
                longest,
            }),
            last_answer: None,
            is_local,
            heard: Instant::now(),
            probing: false,
            hints: Inquiry::default(),
            queue: ServerQueue::default(),
            last_probe: None,
            is_doubted: false,
            failure: None,
            calls: Arc::default(),
        }
    }

    /// The same server under another key. Calls under its earlier key are still in flight.
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
        let in_flight = self.in_flight_gauge.in_flight;
        if self.connection.limits.in_flight.is_some_and(|most| in_flight >= most) || self.allowed(now).is_some_and(|most| in_flight >= most)
        {
            return None;
        }
        Some(self.reach.ready_at(now)?.max(self.in_flight_gauge.paced_until(now)))
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant, tokens: u64) {
        self.in_flight_gauge.start(now, tokens);
        self.queue.start(self.in_flight_gauge.in_flight);
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

    /// What a call holds that begins now: it is cancelled a little after the server was restarted. Only
    /// of the operator's own servers is it known: nothing listens at their address for a moment.
    pub fn calls(&self) -> Option<Arc<CancellationToken>> {
        self.is_local.then(|| self.calls.clone())
    }

    /// Parts the calls of before a restart from those of now.
    pub fn part_calls(&mut self) -> Arc<CancellationToken> {
        std::mem::take(&mut self.calls)
    }

    /// Where the server is.
    pub fn address(&self) -> String {
        match &self.connection.kind {
            ProviderKind::Server(ServerConnection { base_url, addresses: HostAddresses::One(address), .. }) => {
                format!("{base_url} at {address}")
            }
            ProviderKind::Server(server) => server.base_url.to_string(),
            ProviderKind::Simulated { .. } => "simulated".to_owned(),
        }
    }

    /// Why the last connection could not be made.
    pub const fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    /// Whether the provider is to be asked about its load now, which is at most once in a time.
    pub fn begin_hints(&mut self, now: Instant, every: Duration) -> bool {
        self.hints.begin(now, every)
    }

    /// Notes that the provider has said what it says about its load.
    pub fn end_hints(&mut self) {
        self.hints.end();
    }

    /// Takes what the provider says about its load.
    pub fn on_hints(&mut self, now: Instant, hints: ServerHints) {
        let Some(most) = self.max_waiting() else { return };
        if self.queue.on_hints(most, now, self.in_flight_gauge.in_flight, hints) {
            tracing::warn!(
                provider = self.connection.id,
                server = self.address(),
                "`max_waiting` has no effect: the server does not say how many calls wait in it"
            );
        }
    }

    /// Calls that may wait in the server, of all its clients.
    pub fn max_waiting(&self) -> Option<u32> {
        self.connection.kind.max_waiting()
    }

    /// The most calls that may be in flight for no more to wait in the server than may; `None` without a
    /// bound.
    pub fn allowed(&self, now: Instant) -> Option<u32> {
        self.queue.allowed(self.max_waiting(), now)
    }

    /// Since when so many calls wait in the server that none goes out.
    pub fn full_since(&self, now: Instant) -> Option<Instant> {
        self.queue.full_since().filter(|_| self.allowed(now) == Some(0))
    }

    /// Whether the provider does not have the server any more, and nothing is left to come of it.
    pub fn is_over(&self) -> bool {
        !self.is_listed && self.in_flight_gauge.in_flight == 0 && !self.probing && !self.hints.is_open()
    }

    /// Whether the provider is unreachable.
    pub fn is_unreachable(&self) -> bool {
        self.reach.failing_since().is_some()
    }

    /// Whether nothing shows that the provider is down: neither a call nor its answer to a probe.
    pub fn is_up(&self) -> bool {
        !self.is_unreachable() && self.last_probe.is_none_or(|(_, answered)| answered)
    }

    /// Whether the provider has answered a probe just now, so that a row may go out to see if it is
    /// well again.
    pub fn has_answered(&self, now: Instant) -> bool {
        self.last_probe.is_some_and(|(at, answered)| answered && now.saturating_duration_since(at) < DOUBT)
    }

    /// Whether a probe is due.
    pub fn wants_probe(&self, now: Instant) -> bool {
        // Calls that nobody works on any more would wait for ever: their server was stopped.
        let silence = if self.in_flight_gauge.in_flight == 0 { SILENCE } else { DOUBT };
        let is_silent = now.saturating_duration_since(self.heard) >= silence;
        let is_stale = self.last_probe.is_none_or(|(at, _)| now.saturating_duration_since(at) >= DOUBT);
        (self.is_local && (self.reach.needs_probe(now) || is_silent)) || (self.is_doubted && is_stale)
    }

    /// Takes the answer to a probe. Returns whether the provider can be reached again.
    pub fn on_probed(&mut self, answer: Result<u16, (FailureClass, Arc<str>)>, now: Instant, asked: Instant, at: Timestamp) -> bool {
        self.heard = now;
        self.last_probe = Some((now, matches!(answer, Ok(..500))));
        let failure = answer.err();
        // Its connection may be one from before: calls may still not reach the provider.
        self.note_reach(failure.as_ref().map(|(class, said)| (*class, Some(said))), now, asked, at, CircuitBreaker::on_sign_of_life)
    }

    /// The breaker that tracks whether the provider is reachable.
    pub fn reach(&self) -> &CircuitBreaker {
        &self.reach
    }

    /// Learns from the end of a call that went out at `sent`; `failure` is `None` if the call was
    /// abandoned. Returns whether the provider can be reached again.
    pub fn learn(&mut self, lesson: Option<&CallFeedback>, now: Instant, sent: Instant, at: Timestamp) -> bool {
        match lesson {
            None => {
                self.reach.on_abandoned(sent);
                false
            }
            Some(lesson) => {
                let failure = lesson.class();
                // A denial is the answer of a server that is well.
                self.is_doubted = failure.is_some_and(|class| class.is_retriable() && !matches!(class, FailureClass::Denied { .. }));
                if !self.is_doubted {
                    self.last_probe = None;
                }
                self.note_reach(failure.map(|class| (class, lesson.said.as_ref())), now, sent, at, CircuitBreaker::on_success)
            }
        }
    }

    fn note_reach(
        &mut self,
        failure: Option<(FailureClass, Option<&Arc<str>>)>,
        now: Instant,
        sent: Instant,
        at: Timestamp,
        on_reached: impl FnOnce(&mut CircuitBreaker) -> CircuitChange,
    ) -> bool {
        let provider = &self.connection.id;
        let change = match failure {
            Some((FailureClass::Connect, said)) => {
                self.failure = Some(said.cloned().unwrap_or_default());
                self.reach.on_failure(now, sent)
            }
            failure => {
                if !matches!(failure, Some((FailureClass::TimedOut | FailureClass::Interrupted, _))) {
                    self.last_answer = Some(at);
                    self.heard = now;
                }
                on_reached(&mut self.reach)
            }
        };
        match change {
            CircuitChange::None => {}
            CircuitChange::Recovered => tracing::info!(provider, "the provider can be reached again"),
            CircuitChange::Tripped(rest) => {
                let reason = self.failure.as_deref();
                tracing::error!(
                    provider,
                    reason,
                    seconds = rest.as_secs(),
                    "the provider cannot be reached; its rows wait until it is tried again"
                );
            }
        }
        change == CircuitChange::Recovered
    }
}
