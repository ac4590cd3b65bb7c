//! Deletions that are killed under way: a batch that was reported deleted stays deleted, and any
//! batch that is still shown is whole.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::support::api::id_of;
use super::support::daemon::Daemon;
use super::support::http::{self, Request};
use super::support::{rows, wait};

const BATCHES: usize = 120;
const ROWS: usize = 5;
const ROUNDS: usize = 8;
const CLIENTS: usize = 4;

#[test]
fn what_is_deleted_stays_so_and_what_is_shown_is_whole() {
    let mut random = super::random("deletion");
    let mut daemon = Daemon::start();
    let input = daemon.upload(rows::many(ROWS, rows::INSTANT));
    let mut there = BTreeSet::new();
    for number in 0..BATCHES {
        there.insert(match number % 2 {
            0 => daemon.create(&input),
            _ => {
                let body = json!({ "model": "gpt-5-mini", "prompts": vec!["One?"; ROWS], "max_tokens": 16 });
                let made = daemon.post("/phaseo/v1/batches", &body).expect(200);
                id_of(&daemon.get(&format!("/openai/v1/batches/{}", id_of(&made))).expect(200))
            }
        });
    }
    let path = |id: &str| format!("/openai/v1/batches/{id}");
    for id in &there {
        wait::poll(wait::A_WHILE, || (daemon.get(&path(id)).expect(200)["status"] == "completed").then_some(())).expect("it completes");
    }
    let mut gone = BTreeSet::new();
    for round in 1..=ROUNDS {
        let todo: Mutex<Vec<_>> = Mutex::new(there.iter().take(BATCHES / ROUNDS).cloned().collect());
        let addr = daemon.addr();
        let answered: Vec<String> = std::thread::scope(|scope| {
            let delete = || {
                let mut answered = Vec::new();
                while let Some(id) = { todo.lock().expect("no panic").pop() } {
                    match http::send(addr, Request::new("DELETE", &path(&id))) {
                        Ok(answer) => {
                            answer.expect(200);
                            answered.push(id);
                        }
                        Err(_) => break,
                    }
                }
                answered
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(delete)).collect();
            std::thread::sleep(Duration::from_micros(random.u64(1_000..40_000)));
            daemon.kill9();
            clients.into_iter().flat_map(|client| client.join().expect("a client ends well")).collect()
        });
        gone.extend(answered);
        daemon.restart();
        let listed = daemon.get("/openai/v1/batches?limit=100").expect(200);
        let mut shown: BTreeSet<_> = listed["data"].as_array().expect("a list").iter().map(id_of).collect();
        if listed["has_more"] == true {
            let more =
                daemon.get(&format!("/openai/v1/batches?limit=100&after={}", listed["last_id"].as_str().expect("an id"))).expect(200);
            shown.extend(more["data"].as_array().expect("a list").iter().map(id_of));
        }
        assert!(gone.is_disjoint(&shown), "round {round}: deleted, and shown: {:?}", gone.intersection(&shown));
        for id in &there {
            let batch = daemon.get(&path(id));
            assert_eq!(batch.status() == 200, shown.contains(id), "{}", batch.text());
            if batch.status() == 200 {
                let batch = batch.json();
                assert_eq!((daemon.output(&batch).len(), daemon.errors(&batch).len()), (ROWS, 0), "{batch}");
                daemon.content(batch["input_file_id"].as_str().expect("an id"));
            }
        }
        // Batches that were deleted without an answer are gone, too.
        let lost: Vec<_> = there.difference(&shown).cloned().collect();
        lost.into_iter().for_each(|id| {
            there.remove(&id);
            gone.insert(id);
        });
    }
    wait::say(&format!("crash: deletion: {} of {BATCHES} batches deleted in {ROUNDS} rounds", gone.len()));
    assert!(gone.len() > ROUNDS && daemon.content(&input).len() == rows::many(ROWS, rows::INSTANT).len());
    // The inputs that were made for the remaining batches, and the one that was uploaded.
    let made = there.iter().filter(|id| daemon.get(&path(id)).expect(200)["input_file_id"] != input.as_str()).count();
    let files = daemon.data_dir().join("files").read_dir().expect("a folder").count();
    assert_eq!(files, made + 1);
    super::two_lanes::check_log(&daemon);
}
