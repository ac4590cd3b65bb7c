//! A server that others use, too: no more calls wait in it than may.

use super::*;

/// A server that works on so many calls at a time, of ours and of others, in the order in which they
/// came, and says how many wait.
struct Shared {
    slots: usize,
    queue: Mutex<Queue>,
    moved: tokio::sync::Notify,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: std::collections::VecDeque<u64>,
    next: u64,
    /// The most that have waited.
    most: usize,
}

const TAKES: Duration = Duration::from_millis(200);

impl Shared {
    fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self { slots, queue: Mutex::default(), moved: tokio::sync::Notify::new() })
    }

    /// Takes a place and works on a call. Returns how long it has waited.
    async fn serve(&self) -> Duration {
        let (came, ticket) = (Instant::now(), {
            let mut queue = self.queue.lock().unwrap();
            let ticket = queue.next;
            queue.next += 1;
            queue.waiting.push_back(ticket);
            ticket
        });
        loop {
            let moved = self.moved.notified();
            {
                let mut queue = self.queue.lock().unwrap();
                if queue.running < self.slots && queue.waiting.front() == Some(&ticket) {
                    queue.waiting.pop_front();
                    queue.running += 1;
                    break;
                }
                queue.most = queue.most.max(queue.waiting.len());
            }
            moved.await;
        }
        self.moved.notify_waiters();
        let waited = came.elapsed();
        tokio::time::sleep(TAKES).await;
        self.queue.lock().unwrap().running -= 1;
        self.moved.notify_waiters();
        waited
    }

    fn waiting(&self) -> usize {
        self.queue.lock().unwrap().waiting.len()
    }

    /// The most that have waited since the last look.
    fn take_most(&self) -> usize {
        std::mem::take(&mut self.queue.lock().unwrap().most)
    }

    fn scripted(self: &Arc<Self>, says: bool) -> Scripted {
        let (server, said) = (self.clone(), self.clone());
        let hints: Hints = Arc::new(move |_| match says {
            true => ServerHints { waiting: u32::try_from(said.waiting()).ok(), slots: None },
            false => ServerHints::default(),
        });
        let calls = script(move |_| {
            let server = server.clone();
            async move {
                server.serve().await;
                answer(200, None)
            }
            .boxed()
        });
        Scripted { hints: Some(hints), ..calls }
    }
}

/// A server of one's own in which at most so many calls may wait.
fn bound(max_waiting: &str) -> crate::catalog::Snapshot {
    let text = format!(
        "schema = 1\nid = \"own\"\nname = \"own\"\nkind = \"openai\"\nbase_url = \"http://own.test\"\nlocal = true\n\
         catch_all = true\nlimits = {{ in_flight = 400 }}\n{max_waiting}"
    );
    let files = std::iter::once(("providers/own.toml".to_owned(), text)).collect();
    let seeds = crate::catalog::load_archive(crate::catalog::Archive(files)).unwrap_or_else(|faults| panic!("{faults}"));
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| true)
}

const MANY: Settings = Settings { in_flight_limit: 1_000, ..SETTINGS };

async fn open(dir: &Path, provider: Scripted, max_waiting: &str) -> World {
    World::open_as(dir, provider, bound(max_waiting), Duration::from_millis(1), MANY).await
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_wait_in_a_server_than_may() {
    let (server, dir) = (Shared::new(16), tempfile::tempdir().unwrap());
    let world = open(dir.path(), server.scripted(true), "max_waiting = 4\n").await;
    let id = world.submit_models(6_000, "24h", |_| "m").await;
    tokio::time::sleep(5 * SECOND).await;
    let (before, since) = (world.seen().len(), Instant::now());
    tokio::time::sleep(10 * SECOND).await;
    let (calls, most) = (world.seen().len() - before, server.take_most());
    // Sixteen slots do 80 calls a second.
    assert!(calls >= 760 && most <= 4, "{calls} calls in {:?}, at most {most} waited", since.elapsed());
    // People use it: each waits behind four calls at most.
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(server.serve().await);
        tokio::time::sleep(SECOND / 3).await;
    }
    assert!(waits.iter().all(|wait| *wait <= TAKES), "{waits:?}");
    // More people than it has slots for: the batch gives way.
    let mut people = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let server = server.clone();
        people.spawn(async move {
            for _ in 0..60 {
                server.serve().await;
            }
        });
    }
    tokio::time::sleep(6 * SECOND).await;
    let before = world.seen().len();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(world.seen().len(), before, "calls went out while {} waited", server.waiting());
    let waits = world.handle.board().waiting(id).to_vec();
    assert_eq!(waits.iter().map(|waiting| waiting.reason.code()).collect::<Vec<_>>(), ["server_busy"]);
    people.join_all().await;
    assert_eq!(world.ended(id).await.progress.succeeded, 6_000);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_or_a_word_of_the_server_the_limit_alone_holds() {
    for (says, max_waiting) in [(true, ""), (false, "max_waiting = 4\n")] {
        let (server, dir) = (Shared::new(16), tempfile::tempdir().unwrap());
        let world = open(dir.path(), server.scripted(says), max_waiting).await;
        let id = world.submit_models(3_000, "24h", |_| "m").await;
        tokio::time::sleep(3 * SECOND).await;
        assert!(server.take_most() > 50, "{says} {max_waiting:?}");
        assert_eq!(world.ended(id).await.progress.succeeded, 3_000);
        world.close().await;
    }
}
