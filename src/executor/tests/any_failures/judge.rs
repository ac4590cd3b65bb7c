//! What must hold of every run, told from what the servers saw and what the rows became.
//!
//! **Once.** Each row has one line, one result was handed to the store for each row that did not expire,
//! a row that was answered succeeds and is called no more, and every call is among its row's attempts.
//!
//! **Uncharged.** A row that ends for its failures has had as many as it has attempts, each of them with
//! evidence that its server was well around that time: a call that went out no earlier was answered. The
//! three exceptions that the executor states in `lane/blame.rs` count, too, but only so far apart as these are.
//!
//! **Bounded.** Calls in vain, by server and by stretch of its script ([`most_in_vain`]), and hence
//! their sum: `calls <= rows + sum of most_in_vain`, as each row is answered at most once.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::super::outage::Outage;
use super::super::*;
use super::scripts::{Case, Layout, LoggedCall, Says, Weather};
use super::{BASE, CAP, EndedRow, Ran};

type Verdict = Result<(), TestCaseError>;

pub fn judge(case: &Case, ran: &Ran) -> Verdict {
    let mut by_row: HashMap<(BatchId, u32), Vec<LoggedCall>> = HashMap::new();
    for call in &ran.calls {
        by_row.entry((call.seen.batch, call.seen.row)).or_default().push(*call);
    }
    once(case, ran, &by_row)?;
    uncharged(case, ran, &by_row)?;
    bounded(case, ran)
}

fn once(case: &Case, ran: &Ran, by_row: &HashMap<(BatchId, u32), Vec<LoggedCall>>) -> Verdict {
    let all: u32 = ran.batches.iter().map(|batch| batch.progress.total).sum();
    let distinct: HashSet<_> = ran.rows.iter().map(|row| (row.batch, row.row)).collect();
    prop_assert_eq!((ran.rows.len(), distinct.len()), (all as usize, all as usize), "a line for each row");
    let ended = ran.rows.iter().filter(|row| row.code != "batch_expired").count();
    prop_assert_eq!(ran.recorded, ended as u64, "results that were handed to the store");
    for row in &ran.rows {
        let calls = by_row.get(&(row.batch, row.row)).map_or(&[][..], Vec::as_slice);
        let answered = calls.iter().filter(|call| call.says == Says::Good).count();
        prop_assert_eq!(answered, usize::from(row.code.is_empty()), "answers to {:?}", row);
        prop_assert!(answered == 0 || calls.last().is_some_and(|last| last.says == Says::Good), "called after its answer: {:?}", row);
        if row.code != "batch_expired" {
            prop_assert_eq!(row.attempts, calls.len().min(32), "attempts of {:?}", row);
        }
    }
    for (batch, (_, window, _)) in ran.batches.iter().zip(&case.batches) {
        let has_lasting = case.faults.iter().any(|fault| fault.times == u32::MAX);
        let state = batch.state.as_str();
        prop_assert!(state == "completed" || (state == "expired" && (*window != "12h" || has_lasting)), "{} of {}", state, window);
    }
    Ok(())
}

fn uncharged(case: &Case, ran: &Ran, by_row: &HashMap<(BatchId, u32), Vec<LoggedCall>>) -> Verdict {
    for row in ran.rows.iter().filter(|row| !row.code.is_empty() && row.code != "batch_expired") {
        let calls = &by_row[&(row.batch, row.row)];
        let last = calls.last().copied().unwrap();
        // A row begins anew on another lane.
        let here = |call: &&LoggedCall| case.layout != Layout::TwoLanes || call.seen.provider == last.seen.provider;
        let own: Vec<_> = calls.iter().filter(here).copied().collect();
        let counted = evidence(&ran.calls, &own, last.ended.unwrap_or(ran.end));
        let needed = match last.says {
            // A second opinion is enough where the provider denies what one row asks.
            Says::Fails { is_denial: true, .. } => 1,
            // After three broken connections a row is tried alone, and once more is enough.
            _ if row.code == "connection_interrupted" => case.max_attempts.min(4),
            _ => case.max_attempts,
        };
        prop_assert!(counted >= needed, "{counted} failures count, of {needed}: {:?}\n{}", row, told(&own, &ran.calls, ran.start));
    }
    Ok(())
}

/// Failures that may have been charged, of the row's `own` calls on its last lane.
fn evidence(all: &[LoggedCall], own: &[LoggedCall], until: Instant) -> u32 {
    let mut doubted: Option<Instant> = None;
    let mut counted = 0;
    for call in own {
        let Says::Fails { mark, is_outage, .. } = call.says else { continue };
        let server = server_of(all, call);
        if is_witnessed(all, call, until) {
            counted += 1;
            continue;
        }
        let met = is_known(all, own, call, mark);
        let known = !is_outage && is_known(all, &server, call, mark);
        let streak = streak(&server, call, mark);
        let in_doubt = met || known || streak <= 2 || (!is_outage && streak >= 8);
        // So far apart are charges that no call speaks for.
        let apart = Duration::from_secs(if met && !is_outage { 15 } else { 30 });
        if in_doubt && doubted.is_none_or(|before| call.seen.at >= before + apart) {
            doubted = call.ended;
            counted += 1;
        }
    }
    counted
}

/// The calls at the server of one of them.
fn server_of(all: &[LoggedCall], call: &LoggedCall) -> Vec<LoggedCall> {
    all.iter().filter(|other| other.seen.provider == call.seen.provider).copied().collect()
}

/// Whether a call that went out no earlier to the same server was answered.
fn is_witnessed(all: &[LoggedCall], call: &LoggedCall, until: Instant) -> bool {
    let is_later = |other: &LoggedCall| other.seen.provider == call.seen.provider && other.seen.at >= call.seen.at;
    all.iter().any(|other| other.says == Says::Good && is_later(other) && other.ended.is_some_and(|ended| ended <= until))
}

/// Whether one of these calls may have been charged for such an answer while its server was well.
fn is_known(all: &[LoggedCall], calls: &[LoggedCall], call: &LoggedCall, mark: u64) -> bool {
    let ended = call.ended.unwrap_or(call.seen.at);
    let says_so = |other: &&LoggedCall| other.seen.at < call.seen.at && matches!(other.says, Says::Fails { mark: of, .. } if of == mark);
    calls.iter().filter(says_so).any(|other| is_witnessed(all, other, ended))
}

/// Different rows that met the same answer since the last other one; those before whose failures count
/// anyway are left out.
fn streak(server: &[LoggedCall], call: &LoggedCall, mark: u64) -> usize {
    let ended = call.ended.unwrap_or(call.seen.at);
    let mut until: Vec<_> = server.iter().filter(|other| other.ended.is_some_and(|end| end < ended)).collect();
    until.sort_by_key(|other| other.ended);
    let good = until.iter().filter(|other| other.says == Says::Good).map(|other| other.seen.at).max();
    let mut rows = HashSet::from([(call.seen.batch, call.seen.row)]);
    for other in until.iter().rev() {
        match other.says {
            Says::Fails { mark: of, .. } if of == mark => _ = Some(other.seen.at) > good && rows.insert((other.seen.batch, other.seen.row)),
            Says::Good | Says::Fails { .. } => break,
            Says::Uncharged | Says::Nothing => {}
        }
    }
    rows.len()
}

/// The calls of a row for a person, each with the good answers around it.
fn told(own: &[LoggedCall], all: &[LoggedCall], start: Instant) -> String {
    let line = |call: &LoggedCall| {
        let goods = all.iter().filter(|other| other.says == Says::Good && other.seen.at >= call.seen.at).count();
        format!(
            "{} at {:?} until {:?}: {:?}, {goods} later ones good",
            call.seen.provider,
            call.seen.at - start,
            call.ended.map(|end| end - start),
            call.says
        )
    };
    own.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Calls that go out at a server in one stretch of its script and are not answered well, at most.
///
/// * `most` calls are in flight when the stretch begins, and as many may be when it ends.
/// * Ten failures without a success open the circuit, or up to `most` while a success is not late yet.
///   One probe goes out after each rest; rests double from a second to five seconds, or longer for a
///   hosted provider: `14 + secs / 5`.
/// * Where a server answers, but not with what says by itself that it is down, rests are a second each,
///   because such answers may be the rows' own: `14 + secs`.
/// * A provider that denies everything is held after three denials in a row; its probes are a minute
///   apart, but begin at a second where models are denied: `10 + secs / 60`.
/// * Refusals of 429 halve the rate that is found out each second, down to a call a second: twice what was
///   accepted in the second before, ten calls a second where that was less, and `2 * secs`.
/// * A server that is full is found out by halving the calls at a time each second, four times at most;
///   meanwhile a refused row waits at least half of `BASE`. Then a probe for more is refused at once, and
///   no more than `most` calls with it, at most once a second: `16 * rows + most * secs`.
/// * What fails by itself waits twice as long each time, from `BASE` up to `CAP`, half of it at least,
///   and goes out once more when its server recovers: `10 + 2 * secs / CAP` calls of a row, and `secs / 5`
///   or, for the reason above, `secs` where nothing is left that succeeds.
fn most_in_vain(case: &Case, weather: Weather, secs: u64, bad: u64, rows: u64) -> u64 {
    let most = u64::from(case.limit.unwrap_or(SETTINGS.in_flight_limit).min(SETTINGS.in_flight_limit));
    let alone = 10 + 2 * secs / CAP.as_secs();
    let paced = 2 * most * 1_000 / case.takes + 20 + 2 * secs;
    let own = if bad == 0 { 0 } else { bad * alone + 14 + secs.min(rows * 64).max(secs / 5) };
    let shown = match weather {
        Weather::Fine | Weather::Slow(_) => 0,
        Weather::Down(Outage::Denied(..)) => 10 + secs / 60,
        Weather::Down(Outage::Status(500)) => 14 + secs,
        Weather::Down(Outage::Status(429)) | Weather::Asks(429, _) | Weather::Limited(..) => paced,
        Weather::Down(_) | Weather::Asks(..) => 14 + secs / 5,
        Weather::Flaky(Outage::Status(429), _) => paced + rows * alone,
        Weather::Flaky(..) => rows * alone + secs,
        Weather::Crowded(..) => 4 * rows * (2 * 1_000 / u64::try_from(BASE.as_millis()).unwrap_or(1)) + most * secs,
    };
    3 * most + shown + own
}

fn bounded(case: &Case, ran: &Ran) -> Verdict {
    let rows: u64 = ran.batches.iter().map(|batch| u64::from(batch.progress.total)).sum();
    let bad = ran.rows.iter().filter(|row: &&EndedRow| case.fault_of(row.row).is_some()).count() as u64;
    let mut allowed = rows;
    for (server, spells) in case.servers.iter().enumerate() {
        let mut from = ran.start;
        let tail = (ran.end - ran.start).as_secs() + 1;
        for (secs, weather) in spells.iter().copied().chain([(tail, Weather::Fine)]) {
            let until = from + Duration::from_secs(secs);
            let in_vain = |call: &&LoggedCall| {
                case.server_of(call.seen.provider) == server && (from..until).contains(&call.seen.at) && call.says != Says::Good
            };
            let vain = ran.calls.iter().filter(in_vain).count() as u64;
            let most = most_in_vain(case, weather, secs, bad, rows);
            prop_assert!(vain <= most, "{vain} calls in vain instead of {most}: {weather:?} for {secs} s, {rows} rows, {bad} of them bad");
            allowed += most;
            from = until;
        }
    }
    prop_assert!(ran.calls.len() as u64 <= allowed, "{} calls instead of {allowed}", ran.calls.len());
    Ok(())
}
