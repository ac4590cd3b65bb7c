//! Rows that a server cannot answer, among others that it can: they end after their attempts, soon, and
//! neither look like an outage nor are mistaken for one.

use super::outage::{DEFAULTS, Models};
use super::*;

/// Rows that the server cannot answer stand before those that it can.
#[tokio::test(start_paused = true)]
async fn rows_that_always_fail_do_not_look_like_an_outage() {
    for models in [Models::None, Models::Served] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(|seen| {
            async move {
                if seen.row < 150 {
                    return answer(500, None);
                }
                tokio::time::sleep(SECOND / 10).await;
                answer(200, None)
            }
            .boxed()
        });
        let provider = Scripted { asked: if models == Models::None { None } else { Some(Arc::new(|_| Ok(200))) }, ..provider };
        let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
        let started = Instant::now();
        let id = world.submit(450, "24h").await;
        world.until(id, |batch| batch.progress.succeeded == 300).await;
        // By chance, 7 to 27 seconds: some probes meet bad rows first.
        assert!(started.elapsed() < 60 * SECOND, "{models:?}: {:?} until the good rows were done", started.elapsed());
        let batch = world.ended(id).await;
        assert_eq!((batch.progress.succeeded, batch.progress.failed), (300, 150));
        assert!(started.elapsed() < 20 * 60 * SECOND, "{models:?}: {:?} until the others had failed", started.elapsed());
        world.close().await;
    }
}

/// A small batch: its bad rows are tried again while others show that the server is well, not after them.
#[tokio::test(start_paused = true)]
async fn rows_that_always_fail_are_tried_again_among_the_others() {
    const BAD: u32 = 4;
    for statuses in [[500; BAD as usize], [503, 500, 502, 504]] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(move |seen| {
            let (takes, status) = statuses.get(seen.row as usize).map_or((SECOND / 10, 200), |status| (Duration::ZERO, *status));
            tokio::time::sleep(takes).map(move |()| answer(status, None)).boxed()
        });
        let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
        let started = Instant::now();
        let id = world.submit(240 + BAD, "24h").await;
        world.until(id, |batch| batch.progress.succeeded == 240).await;
        assert!(started.elapsed() < 4 * SECOND, "{:?} until the good rows were done", started.elapsed());
        let calls = world.seen();
        let fewest = (0..BAD).map(|bad| calls.iter().filter(|call| call.row == bad).count()).min();
        assert!(fewest >= Some(3), "{fewest:?} calls of a bad row among the others");
        world.ended(id).await;
        assert!(started.elapsed() < 300 * SECOND, "{:?} until the others had failed", started.elapsed());
        world.close().await;
    }
}

/// All rows get the same answer at once: that they fail is their own doing, and their batch ends.
#[tokio::test(start_paused = true)]
async fn a_batch_of_rows_that_always_fail_ends_before_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Scripted { asked: Some(Arc::new(|_| Ok(200))), ..at_once(|_| 500) };
    let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
    let id = world.submit(300, "24h").await;
    tokio::time::sleep(Duration::from_secs(5 * 3_600)).await;
    let batch = world.ended_some_time(id).await;
    assert_eq!((batch.state.as_str(), batch.progress.failed), ("completed", 300));
    assert_eq!(world.codes(id).await, HashMap::from([("server_error".into(), 300)]));
    assert!(world.seen().len() <= 300 * 7 + 100, "{} calls", world.seen().len());
    world.close().await;
}

/// The last row of a batch cannot be answered, and no other goes out behind it.
#[tokio::test(start_paused = true)]
async fn a_bad_row_at_the_end_of_a_batch_does_not_hold_it_until_its_deadline() {
    for status in [500, 503] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(move |seen| {
            let bad = seen.row == 99;
            tokio::time::sleep(if bad { Duration::ZERO } else { SECOND / 10 })
                .map(move |()| answer(if bad { status } else { 200 }, None))
                .boxed()
        });
        let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
        let started = Instant::now();
        let id = world.submit(100, "24h").await;
        let batch = world.ended(id).await;
        assert_eq!((batch.progress.succeeded, batch.progress.failed), (99, 1), "{status}");
        assert!(started.elapsed() < Duration::from_secs(20 * 60), "{status}: {:?}", started.elapsed());
        world.close().await;
    }
}

/// Guards against an outage being taken for what some rows met while the server was well: rows that it
/// cannot answer, or that it refused because it was full.
#[tokio::test(start_paused = true)]
async fn what_some_rows_met_before_is_not_taken_for_their_failure_in_an_outage() {
    for (status, full) in [(500, false), (500, true), (503, true)] {
        for models in [Models::None, Models::Served] {
            let dir = tempfile::tempdir().unwrap();
            let (down, busy) = (Instant::now() + 10 * SECOND, Arc::new(AtomicU32::new(0)));
            let back = down + Duration::from_secs(600);
            let provider = script(move |seen| {
                let busy = busy.clone();
                async move {
                    let is_refused = if full { busy.load(SeqCst) >= 3 } else { seen.row % 20 == 0 };
                    if is_refused || (down..back).contains(&seen.at) {
                        return answer(status, None);
                    }
                    busy.fetch_add(1, SeqCst);
                    tokio::time::sleep(SECOND / 4).await;
                    busy.fetch_sub(1, SeqCst);
                    answer(200, None)
                }
                .boxed()
            });
            let provider = Scripted { asked: if models == Models::None { None } else { Some(Arc::new(|_| Ok(200))) }, ..provider };
            let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
            let id = world.submit(400, "24h").await;
            let good = if full { 400 } else { 380 };
            let batch = world.ended_some_time(id).await;
            assert_eq!(batch.progress.succeeded, good, "{status}, full: {full}, {models:?}");
            world.close().await;
        }
    }
}

/// Some servers share the rows. What a row met on one of them is judged there when it goes to another.
#[tokio::test(start_paused = true)]
async fn rows_that_always_fail_end_soon_wherever_they_are_tried() {
    for attempts in [1, 3, 6] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(|seen| {
            let is_bad = seen.row % 10 == 2;
            tokio::time::sleep(if is_bad { Duration::ZERO } else { SECOND / 50 })
                .map(
                    move |()| {
                        if is_bad { Err(CallError::Interrupted { host: "h".into(), reason: "closed".into() }) } else { answer(200, None) }
                    },
                )
                .boxed()
        });
        let settings = Settings { retry: RetryPolicy { max_attempts: attempts, ..DEFAULTS.retry }, ..DEFAULTS };
        let urls = ["own-model=http://a.test", "own-model=http://b.test", "own-model=http://c.test"];
        let world = World::open_as(dir.path(), provider, catalog(&urls), Duration::from_millis(1), settings).await;
        let started = Instant::now();
        let id = world.submit_models(32, "24h", |_| "own-model").await;
        let batch = world.ended_some_time(id).await;
        assert_eq!((batch.progress.succeeded, batch.progress.failed), (29, 3), "{attempts} attempts");
        assert!(started.elapsed() < 2 * 3_600 * SECOND, "{attempts} attempts: {:?}", started.elapsed());
        world.close().await;
    }
}

/// The server's limit is unknown and far away. Failures come at once, answers later.
#[tokio::test(start_paused = true)]
async fn rows_that_always_fail_do_not_slow_the_others() {
    const GOOD: u32 = 9_900;
    let mut clean = None;
    for status in [None, Some(503), Some(500)] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(move |seen| {
            let failure = status.filter(|_| seen.row % 100 == 50);
            let takes = if failure.is_some() { Duration::from_millis(1) } else { SECOND / 10 };
            tokio::time::sleep(takes).map(move |()| answer(failure.unwrap_or(200), None)).boxed()
        });
        let settings = Settings { in_flight_limit: 4_096, ..DEFAULTS };
        let world = World::open_unlimited(dir.path(), provider, settings).await;
        let started = Instant::now();
        let id = world.submit(if status.is_some() { GOOD / 99 * 100 } else { GOOD }, "24h").await;
        world.until(id, |batch| batch.progress.succeeded == GOOD).await;
        let took = started.elapsed();
        let clean = *clean.get_or_insert(took);
        assert!(took.mul_f64(0.95) <= clean, "beside {status:?}: {took:?} instead of {clean:?}");
        world.handle.cancel(id).await.ok();
        world.close().await;
    }
}
