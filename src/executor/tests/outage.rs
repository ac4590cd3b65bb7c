//! Outages of every kind and length, rows that look like one, and servers that are full: what is
//! lost, what is called meanwhile, and how soon rows go on.

use super::*;

/// The settings of the daemon, as far as rows that fail are concerned.
const DEFAULTS: Settings = Settings { retry: POLICY, ..SETTINGS };
const POLICY: RetryPolicy = RetryPolicy { max_attempts: 6, base: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// How a server that is down shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    Status(u16),
    /// The connection is accepted and closed.
    Reset,
    /// No connection: refused, no such name, a broken certificate.
    NoConnection(&'static str),
    /// No answer within five seconds.
    Silence,
    /// The provider refuses every request, in these words.
    Denied(u16, &'static str),
}

use Outage::{Denied, NoConnection, Reset, Silence, Status};

const OUTAGES: [Outage; 14] = [
    Status(503),
    Status(502),
    Status(500),
    Status(429),
    Reset,
    NoConnection("connection refused"),
    NoConnection("no such host"),
    NoConnection("certificate has expired"),
    Silence,
    Denied(401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#),
    Denied(402, r#"{"error":{"message":"Insufficient Balance"}}"#),
    Denied(403, r#"{"error":{"message":"Country, region, or territory not supported"}}"#),
    Denied(404, r#"{"error":{"message":"The model `m` does not exist","code":"model_not_found"}}"#),
    Denied(429, r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#),
];

impl Outage {
    async fn reply(self) -> Result<Answer, CallError> {
        match self {
            Status(status) => answer(status, None),
            Denied(status, body) => saying(status, body),
            Reset => Err(CallError::Interrupted { host: "h".into(), reason: "closed".into() }),
            NoConnection(reason) => Err(CallError::Connect { host: "h".into(), reason: reason.into() }),
            Silence => {
                tokio::time::sleep(5 * SECOND).await;
                Err(CallError::TimedOut { host: "h".into(), what: "answer", limit_ms: 5_000 })
            }
        }
    }
}

/// What `GET /models` says while the server is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Models {
    /// The provider has no such list.
    None,
    /// The list is served all the same, as by a proxy whose backend is down.
    Served,
    /// The list fails like everything else.
    Fails,
}

/// A server that is down from the start for `lasts`, and takes 100 ms for an answer.
fn down(outage: Outage, lasts: Duration, models: Models) -> Scripted {
    let back = Instant::now() + lasts;
    let provider = script(move |seen| {
        async move {
            if seen.at < back {
                return outage.reply().await;
            }
            tokio::time::sleep(SECOND / 10).await;
            answer(200, None)
        }
        .boxed()
    });
    let asked: Option<Asked> = match models {
        Models::None => None,
        Models::Served => Some(Arc::new(|| Ok(200))),
        Models::Fails => Some(Arc::new(move || match outage {
            _ if Instant::now() >= back => Ok(200),
            Status(status) | Denied(status, _) => Ok(status),
            _ => Err(gone()),
        })),
    };
    Scripted { asked, ..provider }
}

/// Runs rows through an outage; returns the calls made during it, and how long after its end the
/// last row had its answer.
async fn survive(outage: Outage, lasts: Duration, models: Models, rows: u32) -> (usize, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let back = Instant::now() + lasts;
    let world = World::open_with_settings(dir.path(), down(outage, lasts, models), DEFAULTS).await;
    let id = world.submit(rows, "24h").await;
    let batch = world.ended(id).await;
    let what = format!("{outage:?} for {lasts:?}, {models:?}, {rows} rows");
    assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("completed", rows), "{what}");
    let seen = world.seen();
    let last = seen.iter().map(|seen| seen.at).max().unwrap();
    world.close().await;
    (seen.iter().filter(|seen| seen.at < back).count(), last.saturating_duration_since(back))
}

/// Calls that an outage may cost: those in flight when it began, the failures that open the circuit,
/// and one probe in each rest, of which the longest is five seconds for a server of the operator's
/// own. Where answers may be the rows' own, one row is tried each second, and each row six times. A
/// refusal of 429 is no outage: the rate that is found out bounds it, at a call a second and less.
fn bound(outage: Outage, lasts: Duration, rows: u32) -> usize {
    let seconds = usize::try_from(lasts.as_secs()).unwrap();
    if let Denied(..) = outage {
        // Those in flight when the lane is held, one probe a minute, and the first probes: a model may be
        // unknown while others are served.
        return 8 + 3 + 7 + seconds / 60;
    }
    let own = if outage == Status(500) { seconds.min(6 * rows as usize) } else { 0 };
    let paced = if outage == Status(429) { seconds + 16 } else { 0 };
    8 + 10 + 4 + seconds / 5 + own + paced
}

#[tokio::test(start_paused = true)]
async fn no_row_is_lost_to_an_outage_of_any_kind_and_length() {
    for outage in OUTAGES {
        // What cannot be connected to serves no list of models.
        let served = if let NoConnection(_) = outage { Models::Fails } else { Models::Served };
        for (lasts, models) in [(3, Models::None), (30, served), (600, Models::None), (600, served), (600, Models::Fails)] {
            for rows in [1, 20, 64, 80] {
                let lasts = Duration::from_secs(lasts);
                let (vain, _) = survive(outage, lasts, models, rows).await;
                let most = bound(outage, lasts, rows);
                assert!(vain <= most, "{vain} calls in vain: {outage:?} for {lasts:?}, {models:?}, {rows} rows");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_loses_none_of_thousands_of_rows_and_they_go_on_at_once() {
    for (outage, models) in [(Status(503), Models::Fails), (Status(500), Models::Served), (Reset, Models::None)] {
        let lasts = Duration::from_secs(600);
        let (vain, _) = survive(outage, lasts, models, 5_000).await;
        assert!(vain <= bound(outage, lasts, 5_000), "{vain} calls in vain: {outage:?}");
    }
}

/// Guards against rows that wait by themselves long after their server is back.
#[tokio::test(start_paused = true)]
async fn rows_go_on_within_seconds_of_their_servers_return() {
    for outage in [Status(503), Reset, NoConnection("connection refused")] {
        for models in [Models::None, Models::Fails] {
            let (_, late) = survive(outage, Duration::from_secs(600), models, 20).await;
            assert!(late <= 10 * SECOND, "{late:?} after the end: {outage:?}, {models:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_server_that_never_returns_expire_with_their_batch() {
    for outage in [Status(503), Reset, NoConnection("connection refused"), Silence] {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3_600);
        let world = World::open_with_settings(dir.path(), down(outage, 24 * hour, Models::Fails), DEFAULTS).await;
        let id = world.submit(64, "1h").await;
        let batch = world.ended(id).await;
        assert_eq!((batch.state.as_str(), batch.progress.failed), ("expired", 64), "{outage:?}");
        assert_eq!(world.codes(id).await, HashMap::from([("batch_expired".into(), 64)]));
        let calls = world.seen().len();
        assert!(calls <= bound(outage, hour, 64), "{calls} calls: {outage:?}");
        world.close().await;
    }
}

/// The server goes down when most rows are done: the last ones must not be taken for rows that
/// alone fail on a lane that is well.
#[tokio::test(start_paused = true)]
async fn the_last_rows_of_a_batch_are_not_lost_to_an_outage_at_its_end() {
    for outage in OUTAGES {
        for (calls, lasts) in [(280, 30), (280, 600), (299, 30), (292, 240)] {
            let dir = tempfile::tempdir().unwrap();
            let (count, until) = (Arc::new(AtomicU32::new(0)), Arc::new(OnceLock::<(Instant, Instant)>::new()));
            let provider = script(move |seen| {
                if count.fetch_add(1, SeqCst) == calls {
                    let _ = until.set((seen.at, seen.at + Duration::from_secs(lasts)));
                }
                let until = until.clone();
                async move {
                    tokio::time::sleep(SECOND / 10).await;
                    // What is in flight when the server goes down is lost, too.
                    match until.get() {
                        Some((from, back)) if (*from..*back).contains(&Instant::now()) => outage.reply().await,
                        Some(_) | None => answer(200, None),
                    }
                }
                .boxed()
            });
            let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
            let id = world.submit(300, "24h").await;
            let batch = world.ended(id).await;
            assert_eq!(batch.progress.succeeded, 300, "{outage:?} for {lasts} s after {calls} calls");
            world.close().await;
        }
    }
}

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
        let provider = Scripted { asked: if models == Models::None { None } else { Some(Arc::new(|| Ok(200))) }, ..provider };
        let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
        let started = Instant::now();
        let id = world.submit(450, "24h").await;
        world.until(id, |batch| batch.progress.succeeded == 300).await;
        assert!(started.elapsed() < 60 * SECOND, "{models:?}: {:?} until the good rows were done", started.elapsed());
        let batch = world.ended(id).await;
        assert_eq!((batch.progress.succeeded, batch.progress.failed), (300, 150));
        assert!(started.elapsed() < 180 * SECOND, "{models:?}: {:?} until the others had failed", started.elapsed());
        world.close().await;
    }
}

/// All rows get the same answer at once: that they fail is their own doing, and their batch ends.
#[tokio::test(start_paused = true)]
async fn a_batch_of_rows_that_always_fail_ends_before_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let provider = Scripted { asked: Some(Arc::new(|| Ok(200))), ..at_once(|_| 500) };
    let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
    let id = world.submit(300, "24h").await;
    tokio::time::sleep(Duration::from_secs(5 * 3_600)).await;
    let batch = world.ended(id).await;
    assert_eq!((batch.state.as_str(), batch.progress.failed), ("completed", 300));
    assert_eq!(world.codes(id).await, HashMap::from([("server_error".into(), 300)]));
    assert!(world.seen().len() <= 300 * 7 + 100, "{} calls", world.seen().len());
    world.close().await;
}

/// The server takes a few calls at a time and refuses all others at once.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_full_loses_no_row() {
    for (room, status, takes) in [(1, 503, 100), (1, 500, 100), (1, 500, 5_000), (3, 503, 1_000), (6, 500, 20)] {
        let dir = tempfile::tempdir().unwrap();
        let busy = Arc::new(AtomicU32::new(0));
        let provider = script(move |_| {
            let busy = busy.clone();
            async move {
                if busy.fetch_add(1, SeqCst) >= room {
                    busy.fetch_sub(1, SeqCst);
                    return answer(status, None);
                }
                tokio::time::sleep(Duration::from_millis(takes)).await;
                busy.fetch_sub(1, SeqCst);
                answer(200, None)
            }
            .boxed()
        });
        let world = World::open_with_settings(dir.path(), provider, DEFAULTS).await;
        let started = Instant::now();
        let id = world.submit(200, "24h").await;
        let batch = world.ended(id).await;
        assert_eq!(batch.progress.succeeded, 200, "{room} at a time, others {status}, {takes} ms each");
        let ideal = Duration::from_millis(takes) * 200 / room;
        let took = started.elapsed();
        assert!(took <= ideal * 3 + 60 * SECOND, "{took:?} instead of {ideal:?}: {room} at a time, {status}, {takes} ms each");
        world.close().await;
    }
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

/// A model server that needs ten minutes to load, a lane that is down for hours, and another one
/// that may take over: rows go there after their attempts, instead of waiting.
#[tokio::test(start_paused = true)]
async fn rows_of_a_lane_that_is_down_go_elsewhere_where_they_may() {
    for rows in [1, 3, 200] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(|seen| {
            tokio::time::sleep(SECOND / 10).map(move |()| answer(if seen.provider == 'a' { 503 } else { 200 }, None)).boxed()
        });
        let world = World::open_on(dir.path(), provider, super::lanes::two_lanes("", ""), Duration::from_millis(1)).await;
        let any = crate::domain::batch::Fallback::Within(crate::domain::money::MaxPrice::default());
        let started = Instant::now();
        let id = world.order(super::world::Order { rows, fallback: any, ..Default::default() }, |_| MODEL).await;
        let batch = world.ended(id).await;
        assert_eq!(batch.progress.succeeded, rows);
        assert!(started.elapsed() < 120 * SECOND, "{rows} rows: {:?}", started.elapsed());
        world.close().await;
    }
}
