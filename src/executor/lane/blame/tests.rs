use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

const TRAITS: LaneTraits = LaneTraits { is_local: false, is_shared: false, hold_after: 3, can_be_down: true };

fn class() -> impl Strategy<Value = FailureClass> {
    prop_oneof![
        prop::sample::select(vec![500, 502, 503, 529]).prop_map(|status| FailureClass::Unavailable { status, retry_after: None }),
        Just(FailureClass::RateLimited { retry_after: None }),
        Just(FailureClass::Connect),
        Just(FailureClass::Interrupted),
        Just(FailureClass::TimedOut),
        Just(FailureClass::InvalidResponse),
    ]
}

proptest! {
    /// Calls of many rows come and go; from some moment on, all fail.
    #[test]
    fn a_row_that_was_first_tried_after_the_last_success_is_not_charged(
        calls in proptest::collection::vec((0u32..40, 0u64..3_000, 1u64..20_000, class(), any::<bool>()), 1..400),
        last_success in 0usize..400,
        is_up in any::<bool>(),
    ) {
        let (mut blame, mut now, mut in_flight) = (Blame::new(TRAITS), Instant::now(), 0);
        let mut rows: HashMap<u32, (RowSoFar, usize)> = HashMap::new();
        for (number, (row, pause, took, class, succeeds)) in calls.into_iter().enumerate() {
            now += Duration::from_millis(pause);
            in_flight = in_flight % 64 + 1;
            let sent = CallTicket { at: now, tokens: 1, member: 0, epoch: 0, in_flight, total: (0, 0) };
            blame.start(now);
            let (so_far, first) = rows.get(&row).copied().unwrap_or((RowSoFar::default(), number));
            let end = now + Duration::from_millis(took);
            // Answers after the last success are others than before.
            let mark = 1 + u32::from(number >= last_success);
            let judged = match succeeds && number < last_success {
                true => blame.on_success(end, &sent, in_flight, &so_far, 1),
                false => blame.on_failure(end, &sent, CallFailure { class, mark, row }, &so_far, Signs { is_up, latency: None }),
            };
            let now_so_far = if judged.row.tally.tries == 0 { RowSoFar::default() } else { judged.row };
            rows.insert(row, (now_so_far, first));
            prop_assert!(first < last_success || !now_so_far.tally.is_charged(), "{now_so_far:?}");
            prop_assert!(number < last_success || judged.circuit != CircuitChange::Recovered);
        }
    }
}

#[test]
fn what_does_not_succeed_at_all_is_called_once_in_a_rest() {
    let (mut blame, mut now, mut calls) = (Blame::new(TRAITS), Instant::now(), 0);
    let failure = CallFailure { class: FailureClass::Unavailable { status: 503, retry_after: None }, mark: 7, row: 0 };
    let start = now;
    while now < start + Duration::from_secs(3_600) {
        now = blame.breaker().ready_at(now).unwrap();
        let sent = CallTicket { at: now, tokens: 1, member: 0, epoch: 0, in_flight: 1, total: (0, 0) };
        blame.start(now);
        blame.on_failure(now, &sent, failure, &RowSoFar::default(), Signs { is_up: true, latency: None });
        calls += 1;
    }
    assert!(calls <= FAILURES + 6 + 60, "{calls} calls in an hour");
}

/// Rows that cannot be answered fail at once, and the answers of the calls that went out with the last
/// successes are still under way.
#[test]
fn failures_that_are_only_quicker_than_answers_do_not_open_the_circuit() {
    const CALLS: u32 = 64;
    const LATENCY: Duration = Duration::from_millis(100);
    let failure = CallFailure { class: FailureClass::Unavailable { status: 503, retry_after: None }, mark: 7, row: 0 };
    // How many failures open the circuit, so long after a success.
    let patience = |pause: Duration| {
        let (mut blame, start) = (Blame::new(TRAITS), Instant::now());
        let ticket = |at, in_flight| CallTicket { at, tokens: 1, member: 0, epoch: 0, in_flight, total: (0, 0) };
        for _ in 0..CALLS {
            blame.on_success(start + LATENCY, &ticket(start, CALLS), CALLS, &RowSoFar::default(), 1);
        }
        let sent = ticket(start + LATENCY, CALLS);
        let fail = |_| {
            blame
                .on_failure(start + LATENCY + pause, &sent, failure, &RowSoFar::default(), Signs { is_up: true, latency: Some(LATENCY) })
                .circuit
        };
        (1..=CALLS + FAILURES).map(fail).position(|circuit| circuit != CircuitChange::None).map(|before| before + 1)
    };
    assert_eq!(patience(LATENCY), Some(CALLS as usize), "before a success is late");
    assert_eq!(patience(3 * LATENCY), Some(FAILURES as usize), "a success is late");
    assert_eq!(patience(SLOWLY), Some(FEW_FAILURES as usize), "failures come slowly");
}
