//! The courier over a store and real receivers: a flood of one organisation, and what others and
//! tests get meanwhile. The forms of messages are tested against a running daemon.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::{BatchInput, BatchSpec, BatchState, Fallback, InvalidRows, ResultFiles};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::Purpose;
use crate::domain::id::{BatchId, EventId, FileId, OrgId, ReceiverId};
use crate::domain::money::Usd;
use crate::domain::time::{CompletionWindow, Timestamp};
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, Payload};
use crate::domain::webhook::endpoint::{ProbeRefusal, Receiver, ReceiverStatus};
use crate::store::{MadeInput, NewFile, Options};

const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);
const FLOOD: u128 = 10_000;
const LOUD: OrgId = OrgId::from_u128(7);
const QUIET: OrgId = OrgId::from_u128(8);
/// How much later than at once a message may go out: two looks at the queue, and a busy machine.
const A_MOMENT: Duration = Duration::from_secs(2);

/// A receiver on all addresses of this machine.
struct TestReceiver {
    port: u16,
    /// The most connections that were open at the same time.
    peak: Arc<AtomicUsize>,
    /// When each message arrived, and its path.
    heard: mpsc::UnboundedReceiver<(Instant, String)>,
}

impl TestReceiver {
    /// A receiver that answers, or one that never does.
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
    async fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let (port, peak, open) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (tell, heard) = mpsc::unbounded_channel();
        let highest = peak.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tell, open) = (tell.clone(), open.clone());
                highest.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::spawn(async move {
                    hear(stream, answers, &tell).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, peak, heard }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// How long after `start` the message for a path arrives.
    async fn hears(&mut self, path: &str, start: Instant) -> Duration {
        let wait = async {
            loop {
                match self.heard.recv().await.unwrap() {
                    (at, heard) if heard == path => return at.duration_since(start),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or(Duration::MAX)
    }
}

async fn hear(mut stream: TcpStream, answers: bool, tell: &mpsc::UnboundedSender<(Instant, String)>) {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
            return;
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    _ = tell.send((Instant::now(), head.split(' ').nth(1).unwrap_or_default().to_owned()));
    match answers {
        true => _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await,
        // Until the sender has had enough.
        false => _ = stream.read_u8().await,
    }
}

/// A store, and a courier that is not started yet.
struct Bench {
    store: Store,
    batch: BatchId,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { commit_interval: Duration::from_millis(1), ..Options::new(dir.path()) };
        let (store, _) = tokio::task::spawn_blocking(|| Store::open(options)).await.unwrap().unwrap();
        let batch = create(&store, LOUD).await;
        Self { store, batch, _dir: dir }
    }

    /// Puts a message for each of `events` into the queue, for the receivers that `url` names.
    async fn queue(&self, org: OrgId, events: std::ops::Range<u128>, url: impl Fn(u128) -> String) {
        let messages = events.map(|event| {
            let webhook = Webhook { url: url(event), sealed_secret: Vec::new() };
            let (id, batch) = (EventId::from_u128(event), self.batch);
            let message =
                Delivery { id, batch, org, webhook, body: b"{}".to_vec(), wire: Payload::Whole, created_at: NOW, attempts: 0, due_at: NOW };
            Ok(self.store.delivery_tried(message.clone(), Some(message), None))
        });
        stream::iter(messages).try_for_each_concurrent(256, |put| put).await.unwrap();
    }

    /// Starts to send; returns a sender of test messages.
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
    fn start(&self) -> TestSender {
        let settings = WebhookSettings {
            base_url: None,
            targets: Targets::Any,
            retry_base: Duration::from_secs(10),
            standard: false,
            render: Arc::new(|_, _| b"{}".to_vec()),
        };
        let clock = Clock::new(|| NOW);
        let webhooks = Webhooks::new(self.store.clone(), clock, Descriptors::new(1 << 12, 16), settings).unwrap();
        let tester = webhooks.tester();
        tokio::spawn(webhooks.run(CancellationToken::new()));
        tester
    }
}

/// Creates a batch.
async fn create(store: &Store, org: OrgId) -> BatchId {
    let id = BatchId::generate(NOW);
    let spec = BatchSpec {
        id,
        dialect: Dialect::OpenAi,
        input: BatchInput::Unquoted {
            endpoint: RowEndpoint::One(Endpoint::Responses),
            window: CompletionWindow::DAY,
            invalid: InvalidRows::default(),
        },
        input_file: FileId::from_u128(1),
        created_at: NOW,
        metadata: Metadata::default(),
        output_expires_after: None,
        retry_of: None,
        org,
        owner: Owner::default(),
        fallback: Fallback::default(),
        headers: Forwarded::default(),
    };
    let file = NewFile { created_at: NOW, expires_at: None, filename: "in.jsonl".to_owned(), purpose: Purpose::Batch, mime: None, org };
    let content = store.spool().unwrap().seal().unwrap();
    store.create_batch_with(spec, MadeInput { file, content }, Control::default(), None).await.unwrap();
    id
}

fn receiver(org: OrgId, url: String) -> Receiver {
    Receiver {
        id: ReceiverId::from_u128(1),
        org,
        name: String::new(),
        webhook: Webhook { url, sealed_secret: Vec::new() },
        status: ReceiverStatus::Active,
        events: Vec::new(),
        created_at: NOW,
        updated_at: NOW,
        deleted_at: None,
    }
}

/// Queues ten thousand messages of one organisation, and, once they hold all places that they get,
/// a message of another: it must go out at once.
async fn check_flood(flood: impl Fn(u128) -> String) {
    let bench = Bench::new().await;
    let mut well = TestReceiver::start(true).await;
    bench.queue(LOUD, 0..FLOOD, flood).await;
    bench.start();
    tokio::time::sleep(PACE * 3).await;
    for event in FLOOD..FLOOD + 3 {
        let (path, start) = (format!("/{event}"), Instant::now());
        bench.queue(QUIET, event..event + 1, |_| well.url(&path)).await;
        let took = well.hears(&path, start).await;
        assert!(took < A_MOMENT, "the message of another organisation took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_to_a_silent_receiver_hold_up_no_other_organisation() {
    let silent = TestReceiver::start(false).await;
    check_flood(|_| silent.url("/")).await;
    assert!(silent.peak.load(Ordering::SeqCst) <= 8, "{:?}", silent.peak);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_to_silent_hosts_hold_up_no_other_organisation() {
    let silent = TestReceiver::start(false).await;
    check_flood(|event| format!("http://127.1.{}.{}:{}/", event / 250, event % 250 + 1, silent.port)).await;
    assert!(silent.peak.load(Ordering::SeqCst) <= 16, "{:?}", silent.peak);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_to_a_dead_receiver_hold_up_no_other_organisation() {
    // The port is bound, so that no other process gets it, and not listening.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    check_flood(|_| url.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_a_silent_receiver_do_not_hide_those_of_the_same_organisation_to_others() {
    let bench = Bench::new().await;
    let (silent, mut well) = (TestReceiver::start(false).await, TestReceiver::start(true).await);
    // A host is a name; so the two are not one host.
    bench.queue(LOUD, 0..FLOOD, |_| silent.url("/")).await;
    bench.queue(LOUD, FLOOD..FLOOD + 1, |_| format!("http://localhost:{}/last", well.port)).await;
    bench.start();
    // The last message is reached when all others were looked at.
    let looks = u32::try_from(FLOOD).unwrap() / 2_000 + 1;
    let took = well.hears("/last", Instant::now()).await;
    assert!(took < PACE * looks + A_MOMENT, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_ends_at_once_hold_up_no_other_organisation() {
    let bench = Bench::new().await;
    let (silent, mut well) = (TestReceiver::start(false).await, TestReceiver::start(true).await);
    for (org, url) in [(LOUD, silent.url("/")), (QUIET, well.url("/quiet"))] {
        let named = crate::domain::org::Organisation { id: org, ..crate::domain::org::Organisation::new(format!("org {org}"), NOW) };
        bench.store.add_org(named, crate::domain::org::ledger::Credits::Unlimited, None, 9).await.unwrap();
        let webhook = Webhook { url, sealed_secret: Vec::new() };
        assert!(bench.store.set_org_webhook(org, Some(webhook)).await.unwrap());
    }
    let store = &bench.store;
    let end = |org| async move {
        let id = create(store, org).await;
        store.batch_refused(id, BatchState::Failed { at: NOW }, Vec::new()).await
    };
    let ends = (0..2_000).map(|_| end(LOUD));
    stream::iter(ends.map(Ok)).try_for_each_concurrent(256, |end| end).await.unwrap();
    end(QUIET).await.unwrap();
    let (start, commits) = (Instant::now(), store.commits());
    bench.start();
    let took = well.hears("/quiet", start).await;
    assert!(took < A_MOMENT + A_MOMENT, "{took:?}");
    let commits = store.commits() - commits;
    assert!(commits < 1_000, "2,001 messages were written with {commits} commits; a slow disk would hold them up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_count_among_the_messages_that_are_sent() {
    let bench = Bench::new().await;
    let (silent, well) = (TestReceiver::start(false).await, TestReceiver::start(true).await);
    bench.queue(LOUD, 0..100, |_| silent.url("/")).await;
    let tester = bench.start();
    tokio::time::sleep(PACE * 3).await;
    let messages = silent.peak.load(Ordering::SeqCst);
    let tests: Vec<_> = (0..50).map(|_| tester.send(receiver(LOUD, silent.url("/test")))).collect();
    let mut tests = stream::iter(tests).buffer_unordered(50);
    let mut refused = 0;
    // Those that are refused end at once; the others wait for the receiver.
    while let Ok(Some(outcome)) = tokio::time::timeout(A_MOMENT, tests.next()).await {
        assert_eq!(outcome.err(), Some(ProbeRefusal::OfOrg));
        refused += 1;
    }
    assert_eq!((messages + 50 - refused, silent.peak.load(Ordering::SeqCst)), (8, 8), "{messages} messages, {refused} tests refused");
    let other = tester.send(receiver(QUIET, well.url("/"))).await.unwrap();
    assert_eq!((other.status, other.error), (Some(204), None), "tests of others are sent");
    // A test whose caller has gone frees its place.
    drop(tests);
    let again = tester.send(receiver(LOUD, format!("http://localhost:{}/", well.port))).await.unwrap();
    assert_eq!(again.status, Some(204));
}

#[tokio::test]
async fn every_end_of_a_batch_has_its_event_of_openais() {
    let bench = Bench::new().await;
    let mut batch = bench.store.batch(bench.batch).await.unwrap().unwrap();
    let (files, at) = (ResultFiles::default(), NOW);
    let ended = |second: i64| at + Duration::from_secs(second.unsigned_abs());
    let ends = [
        (BatchState::Completed { in_progress_at: None, finalizing_at: at, at: ended(1), files }, "batch.completed"),
        (BatchState::Failed { at: ended(2) }, "batch.failed"),
        (BatchState::Expired { in_progress_at: None, finalizing_at: at, at: ended(3), files }, "batch.expired"),
        (BatchState::Cancelled { in_progress_at: None, cancelling_at: at, at: ended(4), files }, "batch.cancelled"),
    ];
    for (second, (state, kind)) in (1..).zip(ends) {
        batch.state = state;
        let written = openai::write(&batch, EventId::from_u128(5), Usd(rust_decimal::Decimal::new(25, 2)));
        let event: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let data = serde_json::json!({ "id": bench.batch.to_string(), "batchd": { "cost_usd": "0.25" } });
        let expected = serde_json::json!({
            "id": EventId::from_u128(5).in_hex(), "object": "event", "created_at": ended(second).as_second(), "type": kind, "data": data,
        });
        assert_eq!(event, expected);
    }
}
