//! Outages of every kind and length, rows that look like one, and servers that are full: what is
//! lost, what is called meanwhile, and how soon rows go on.

use super::*;
use crate::domain::batch::waiting::WaitReason;
use crate::domain::provider::denial::Denial;

/// The settings of the daemon, as far as rows that fail are concerned.
pub const DEFAULTS: Settings = Settings { retry: POLICY, ..SETTINGS };
const POLICY: RetryPolicy = RetryPolicy { max_attempts: 6, base: Duration::from_millis(500), cap: Duration::from_secs(60) };

/// How a server that is down shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
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

pub const OUTAGES: [Outage; 14] = [
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
    pub async fn reply(self) -> Result<Answer, CallError> {
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
pub enum Models {
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
        Models::Served => Some(Arc::new(|_| Ok(200))),
        Models::Fails => Some(Arc::new(move |_| match outage {
            _ if Instant::now() >= back => Ok(200),
            Status(status) | Denied(status, _) => Ok(status),
            Reset => Err(CallError::Interrupted { host: "h".into(), reason: "closed".into() }),
            NoConnection(_) => Err(gone()),
            Silence => Err(CallError::TimedOut { host: "h".into(), what: "answer", limit_ms: 5_000 }),
        })),
    };
    Scripted { asked, ..provider }
}

/// Rows that meet an outage from the start.
#[derive(Debug, Clone, Copy)]
struct Cell {
    outage: Outage,
    /// `None` for an outage that outlasts the batch, which has twenty minutes then.
    lasts: Option<Duration>,
    models: Models,
    rows: u32,
}

/// The window of a batch that meets an outage without an end.
const WINDOW: Duration = Duration::from_secs(20 * 60);

impl Cell {
    /// Runs the rows through the outage: none is lost unless it outlasts the batch, calls are few, and why
    /// the rows wait can be seen. Returns how long after its end the last row went out.
    async fn survive(self) -> Duration {
        let Self { outage, lasts, models, rows } = self;
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let back = start + lasts.unwrap_or(Duration::from_secs(24 * 3_600));
        let world = World::open_with_settings(dir.path(), down(outage, back - start, models), DEFAULTS).await;
        let id = world.submit(rows, if lasts.is_some() { "24h" } else { "20m" }).await;
        let meets = lasts.unwrap_or(WINDOW);
        if meets >= 30 * SECOND {
            tokio::time::sleep_until(start + meets.mul_f64(0.8)).await;
            self.check_reason(&world, id);
        }
        let batch = world.ended_some_time(id).await;
        let (state, succeeded) = if lasts.is_some() { ("completed", rows) } else { ("expired", 0) };
        assert_eq!((batch.state.as_str(), batch.progress.succeeded), (state, succeeded), "{self:?}");
        let codes = world.codes(id).await;
        let code = if lasts.is_some() { "" } else { "batch_expired" };
        assert_eq!(codes, HashMap::from([(code.to_owned(), rows as usize)]), "{self:?}");
        let seen = world.seen();
        world.close().await;
        let vain = seen.iter().filter(|seen| seen.at < back).count();
        let most = bound(outage, meets, rows, self.models);
        assert!(vain <= most, "{vain} calls in vain, of {most}: {self:?}");
        seen.iter().map(|seen| seen.at).max().unwrap().saturating_duration_since(back)
    }

    /// Whoever looks at the batch, or at the lane, is told why it waits and what was said.
    fn check_reason(self, world: &World, id: BatchId) {
        let reason = match self.outage {
            Denied(status, _) => WaitReason::Denied(denial(status)),
            NoConnection(_) => WaitReason::Unreachable,
            Status(429) => WaitReason::RateLimited,
            Status(_) | Reset | Silence => WaitReason::Failing,
        };
        let board = world.handle.board();
        let [waiting] = board.waiting(id) else { panic!("{self:?}: {:?}", board.waiting(id)) };
        assert_eq!((waiting.reason, waiting.rows), (reason, u64::from(self.rows)), "{self:?}");
        assert!(waiting.said.as_ref().is_some_and(|said| !said.is_empty()) && waiting.since.is_some(), "{self:?}: {waiting:?}");
        let lanes: Vec<_> = board.lanes().filter_map(|(.., report)| report.load.wait).map(|wait| wait.reason).collect();
        assert_eq!(lanes, [reason], "{self:?}");
    }
}

/// What the denials among the outages are about.
fn denial(status: u16) -> Denial {
    match status {
        401 => Denial::Key,
        402 | 429 => Denial::Credit,
        403 => Denial::Access,
        _ => Denial::Model,
    }
}

/// Runs cells beside one another, under one clock: most of the time goes into their stores' writes.
async fn survive_all(cells: impl IntoIterator<Item = Cell>) {
    let cells: Vec<_> = cells.into_iter().collect();
    for some in cells.chunks(16) {
        futures_util::future::join_all(some.iter().map(|cell| cell.survive())).await;
    }
}

/// Calls that an outage may cost: those in flight when it began, the failures that open the circuit,
/// and one probe in each rest, of which the longest is five seconds for a server of the operator's
/// own. Where answers may be the rows' own, one row is tried each second, and each row six times. A
/// refusal of 429 is no outage: the rate that is found out bounds it, at a call a second and less. Where
/// the list of models is served over a connection from before, as many calls as may be go out after each
/// rest.
fn bound(outage: Outage, lasts: Duration, rows: u32, models: Models) -> usize {
    let seconds = usize::try_from(lasts.as_secs()).unwrap();
    if let Denied(..) = outage {
        // Those in flight when the lane is held, one probe a minute, and the first probes: a model may be
        // unknown while others are served.
        return 8 + 3 + 7 + seconds / 60;
    }
    let own = if outage == Status(500) { seconds.min(6 * rows as usize) } else { 0 };
    let paced = if outage == Status(429) { seconds + 16 } else { 0 };
    let at_a_time = if matches!(outage, NoConnection(_)) && models == Models::Served { 8 } else { 1 };
    8 + 10 + at_a_time * (4 + seconds / 5) + own + paced
}

/// The matrix without its largest batches.
fn cells(outages: &[Outage]) -> impl Iterator<Item = Cell> {
    outages.iter().flat_map(|outage| {
        use Models::{Fails, None as No, Served};
        let times = [(Some(3), No), (Some(30), Served), (Some(600), No), (Some(600), Served), (None, Fails)];
        // What cannot be connected to serves its list only over a connection from before.
        let without_list = [(Some(30), Fails), (Some(600), Fails)].into_iter().filter(|_| matches!(outage, NoConnection(_)));
        times.into_iter().chain(without_list).flat_map(move |(lasts, models)| {
            [1, 20, 64, 80].map(|rows| Cell { outage: *outage, lasts: lasts.map(Duration::from_secs), models, rows })
        })
    })
}

#[tokio::test(start_paused = true)]
async fn no_row_is_lost_to_a_server_that_is_down_whatever_it_says_and_however_long() {
    survive_all(cells(&OUTAGES[..9])).await;
}

#[tokio::test(start_paused = true)]
async fn no_row_is_lost_to_a_provider_that_denies_everything_however_long() {
    survive_all(cells(&OUTAGES[9..])).await;
}

/// Five thousand rows, for every kind. The shorter outages, and those without an end, are below.
#[tokio::test(start_paused = true)]
async fn an_outage_loses_none_of_thousands_of_rows() {
    let lasts = Some(Duration::from_secs(600));
    survive_all(OUTAGES.into_iter().zip([Models::Fails, Models::None].into_iter().cycle()).map(|(outage, models)| {
        // A list that is served says that these failures may be the rows' own.
        let models = if outage == Status(500) { Models::Served } else { models };
        Cell { outage, lasts, models, rows: 5_000 }
    }))
    .await;
}

/// The rest of the matrix.
#[ignore = "takes minutes; `cargo test --lib executor::tests::outage -- --ignored`"]
#[tokio::test(start_paused = true)]
async fn an_outage_of_any_length_loses_none_of_thousands_of_rows() {
    for lasts in [Some(3), Some(30), None] {
        let lasts = lasts.map(Duration::from_secs);
        survive_all(OUTAGES.map(|outage| Cell { outage, lasts, models: Models::None, rows: 5_000 })).await;
        survive_all(OUTAGES.map(|outage| Cell { outage, lasts, models: Models::Fails, rows: 5_000 })).await;
    }
}

/// Guards against rows that wait by themselves long after their server is back.
#[tokio::test(start_paused = true)]
async fn rows_go_on_within_seconds_of_their_servers_return() {
    for outage in [Status(503), Reset, NoConnection("connection refused")] {
        for models in [Models::None, Models::Fails] {
            let late = Cell { outage, lasts: Some(Duration::from_secs(600)), models, rows: 20 }.survive().await;
            assert!(late <= 10 * SECOND, "{late:?} after the end: {outage:?}, {models:?}");
        }
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
            let batch = world.ended_some_time(id).await;
            assert_eq!(batch.progress.succeeded, 300, "{outage:?} for {lasts} s after {calls} calls");
            world.close().await;
        }
    }
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
