//! Priorities: a priority that was answered, or only shown, holds after a kill, and shares follow
//! it.

use std::time::Duration;

use serde_json::json;

use super::support::api::CHAT;
use super::support::daemon::Daemon;
use super::support::http::{self, Request};
use super::support::{rows, wait};
use super::two_lanes::{CHEAP, MODEL, TwoLanes, check_log, good};

const ROWS: usize = 2_000;
const ROUNDS: u32 = 5;
const WORDS: [&str; 4] = ["low", "normal", "high", "urgent"];
/// Number of calls over which shares are counted.
const COUNTED: usize = 240;

fn priority(daemon: &Daemon, id: &str) -> String {
    daemon.batch(id)["batchd"]["priority"].as_str().expect("a priority").to_owned()
}

fn change(id: &str, word: &str) -> Request {
    Request::post(&format!("/v1/batches/{id}")).json(&json!({ "priority": word }))
}

fn set(daemon: &Daemon, id: &str, word: &str) {
    assert_eq!(daemon.send(change(id, word)).expect(200)["batchd"]["priority"], word);
}

/// Requests another priority and kills the daemon meanwhile. The daemon then shows the old priority
/// or the new one, and the new one if any client has seen it.
fn change_and_kill(daemon: &mut Daemon, id: &str, random: &mut fastrand::Rng) {
    let before = priority(daemon, id);
    let word = WORDS[random.usize(..WORDS.len())];
    let (addr, request) = (daemon.addr(), change(id, word));
    let client = std::thread::spawn(move || http::send(addr, request));
    std::thread::sleep(Duration::from_micros(random.u64(..6_000)));
    let seen = if random.bool() { priority(daemon, id) } else { before.clone() };
    daemon.kill9();
    let answer = client.join().expect("the client does not panic").ok();
    let answered = answer.map(|answer| answer.expect(200)).is_some();
    daemon.restart();
    let after = priority(daemon, id);
    assert!(after == before || after == word, "{after:?} is neither {before:?} nor {word:?}");
    assert!(after == word || !(answered || seen == word), "{word:?} was shown, and then {after:?}");
}

#[test]
fn shares_follow_the_priorities_that_were_answered() {
    let mut random = super::random("priorities");
    let lanes = TwoLanes::start(|provider, call| good(provider, &call.row).after(Duration::from_millis(8)));
    let mut daemon = lanes.daemon();
    let [one, two] = ["one-", "two-"].map(|name| {
        let file = daemon.upload(rows::many(ROWS, MODEL).replace("row-", name));
        let mut order = Daemon::batch_request(&file, CHAT);
        order["provider"] = json!({"allow_fallbacks": false});
        (name, super::support::api::id_of(&daemon.post("/v1/batches", &order).expect(200)))
    });
    for _ in 0..ROUNDS {
        for (_, id) in [&one, &two] {
            change_and_kill(&mut daemon, id, &mut random);
        }
        let words = [(); 2].map(|()| WORDS[random.usize(..WORDS.len())]);
        set(&daemon, &one.1, words[0]);
        set(&daemon, &two.1, words[1]);
        daemon.kill9();
        daemon.restart();
        assert_eq!([priority(&daemon, &one.1), priority(&daemon, &two.1)], words);
    }

    let (urgent, other) = if random.bool() { (&one, &two) } else { (&two, &one) };
    set(&daemon, &other.1, "normal");
    set(&daemon, &urgent.1, "urgent");
    daemon.kill9();
    let killed = lanes.ledger.entries().len();
    daemon.restart();
    assert_eq!((priority(&daemon, &urgent.1).as_str(), priority(&daemon, &other.1).as_str()), ("urgent", "normal"));
    let counted = wait::poll(wait::A_WHILE, || {
        let calls = lanes.ledger.entries().split_off(killed);
        // The batch that is recovered first has the lane alone for a moment.
        let both = ["one-", "two-"].map(|name| calls.iter().position(|(_, row)| row.starts_with(name)));
        let start = both[0]?.max(both[1]?);
        let calls = calls.get(start..start + COUNTED)?;
        Some(calls.iter().filter(|(_, row)| row.starts_with(urgent.0)).count())
    });
    let counted = counted.expect("calls of both batches");
    wait::say(&format!("crash: priorities: {counted} of {COUNTED} calls were of the urgent batch"));
    // 64 of 68 calls by the weights.
    assert!(counted * 100 >= COUNTED * 85, "{counted} of {COUNTED} calls were of the urgent batch");
    assert!(counted < COUNTED, "the other one is not shut out");
    for (_, id) in [&one, &two] {
        assert_eq!(daemon.batch(id)["status"], "in_progress", "the lane was contended all the time");
    }
    assert_eq!(lanes.ledger.count(super::two_lanes::DEAR, ""), 0);
    assert!(lanes.ledger.count(CHEAP, "") > COUNTED);
    check_log(&daemon);
}
