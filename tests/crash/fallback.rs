//! Rows that move from lane to lane while the daemon is killed: each row ends once, at the price of
//! the lane that served it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::Value;

use super::support::api::{self, CHAT, Line, counts, id_of, ids, is_terminal};
use super::support::daemon::Daemon;
use super::support::http::Request;
use super::support::upstream::{Call, Reply};
use super::support::{rows, wait};
use super::two_lanes::{CHEAP, DEAR, Holds, MODEL, TwoLanes, check_log_besides, dearer_too, good, lane, price};
use super::witness::{Witness, dollars};

const ROWS: usize = 1_000;
const KILLS: u64 = 12;
/// Number of looks at the batch after which the daemon is killed even if the batch has made little
/// progress: its lanes may be held.
const LOOKS: u32 = 40;

/// How the providers answer a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Both providers serve the row.
    Good,
    /// The cheap provider fails the row for good with this status, the dear provider serves it.
    Dear(u16),
    /// Both providers fail the row with this status.
    Bad(u16),
}

fn fate(row: &str) -> Fate {
    let number: usize = row.trim_start_matches("row-").parse().expect("a row's name");
    match (number, number % 20) {
        // So few rows, at two attempts each, that the daemon does not leave the lane alone because
        // of them: rows that are tried again come one after the other at the end.
        (7 | 407 | 807, _) => Fate::Dear(500),
        (607, _) => Fate::Bad(500),
        (_, 3 | 7 | 11) => Fate::Dear(403),
        (_, 13) => Fate::Bad(403),
        (_, 17) => Fate::Bad(400),
        _ => Fate::Good,
    }
}

fn answer(provider: &'static str, call: &Call) -> Reply {
    let delay = Duration::from_millis(8 + call.row.len() as u64);
    let reply = match fate(&call.row) {
        Fate::Dear(status) if provider == CHEAP => Reply::error(status),
        Fate::Bad(status) => Reply::error(status),
        Fate::Good | Fate::Dear(_) => good(provider, &call.row),
    };
    reply.after(delay)
}

/// Does something that an operator does now and then.
fn meddle(daemon: &Daemon, holds: &mut Holds<'_>, random: &mut fastrand::Rng) {
    let provider = if random.u8(..3) > 0 { CHEAP } else { DEAR };
    let selector = if random.bool() { provider.to_owned() } else { lane(provider) };
    let action = ["drain", "drain", "pause", "resume", "resume", "resume"][random.usize(..6)];
    holds.ask(daemon, action, &selector);
}

fn results(daemon: &Daemon, batch: &str) -> Vec<u8> {
    let response = daemon.send(Request::get(&format!("/v1/batches/{batch}/results?include=attempts")));
    assert_eq!(response.status(), 200);
    response.body
}

#[test]
fn rows_that_change_lanes_end_once_and_cost_what_their_lane_does() {
    let mut random = super::random("fallback");
    let lanes = TwoLanes::start(answer);
    let mut daemon = lanes.daemon();
    let file = daemon.upload(rows::many(ROWS, MODEL));
    let mut order = Daemon::batch_request(&file, CHAT);
    order["provider"] = dearer_too();
    let batch = id_of(&daemon.post("/v1/batches", &order).expect(200));
    let (mut witness, mut holds, mut under_way) = (Witness::of(ROWS), Holds::none(&lanes), 0);

    for kill in 0..KILLS {
        let threshold = (kill * ROWS as u64 + random.u64(..ROWS as u64)) / (KILLS + 1);
        for _ in 0..LOOKS {
            witness.see_batch(&daemon.batch(&batch));
            if witness.completed + witness.failed >= threshold {
                break;
            }
            if random.u8(..5) == 0 {
                meddle(&daemon, &mut holds, &mut random);
            }
            std::thread::sleep(Duration::from_millis(random.u64(..20)));
        }
        holds.check(&daemon);
        if random.bool() {
            // An action that was acknowledged in the last moment before a kill still holds.
            meddle(&daemon, &mut holds, &mut random);
        } else {
            witness.see_lines(&results(&daemon, &batch));
        }
        daemon.kill9();
        daemon.restart();
        holds.check(&daemon);
        let now = daemon.batch(&batch);
        under_way += u32::from(!is_terminal(&now["status"]));
        witness.see_batch(&now);
        let shown = results(&daemon, &batch);
        assert!(api::lines(&shown).len() as u64 >= witness.completed + witness.failed, "a row that was counted has its line");
        witness.see_lines(&shown);
    }
    for selector in [CHEAP, DEAR, &lane(CHEAP), &lane(DEAR)] {
        holds.ask(&daemon, "resume", selector);
    }
    // The last bad row is given half a minute for each of its two attempts.
    let ended = wait::poll(3 * wait::A_WHILE, || {
        let now = daemon.batch(&batch);
        witness.see_batch(&now);
        is_terminal(&now["status"]).then_some(now)
    });
    let ended = ended.unwrap_or_else(|| panic!("not ended: {}", daemon.batch(&batch)));
    assert_eq!(ended["status"], "completed");
    let all = results(&daemon, &batch);
    witness.see_lines(&all);
    check_rows(&daemon, &lanes, &ended, &api::lines(&all));
    wait::say(&format!(
        "crash: fallback: {KILLS} kills, {under_way} of them before the end; {} calls for {ROWS} rows, {} looks at the counts",
        lanes.ledger.entries().len(),
        witness.looks
    ));
    assert!(under_way > KILLS as u32 / 2, "the kills came too late to show anything");

    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.batch(&batch), ended);
    assert!(results(&daemon, &batch) == all, "the results changed");
    check_log_besides(&daemon, &["the lane is held", "circuit opened"]);
}

/// Checks that every row has one line, from a provider that can have served it, at that provider's
/// price.
fn check_rows(daemon: &Daemon, lanes: &TwoLanes, ended: &Value, lines: &[Line]) {
    let input: Vec<String> = (0..ROWS).map(rows::name).collect();
    assert_eq!(ids(lines), input, "a line for each row");
    let (output, errors) = (daemon.output(ended), daemon.errors(ended));
    let succeeded: HashSet<&str> = ids(&output).into_iter().collect();
    let failed: HashSet<&str> = ids(&errors).into_iter().collect();
    assert_eq!((succeeded.len(), failed.len()), (output.len(), errors.len()), "no row twice in a file");
    assert!(succeeded.is_disjoint(&failed));
    assert_eq!(counts(ended), (ROWS as u64, output.len() as u64, errors.len() as u64));
    assert_eq!(output.len() + errors.len(), ROWS);

    let mut calls: HashMap<(&str, String), usize> = HashMap::new();
    for call in lanes.ledger.entries() {
        *calls.entry(call).or_default() += 1;
    }
    let mut sum = Decimal::ZERO;
    let mut served: HashMap<&str, usize> = HashMap::new();
    for line in lines {
        let id = line.custom_id.as_str();
        let (told, cost) = (&line.value["batchd"], dollars(&line.value["batchd"]["cost_usd"]));
        let attempts = told["attempts"].as_array().unwrap_or_else(|| panic!("{}", line.value));
        let at = |provider: &str| attempts.iter().filter(|attempt| attempt["lane"] == lane(provider)).count();
        assert!(at(CHEAP) + at(DEAR) == attempts.len() && !attempts.is_empty(), "{}", line.value);
        for provider in [CHEAP, DEAR] {
            let made = calls.get(&(provider, id.to_owned())).copied().unwrap_or_default();
            assert!(at(provider) <= made, "{made} calls at {provider}: {}", line.value);
        }
        let last = &attempts[attempts.len() - 1];
        if succeeded.contains(id) {
            let provider = if last["lane"] == lane(CHEAP) { CHEAP } else { DEAR };
            assert_eq!(line.value["response"]["body"]["id"], format!("{provider}:{id}"), "{}", line.value);
            assert!(last["failure"].is_null() && attempts[..attempts.len() - 1].iter().all(|attempt| attempt["failure"].is_string()));
            assert!(fate(id) == Fate::Good || (provider == DEAR && matches!(fate(id), Fate::Dear(_))), "{}", line.value);
            assert_eq!(cost, Decimal::new(price(provider).into(), 6), "{}", line.value);
            *served.entry(provider).or_default() += 1;
        } else {
            assert!(fate(id) != Fate::Good && last["failure"].is_string() && cost.is_zero(), "{}", line.value);
        }
        sum += cost;
    }
    assert_eq!(dollars(&ended["batchd"]["cost_usd"]), sum, "{ended}");
    assert_eq!(ended["usage"]["total_tokens"], 11 * output.len(), "{ended}");
    assert!(served.len() == 2, "only one lane served anything: {served:?}");
    assert_eq!(lanes.cheap.changed_keys() + lanes.dear.changed_keys(), 0, "a repeated call carries the key of the first");
    wait::say(&format!("crash: fallback: {served:?} rows served, {} failed", errors.len()));
}
