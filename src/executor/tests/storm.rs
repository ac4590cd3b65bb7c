//! Everything at once: two providers that fail in every possible way, batches of many kinds, and an
//! operator who keeps intervening. Checks what must hold in any case.

use super::lanes::two_lanes;
use super::world::Order;
use super::*;
use crate::domain::batch::Fallback;
use crate::domain::batch::priority::{ControlChange, Priority};
use crate::domain::money::MaxPrice;
use crate::domain::provider::lane_hold::Hold;
use crate::domain::time::until;

/// The weather at a provider, for a while.
#[derive(Debug, Clone, Copy)]
enum Weather {
    Fine,
    /// The server is unreachable.
    Gone,
    /// This many calls a second are accepted, the others refused.
    Limited(u32),
    /// Every call takes this long.
    Wall(Duration),
    /// This many calls at a time are served well, the others get 503.
    Crowded(u32),
    /// Connections break halfway.
    Cutting,
    /// The server answers 500.
    Broken,
}

const WEATHERS: [Weather; 9] = [
    Weather::Fine,
    Weather::Gone,
    Weather::Limited(20),
    Weather::Wall(Duration::from_secs(20)),
    Weather::Crowded(3),
    Weather::Cutting,
    Weather::Broken,
    Weather::Limited(3),
    Weather::Fine,
];

/// Counts a call as ended, however it ends.
struct Back<'a>(&'a AtomicU32);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// What a provider sees and does. The weather follows from the time and a seed.
#[derive(Default)]
struct Sky {
    now: AtomicU32,
    most: AtomicU32,
    second: Mutex<(u64, u32)>,
}

impl Sky {
    fn weather(seed: u64, provider: char, since: Duration) -> Weather {
        // Each weather lasts half a minute; after ten minutes the storm is over.
        let turn = since.as_secs() / 30;
        if turn >= 20 {
            return Weather::Fine;
        }
        let mixed = (turn + 31 * u64::from(u32::from(provider))).wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        WEATHERS[usize::try_from(mixed % WEATHERS.len() as u64).unwrap()]
    }

    async fn call(&self, weather: Weather, since: Duration) -> Result<Answer, CallError> {
        let out = self.now.fetch_add(1, SeqCst) + 1;
        // Calls may also be abandoned.
        let _back = Back(&self.now);
        self.most.fetch_max(out, SeqCst);
        self.reply(weather, since, out).await
    }

    async fn reply(&self, weather: Weather, since: Duration, out: u32) -> Result<Answer, CallError> {
        let taken = {
            let mut second = self.second.lock().unwrap();
            *second = if second.0 == since.as_secs() { (second.0, second.1 + 1) } else { (since.as_secs(), 1) };
            second.1
        };
        let (wait, reply) = match weather {
            Weather::Gone => (1, Err(CallError::Connect { host: "h".into(), reason: "refused".into() })),
            Weather::Limited(most) if taken > most => (5, answer(429, (taken % 3 == 0).then_some(SECOND))),
            Weather::Crowded(most) if out > most => (5, answer(503, None)),
            Weather::Cutting => (50, Err(CallError::Interrupted { host: "h".into(), reason: "cut".into() })),
            Weather::Broken => (20, answer(500, None)),
            Weather::Wall(wait) => (u64::try_from(wait.as_millis()).unwrap(), answer(200, None)),
            Weather::Fine | Weather::Limited(_) | Weather::Crowded(_) => (100, answer(200, None)),
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        reply
    }
}

/// Both lanes state a limit of six calls at a time.
const LIMIT: u32 = 6;

fn stormy(seed: u64, start: Instant) -> (Scripted, [Arc<Sky>; 2]) {
    let skies = [Arc::new(Sky::default()), Arc::new(Sky::default())];
    let [a, b] = skies.clone();
    let provider = script(move |seen| {
        let sky = if seen.provider == 'a' { a.clone() } else { b.clone() };
        let since = seen.at - start;
        let weather = Sky::weather(seed, seen.provider, since);
        async move { sky.call(weather, since).await }.boxed()
    });
    (provider, skies)
}

/// Intervenes now and then, as an operator does.
async fn pull_levers(world: &World, ids: &[BatchId], turn: u64) {
    let random = fastrand::u64(..);
    let id = ids[usize::try_from(random).unwrap_or(0) % ids.len()];
    let lane = if random.is_multiple_of(2) { "a" } else { "b/b-model" };
    let priority = Priority::ALL[usize::try_from(random % 4).unwrap()];
    // Each intervention is undone in the next turn.
    let hold = [None, Some(Hold::Paused), Some(Hold::Drained)][usize::try_from(turn % 3).unwrap()];
    let change = ControlChange { priority: Some(priority), paused: Some(turn % 4 == 1) };
    // A batch may have ended by now.
    let _ = world.handle.control(id, change).await;
    if turn % 4 != 1 {
        for id in ids {
            let _ = world.handle.control(*id, ControlChange { paused: Some(false), priority: None }).await;
        }
    }
    world.handle.hold_lane(lane.parse().unwrap(), hold, world.clock.now()).await.unwrap();
    if hold.is_none() {
        for lane in ["a", "b/b-model"] {
            world.handle.hold_lane(lane.parse().unwrap(), None, world.clock.now()).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_every_row_has_one_result_and_the_limits_hold() {
    for seed in [1, 2, 3, 4] {
        let dir = tempfile::tempdir().unwrap();
        let (provider, skies) = stormy(seed, Instant::now());
        let limits = format!("limits = {{ in_flight = {LIMIT} }}");
        let world = World::open_on(dir.path(), provider, two_lanes(&limits, &limits), Duration::from_millis(1)).await;
        let any = Fallback::Within(MaxPrice::default());
        let kinds = [("24h", any), ("24h", Fallback::Never), ("24h", Fallback::NotDearer), ("3m", any), ("10m", any)];
        let mut ids = Vec::new();
        for turn in 0..20_u32 {
            let (window, fallback) = kinds[turn as usize % kinds.len()];
            let order = Order { rows: 1 + turn * turn * 3, window, owner: u64::from(turn % 3), fallback, ..Order::default() };
            ids.push(world.order(order, |_| MODEL).await);
            tokio::time::sleep(2 * SECOND).await;
        }
        for turn in 0..40 {
            pull_levers(&world, &ids, turn).await;
            tokio::time::sleep(Duration::from_secs(fastrand::u64(1..20))).await;
        }
        for id in &ids {
            let _ = world.handle.control(*id, ControlChange { paused: Some(false), priority: None }).await;
        }
        for lane in ["a", "b/b-model"] {
            world.handle.hold_lane(lane.parse().unwrap(), None, world.clock.now()).await.unwrap();
        }
        for id in &ids {
            check_ended(&world, *id, seed).await;
        }
        for sky in &skies {
            assert!(sky.most.load(SeqCst) <= LIMIT, "{} calls at a time, seed {seed}", sky.most.load(SeqCst));
        }
        world.close().await;
    }
}

async fn check_ended(world: &World, id: BatchId, seed: u64) {
    let batch = world.ended(id).await;
    let progress = batch.progress;
    assert_eq!(progress.unfinished(), 0, "seed {seed}");
    let lines: usize = world.codes(id).await.values().sum();
    assert_eq!(lines, progress.total as usize, "one line for each row, seed {seed}");
    match batch.state.as_str() {
        "completed" => {}
        // Reported as expired, in time.
        "expired" => assert!(
            until(batch.spec.created_at, batch.spec.deadline()) < Duration::from_secs(3_600) && progress.failed > 0,
            "{batch:?}, seed {seed}"
        ),
        other => panic!("{other}, seed {seed}"),
    }
}
