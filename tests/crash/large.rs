//! Many kills over the whole life of a large batch.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::support::api::{counts, is_terminal};
use super::support::daemon::Daemon;
use super::support::upstream::FakeUpstream;
use super::support::{rows, wait};
use super::witness::{Witness, custom_id};

const ROWS: usize = 100_000;
const KILLS: u64 = 20;
/// Rows whose calls a kill may waste.
const IN_FLIGHT: u64 = 256;
/// The limit for the whole large test, on a slow machine with a debug build.
const LIMIT: Duration = Duration::from_secs(900);

/// The next moment to kill at.
#[derive(Debug)]
enum Moment {
    /// This long after the daemon was ready.
    After(Duration),
    /// Once this many rows are done.
    Done(u64),
}

/// Picks moments spread over the whole life of the batch, the first during validation and the last
/// about its end.
fn moment(kill: u64, random: &mut fastrand::Rng) -> Moment {
    let share = ROWS as u64 / (KILLS - 2);
    match kill {
        0 => Moment::After(Duration::from_millis(random.u64(..60))),
        kill if kill == KILLS - 1 => Moment::Done(ROWS as u64 - random.u64(..IN_FLIGHT)),
        kill => Moment::Done((kill - 1) * share + random.u64(..share)),
    }
}

/// Watches the batch until the moment has come or the batch has ended.
fn watch(daemon: &Daemon, batch: &str, moment: &Moment, random: &mut fastrand::Rng, witness: &mut Witness) {
    let started = Instant::now();
    let pause = Duration::from_millis(random.u64(..4));
    let come = wait::poll(LIMIT, || {
        let now = daemon.batch(batch);
        witness.see_batch(&now);
        let done = witness.completed + witness.failed;
        let come = match moment {
            Moment::After(delay) => started.elapsed() >= *delay,
            Moment::Done(threshold) => done >= *threshold,
        };
        (come || is_terminal(&now["status"])).then_some(())
    });
    assert!(come.is_some(), "{moment:?} did not come within {LIMIT:?}: {}", daemon.batch(batch));
    // A few milliseconds more, so that the kill does not always follow an answer.
    std::thread::sleep(pause);
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() {
    let mut random = super::random("a large batch");
    let began = Instant::now();

    let upstream = FakeUpstream::healthy();
    let in_flight = IN_FLIGHT.to_string();
    let mut daemon = Daemon::with_upstream(&upstream.url(), &["--in-flight-limit", &in_flight, "--upstream-concurrency", "64"]);
    let input = rows::many(ROWS, "m");
    let file = daemon.upload(&input);
    let batch = daemon.create(&file);
    let mut witness = Witness::of(ROWS);

    for kill in 0..KILLS {
        let moment = moment(kill, &mut random);
        watch(&daemon, &batch, &moment, &mut random, &mut witness);
        if kill % 3 == 0 {
            // Results that were shown in the last instant before a kill count as shown.
            witness.see_lines(&daemon.results(&batch));
        }
        daemon.kill9();
        daemon.restart();
        witness.see_batch(&daemon.batch(&batch));
        witness.see_lines(&daemon.results(&batch));
    }
    watch(&daemon, &batch, &Moment::Done(ROWS as u64), &mut random, &mut witness);
    let ended = daemon.wait_ended(&batch, LIMIT);
    witness.see_batch(&ended);

    let repeated = upstream.calls() - upstream.rows() as u64;
    wait::say(&format!(
        "crash: {ROWS} rows, {KILLS} kills, {repeated} repeated calls (at most {}), {} looks at the counts, {:.1} s",
        KILLS * IN_FLIGHT,
        witness.looks,
        began.elapsed().as_secs_f64()
    ));
    assert_eq!(ended["status"], "completed");
    assert_eq!(counts(&ended), (ROWS as u64, ROWS as u64, 0));
    assert!(ended["error_file_id"].is_null(), "{ended}");
    check_output(&daemon, &ended, &mut witness);

    assert_eq!(upstream.rows(), ROWS);
    assert!(repeated <= KILLS * IN_FLIGHT, "{repeated} repeated calls");
    assert_eq!(upstream.changed_keys(), 0, "a repeated call carries the key of the first");

    // A batch that has ended stays as it is.
    let output = ended["output_file_id"].as_str().expect("an output file");
    let content = daemon.content(output);
    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.batch(&batch), ended);
    assert!(daemon.content(output) == content, "the output changed");
}

/// Checks that every row is there once, in the order of the input, and every line is as it was
/// first shown.
fn check_output(daemon: &Daemon, ended: &Value, witness: &mut Witness) {
    let output = ended["output_file_id"].as_str().expect("an output file");
    let content = daemon.content(output);
    assert_eq!(daemon.get(&format!("/v1/files/{output}")).expect(200)["bytes"], content.len());
    let lines: Vec<&[u8]> = content.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), ROWS);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(custom_id(line), rows::name(n));
    }
    let shown = witness.lines.len();
    witness.see_lines(&content);
    assert_eq!(witness.lines.len(), ROWS);
    wait::say(&format!("crash: {shown} result lines had been shown before the end, all unchanged"));
}
