//! Creates that bring their rows with them, and retries, killed under way: the input that the
//! daemon makes of the rows is there with its batch, or not at all.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::api::{counts, id_of};
use super::support::daemon::Daemon;
use super::support::http::{self, Request};
use super::support::{rows, wait};

const ROUNDS: usize = 24;
const CLIENTS: usize = 16;

#[test]
fn no_file_is_listed_that_belongs_to_no_batch() {
    let mut random = super::random("inline");
    let mut daemon = Daemon::with(&["--max-attempts", "1"]);
    let failed = daemon.complete(rows::file(&[rows::faulty("a", rows::INSTANT, "status=400"), rows::chat("b", rows::INSTANT, &json!({}))]));
    assert_eq!(counts(&failed), (2, 1, 1), "{failed}");
    let failed = id_of(&failed);
    let next = AtomicUsize::new(0);
    let mut answered = BTreeSet::new();
    for _ in 0..ROUNDS {
        let (addr, next, failed) = (daemon.addr(), &next, failed.as_str());
        answered.extend(std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || create_until_killed(addr, next, failed))).collect();
            std::thread::sleep(Duration::from_micros(random.u64(20_000..120_000)));
            daemon.kill9();
            clients.into_iter().flat_map(|client| client.join().expect("a client ends well")).collect::<Vec<_>>()
        }));
        daemon.restart();
        // List the files first: batches go on running, and get more files.
        let files = files(&daemon);
        let (batches, used) = batches(&daemon);
        assert!(answered.is_subset(&batches), "{:?} were answered and are gone", answered.difference(&batches));
        let unused: Vec<_> = files.into_iter().filter(|(id, _)| !used.contains(id)).collect();
        assert!(unused.is_empty(), "{} files belong to no batch: {unused:?}", unused.len());
    }
    wait::say(&format!("crash: inline: {ROUNDS} kills, {} creates were sent, {} answered", next.into_inner(), answered.len()));
    assert!(answered.len() > ROUNDS, "{answered:?}");
}

/// Creates one batch after the other; returns the batches that were answered.
fn create_until_killed(addr: SocketAddr, next: &AtomicUsize, failed: &str) -> Vec<String> {
    let mut answered = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let sent = match number % 3 {
            0 => Request::post("/phaseo/v1/batches").json(&json!({ "model": "gpt-5-mini", "prompts": ["One?"], "max_tokens": 16 })),
            1 => {
                let item = json!({"customer_item_id": "a", "operation": "responses", "model": "gpt-4o-mini",
                                  "input": {"messages": [{"role": "user", "content": "One?"}], "max_output_tokens": 16}});
                Request::post("/batchrouter/v1/batches")
                    .header("idempotency-key", &format!("order-{number:05}"))
                    .json(&json!({ "items": [item] }))
            }
            _ => Request::post(&format!("/v1/batches/{failed}/retry")),
        };
        let Ok(answer) = http::send(addr, sent) else { return answered };
        assert!(matches!(answer.status(), 200 | 202), "{} {}", answer.status(), answer.text());
        let answer = answer.json();
        let batch = if answer["batch"].is_object() { &answer["batch"] } else { &answer };
        // Every dialect has its own form of the same id.
        let shown = http::send(addr, Request::get(&format!("/openai/v1/batches/{}", id_of(batch))));
        answered.extend(shown.ok().map(|shown| id_of(&shown.expect(200))));
    }
}

/// Reads every page of a list in OpenAI's form.
fn all(daemon: &Daemon, list: &str) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/openai/v1/{list}?limit=100{after}")).expect(200);
        found.extend(page["data"].as_array().expect("a list").clone());
        match page["has_more"].as_bool() {
            Some(true) => after = format!("&after={}", page["last_id"].as_str().expect("an id")),
            _ => return found,
        }
    }
}

/// The ids of all batches, and the ids of their files.
fn batches(daemon: &Daemon) -> (BTreeSet<String>, BTreeSet<String>) {
    let all = all(daemon, "batches");
    let files = ["input_file_id", "output_file_id", "error_file_id"].map(|field| all.iter().filter_map(move |batch| batch[field].as_str()));
    (all.iter().map(id_of).collect(), files.into_iter().flatten().map(str::to_owned).collect())
}

fn files(daemon: &Daemon) -> Vec<(String, Value)> {
    all(daemon, "files").into_iter().map(|file| (id_of(&file), file)).collect()
}
