//! Any script of failures, against what must hold whatever happens: outages of every kind and length,
//! servers that are full, slow or ask for a slower pace, rows that cannot be answered, and a mixture of
//! these over time, for one server, for several of one lane, and for two lanes of a model.
//!
//! Three things are checked of each script ([`judge`]): each row ends exactly once, no row ends for
//! attempts at which its lane was not well, and calls in vain have a bound. `PROPTEST_CASES=3000` runs
//! more scripts than usual.

mod judge;
mod scripts;

use proptest::prelude::*;

use self::judge::judge;
use self::scripts::{Case, Layout, Log, LoggedCall, Says, Weather, case};
use super::lanes::two_lanes;
use super::outage::{Models, Outage};
use super::world::{Order, catalog_with};
use super::*;
use crate::domain::batch::Fallback;
use crate::domain::money::MaxPrice;

/// Scripts that are run unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 40;

/// The waits between attempts, as the daemon has them.
const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(60);

/// Counts a call as ended, however it ends.
struct Out(Arc<AtomicU32>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A server at work.
#[derive(Default, Clone)]
struct Server {
    out: Arc<AtomicU32>,
    /// Calls that were taken in a second of the script.
    second: Arc<Mutex<(u64, u32)>>,
    calls: Arc<AtomicU32>,
}

/// Answers one call as the script says; the weather is that of the moment at which the answer goes out,
/// as far as that takes the server down.
async fn play(case: Arc<Case>, server: Server, seen: SeenCall, nth: u32, start: Instant) -> Result<Answer, CallError> {
    let index = case.server_of(seen.provider);
    let since = seen.at - start;
    let weather = case.weather(index, since);
    let out = server.out.fetch_add(1, SeqCst) + 1;
    let _out = Out(server.out.clone());
    let number = server.calls.fetch_add(1, SeqCst);
    let taken = {
        let mut second = server.second.lock().unwrap();
        *second = if second.0 == since.as_secs() { (second.0, second.1 + 1) } else { (since.as_secs(), 1) };
        second.1
    };
    match weather {
        Weather::Down(outage) => return outage.reply().await,
        Weather::Asks(status, wait) => return answer(status, Some(Duration::from_secs(wait))),
        Weather::Crowded(room, status) if out > room => return answer(status, None),
        Weather::Limited(most, wait) if taken > most => return answer(429, wait.map(Duration::from_secs)),
        Weather::Flaky(outage, one_of) if number.is_multiple_of(one_of) => return outage.reply().await,
        Weather::Fine | Weather::Slow(_) | Weather::Crowded(..) | Weather::Limited(..) | Weather::Flaky(..) => {}
    }
    if let Some(fault) = case.fault_of(seen.row).filter(|fault| nth <= fault.times) {
        return fault.how.reply().await;
    }
    let takes = if let Weather::Slow(takes) = weather { takes } else { case.takes };
    tokio::time::sleep(Duration::from_millis(takes)).await;
    match case.weather(index, start.elapsed()) {
        // What is in flight when a server goes down is lost, too.
        Weather::Down(outage) => outage.reply().await,
        _ => answer(200, None),
    }
}

fn scripted(case: &Arc<Case>, log: &Log, start: Instant) -> Scripted {
    let servers: HashMap<char, Server> = ['a', 'b', 'c'].map(|name| (name, Server::default())).into();
    let (of_calls, calls) = (case.clone(), log.clone());
    let provider = script(move |seen| {
        let server = servers.get(&seen.provider).cloned().unwrap_or_default();
        let (nth, logged) = calls.begin(seen);
        let (case, calls) = (of_calls.clone(), calls.clone());
        async move {
            let reply = play(case, server, seen, nth, start).await;
            calls.end(logged, Says::of(&reply));
            reply
        }
        .boxed()
    });
    let (of_probes, fails) = (case.clone(), case.models == Models::Fails);
    let list: Asked = Arc::new(move |name| match of_probes.weather(of_probes.server_of(name), start.elapsed()) {
        // What cannot be connected to serves no list of models.
        Weather::Down(Outage::NoConnection(_)) => Err(gone()),
        Weather::Down(Outage::Status(status) | Outage::Denied(status, _)) | Weather::Asks(status, _) if fails => Ok(status),
        Weather::Down(Outage::Reset) if fails => Err(CallError::Interrupted { host: "h".into(), reason: "closed".into() }),
        Weather::Down(Outage::Silence) if fails => Err(CallError::TimedOut { host: "h".into(), what: "answer", limit_ms: 5_000 }),
        _ => Ok(200),
    });
    let asked = (case.models != Models::None).then_some(list);
    Scripted { asked, ..provider }
}

/// The model of a server of one's own.
const OWN: &str = "own-model";

fn snapshot_of(case: &Case) -> (crate::catalog::Snapshot, &'static str) {
    let limits = case.limit.map(|limit| format!("limits = {{ in_flight = {limit} }}")).unwrap_or_default();
    let own = |names: &str| {
        let urls: Vec<_> = names.chars().map(|name| format!("{OWN}=http://{name}.test")).collect();
        catalog_with(&urls.iter().map(String::as_str).collect::<Vec<_>>(), case.limit)
    };
    match case.layout {
        Layout::One => (own("a"), OWN),
        Layout::Replicas => (own("abc"), OWN),
        Layout::TwoLanes => (two_lanes(&limits, &limits), MODEL),
    }
}

/// What became of a row.
#[derive(Debug)]
struct EndedRow {
    batch: BatchId,
    row: u32,
    /// Empty for a success; the status of a refusal that is the row's result.
    code: String,
    attempts: usize,
}

/// Everything that can be seen of a run from outside.
struct Ran {
    calls: Vec<LoggedCall>,
    rows: Vec<EndedRow>,
    batches: Vec<Batch>,
    /// Results that were handed to the store.
    recorded: u64,
    start: Instant,
    end: Instant,
}

async fn rows_of(world: &World, id: BatchId, rows: &mut Vec<EndedRow>) {
    let mut lines = world.store.lines(id, ResultPart::All).await.unwrap().unwrap().with_attempts();
    while let Some(chunk) = lines.next_chunk().unwrap() {
        for line in chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            let status = line["response"]["status_code"].as_u64().filter(|status| *status != 200);
            let code = line["error"]["code"].as_str().map(str::to_owned).or(status.map(|status| status.to_string()));
            let row = line["custom_id"].as_str().unwrap().trim_start_matches('r').parse().unwrap();
            let attempts = line["batchd"]["attempts"].as_array().map_or(0, Vec::len);
            rows.push(EndedRow { batch: id, row, code: code.unwrap_or_default(), attempts });
        }
    }
}

async fn run(case: &Arc<Case>) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let (log, start) = (Log::default(), Instant::now());
    let (snapshot, model) = snapshot_of(case);
    let retry = RetryPolicy { max_attempts: case.max_attempts, base: BASE, cap: CAP };
    let settings = Settings { retry, ..SETTINGS };
    let world = World::open_as(dir.path(), scripted(case, &log, start), snapshot, Duration::from_millis(1), settings).await;
    let fallback = if case.falls_back { Fallback::Within(MaxPrice::default()) } else { Fallback::Never };
    let mut ids = Vec::new();
    for (rows, window, pause) in &case.batches {
        tokio::time::sleep(Duration::from_secs(*pause)).await;
        let order = Order { rows: *rows, window, fallback, ..Order::default() };
        ids.push(world.order(order, |_| model).await);
    }
    let (mut batches, mut rows) = (Vec::new(), Vec::new());
    for id in ids {
        batches.push(world.ended_some_time(id).await);
        rows_of(&world, id, &mut rows).await;
    }
    let (recorded, end) = (*world.store.durable_rows().borrow(), Instant::now());
    world.close().await;
    Ran { calls: log.take(), rows, batches, recorded, start, end }
}

fn check(case: Case) -> Result<(), TestCaseError> {
    fastrand::seed(case.seed);
    let case = Arc::new(case);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let ran = runtime.block_on(run(&case));
    judge(&case, &ran)
}

#[test]
fn whatever_fails_each_row_ends_once_uncharged_for_outages_and_calls_have_a_bound() {
    let usual = ProptestConfig { failure_persistence: None, max_shrink_iters: 300, max_shrink_time: 60_000, ..ProptestConfig::default() };
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = if is_asked { usual } else { ProptestConfig { cases: CASES, ..usual } };
    proptest!(config, |(case in case())| check(case)?);
}
