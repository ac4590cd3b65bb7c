//! Whose failure it was, the row's or its lane's, and when the lane's circuit opens.
//!
//! A row is charged for a failure only as far as others show that its lane was well: calls that
//! went out no earlier have succeeded. Quick failures are judged later, when such calls have come
//! back: the row carries its last failure along ([`OpenFailure`]). Until an answer is late, nothing
//! else follows from them. While no call succeeds, failures count towards opening the circuit, and
//! rows wait with their attempts.
//!
//! Four failures are charged although no call succeeds, because rows that cannot be answered are
//! what is left at the end of a batch:
//! * a row gets the answer again that it was charged for while others succeeded, unless it is that of a
//!   gateway, an overload or a broken connection, or rows that had failed often succeeded later;
//! * a row gets an answer that it, or another row, was charged for while others succeeded;
//! * the last rows fail, one or two, that went out when the others had just gone out and succeeded;
//! * many different rows get equal answers at once from a server that is up.
//!
//! The last three are doubts: they hold only until a call of the lane succeeds, because an outage may
//! look the same. All four are so far apart that the outages that are usual use up no row.
//!
//! Pure bookkeeping. Invariant: a row whose lane has had no success since the row was first tried is
//! not charged, but for an answer that other rows were charged for, and for equal answers to many
//! rows.

mod denied;
mod judged;
mod wave;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

pub use self::judged::{Judged, LaneTraits, Pick, Signs};
use self::wave::Wave;
use super::call::{CallFailure, CallTicket, OpenFailure, RowSoFar};
use crate::domain::row::retry::{Charge, FailureClass, Tally};
use crate::flow::circuit_breaker::{BreakerConfig, CircuitChange};
use crate::flow::{CircuitBreaker, FailureShares};

/// Failures in a row, without a success, after which a lane rests; the same if they come slowly, one
/// by one, for as long as [`SLOWLY`].
const FAILURES: u32 = 10;
const FEW_FAILURES: u32 = 3;
const SLOWLY: Duration = Duration::from_secs(5);
/// A success is late after so many times what an answer takes in the mean. Until then a lane rests
/// only after as many failures as there are calls at a time.
const LATE: u32 = 2;
/// The longest rest between two probes.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// The same for a server of the operator's own: its probes disturb no other customer.
pub(super) const LONGEST_REST_LOCAL: Duration = Duration::from_secs(5);
/// Different rows that must get equal answers before these are the rows' own failures.
const MANY_ROWS: usize = 8;
/// As many rows at most may fail at the end of a batch for these to be taken for its last bad ones.
const FEW_ROWS: usize = 2;
/// An answer within this time is given at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The wait of a row after a charge for an answer that it got before, when others succeeded, while
/// none succeeds now.
const APART_AGAIN: Duration = Duration::from_secs(15);
/// The wait of a row after its first charge for an answer that many rows got; four times as long
/// after each further one. Six attempts take more than five hours.
const APART_MANY: Duration = Duration::from_secs(60);
/// The wait of a row after its first charge as the last one that fails, or for an answer that is known;
/// twice as long after each further one. Six attempts take a quarter of an hour.
const APART_LAST: Duration = Duration::from_secs(30);
/// For how long after a recovery rows go out in no order: those that stand first may be what opened
/// the circuit.
const SHAKEN: Duration = Duration::from_secs(30);
/// Failures among the latest 64 calls that say nothing about how many calls at a time the server takes.
const RARE: u32 = 6;
/// Successes after which it is known how many calls at a time succeed.
const SETTLED: u64 = 8;
/// Answers that are remembered because rows were charged for them while others succeeded.
const KNOWN: usize = 8;
/// Models with an endpoint of which it is remembered that the server has them.
const ASKED: usize = 64;
/// Outages that are remembered.
const OUTAGES: usize = 32;

/// Equal failures in a row.
#[derive(Debug, Clone, Default)]
struct Streak {
    mark: u32,
    /// The rows that have met it, no more than say all that is asked.
    rows: Vec<u32>,
}

impl Streak {
    fn count(&mut self, failure: CallFailure) {
        if self.mark != failure.mark {
            *self = Self { mark: failure.mark, rows: Vec::new() };
        }
        if self.rows.len() < MANY_ROWS && !self.rows.contains(&failure.row) {
            self.rows.push(failure.row);
        }
    }
}

/// The judge of one lane.
#[derive(Debug, Clone)]
pub struct Blame {
    can_be_down: bool,
    is_shared: bool,
    breaker: CircuitBreaker,
    shares: FailureShares,
    /// When the latest of all calls that have succeeded went out.
    last_good: Option<Instant>,
    /// When a call succeeded last.
    last_arrival: Option<Instant>,
    /// Outages so far: times without a success in which a probe has failed.
    outages: u32,
    /// [`Self::last_good`] as it was when each of the latest outages began.
    good_before: VecDeque<Option<Instant>>,
    /// A probe has failed since the last success.
    is_down: bool,
    /// About how many calls at a time have succeeded lately: a call with no more beside it was not
    /// refused for lack of room.
    level: u32,
    wave: Wave,
    successes: u64,
    /// Answers that rows were charged for while others succeeded.
    known: VecDeque<u32>,
    /// Models with an endpoint that the server has answered for.
    has: VecDeque<u64>,
    streak: Streak,
    /// The latest ends of calls, a bit each, 1 for a failure.
    ends: u64,
    /// Failures since the last success.
    failed_in_row: u32,
    shaken_until: Option<Instant>,
}

impl Blame {
    /// A judge of a lane of which nothing is known. A server of the operator's own is probed more
    /// often.
    pub fn new(traits: LaneTraits) -> Self {
        let longest = if traits.is_local { LONGEST_REST_LOCAL } else { LONGEST_REST };
        let breaker = CircuitBreaker::new(BreakerConfig {
            failures: FAILURES,
            few: FEW_FAILURES,
            slowly: SLOWLY,
            first: Duration::from_secs(1),
            longest,
        });
        Self {
            can_be_down: traits.can_be_down,
            is_shared: traits.is_shared,
            breaker,
            shares: FailureShares::default(),
            last_good: None,
            last_arrival: None,
            outages: 0,
            good_before: VecDeque::new(),
            is_down: false,
            level: 0,
            wave: Wave::default(),
            successes: 0,
            known: VecDeque::new(),
            has: VecDeque::new(),
            streak: Streak::default(),
            ends: 0,
            failed_in_row: 0,
            shaken_until: None,
        }
    }

    /// The circuit of the lane.
    pub const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// Notes that a call goes out.
    pub fn start(&mut self, now: Instant) {
        self.breaker.start(now);
    }

    /// Notes that a call ended in a way that says nothing about the lane.
    pub fn on_abandoned(&mut self, sent: &CallTicket) {
        self.breaker.on_abandoned(sent.at);
    }

    /// Notes that nothing is to be expected of the lane at the moment: its server does not answer a
    /// probe.
    pub fn on_silence(&mut self, now: Instant) {
        self.breaker.start(now);
        self.breaker.on_failure(now, now);
        self.count_outage();
    }

    /// Notes that a probe has failed, the first one since the last success or a later one.
    fn count_outage(&mut self) {
        if std::mem::replace(&mut self.is_down, true) {
            return;
        }
        self.outages = self.outages.wrapping_add(1);
        self.good_before.push_back(self.last_good);
        if self.good_before.len() > OUTAGES {
            self.good_before.pop_front();
        }
    }

    /// Whether the lane was well after a call went out, before any outage that followed.
    fn was_well(&self, sent: Instant, outages: u32) -> bool {
        let since = self.outages.wrapping_sub(outages) as usize;
        let last_good = match since {
            0 => self.last_good,
            _ => self.good_before.len().checked_sub(since).and_then(|index| self.good_before[index]),
        };
        last_good >= Some(sent)
    }

    /// Whether a probe has failed since the last success.
    pub const fn is_down(&self) -> bool {
        self.is_down
    }

    /// In which order rows go out.
    pub fn pick(&self, now: Instant) -> Pick {
        match (self.breaker.is_closed(), self.shaken_until) {
            (false, _) => Pick::Probe,
            (true, Some(until)) if now < until => Pick::Any,
            (true, _) => Pick::Next,
        }
    }

    /// Judges a call that succeeded; `beside` calls were in flight when it came back, itself included.
    pub fn on_success(&mut self, now: Instant, sent: &CallTicket, beside: u32, row: &RowSoFar, asked: u64) -> Judged {
        self.settle(row);
        if !self.has.contains(&asked) {
            self.has.truncate(ASKED - 1);
            self.has.push_front(asked);
        }
        self.shares.count(true, row.tally.tries > 0, self.level);
        self.ends <<= 1;
        self.failed_in_row = 0;
        self.last_good = self.last_good.max(Some(sent.at));
        self.last_arrival = Some(now);
        let beside = beside.max(self.wave.count(now, sent.at));
        self.level = sent.in_flight.min(beside).max(self.level - self.level / 16);
        self.successes += 1;
        self.streak = Streak::default();
        let circuit = self.breaker.on_success();
        if circuit == CircuitChange::Recovered {
            self.shaken_until = Some(now + SHAKEN);
        }
        self.is_down = false;
        Judged { circuit, ..Judged::default() }
    }

    /// Judges a call that failed.
    pub fn on_failure(&mut self, now: Instant, sent: &CallTicket, failure: CallFailure, row: &RowSoFar, signs: Signs) -> Judged {
        let retried = row.tally.tries > 0;
        self.ends = self.ends << 1 | 1;
        self.failed_in_row = self.failed_in_row.saturating_add(1);
        let tally = self.settle(row).and_try();
        let mut judged = Judged { row: RowSoFar { tally, open: None, ..*row }, ..Judged::default() };
        match failure.class {
            // The provider asked for a slower pace, or was not reached at all: others take care.
            FailureClass::RateLimited { .. } | FailureClass::Connect => self.breaker.on_abandoned(sent.at),
            class if !self.can_be_down => judged.row.tally = tally.and(Charge::FULL, class, failure.mark),
            _ if self.was_well(sent.at, self.outages) => {
                self.breaker.on_abandoned(sent.at);
                judged.is_hurried = self.may_lack_room(sent.in_flight);
                if !judged.is_hurried {
                    judged.row.tally = self.charge(tally, failure, retried);
                }
                judged.may_be_full = (judged.is_hurried && !self.fails_rarely(sent.in_flight)) || self.shares.are_crowded();
            }
            class
                if signs.is_up
                    && self.is_success_late(now, signs)
                    && sent.in_flight <= self.level.max(1)
                    && self.says_nothing_new(tally, failure) =>
            {
                self.breaker.on_abandoned(sent.at);
                judged.row.tally = tally.and(Charge::FULL, class, failure.mark);
                judged.at_least = APART_AGAIN;
            }
            _ => return self.spare(now, sent, failure, row, signs, judged),
        }
        judged
    }

    /// Whether the row was charged for this answer while others succeeded, and only rows that cannot be
    /// answered failed then.
    fn says_nothing_new(&self, tally: Tally, failure: CallFailure) -> bool {
        tally.has_met(failure.mark) && !failure.class.is_outage() && self.shares.do_retries_fail()
    }

    /// Judges a failure that nothing shows to be the row's own.
    fn spare(&mut self, now: Instant, sent: &CallTicket, failure: CallFailure, row: &RowSoFar, signs: Signs, mut judged: Judged) -> Judged {
        let (before, retried) = (row.open, row.tally.tries > 0);
        self.streak.count(failure);
        let was_probe = self.breaker.is_probing();
        judged.row.open = Some(OpenFailure { sent: sent.at, in_flight: sent.in_flight, outages: self.outages, failure, retried });
        let is_late = self.is_success_late(now, signs);
        judged.circuit = match is_late {
            true => self.breaker.on_failure(now, sent.at),
            false => self.breaker.on_early_failure(now, sent.at, self.level),
        };
        if was_probe && !self.breaker.is_closed() {
            self.count_outage();
        }
        let may_lack_room = self.may_lack_room(sent.in_flight);
        judged.is_hurried = may_lack_room || !self.breaker.is_closed();
        let is_overload = match failure.class {
            FailureClass::TimedOut => true,
            FailureClass::Unavailable { status: 503 | 529, .. } => self.shares.are_crowded(),
            _ => false,
        };
        judged.may_be_full = (may_lack_room && !self.fails_rarely(sent.in_flight)) || (!retried && is_overload);
        let took = now.saturating_duration_since(sent.at);
        let of_many = was_probe && !failure.class.is_outage() && took <= AT_ONCE && self.streak.rows.len() >= MANY_ROWS;
        let is_known = judged.row.tally.has_met(failure.mark) || self.known.contains(&failure.mark);
        if signs.is_up && of_many && !is_known {
            let doubts = &mut judged.row.doubts;
            judged.at_least = APART_MANY * 4_u32.saturating_pow(doubts.count.min(8));
            doubts.count += 1;
            self.breaker.shorten_rest(now);
        } else if signs.is_up && !may_lack_room && is_late {
            self.doubt(now, &mut judged, before, failure);
        }
        judged
    }

    /// Whether the next success is late. Until then, failures in a row only show that failures are
    /// quicker: answers are still under way, and will show whether the lane is well.
    fn is_success_late(&self, now: Instant, signs: Signs) -> bool {
        let Some((latency, last)) = signs.latency.zip(self.last_arrival) else { return true };
        now.saturating_duration_since(last) >= latency * LATE
    }

    /// Charges a row in doubt that is one of the last that fail, if it was tried among others that
    /// succeeded, or that gets an answer that is known; `before` is what it met when it was tried last.
    fn doubt(&self, now: Instant, judged: &mut Judged, before: Option<OpenFailure>, failure: CallFailure) {
        let has_met = judged.row.tally.has_met(failure.mark);
        let is_last = self.streak.rows.len() <= FEW_ROWS;
        let was_among_others = has_met || before.is_some_and(|open| self.last_arrival >= Some(open.sent));
        let is_outage = failure.class.is_outage();
        let doubts = &mut judged.row.doubts;
        let apart = match doubts.count {
            count if is_last && (was_among_others || count > 0) => APART_LAST * 2_u32.saturating_pow(count.min(16)),
            // Others may only be waiting for their turn to show that this is an outage.
            count if is_outage && has_met => APART_MANY * 4_u32.saturating_pow(count.min(8)),
            count if !is_outage && (has_met || self.known.contains(&failure.mark)) => APART_LAST * 2_u32.saturating_pow(count.min(16)),
            _ => return,
        };
        // The row finds out whether a server is back, as often as any other.
        if doubts.next.is_some_and(|next| now < next) {
            return;
        }
        if is_last || !is_outage {
            judged.at_least = apart;
        }
        (doubts.count, doubts.next) = (doubts.count + 1, Some(now + apart));
    }

    /// Whether so few calls fail that it is for the rows' own reasons: a server that is full refuses more.
    /// Failures are quicker than answers, so those since the last success count among the calls in flight.
    fn fails_rarely(&self, in_flight: u32) -> bool {
        let of_ends = self.ends.count_ones();
        of_ends <= RARE || self.failed_in_row <= in_flight * RARE / u64::BITS
    }

    /// Whether a call went out beside clearly more others than have succeeded at a time lately, as far
    /// as that is known.
    const fn may_lack_room(&self, in_flight: u32) -> bool {
        self.successes >= SETTLED && in_flight > self.level + self.level / 4
    }

    /// The tally of a row with the charge for its open failure, if the lane was well at that time.
    pub fn settle(&mut self, row: &RowSoFar) -> Tally {
        // A call that may have been refused for lack of room is never charged.
        match row.open.filter(|open| self.was_well(open.sent, open.outages) && !self.may_lack_room(open.in_flight)) {
            Some(open) => self.charge(row.tally, open.failure, open.retried),
            None => row.tally,
        }
    }

    /// Remembers an answer that rows were charged for while others succeeded.
    fn remember(&mut self, mark: u32) {
        if !self.known.contains(&mark) {
            self.known.truncate(KNOWN - 1);
            self.known.push_front(mark);
        }
    }

    fn charge(&mut self, tally: Tally, failure: CallFailure, retried: bool) -> Tally {
        self.shares.count(false, retried, self.level);
        if self.successes >= SETTLED && !failure.class.is_outage() {
            self.remember(failure.mark);
        }
        tally.and(Charge::part(self.shares.charge()), failure.class, failure.mark)
    }
}

#[cfg(test)]
mod tests;
