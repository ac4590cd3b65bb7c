//! Everything that may hold back the calls of one lane, in one place: the stated limits, what the
//! provider says is left, the limits found out, and whether the lane is healthy.
//!
//! Pure bookkeeping: the caller reports when a call goes out and how it ended, and the flow control
//! says when the next call may go out. It makes no calls of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::blame::{Blame, Judged, LaneTraits, Pick, Signs};
use super::call::{CallFailure, CallFeedback, CallTicket, RowSoFar};
use super::denials::{Denials, PROBE_EVERY};
use super::in_flight::InFlight;
use crate::domain::provider::connection::Limits;
use crate::domain::provider::denial::Denial;
use crate::domain::provider::rate_limits::RateLimitStatus;
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::row::retry::{FailureClass, Tally};
use crate::flow::circuit_breaker::CircuitChange;
use crate::flow::well_rate::WellRate;
use crate::flow::{AdaptiveRate, CircuitBreaker, ConcurrencyLimiter, RemainingQuota, RequestedPause};

/// The longest `Retry-After` that is obeyed. A provider that asks for more is still tried again
/// after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Refusals over this time, without a success between them, are why rows wait.
const REFUSED_LONG: Duration = Duration::from_secs(5);
/// About how many answers the mean latency of a lane covers.
const LATENCY_OVER: u32 = 16;

/// The flow control of a lane.
#[derive(Debug)]
pub struct FlowControl {
    limits: Limits,
    /// The most calls at a time that are ever tried.
    most: u32,
    traits: LaneTraits,
    pub in_flight_gauge: InFlight,
    limiter: ConcurrencyLimiter,
    throttle: AdaptiveRate,
    requests: RemainingQuota,
    tokens: RemainingQuota,
    blame: Blame,
    denials: Denials,
    pause: RequestedPause,
    /// Since when the lane stands still because its provider has asked for that.
    paused_since: Option<Instant>,
    /// Since the last success, when the first and the last call that was refused for its pace went out.
    refused: Option<(Instant, Instant)>,
    /// What the provider said when a call failed last.
    last_said: Option<Arc<str>>,
    /// When as many calls were in flight as there may be, and how many that were.
    full: Option<(Instant, u32)>,
    /// Calls and tokens that have gone out.
    total: (u64, u64),
    /// How long an answer takes; the latest answers count most.
    latency: Option<Duration>,
    /// What an answer takes of the server, likewise, in tokens read.
    work: u64,
    /// Calls that ended well.
    ended: WellRate,
}

impl FlowControl {
    /// Creates a flow control for the stated limits of a lane; an unknown limit is searched for up
    /// to `most`.
    pub fn new(limits: Limits, most: u32, traits: LaneTraits) -> Self {
        Self {
            limits,
            most,
            traits,
            in_flight_gauge: InFlight::new(limits),
            limiter: ConcurrencyLimiter::new(limits.in_flight, most),
            throttle: AdaptiveRate::default(),
            requests: RemainingQuota::default(),
            tokens: RemainingQuota::default(),
            blame: Blame::new(traits),
            denials: Denials::new(traits.hold_after, traits.is_shared),
            paused_since: None,
            refused: None,
            last_said: None,
            pause: RequestedPause::default(),
            full: None,
            total: (0, 0),
            latency: None,
            work: 0,
            ended: WellRate::default(),
        }
    }

    /// Updates the limits from a new catalog.
    pub fn set(&mut self, limits: Limits, now: Instant) {
        self.limits = limits;
        self.limiter.set(limits.in_flight, self.most);
        self.in_flight_gauge.set(limits, now);
    }

    /// Forgets what was learnt: the provider is at another address now.
    pub fn reset(&mut self) {
        let in_flight = self.in_flight_gauge.in_flight;
        *self = Self { total: self.total, ..Self::new(self.limits, self.most, self.traits) };
        self.in_flight_gauge.in_flight = in_flight;
    }

    /// When a call may start; `None` if more than the passing of time is needed.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight_gauge.in_flight >= self.limiter.limit() {
            return None;
        }
        let well = self.blame.breaker().ready_at(now)?.max(self.denials.ready_at(now)?);
        let waits = [self.pause.ready_at(now), self.throttle.ready_at(now), self.requests.ready_at(now), self.tokens.ready_at(now)];
        Some(waits.into_iter().flatten().fold(well.max(self.in_flight_gauge.paced_until(now)), Instant::max))
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant, tokens: u64, epoch: u32) -> CallTicket {
        self.total = (self.total.0 + 1, self.total.1.saturating_add(tokens));
        self.in_flight_gauge.start(now, tokens);
        self.throttle.take(now);
        self.pause.start(now);
        self.requests.take(now, 1);
        self.tokens.take(now, tokens);
        self.blame.start(now);
        self.denials.start(now);
        if self.in_flight_gauge.in_flight >= self.limiter.limit() {
            self.full = Some((now, self.in_flight_gauge.in_flight));
        }
        CallTicket { at: now, tokens, member: 0, epoch, in_flight: self.in_flight_gauge.in_flight, total: self.total }
    }

    /// Takes back a call that was not made after all. The rate found out for the lane counts it all
    /// the same.
    pub fn refund(&mut self, now: Instant, sent: &CallTicket) {
        self.in_flight_gauge.refund(now, sent.tokens);
        self.blame.on_abandoned(sent);
        self.denials.on_nothing(now, sent.at, Duration::ZERO);
    }

    /// Ends a call; `lesson` is `None` if its end says nothing about the lane. Returns what the
    /// failure costs the row, which has met `row` on this server before, and how the circuit has
    /// changed. `is_up` says whether nothing else shows that the provider is down.
    pub fn end(&mut self, now: Instant, sent: &CallTicket, lesson: Option<&CallFeedback>, row: &RowSoFar, is_up: bool) -> Judged {
        // Calls that end together are still in flight together, however they are counted down.
        let full = self.full.filter(|(at, _)| *at >= sent.at).map_or(0, |(_, calls)| calls);
        let in_flight = self.in_flight_gauge.in_flight.max(sent.in_flight).max(full);
        self.in_flight_gauge.end(now, sent.tokens, lesson.and_then(|lesson| lesson.tokens));
        let Some(lesson) = lesson else {
            self.blame.on_abandoned(sent);
            self.denials.on_nothing(now, sent.at, Duration::ZERO);
            return Judged::default();
        };
        if let Some(said) = &lesson.allowances {
            self.on_limit_headers(now, sent, said);
        }
        match lesson.failure {
            Some(failure) if !lesson.is_answer() => match failure.class {
                FailureClass::Denied { denial, .. } => self.denied(now, sent, denial, lesson, row),
                _ => self.failed(now, sent, failure, lesson, row, is_up),
            },
            Some(_) | None => self.succeeded(now, in_flight, sent, lesson, row),
        }
    }

    /// Takes a denial. It holds the lane, unless other calls show that it is the row's own.
    fn denied(&mut self, now: Instant, sent: &CallTicket, denial: Denial, lesson: &CallFeedback, row: &RowSoFar) -> Judged {
        let Some(failure) = lesson.failure else { return Judged::default() };
        let (judged, is_own) = self.blame.on_denied(now, sent, denial, failure, (row, lesson.asked));
        if is_own {
            self.denials.on_nothing(now, sent.at, PROBE_EVERY);
        } else {
            self.denials.on_denied(now, sent.at, denial, &lesson.said.clone().unwrap_or_default());
        }
        judged
    }

    /// Notes what the server says about its load.
    pub fn on_hints(&mut self, now: Instant, hints: ServerHints) {
        self.limiter.on_hints(now, hints.slots, hints.waiting);
    }

    /// Notes that the provider did not answer a probe, if the lane waits for that.
    pub fn on_silence(&mut self, now: Instant) {
        if self.blame.breaker().needs_probe(now) {
            self.blame.on_silence(now);
        }
    }

    fn succeeded(&mut self, now: Instant, in_flight: u32, sent: &CallTicket, lesson: &CallFeedback, row: &RowSoFar) -> Judged {
        self.ended.count(now);
        self.refused = None;
        if self.pause.on_accepted(now, sent.at) {
            self.throttle.on_resumed(now);
        }
        self.throttle.on_accepted(now);
        let took = now.saturating_duration_since(sent.at);
        // A refusal arrives sooner than any real answer.
        if lesson.failure.is_none() {
            self.latency = Some(self.latency.map_or(took, |before| (before * (LATENCY_OVER - 1) + took) / LATENCY_OVER));
            let work = lesson.work.unwrap_or_else(|| self.work.max(1));
            self.work = if self.work == 0 {
                work
            } else {
                self.work.saturating_mul(u64::from(LATENCY_OVER - 1)).saturating_add(work) / u64::from(LATENCY_OVER)
            };
            if self.throttle.is_binding(now) {
                self.limiter.on_paced(now, in_flight);
            } else {
                self.limiter.on_success(now, in_flight, took, work);
            }
        }
        let beside = self.in_flight_gauge.in_flight + 1;
        let judged = self.blame.on_success(now, sent, beside, row, lesson.asked);
        let circuit = if self.denials.on_success() { CircuitChange::Recovered } else { judged.circuit };
        Judged { circuit, ..judged }
    }

    fn failed(
        &mut self,
        now: Instant,
        sent: &CallTicket,
        failure: CallFailure,
        lesson: &CallFeedback,
        row: &RowSoFar,
        is_up: bool,
    ) -> Judged {
        let wait = failure.class.retry_after().map(|wait| wait.min(LONGEST_WAIT));
        if self.pause.until().is_none_or(|until| until <= now) {
            self.paused_since = Some(now);
        }
        if let FailureClass::RateLimited { .. } = failure.class {
            self.refused = Some((self.refused.map_or(sent.at, |(first, _)| first), sent.at));
            // A lane that is paced and has room to spare was too fast, not too wide.
            let is_paced = self.throttle.rate().is_some() && sent.in_flight < self.limiter.limit();
            let price = wait.and_then(|wait| self.pause.on_refused(now, sent.at, wait));
            self.throttle.on_refused(now, sent.at, price);
            if !is_paced {
                self.limiter.on_refused(now, sent.in_flight);
            }
        } else if let Some(wait) = wait {
            // A server that cannot answer means all calls.
            self.pause.stop(now, wait);
        }
        self.denials.on_nothing(now, sent.at, PROBE_EVERY);
        self.last_said.clone_from(&lesson.said);
        let judged = self.blame.on_failure(now, sent, failure, row, Signs { is_up, latency: self.latency });
        if let Some(since) = self.blame.breaker().failing_since() {
            self.on_unwell(since);
        }
        if let CircuitChange::Tripped(_) = judged.circuit {
            self.limiter.begin_again(now);
        } else if judged.may_be_full {
            self.limiter.on_overload(now);
        }
        judged
    }

    /// The tally of a row that goes to another server, with the charge for what is open from this one.
    pub fn settle(&mut self, row: &RowSoFar) -> Tally {
        self.blame.settle(row)
    }

    fn on_limit_headers(&mut self, now: Instant, sent: &CallTicket, said: &RateLimitStatus) {
        if let Some(requests) = said.requests {
            self.requests.on_limit_headers(now, requests, self.total.0 - sent.total.0);
        }
        if let Some(tokens) = said.tokens {
            self.tokens.on_limit_headers(now, tokens, self.total.1.saturating_sub(sent.total.1));
        }
    }

    /// Calls that the server is taken to have room for at present.
    pub fn capacity(&self) -> u32 {
        self.limiter.limit()
    }

    /// Calls that the lane may have in flight now; `None` if no bound is known.
    pub fn allowed(&self) -> Option<u32> {
        Some(self.limiter.limit()).filter(|limit| *limit < self.most)
    }

    /// Calls a minute that the lane keeps to at present, stated or found out.
    pub fn per_minute(&self) -> Option<u64> {
        let found = self.throttle.rate().map(|rate| Duration::from_secs_f64(rate * 60.0).as_secs().max(1));
        let stated = self.limits.requests_per_minute.map(u64::from);
        [found, stated].into_iter().flatten().min()
    }

    /// Since when the provider asks for a pause that is not over, or has refused every call for a while
    /// without saying how long.
    pub fn paused_since(&self, now: Instant) -> Option<Instant> {
        let asked = self.paused_since.filter(|_| self.pause.until().is_some_and(|until| until > now));
        let refused = self.refused.filter(|(first, last)| last.saturating_duration_since(*first) >= REFUSED_LONG);
        asked.or(refused.map(|(first, _)| first))
    }

    /// What the provider said when a call failed last.
    pub const fn last_said(&self) -> Option<&Arc<str>> {
        self.last_said.as_ref()
    }

    /// Whether, and why, the provider refuses every request.
    pub const fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Lets a row find out at once whether the provider takes requests again.
    pub fn try_now(&mut self, now: Instant) {
        self.denials.try_now(now);
    }

    /// Whether it is time to say again that the lane is held.
    pub fn reminds(&mut self, now: Instant) -> bool {
        self.denials.reminds(now)
    }

    /// Until when the lane rests.
    pub fn resting_until(&self, now: Instant) -> Option<Instant> {
        [self.pause.until(), self.blame.breaker().resting_until()].into_iter().flatten().filter(|until| *until > now).max()
    }

    /// Whether a probe has failed since the last success.
    pub const fn is_down(&self) -> bool {
        self.blame.is_down()
    }

    /// In which order rows go out.
    pub fn pick(&self, now: Instant) -> Pick {
        if self.denials.hold().is_some() { Pick::Probe } else { self.blame.pick(now) }
    }

    /// The breaker that tracks whether calls on the lane fail.
    pub fn breaker(&self) -> &CircuitBreaker {
        self.blame.breaker()
    }

    /// How long the lane's last answers took; `None` before the first.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Notes that the lane or its provider has not been well since then.
    pub fn on_unwell(&mut self, since: Instant) {
        self.ended.stop(since);
    }

    /// Calls per second that ended well, over the last minute in which the lane was well.
    pub fn rate(&self, now: Instant) -> f64 {
        self.ended.rate(now, Duration::from_secs(60))
    }

    /// Whether tokens a minute are limited, so that tokens are what is shared.
    pub fn counts_tokens(&self) -> bool {
        self.limits.tokens_per_minute.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_of_a_lane_is_that_of_the_time_in_which_it_was_well() {
        let traits = LaneTraits { is_local: true, is_shared: false, hold_after: 3, can_be_down: true };
        let mut flow = FlowControl::new(Limits::default(), 64, traits);
        let (start, mut now) = (Instant::now(), Instant::now());
        let call = |flow: &mut FlowControl, now: Instant, failure: Option<CallFailure>| {
            let sent = flow.start(now, 1, 0);
            let lesson = CallFeedback { failure, ..CallFeedback::default() };
            flow.end(now + Duration::from_millis(50), &sent, Some(&lesson), &RowSoFar::default(), false);
        };
        while now < start + Duration::from_secs(100) {
            call(&mut flow, now, None);
            now += Duration::from_millis(100);
        }
        let down = CallFailure { class: FailureClass::Unavailable { status: 502, retry_after: None }, mark: 7, row: 0 };
        while now < start + Duration::from_secs(700) {
            call(&mut flow, now, Some(down));
            now = flow.ready_at(now).unwrap().max(now + Duration::from_millis(100));
        }
        assert!((9.0..11.0).contains(&flow.rate(now)), "while it is down: {}", flow.rate(now));
        call(&mut flow, now, None);
        now += Duration::from_secs(1);
        assert!((9.0..11.0).contains(&flow.rate(now)), "just after it: {}", flow.rate(now));
    }
}
