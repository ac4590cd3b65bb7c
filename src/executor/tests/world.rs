//! An executor as in the daemon, over a directory, with a scripted provider.

use std::net::IpAddr;

use super::*;
use crate::domain::batch::dedup::Dedup;
use crate::domain::batch::priority::{Control, Owner, Priority};
use crate::domain::batch::{self, BatchState, Fallback};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::RowEndpoint;
use crate::domain::id::OrgId;
use crate::domain::provider::connection::{HostAddresses, ProviderKind};
use crate::domain::webhook::target_policy::Targets;

/// How often a test looks for what it waits for, if nothing is committed meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// An executor over a directory; everything else is as in the daemon.
pub struct World {
    pub store: Store,
    pub handle: Handle,
    pub catalog: Arc<Catalog>,
    pub provider: Scripted,
    pub clock: Clock,
    pub drain: CancellationToken,
    pub abort: CancellationToken,
    pub running: JoinHandle<()>,
}

pub fn catalog(upstreams: &[&str]) -> crate::catalog::Snapshot {
    catalog_with(upstreams, Some(8))
}

/// The upstreams with so many calls at a time each, or as many as is found out.
pub fn catalog_with(upstreams: &[&str], concurrency: Option<u32>) -> crate::catalog::Snapshot {
    let options = UpstreamOptions { concurrency, ..UpstreamOptions::default() };
    load_embedded()
        .unwrap()
        .with_upstreams(&Upstreams::parse(upstreams).unwrap(), &options)
        .into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
}

/// A model that the built-in seeds know, and would simulate if nothing real were configured.
pub const MODEL: &str = "gpt-4o-mini";
pub const UPSTREAM: &str = "http://upstream.test";

pub const SETTINGS: Settings = Settings {
    in_flight_limit: 16,
    max_running: 4,
    min_free_bytes: 0,
    retry: RetryPolicy { max_attempts: 3, base: SECOND, cap: Duration::from_secs(4) },
    hold_after: 3,
    input: InputLimits { max_rows: 10_000, max_row_bytes: 10_000 },
    recordings: RecordingLimits { max_bytes: 10_000, at_once: 100_000 },
    dedup: Dedup::Off,
    dedup_max_age: Duration::from_secs(3_600),
    cancel_grace: CancelGrace { hosted: Duration::from_secs(30), local: Duration::from_secs(30) },
};

/// A batch to be submitted.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    pub rows: u32,
    pub window: &'a str,
    pub owner: u64,
    pub org: OrgId,
    pub priority: Priority,
    pub fallback: Fallback,
    /// The system prompt of a row.
    pub prompt: fn(u32) -> &'static str,
}

impl Default for Order<'_> {
    fn default() -> Self {
        Self {
            rows: 1,
            window: "24h",
            owner: 0,
            org: OrgId::OPERATOR,
            priority: Priority::Normal,
            fallback: Fallback::NotDearer,
            prompt: |_| "be brief",
        }
    }
}

impl World {
    pub async fn open(dir: &Path, provider: Scripted) -> Self {
        Self::open_with(dir, provider, &[UPSTREAM], Duration::from_millis(1)).await
    }

    /// Like [`Self::open`], but equal requests are made once.
    pub async fn open_sharing(dir: &Path, provider: Scripted, dedup: Dedup) -> Self {
        let settings = Settings { dedup, ..SETTINGS };
        Self::open_as(dir, provider, catalog(&[UPSTREAM]), Duration::from_millis(1), settings).await
    }

    pub async fn open_with_settings(dir: &Path, provider: Scripted, settings: Settings) -> Self {
        Self::open_as(dir, provider, catalog(&[UPSTREAM]), Duration::from_millis(1), settings).await
    }

    /// Like [`Self::open`], but nobody has said how many calls the server takes at a time.
    pub async fn open_unlimited(dir: &Path, provider: Scripted, settings: Settings) -> Self {
        Self::open_as(dir, provider, catalog_with(&[UPSTREAM], None), Duration::from_millis(1), settings).await
    }

    pub async fn open_with(dir: &Path, provider: Scripted, upstreams: &[&str], commit_interval: Duration) -> Self {
        Self::open_on(dir, provider, catalog(upstreams), commit_interval).await
    }

    pub async fn open_on(dir: &Path, provider: Scripted, catalog: crate::catalog::Snapshot, commit_interval: Duration) -> Self {
        Self::open_as(dir, provider, catalog, commit_interval, SETTINGS).await
    }

    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    pub async fn open_as(
        dir: &Path,
        provider: Scripted,
        catalog: crate::catalog::Snapshot,
        commit_interval: Duration,
        settings: Settings,
    ) -> Self {
        let options = Options { commit_interval, ..Options::new(dir) };
        let (store, recovered) = tokio::task::spawn_blocking(|| Store::open(options)).await.unwrap().unwrap();
        let start = Instant::now();
        let clock = Clock::new(move || Timestamp::constant(1_790_000_000, 0) + start.elapsed());
        let catalog = Arc::new(Catalog::for_tests(catalog));
        let opened = provider.clone();
        let open: OpenProvider = Arc::new(move |connection| {
            let name = match &connection.kind {
                ProviderKind::Server(server) => match server.addresses {
                    // The servers behind a name are `a`, `b` and so on, by the ends of their addresses.
                    HostAddresses::One(IpAddr::V4(address)) => return Ok(opened.named(char::from(b'a' - 1 + address.octets()[3]))),
                    _ => server.base_url.host().unwrap_or_default(),
                },
                ProviderKind::Simulated { .. } => &connection.id,
            };
            Ok(opened.named(name.chars().next().unwrap_or('?')))
        });
        let parts = Parts {
            store: store.clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
            open,
            fetcher: Fetcher::for_tests(Targets::PublicAndLoopback),
        };
        let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
        let (handle, run) = start_executor(parts, settings, recovered, &drain, &abort);
        Self { store, handle, catalog, provider, clock, drain, abort, running: tokio::spawn(run) }
    }

    pub async fn submit(&self, rows: u32, window: &str) -> BatchId {
        self.submit_models(rows, window, |_| MODEL).await
    }

    pub async fn submit_models(&self, rows: u32, window: &str, model: impl Fn(u32) -> &'static str) -> BatchId {
        self.order(Order { rows, window, ..Order::default() }, model).await
    }

    pub async fn order(&self, order: Order<'_>, model: impl Fn(u32) -> &'static str) -> BatchId {
        let Order { rows, window, owner, org, priority, fallback, prompt } = order;
        let standstill = crate::store::Quiesce::begin();
        let mut spool = self.store.spool().unwrap();
        for row in 0..rows {
            let model = model(row);
            // The order of short bodies counts for nothing.
            let (prompt, input) = (prompt(row), "x".repeat(600));
            let body = format!("{{\"model\":\"{model}\",\"instructions\":\"{prompt}\",\"input\":\"{input}\"}}");
            let line = format!("{{\"custom_id\":\"r{row}\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{body}}}\n");
            spool.write(line.as_bytes()).unwrap();
        }
        let now = self.clock.now();
        let new =
            NewFile { filename: "in".into(), purpose: Purpose::Batch, mime: None, org: OrgId::OPERATOR, created_at: now, expires_at: None };
        let file = self.store.add_file(new, spool.seal().unwrap()).await.unwrap();
        let spec = BatchSpec {
            id: BatchId::generate(now),
            dialect: Dialect::OpenAi,
            input: batch::BatchInput::Unquoted {
                endpoint: RowEndpoint::One(Endpoint::Embeddings),
                window: window.parse().unwrap(),
                invalid: batch::InvalidRows::default(),
            },
            input_file: file.id,
            created_at: now,
            metadata: Metadata::default(),
            output_expires_after: None,
            retry_of: None,
            org,
            owner: Owner(owner),
            fallback,
            headers: batch::forwarded::Forwarded::default(),
        };
        let id = spec.id;
        assert_eq!(self.store.create_batch(spec, Control { priority, paused: false }, None).await.unwrap(), CreateOutcome::Created);
        self.handle.take(id, Owner(owner)).await.unwrap();
        while self.store.batch(id).await.unwrap().unwrap().state == BatchState::Validating {
            tokio::task::yield_now().await;
        }
        drop(standstill);
        id
    }

    /// The batch as soon as it is `done`; looks at it after each commit, and so often that the clock
    /// runs ahead little during a write.
    pub async fn until(&self, id: BatchId, done: impl Fn(&Batch) -> bool) -> Batch {
        self.look_until(id, done, |_| LOOK).await
    }

    /// The batch once it has ended, for waits of hours: the clock may run ahead by more, the longer it
    /// has waited.
    pub async fn ended_some_time(&self, id: BatchId) -> Batch {
        self.look_until(id, |batch| batch.state.is_terminal(), |waited| (waited / 64).clamp(LOOK, SECOND)).await
    }

    async fn look_until(&self, id: BatchId, done: impl Fn(&Batch) -> bool, pause: impl Fn(Duration) -> Duration) -> Batch {
        let (mut commits, begun) = (self.store.durable_rows(), Instant::now());
        for _ in 0..1_000_000 {
            commits.mark_unchanged();
            let batch = self.store.batch(id).await.unwrap().unwrap();
            if done(&batch) {
                return batch;
            }
            let _ = tokio::time::timeout(pause(begun.elapsed()), commits.changed()).await;
        }
        panic!("{:?}", self.store.batch(id).await);
    }

    pub async fn ended(&self, id: BatchId) -> Batch {
        self.until(id, |batch| batch.state.is_terminal()).await
    }

    /// How many lines of the batch have each error code; the empty code stands for none.
    pub async fn codes(&self, id: BatchId) -> HashMap<String, usize> {
        let mut lines = self.store.lines(id, ResultPart::All).await.unwrap().unwrap();
        let mut codes = HashMap::new();
        while let Some(chunk) = lines.next_chunk().unwrap() {
            for line in chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                *codes.entry(line["error"]["code"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        codes
    }

    /// How many rows ended on each lane.
    pub async fn lanes_of(&self, id: BatchId) -> HashMap<String, usize> {
        let mut lines = self.store.lines(id, ResultPart::All).await.unwrap().unwrap().with_attempts();
        let mut lanes = HashMap::new();
        while let Some(chunk) = lines.next_chunk().unwrap() {
            for line in chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                let last = line["batchd"]["attempts"].as_array().and_then(|attempts| attempts.last()).unwrap()["lane"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                *lanes.entry(last).or_default() += 1;
            }
        }
        lanes
    }

    pub fn seen(&self) -> Vec<SeenCall> {
        self.provider.seen.lock().unwrap().clone()
    }

    /// Whether the dispatcher has taken every command.
    pub fn is_told(&self) -> bool {
        self.handle.commands.capacity() == self.handle.commands.max_capacity()
    }

    pub async fn close(self) {
        self.drain.cancel();
        self.running.await.unwrap();
        self.abort.cancel();
        let store = self.store;
        drop(self.handle);
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }
}

fn start_executor(
    parts: Parts,
    settings: Settings,
    recovered: Recovered,
    drain: &CancellationToken,
    abort: &CancellationToken,
) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    start(parts, settings, recovered, drain.clone(), abort.clone())
}
