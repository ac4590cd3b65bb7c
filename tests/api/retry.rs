//! `POST /v1/batches/{id}/retry`: the rows without an answer run again, in a new batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::api::{self, counts, id_of};
use crate::support::daemon::Daemon;
use crate::support::upstream::{FakeUpstream, Reply};
use crate::support::{rows, wait};

#[test]
fn only_the_rows_that_failed_run_again() {
    let mended = Arc::new(AtomicBool::new(false));
    let upstream = {
        let mended = mended.clone();
        FakeUpstream::start(move |call| {
            let bad = call.row.ends_with('3') && !mended.load(Ordering::SeqCst);
            if bad { Reply::error(400) } else { Reply::ok(call) }
        })
    };
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let first = daemon.complete(rows::many(40, "m"));
    assert_eq!(counts(&first), (40, 36, 4));

    mended.store(true, Ordering::SeqCst);
    let retry = daemon.post_empty(&format!("/v1/batches/{}/retry", id_of(&first))).expect(200);
    let id = id_of(&retry);
    assert_ne!(id, id_of(&first));
    assert_eq!(retry["object"], "batch");
    let second = daemon.wait_ended(&id, wait::A_WHILE);
    assert_eq!(second["status"], "completed", "{second}");
    assert_eq!(counts(&second), (4, 4, 0));
    assert_eq!(api::ids(&daemon.output(&second)), ["row-3", "row-13", "row-23", "row-33"]);
    assert_eq!(upstream.calls(), 44);
    assert_eq!(daemon.batch(&id_of(&first)), first, "the first batch stays as it was");
}

#[test]
fn blank_lines_change_nothing_for_rows_that_are_read_again() {
    const ROWS: usize = 2_100;
    let upstream = FakeUpstream::start(|call| match call.row.as_str() {
        row if row.ends_with("77") => Reply::error(400),
        row if row.ends_with('5') && call.attempt == 1 => Reply::error(503),
        _ => Reply::ok(call),
    });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let spaced = |(n, line): (usize, &str)| format!("{}{line}{}", ["", "\n", "\u{feff}", " \r\n\n"][n % 4], ["\n", "\r\n"][n % 2]);
    let input: String = rows::many(ROWS, "m").lines().enumerate().map(spaced).collect();
    let batch = daemon.complete(input);
    assert_eq!(counts(&batch), (ROWS as u64, ROWS as u64 - 21, 21));
    let expected: Vec<_> = (0..ROWS).filter(|n| n % 100 != 77).map(rows::name).collect();
    assert_eq!(api::ids(&daemon.output(&batch)), expected);
    let retry = daemon.post_empty(&format!("/v1/batches/{}/retry", id_of(&batch))).expect(200);
    let again = daemon.wait_ended(&id_of(&retry), wait::A_WHILE);
    assert_eq!(counts(&again), (21, 0, 21));
    assert_eq!(api::ids(&daemon.errors(&again)), (0..21).map(|n| rows::name(100 * n + 77)).collect::<Vec<_>>());
}

#[test]
fn there_must_be_something_to_run_again() {
    let upstream = FakeUpstream::start(|call| if call.row == "row-1" { Reply::stall() } else { Reply::ok(call) });
    let daemon = Daemon::with_upstream(&upstream.url(), &[]);
    let done = id_of(&daemon.complete(rows::many(1, "m")));
    let answer = daemon.post_empty(&format!("/v1/batches/{done}/retry"));
    assert!(matches!(answer.status(), 400 | 409), "every row succeeded: {}", answer.text());

    let running = daemon.submit(rows::many(2, "m"));
    assert_eq!(daemon.post_empty(&format!("/v1/batches/{running}/retry")).error_code(409), "conflict");
    assert_eq!(daemon.post_empty("/v1/batches/batch_00000000000000000000000000/retry").error_code(404), "not_found");
}
