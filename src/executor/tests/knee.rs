//! A server that does the most work with so many calls at a time, and less with more.

use tokio::sync::Semaphore;

use super::*;

const TAKES: Duration = Duration::from_millis(200);

/// A server with a knee, and when its calls ended.
#[derive(Clone)]
struct Server {
    slots: Arc<Semaphore>,
    knee: Arc<AtomicU32>,
    open: Arc<AtomicU32>,
    ends: Arc<Mutex<Vec<Instant>>>,
}

impl Server {
    fn new(knee: u32) -> Self {
        let slots = Arc::new(Semaphore::new(knee as usize));
        Self { slots, knee: Arc::new(AtomicU32::new(knee)), open: Arc::default(), ends: Arc::default() }
    }

    fn grow(&self, knee: u32) {
        self.slots.add_permits((knee - self.knee.swap(knee, SeqCst)) as usize);
    }

    fn scripted(&self) -> Scripted {
        let server = self.clone();
        script(move |_| {
            let server = server.clone();
            async move {
                server.open.fetch_add(1, SeqCst);
                let slot = server.slots.acquire().await.unwrap();
                // Calls that wait cost those that run, as a prompt cache does that is too small.
                let (open, knee) = (server.open.load(SeqCst), server.knee.load(SeqCst));
                let excess = f64::from(open.saturating_sub(knee)) / f64::from(knee);
                tokio::time::sleep(TAKES.mul_f64(1.0 + excess / 2.0)).await;
                drop(slot);
                server.open.fetch_sub(1, SeqCst);
                server.ends.lock().unwrap().push(Instant::now());
                answer(200, None)
            }
            .boxed()
        })
    }

    /// The part of what it can do that the server did from one moment to another.
    fn share(&self, from: Instant, to: Instant) -> f64 {
        let calls = self.ends.lock().unwrap().iter().filter(|end| (from..to).contains(*end)).count();
        calls as f64 * TAKES.as_secs_f64() / (f64::from(self.knee.load(SeqCst)) * (to - from).as_secs_f64())
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_room_for_is_found_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(8);
    let settings = Settings { in_flight_limit: 1_024, input: InputLimits { max_rows: 40_000, ..SETTINGS.input }, ..SETTINGS };
    let world = World::open_unlimited(dir.path(), server.scripted(), settings).await;
    let id = world.submit(30_000, "24h").await;
    let start = Instant::now();
    tokio::time::sleep(90 * SECOND).await;
    let few = server.share(start + 30 * SECOND, start + 90 * SECOND);
    server.grow(64);
    let grown = Instant::now();
    tokio::time::sleep(75 * SECOND).await;
    let many = server.share(grown + 45 * SECOND, grown + 75 * SECOND);
    assert!(
        few >= 0.9 && many >= 0.9,
        "{few:.3} of what eight slots can do, {many:.3} of what 64 can do: {:?}",
        world.handle.board().lanes().collect::<Vec<_>>()
    );
    world.handle.cancel(id).await.unwrap();
    world.ended(id).await;
    world.close().await;
}
