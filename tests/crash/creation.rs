//! Creates under an `Idempotency-Key` that are killed under way and sent again: they make one
//! batch, as requested.

use std::time::Duration;

use serde_json::json;

use super::support::api::{self, CHAT, counts, id_of};
use super::support::daemon::Daemon;
use super::support::http::{self, Request};
use super::support::upstream::Reply;
use super::support::{rows, wait};
use super::two_lanes::{CHEAP, DEAR, MODEL, TwoLanes, check_log_besides, dearer_too, good, lane};

const ROWS: usize = 20;
const ROUNDS: usize = 16;

#[test]
fn a_create_that_was_killed_and_is_sent_again_makes_one_batch_with_its_preferences() {
    let mut random = super::random("creation");
    // The cheap lane refuses everything: a batch has results only if its settings for other lanes
    // are known.
    let lanes = TwoLanes::start(|provider, call| if provider == CHEAP { Reply::error(401) } else { good(provider, &call.row) });
    let mut daemon = lanes.daemon();
    let file = daemon.upload(rows::many(ROWS, MODEL));
    let mut order = Daemon::batch_request(&file, CHAT);
    order["priority"] = "high".into();
    order["provider"] = dearer_too();
    let (mut made, mut answered, mut silent) = (Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        let create =
            |order: &serde_json::Value| Request::post("/v1/batches").header("idempotency-key", &format!("key-{round}")).json(order);
        let (addr, request) = (daemon.addr(), create(&order));
        let client = std::thread::spawn(move || http::send(addr, request));
        std::thread::sleep(Duration::from_micros(random.u64(..8_000)));
        daemon.kill9();
        let answer = client.join().unwrap().ok().map(|answer| id_of(&answer.expect(200)));
        daemon.restart();
        let there = list(&daemon);
        answered += usize::from(answer.is_some());
        silent += usize::from(answer.is_none() && there.len() > made.len());
        assert!(answer.as_ref().is_none_or(|id| there.contains(id)), "{answer:?} was answered; there are {there:?}");

        let batch = daemon.send(create(&order)).expect(200);
        let id = id_of(&batch);
        assert!(answer.is_none_or(|first| first == id) && !made.contains(&id), "{batch}");
        assert!(there.len() == made.len() || there.contains(&id), "a second batch was made under the key: {batch}");
        made.push(id.clone());
        assert_eq!(id_of(&daemon.send(create(&order)).expect(200)), id);
        for other in [json!({"priority": "low"}), json!({"provider": {"max_price": {"prompt": 4, "completion": 5}}})] {
            let mut different = order.clone();
            different.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            assert_eq!(daemon.send(create(&different)).error_code(409), "idempotency_key_reused");
        }
        let mut all = list(&daemon);
        all.sort();
        let mut expected = made.clone();
        expected.sort();
        assert_eq!(all, expected, "one batch for each key");
    }
    wait::say(&format!("crash: creation: of {ROUNDS} killed creates {answered} were answered, {silent} made a batch without saying so"));
    for id in &made {
        let ended = daemon.wait_ended(id, wait::A_WHILE);
        assert_eq!(ended["batchd"]["priority"], "high", "{ended}");
        assert_eq!(counts(&ended), (ROWS as u64, ROWS as u64, 0), "rows may go to the dear lane: {ended}");
        let results = daemon.get(&format!("/v1/batches/{id}/results?include=attempts")).body;
        for line in api::lines(&results) {
            let attempts: Vec<_> =
                line.value["batchd"]["attempts"].as_array().unwrap().iter().map(|attempt| attempt["lane"].clone()).collect();
            // The cheap lane is held once it has refused a few rows, and later ones are not sent there.
            assert!(attempts == [lane(CHEAP), lane(DEAR)] || attempts == [lane(DEAR)], "{}", line.value);
        }
    }
    check_log_besides(&daemon, &["the lane is held", "circuit opened"]);
}

fn list(daemon: &Daemon) -> Vec<String> {
    let batches = daemon.get("/v1/batches?limit=100").expect(200);
    batches["data"].as_array().expect("a list of batches").iter().map(id_of).collect()
}
