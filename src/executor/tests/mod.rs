//! The executor against its promises, with a scripted provider under paused time.

mod addresses;
mod any_failures;
mod bad_rows;
mod busy;
mod dedup;
mod denied;
mod fallback;
mod knee;
mod lanes;
mod outage;
mod places;
mod quotas;
mod servers;
mod shares;
mod spending;
mod storm;
pub mod world;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::world::{MODEL, SETTINGS, UPSTREAM, World, catalog};
use super::*;
use crate::catalog::{UpstreamOptions, Upstreams, load_embedded};
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::{Batch, BatchSpec};
use crate::domain::endpoint::Endpoint;
use crate::domain::file::{Purpose, ResultPart};
use crate::domain::id::BatchId;
use crate::domain::provider::server_hints::ServerHints;
use crate::domain::time::Timestamp;
use crate::provider::{Answer, Call, CallError, Dispatch};
use crate::store::{CreateOutcome, NewFile, Options, Store};

const SECOND: Duration = Duration::from_secs(1);

/// One call as the provider saw it.
#[derive(Debug, Clone, Copy)]
pub struct SeenCall {
    pub batch: BatchId,
    pub row: u32,
    pub at: Instant,
    pub attempt: u32,
    /// The first letter of the server's name, and of the model in the body that it got.
    pub provider: char,
    pub lane: char,
}

/// What a provider answers to a call.
type Script = Arc<dyn Fn(SeenCall) -> BoxFuture<'static, Result<Answer, CallError>> + Send + Sync>;

#[derive(Clone)]
pub struct Scripted {
    script: Script,
    seen: Arc<Mutex<Vec<SeenCall>>>,
    provider: char,
    /// What the server answers to a probe, if it can be probed.
    asked: Option<Asked>,
    /// What the name of the server resolves to, if it is looked up.
    resolver: Option<Resolver>,
    /// What a server says about its load.
    hints: Option<Hints>,
}

/// Resolves the name of the servers.
type Resolver = Arc<dyn Fn() -> std::io::Result<Vec<IpAddr>> + Send + Sync>;

/// Tells the load of a server.
type Hints = Arc<dyn Fn(char) -> ServerHints + Send + Sync>;

impl Scripted {
    /// The server of that name.
    fn named(&self, provider: char) -> Arc<dyn Dispatch> {
        Arc::new(Self { provider, ..self.clone() })
    }
}

/// Answers a probe of a server with a status, or not at all.
type Asked = Arc<dyn Fn(char) -> Result<u16, CallError> + Send + Sync>;

impl Dispatch for Scripted {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
        let lane = body["model"].as_str().and_then(|model| model.chars().next()).unwrap_or('?');
        let (at, provider) = (Instant::now(), self.provider);
        let seen = SeenCall { batch: call.key.batch, row: call.key.row.0, at, attempt: call.attempt, provider, lane };
        self.seen.lock().unwrap().push(seen);
        let (answer, budget) = ((self.script)(seen), call.budget);
        async move {
            let late = CallError::TimedOut { host: "here".into(), what: "answer", limit_ms: 0 };
            tokio::time::timeout(budget, answer).await.unwrap_or(Err(late))
        }
        .boxed()
    }

    fn can_be_asked(&self) -> bool {
        self.asked.is_some()
    }

    fn ask(&self, _budget: Duration) -> BoxFuture<'_, Result<u16, CallError>> {
        std::future::ready(self.asked.as_ref().map_or(Ok(200), |asked| asked(self.provider))).boxed()
    }

    fn addresses(&self) -> Option<BoxFuture<'static, std::io::Result<Vec<IpAddr>>>> {
        self.resolver.clone().map(|resolver| async move { resolver() }.boxed())
    }

    fn hints(&self, _budget: Duration) -> BoxFuture<'_, ServerHints> {
        std::future::ready(self.hints.as_ref().map_or(ServerHints::default(), |hints| hints(self.provider))).boxed()
    }
}

fn gone() -> CallError {
    CallError::Connect { host: "h".into(), reason: "refused".into() }
}

fn answer(status: u16, retry_after: Option<Duration>) -> Result<Answer, CallError> {
    Ok(Answer {
        status,
        request_id: None,
        retry_after,
        allowances: None,
        body: Bytes::from_static(b"{\"data\":[{\"embedding\":[1]}],\"usage\":{\"prompt_tokens\":1}}"),
    })
}

/// An answer with these words.
fn saying(status: u16, body: &'static str) -> Result<Answer, CallError> {
    answer(status, None).map(|answer| Answer { body: Bytes::from_static(body.as_bytes()), ..answer })
}

fn script(script: impl Fn(SeenCall) -> BoxFuture<'static, Result<Answer, CallError>> + Send + Sync + 'static) -> Scripted {
    Scripted { script: Arc::new(script), seen: Arc::default(), provider: '?', asked: None, resolver: None, hints: None }
}

pub fn at_once(status: impl Fn(SeenCall) -> u16 + Send + Sync + 'static) -> Scripted {
    script(move |seen| std::future::ready(answer(status(seen), None)).boxed())
}

#[tokio::test(start_paused = true)]
async fn every_row_gets_one_result_and_the_limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let most_seen = most.clone();
    let provider = script(move |seen| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(u64::from(seen.row % 7))).await;
            now.fetch_sub(1, SeqCst);
            answer(if seen.row % 10 == 3 { 422 } else { 200 }, None)
        }
        .boxed()
    });
    let world = World::open(dir.path(), provider).await;
    let id = world.submit(3_000, "24h").await;
    let batch = world.ended(id).await;
    assert_eq!((batch.state.as_str(), batch.progress.succeeded, batch.progress.failed), ("completed", 2_700, 300));
    assert_eq!(batch.progress.usage.input_tokens, 2_700);
    assert_eq!(world.codes(id).await, HashMap::from([(String::new(), 3_000)]));
    assert_eq!(world.seen().len(), 3_000, "no call was made twice");
    assert_eq!(most_seen.load(SeqCst), 8, "the lane was used up to its limit and no further");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn retries_wait_as_asked_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|seen| {
        let reply = match (seen.row, seen.attempt) {
            (0, 1..=5) => answer(429, Some(7 * SECOND)),
            (1, _) => answer(503, None),
            (2, 1) => Err(CallError::Interrupted { host: "h".into(), reason: "cut".into() }),
            (_, _) => answer(200, None),
        };
        std::future::ready(reply).boxed()
    });
    let world = World::open(dir.path(), provider).await;
    let id = world.submit(4, "24h").await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (3, 1));
    assert_eq!(world.codes(id).await.get("server_error"), Some(&1));
    let calls = |row| world.seen().into_iter().filter(move |seen| seen.row == row).collect::<Vec<_>>();
    assert_eq!((calls(0).len(), calls(2).len(), calls(3).len()), (6, 2, 1));
    // The first failures may not be charged: a server that takes one call at a time looks the same.
    assert!((3..=6).contains(&calls(1).len()), "{}", calls(1).len());
    for pair in calls(0).windows(2) {
        assert!(pair[1].at - pair[0].at >= 7 * SECOND, "{pair:?}");
    }
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_expires_what_is_left_and_keeps_what_finished() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|seen| match seen.row {
        0..10 => std::future::ready(answer(200, None)).boxed(),
        10 => std::future::ready(answer(429, Some(Duration::from_secs(3_600)))).boxed(),
        _ => std::future::pending().boxed(),
    });
    let world = World::open(dir.path(), provider).await;
    let started = Instant::now();
    let id = world.submit(2_000, "1m").await;
    let batch = world.ended(id).await;
    // Paused time runs ahead while the store's thread writes, so there is no upper bound.
    assert!(started.elapsed() >= 60 * SECOND, "{:?}", started.elapsed());
    assert_eq!((batch.state.as_str(), batch.progress.succeeded, batch.progress.failed), ("expired", 10, 1_990));
    assert_eq!(world.codes(id).await, HashMap::from([(String::new(), 10), ("batch_expired".into(), 1_990)]));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_batch_starts_nothing_more_and_lets_rows_in_flight_finish() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|_| tokio::time::sleep(5 * SECOND).map(|()| answer(200, None)).boxed());
    let world = World::open(dir.path(), provider).await;
    let id = world.submit(3_000, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 8).await;
    let calls = world.seen().len();
    let batch = world.handle.cancel(id).await.unwrap();
    assert_eq!(batch.state.as_str(), "cancelling");
    assert_eq!(world.handle.cancel(id).await.unwrap().state.as_str(), "cancelling");
    let batch = world.ended(id).await;
    assert_eq!(batch.state.as_str(), "cancelled");
    let finished = world.seen().len();
    assert!(finished <= calls + 8, "{calls} {finished}");
    assert_eq!((batch.progress.succeeded as usize, batch.progress.unfinished()), (finished, 0));
    assert_eq!(world.codes(id).await["batch_cancelled"], 3_000 - finished);
    assert!(matches!(world.handle.cancel(id).await, Err(CancelError::TooLate("cancelled"))));
    assert!(matches!(world.handle.cancel(BatchId::from_u128(1)).await, Err(CancelError::NotFound)));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_frees_a_server_of_ones_own_at_once_and_waits_for_what_a_hosted_one_charges_for() {
    let hosted = || load_embedded().unwrap().into_snapshot(jiff::civil::date(2026, 11, 24), &|_| true);
    let grace = CancelGrace { hosted: 30 * SECOND, local: Duration::ZERO };
    for (snapshot, legal) in [(catalog(&[UPSTREAM]), 0..3), (hosted(), 30..33)] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(|_| tokio::time::sleep(3_600 * SECOND).map(|()| answer(200, None)).boxed());
        let settings = Settings { cancel_grace: grace, ..SETTINGS };
        let world = World::open_as(dir.path(), provider, snapshot, Duration::from_millis(1), settings).await;
        let id = world.submit_models(100, "24h", |_| "text-embedding-3-small").await;
        while world.seen().len() < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let calls = world.seen().len();
        world.handle.cancel(id).await.unwrap();
        let asked = Instant::now();
        let batch = world.ended(id).await;
        let took = asked.elapsed().as_secs();
        assert!(legal.contains(&took), "{took} s instead of {legal:?}");
        assert_eq!((batch.state.as_str(), world.seen().len()), ("cancelled", calls));
        world.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_can_be_cancelled_at_any_moment_of_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), at_once(|_| 200)).await;
    for pause in 0..12 {
        let id = world.submit(2_000, "24h").await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // The batch may have ended already; then the cancellation is too late, and the answer says
        // so.
        let cancelled = world.handle.cancel(id).await;
        let batch = world.ended(id).await;
        match cancelled {
            Ok(_) => assert_eq!(batch.state.as_str(), "cancelled"),
            Err(CancelError::TooLate(_)) => assert_eq!(batch.state.as_str(), "completed"),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(batch.progress.unfinished(), 0);
    }
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_leaves_rows_pending_and_the_next_start_runs_exactly_those() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed())).await;
    let id = world.submit(100, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 24).await;
    let first = world.provider.seen.clone();
    world.close().await;
    let world = World::open(dir.path(), at_once(|_| 200)).await;
    let batch = world.ended(id).await;
    assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("completed", 100));
    assert_eq!(first.lock().unwrap().len() + world.seen().len(), 100, "rows in flight finished before the stop");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_small_batch_does_not_wait_for_a_large_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed())).await;
    let large = world.submit(2_000, "24h").await;
    world.until(large, |batch| batch.progress.succeeded >= 16).await;
    let small = world.submit(10, "24h").await;
    world.ended(small).await;
    // Counted in calls: the paused clock runs ahead while the small batch is checked and stored.
    let calls = world.seen();
    let of_small = |seen: &SeenCall| seen.batch == small;
    let (first, last) = (calls.iter().position(of_small).unwrap(), calls.iter().rposition(of_small).unwrap());
    assert!(last - first < 40, "ten rows took {} calls of their lane", last - first);
    world.handle.cancel(large).await.unwrap();
    world.ended(large).await;
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn rows_without_a_provider_wait_for_a_catalog_that_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed())).await;
    let id = world.submit(50, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 8).await;
    world.close().await;
    // Once with another server only, once with nothing configured: simulated answers would be
    // false.
    for upstreams in [&["another=http://upstream.test"][..], &[]] {
        let world = World::open_with(dir.path(), at_once(|_| 200), upstreams, Duration::ZERO).await;
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!((world.store.batch(id).await.unwrap().unwrap().state.as_str(), world.seen().len()), ("in_progress", 0));
        world.close().await;
    }
    let world = World::open_with(dir.path(), at_once(|_| 200), &[], Duration::ZERO).await;
    tokio::time::sleep(SECOND).await;
    world.catalog.replace(catalog(&[UPSTREAM]));
    assert_eq!(world.ended(id).await.progress.succeeded, 50);
    world.close().await;
}

/// Guards against results of rows that never ran making room for more calls in flight.
#[tokio::test(start_paused = true)]
async fn what_is_not_durable_counts_as_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let durable: Arc<OnceLock<tokio::sync::watch::Receiver<u64>>> = Arc::default();
    let (calls, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (durable_seen, most_seen) = (durable.clone(), most.clone());
    let provider = script(move |_| {
        let calls = calls.fetch_add(1, SeqCst) + 1;
        most.fetch_max(calls - *durable_seen.get().unwrap().borrow(), SeqCst);
        // Long enough for the batch to be cancelled before its end.
        tokio::time::sleep(Duration::from_millis(10)).map(|()| answer(200, None)).boxed()
    });
    let world = World::open_with(dir.path(), provider, &[UPSTREAM], Duration::from_millis(20)).await;
    durable.set(world.store.durable_rows()).unwrap();
    let cancelled = world.submit(5_000, "24h").await;
    world.until(cancelled, |batch| batch.progress.succeeded >= 50).await;
    world.handle.cancel(cancelled).await.unwrap();
    world.ended(cancelled).await;
    let id = world.submit(300, "24h").await;
    assert_eq!(world.ended(id).await.progress.succeeded, 300);
    assert_eq!(most_seen.load(SeqCst), u64::from(SETTINGS.in_flight_limit));
    world.close().await;
}

/// Guards against a window that is loaded after the stop and keeps the batch from ending.
#[tokio::test(start_paused = true)]
async fn a_batch_can_be_cancelled_while_its_rows_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), at_once(|_| 200)).await;
    for done in [1, 500, 520, 600, 1_030, 2_000] {
        let id = world.submit(10_000, "24h").await;
        world.until(id, |batch| batch.progress.succeeded >= done).await;
        let cancelled = world.handle.cancel(id).await;
        let batch = world.ended(id).await;
        assert_eq!(batch.state.as_str(), if cancelled.is_ok() { "cancelled" } else { "completed" });
        assert_eq!(batch.progress.unfinished(), 0);
    }
    world.close().await;
}

/// Guards against an upstream's restart failing every row that is tried meanwhile.
#[tokio::test(start_paused = true)]
async fn rows_wait_for_a_provider_that_cannot_be_reached() {
    let dir = tempfile::tempdir().unwrap();
    let back = Instant::now() + Duration::from_secs(600);
    let provider = script(move |_| {
        let gone = Err(CallError::Connect { host: "h".into(), reason: "refused".into() });
        std::future::ready(if Instant::now() < back { gone } else { answer(200, None) }).boxed()
    });
    let world = World::open(dir.path(), provider).await;
    let id = world.submit(2_000, "24h").await;
    let batch = world.ended(id).await;
    assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("completed", 2_000));
    let vain = world.seen().iter().filter(|seen| seen.at < back).count();
    assert!(vain < 200, "{vain} calls while nobody was there");
    world.close().await;
}

/// Guards against rows that always fail making a healthy lane look unhealthy.
#[tokio::test(start_paused = true)]
async fn rows_that_always_fail_do_not_bring_their_lane_down() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), at_once(|seen| if seen.row % 20 == 0 { 500 } else { 200 })).await;
    let started = Instant::now();
    let id = world.submit(800, "24h").await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (760, 40));
    // Three attempts each; at the end, half a minute and then a minute apart, where answers at once hide
    // how many calls at a time the server takes.
    assert!(started.elapsed() < 300 * SECOND, "{:?}", started.elapsed());
    world.close().await;
}
