//! Equal requests are made once.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::api::counts;
use super::support::daemon::Daemon;
use super::support::rows;

const LIMIT: Duration = Duration::from_secs(10);

/// Each batch runs alone, and its only call is answered and made durable at once. Only that answer
/// can wake the rows that wait for it.
#[test]
fn rows_that_wait_for_an_answer_find_it_however_soon_it_is_durable() {
    let daemon = Daemon::with(&["--dedup", "batch", "--commit-interval", "0s"]);
    let equal: Vec<_> = (0..20).map(|n| rows::chat(&format!("row-{n}"), rows::INSTANT, &json!({"user": "one"}))).collect();
    let file = daemon.upload(rows::file(&equal));
    for _ in 0..300 {
        let batch = daemon.create(&file);
        let ended = daemon.wait_ended(&batch, LIMIT);
        assert_eq!(counts(&ended), (20, 20, 0), "{ended}");
    }
    let batch = daemon.create(&file);
    daemon.wait_ended(&batch, LIMIT);
    let lines = daemon.get(&format!("/v1/batches/{batch}/results?include=attempts")).text();
    let lanes: Vec<_> = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).map(lane).collect();
    let leader = lanes.iter().position(|lane| !lane.starts_with("cache:")).expect("one row has asked");
    let copied = format!("cache:{batch}/row-{leader}");
    assert_eq!(lanes.iter().filter(|lane| **lane == copied).count(), 19, "{lanes:?}");
}

#[expect(clippy::needless_pass_by_value, reason = "used as a step of an iterator")]
fn lane(line: Value) -> String {
    line["batchd"]["attempts"][0]["lane"].as_str().expect("a lane").to_owned()
}
