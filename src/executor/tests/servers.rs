//! Several servers for one model: rows go where there is room, at once and after a server dies, joins
//! or comes back.

use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::*;

/// A server with so many slots; calls beyond them wait. It takes 100 ms for each.
struct Slots {
    free: Semaphore,
    is_dead: AtomicBool,
}

type Fleet = Arc<HashMap<char, Slots>>;

/// Servers named by letters, each with its number of slots.
fn fleet(slots: &[(char, usize)]) -> Fleet {
    let server = |slots: usize| Slots { free: Semaphore::new(slots), is_dead: AtomicBool::new(false) };
    Arc::new(slots.iter().map(|(name, slots)| (*name, server(*slots))).collect())
}

fn played(fleet: &Fleet) -> Scripted {
    let fleet = fleet.clone();
    script(move |seen| {
        let fleet = fleet.clone();
        async move {
            let server = &fleet[&seen.provider];
            if server.is_dead.load(SeqCst) {
                return Err(gone());
            }
            let _slot = server.free.acquire().await.unwrap();
            tokio::time::sleep(SECOND / 10).await;
            if server.is_dead.load(SeqCst) {
                Err(CallError::Interrupted { host: "h".into(), reason: "killed".into() })
            } else {
                answer(200, None)
            }
        }
        .boxed()
    })
}

fn urls(names: &str) -> Vec<String> {
    names.chars().map(|name| format!("{MODEL}=http://{name}.test")).collect()
}

fn serving(names: &str) -> crate::catalog::Snapshot {
    let urls = urls(names);
    world::catalog(&urls.iter().map(String::as_str).collect::<Vec<_>>())
}

const MANY: Settings = Settings { in_flight_limit: 1_000, ..SETTINGS };

async fn open(dir: &Path, fleet: &Fleet, names: &str) -> World {
    World::open_as(dir, played(fleet), serving(names), Duration::from_millis(1), MANY).await
}

/// Calls of each server since a moment.
fn calls_since(world: &World, since: Instant) -> HashMap<char, usize> {
    let mut calls = HashMap::new();
    world.seen().iter().filter(|seen| seen.at >= since).for_each(|seen| *calls.entry(seen.provider).or_default() += 1);
    calls
}

#[tokio::test(start_paused = true)]
async fn ten_servers_share_the_rows_of_a_model_by_what_they_take() {
    let slots: Vec<_> = ('a'..='j').zip([1, 2, 3, 4, 5, 6, 7, 8, 2, 6]).collect();
    let fleet = fleet(&slots);
    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), &fleet, "abcdefghij").await;
    let id = world.submit(9_000, "24h").await;
    // The limits are found out.
    tokio::time::sleep(3 * SECOND).await;
    let (since, before) = (Instant::now(), world.store.batch(id).await.unwrap().unwrap().progress.succeeded);
    tokio::time::sleep(8 * SECOND).await;
    let (calls, after) = (calls_since(&world, since), world.store.batch(id).await.unwrap().unwrap().progress.succeeded);
    let all: usize = slots.iter().map(|(_, slots)| slots).sum();
    let whole = f64::from(u32::try_from(80 * all).unwrap());
    assert!(f64::from(after - before) >= 0.95 * whole, "{} rows in 8 s, of {whole} at best", after - before);
    for (name, slots) in &slots {
        let (share, fair) = (calls[name] as f64 / whole, *slots as f64 / all as f64);
        assert!((share - fair).abs() <= 0.05 * fair.max(0.05), "{name}: {share:.4} of the calls instead of {fair:.4}");
    }
    // One is killed.
    fleet[&'h'].is_dead.store(true, SeqCst);
    tokio::time::sleep(2 * SECOND).await;
    let (since, before) = (Instant::now(), world.store.batch(id).await.unwrap().unwrap().progress.succeeded);
    tokio::time::sleep(2 * SECOND).await;
    let after = world.store.batch(id).await.unwrap().unwrap().progress.succeeded;
    assert!(usize::try_from(after - before).unwrap() >= (all - 8) * 20 * 95 / 100, "{} rows in 2 s", after - before);
    let at_dead = calls_since(&world, since).remove(&'h').unwrap_or_default();
    assert!(at_dead <= 3, "{at_dead} calls of a dead server");
    assert_eq!(world.ended(id).await.progress.succeeded, 9_000);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_joins_leaves_or_returns_is_noticed_within_seconds() {
    let fleet = fleet(&[('a', 4), ('b', 4), ('c', 4)]);
    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), &fleet, "ab").await;
    let id = world.submit(6_000, "24h").await;
    tokio::time::sleep(5 * SECOND).await;
    world.catalog.replace(serving("abc"));
    tokio::time::sleep(2 * SECOND).await;
    let since = Instant::now();
    tokio::time::sleep(2 * SECOND).await;
    assert!(calls_since(&world, since)[&'c'] >= 70, "{:?} after c has joined", calls_since(&world, since));
    world.catalog.replace(serving("bc"));
    tokio::time::sleep(SECOND).await;
    let since = Instant::now();
    fleet[&'b'].is_dead.store(true, SeqCst);
    tokio::time::sleep(10 * SECOND).await;
    let calls = calls_since(&world, since);
    assert!(!calls.contains_key(&'a') && calls[&'c'] >= 380, "{calls:?} after a has left, while b is dead");
    fleet[&'b'].is_dead.store(false, SeqCst);
    tokio::time::sleep(6 * SECOND).await;
    let since = Instant::now();
    tokio::time::sleep(2 * SECOND).await;
    assert!(calls_since(&world, since)[&'b'] >= 70, "{:?} after b has returned", calls_since(&world, since));
    assert_eq!(world.ended(id).await.progress.succeeded, 6_000);
    world.close().await;
}

/// Rows with 40 beginnings in turn; each server remembers the last eight.
#[tokio::test(start_paused = true)]
async fn rows_that_begin_alike_find_the_cache_of_their_server() {
    let mut rates = Vec::new();
    for names in ["a", "abcd"] {
        let fleet = fleet(&[('a', 4), ('b', 4), ('c', 4), ('d', 4)]);
        let dir = tempfile::tempdir().unwrap();
        let world = open(dir.path(), &fleet, names).await;
        let prompt: fn(u32) -> &'static str = |row| PROMPTS[row as usize % PROMPTS.len()];
        let id = world.order(world::Order { rows: 2_000, prompt, ..world::Order::default() }, |_| MODEL).await;
        assert_eq!(world.ended(id).await.progress.succeeded, 2_000);
        let mut caches: HashMap<char, Vec<u32>> = HashMap::new();
        let mut hits = 0;
        for seen in world.seen() {
            let (beginning, cache) = (seen.row % 40, caches.entry(seen.provider).or_default());
            match cache.iter().position(|known| *known == beginning) {
                Some(place) => {
                    hits += 1;
                    cache.remove(place);
                }
                None if cache.len() == 8 => _ = cache.remove(0),
                None => {}
            }
            cache.push(beginning);
        }
        rates.push(f64::from(hits) / 2_000.0);
        world.close().await;
    }
    assert!(rates[0] > 0.8 && rates[1] >= 0.9 * rates[0], "{rates:?}");
}

const PROMPTS: [&str; 40] = [
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "c0", "c1",
    "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9",
];
