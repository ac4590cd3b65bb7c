//! Providers that refuse every request: the lane is held, not the batch burnt, and whoever looks is
//! told why.

use std::sync::atomic::AtomicBool;

use super::lanes::two_lanes;
use super::world::Order;
use super::*;
use crate::domain::batch::Fallback;
use crate::domain::batch::waiting::WaitReason;
use crate::domain::money::MaxPrice;
use crate::domain::provider::denial::Denial;

const NO_KEY: &str = r#"{"error":{"message":"Incorrect API key provided: sk-x","code":"invalid_api_key"}}"#;
const NO_MODEL: &str = r#"{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}"#;

/// A server that refuses every request with 401 until it is `mended`.
fn locked(mended: &Arc<AtomicBool>) -> Scripted {
    let mended = mended.clone();
    script(move |_| {
        let well = mended.load(SeqCst);
        tokio::time::sleep(SECOND / 20).map(move |()| if well { answer(200, None) } else { saying(401, NO_KEY) }).boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_costs_a_call_a_minute_and_no_row_and_the_right_one_is_noticed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mended = Arc::new(AtomicBool::new(false));
    let world = World::open(dir.path(), locked(&mended)).await;
    let id = world.submit(2_000, "24h").await;
    tokio::time::sleep(10 * 60 * SECOND).await;
    let calls = world.seen().len();
    assert!((3 + 9..=8 + 12).contains(&calls), "{calls} calls in ten minutes");
    let board = world.handle.board();
    let [waiting] = board.waiting(id) else { panic!("{:?}", board.waiting(id)) };
    assert_eq!((waiting.reason, waiting.rows), (WaitReason::Denied(Denial::Key), 2_000));
    assert_eq!(waiting.said.as_deref(), Some("the provider answered 401 Unauthorized: Incorrect API key provided: sk-x"));
    let since = world.clock.now().as_second() - waiting.since.unwrap().as_second();
    assert!((595..=601).contains(&since), "{since} s");

    mended.store(true, SeqCst);
    // Whatever changes in the catalog, or by an operator, may be what was wrong.
    let other: crate::domain::provider::lane_hold::LaneSelector = "other".parse().unwrap();
    world.handle.hold_lane(other, None, world.clock.now()).await.unwrap();
    let started = Instant::now();
    world.until(id, |batch| batch.progress.succeeded > 0).await;
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    let batch = world.ended(id).await;
    assert_eq!(batch.progress.succeeded, 2_000);
    assert!(world.handle.board().waiting(id).is_empty());
    world.close().await;
}

/// A key may not do what one row asks: the row is asked twice, and others are not held up.
#[tokio::test(start_paused = true)]
async fn a_row_that_alone_is_refused_on_a_lane_that_is_well_fails_with_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(move |seen| {
        let bad = seen.row % 10 == 5;
        tokio::time::sleep(SECOND / 10).map(move |()| if bad { saying(403, "{}") } else { answer(200, None) }).boxed()
    });
    let world = World::open(dir.path(), provider).await;
    let started = Instant::now();
    let id = world.submit(200, "24h").await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (180, 20));
    assert!(started.elapsed() < 90 * SECOND, "{:?}", started.elapsed());
    assert!(world.seen().len() <= 180 + 20 * 3, "{} calls", world.seen().len());
    let mut lines = world.store.lines(id, ResultPart::Errors).await.unwrap().unwrap();
    let text = String::from_utf8(lines.next_chunk().unwrap().unwrap().to_vec()).unwrap();
    assert!(text.lines().all(|line| line.contains("\"status_code\":403")), "{text}");
    world.close().await;
}

/// The last row of a batch is refused, and nothing is left that could show that its lane is well.
#[tokio::test(start_paused = true)]
async fn the_last_row_of_a_batch_does_not_hold_it_until_its_deadline() {
    for (status, body, ends) in [(403, "{}", true), (404, r#"{"detail":"Not Found"}"#, true), (401, NO_KEY, false)] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(move |seen| {
            let bad = seen.row == 99;
            tokio::time::sleep(SECOND / 10).map(move |()| if bad { saying(status, body) } else { answer(200, None) }).boxed()
        });
        let world = World::open(dir.path(), provider).await;
        let id = world.submit(100, "24h").await;
        tokio::time::sleep(20 * 60 * SECOND).await;
        let batch = world.store.batch(id).await.unwrap().unwrap();
        assert_eq!((batch.progress.succeeded, batch.state.is_terminal()), (99, ends), "{status}");
        world.close().await;
    }
}

/// A replica behind a balancer has not loaded the model, or its key is an old one: the next call is
/// answered by another.
#[tokio::test(start_paused = true)]
async fn a_replica_that_refuses_costs_no_row() {
    for (status, body) in [(401, NO_KEY), (402, "{}"), (404, NO_MODEL), (404, r#"{"detail":"Not Found"}"#)] {
        let dir = tempfile::tempdir().unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let provider = script(move |_| {
            let bad = count.fetch_add(1, SeqCst) % 8 == 5;
            tokio::time::sleep(SECOND / 10).map(move |()| if bad { saying(status, body) } else { answer(200, None) }).boxed()
        });
        let retry = RetryPolicy { max_attempts: 6, ..SETTINGS.retry };
        let world = World::open_with_settings(dir.path(), provider, Settings { retry, ..SETTINGS }).await;
        let id = world.submit(1_000, "24h").await;
        assert_eq!(world.ended(id).await.progress.succeeded, 1_000, "{status} {body}");
        world.close().await;
    }
}

/// Rows of one model that the server does not have must not stop those of another that it has.
#[tokio::test(start_paused = true)]
async fn an_unknown_model_among_known_ones_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(move |seen| {
        let unknown = seen.row % 2 == 0;
        let takes = if unknown { Duration::ZERO } else { SECOND };
        tokio::time::sleep(takes).map(move |()| if unknown { saying(404, NO_MODEL) } else { answer(200, None) }).boxed()
    });
    let world = World::open(dir.path(), provider).await;
    let started = Instant::now();
    let id = world.submit_models(400, "24h", |row| if row % 2 == 0 { "typo" } else { "model" }).await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (200, 200));
    assert!(started.elapsed() < 120 * SECOND, "{:?}", started.elapsed());
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_held_lane_go_to_another_that_they_may_take() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|seen| {
        let held = seen.provider == 'a';
        tokio::time::sleep(SECOND / 10).map(move |()| if held { saying(402, "{}") } else { answer(200, None) }).boxed()
    });
    let world = World::open_on(dir.path(), provider, two_lanes("", ""), Duration::from_millis(1)).await;
    let fallback = Fallback::Within(MaxPrice::default());
    let id = world.order(Order { rows: 3_000, fallback, ..Order::default() }, |_| MODEL).await;
    let batch = world.ended(id).await;
    assert_eq!(batch.progress.succeeded, 3_000);
    let at_a = world.seen().iter().filter(|seen| seen.provider == 'a').count();
    assert!(at_a <= 40, "{at_a} calls of the held lane");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_expires_or_is_cancelled_keeps_its_attempts_and_the_last_response() {
    for (cancel, code) in [(false, "batch_expired"), (true, "batch_cancelled")] {
        let dir = tempfile::tempdir().unwrap();
        let world = World::open(dir.path(), locked(&Arc::default())).await;
        let id = world.submit(5, "1h").await;
        if cancel {
            tokio::time::sleep(60 * SECOND).await;
            world.handle.cancel(id).await.unwrap();
        }
        world.ended(id).await;
        assert_eq!(world.codes(id).await, HashMap::from([(code.to_owned(), 5)]));
        let mut lines = world.store.lines(id, ResultPart::All).await.unwrap().unwrap().with_attempts();
        let text = String::from_utf8(lines.next_chunk().unwrap().unwrap().to_vec()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &lines {
            assert_eq!(line["response"]["status_code"], 401, "{line}");
            assert_eq!(line["batchd"]["attempts"][0]["failure"], "key_refused", "{line}");
        }
        world.close().await;
    }
}
