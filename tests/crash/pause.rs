//! Pauses of batches and holds on lanes: once one is answered, no more calls are made, whichever
//! process is killed.

use std::time::Duration;

use serde_json::Value;

use super::support::api::{CHAT, counts, id_of};
use super::support::daemon::Daemon;
use super::support::{rows, wait};
use super::two_lanes::{CHEAP, CONCURRENCY, DEAR, Holds, MODEL, OTHER, TwoLanes, check_log, dearer_too, good, lane};

const ROWS: usize = 2_500;
const ROUNDS: u64 = 6;
/// Rows of a batch whose end proves that the daemon dispatches.
const PROOF: usize = 40;

/// Providers that are slow enough for a batch to outlast all rounds.
fn slow() -> TwoLanes {
    TwoLanes::start(|provider, call| good(provider, &call.row).after(Duration::from_millis(10)))
}

/// Creates a batch of rows with names that begin with `name`; returns its id.
fn submit(daemon: &Daemon, name: &str, count: usize, model: &str) -> String {
    let input = rows::many(count, model).replace("row-", name);
    let mut order = Daemon::batch_request(&daemon.upload(input), CHAT);
    order["provider"] = dearer_too();
    id_of(&daemon.post("/v1/batches", &order).expect(200))
}

/// Waits until this many more calls have been made for the batch.
fn see_calls(lanes: &TwoLanes, providers: &[&str], more: usize) {
    let calls = || providers.iter().map(|provider| lanes.ledger.count(provider, "row-")).sum::<usize>();
    let enough = calls() + more;
    assert!(wait::poll(wait::A_WHILE, || (calls() >= enough).then_some(())).is_some(), "the batch does not go on");
}

/// Runs another batch to its end.
fn prove(daemon: &Daemon, model: &str, round: u64) {
    let id = submit(daemon, &format!("proof-{round}-"), PROOF, model);
    assert_eq!(counts(&daemon.wait_ended(&id, wait::A_WHILE)), (PROOF as u64, PROOF as u64, 0));
}

/// Kills the daemon, at once or after a moment.
fn kill(daemon: &mut Daemon, random: &mut fastrand::Rng) {
    if random.bool() {
        std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
    }
    daemon.kill9();
}

fn complete(daemon: &Daemon, id: &str) {
    let ended = daemon.wait_ended(id, wait::A_WHILE);
    assert_eq!((&ended["status"], counts(&ended)), (&"completed".into(), (ROWS as u64, ROWS as u64, 0)));
    assert_eq!(daemon.output(&ended).len(), ROWS);
    check_log(daemon);
}

fn is_paused(batch: &Value) -> bool {
    batch["batchd"]["paused"].as_bool().unwrap_or_else(|| panic!("not said: {batch}"))
}

#[test]
fn a_paused_batch_calls_nobody_until_it_is_resumed() {
    let mut random = super::random("pause of a batch");
    let lanes = slow();
    let mut daemon = lanes.daemon();
    let id = submit(&daemon, "row-", ROWS, MODEL);
    for round in 0..ROUNDS {
        see_calls(&lanes, &[CHEAP], 1 + random.usize(..60));
        let paused = daemon.post_empty(&format!("/v1/batches/{id}/pause")).expect(200);
        let calls = lanes.ledger.count(CHEAP, "row-");
        assert!(is_paused(&paused), "{paused}");
        kill(&mut daemon, &mut random);
        daemon.restart();
        assert!(is_paused(&daemon.batch(&id)));
        prove(&daemon, MODEL, round);
        let since = lanes.ledger.count(CHEAP, "row-") - calls;
        assert!(since <= CONCURRENCY, "{since} calls since the batch was said to be paused");

        let resumed = daemon.post(&format!("/v1/batches/{id}"), &serde_json::json!({"paused": false})).expect(200);
        assert!(!is_paused(&resumed), "{resumed}");
        kill(&mut daemon, &mut random);
        daemon.restart();
        assert!(!is_paused(&daemon.batch(&id)));
    }
    complete(&daemon, &id);
}

#[test]
fn a_held_lane_is_not_called_until_it_is_resumed() {
    let mut random = super::random("holds on lanes");
    let lanes = slow();
    let mut daemon = lanes.daemon();
    let id = submit(&daemon, "row-", ROWS, MODEL);
    let mut holds = Holds::none(&lanes);
    for round in 0..ROUNDS {
        see_calls(&lanes, &[CHEAP], 1 + random.usize(..60));
        let action = if random.bool() { "pause" } else { "drain" };
        let selector = if random.bool() { CHEAP.to_owned() } else { lane(CHEAP) };
        holds.ask(&daemon, action, &selector);
        kill(&mut daemon, &mut random);
        let elsewhere = lanes.ledger.count(DEAR, "row-");
        daemon.restart();
        if action == "drain" {
            see_calls(&lanes, &[DEAR], 1 + random.usize(..60));
        }
        prove(&daemon, OTHER, round);
        holds.check(&daemon);
        if action == "pause" {
            // Calls of the killed daemon may still have been under way to the other provider.
            let since = lanes.ledger.count(DEAR, "row-") - elsewhere;
            assert!(since <= CONCURRENCY, "{since} rows went elsewhere although they were to wait for `{selector}`");
        }
        holds.ask(&daemon, "resume", &selector);
        kill(&mut daemon, &mut random);
        daemon.restart();
        holds.check(&daemon);
    }
    complete(&daemon, &id);
    assert!(lanes.ledger.count(CHEAP, "row-") > 0);
}
