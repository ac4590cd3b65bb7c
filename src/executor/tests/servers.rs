//! Several servers for one model: rows go where there is room, at once and after a server dies, joins
//! or comes back.

use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::*;

/// A server with so many slots; calls beyond them wait. It takes 100 ms for each.
pub(super) struct Slots {
    free: Semaphore,
    pub is_dead: AtomicBool,
}

pub(super) type Fleet = Arc<HashMap<char, Slots>>;

/// Servers named by letters, each with its number of slots.
pub(super) fn fleet(slots: &[(char, usize)]) -> Fleet {
    let server = |slots: usize| Slots { free: Semaphore::new(slots), is_dead: AtomicBool::new(false) };
    Arc::new(slots.iter().map(|(name, slots)| (*name, server(*slots))).collect())
}

pub(super) fn played(fleet: &Fleet) -> Scripted {
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

/// A model of which the catalog knows nothing else.
pub(super) const OWN: &str = "own-model";

fn urls(names: &str) -> Vec<String> {
    names.chars().map(|name| format!("{OWN}=http://{name}.test")).collect()
}

fn serving(names: &str) -> crate::catalog::Snapshot {
    let upstreams = Upstreams::parse(&urls(names)).unwrap();
    let seeds = load_embedded().unwrap().with_upstreams(&upstreams, &UpstreamOptions::default());
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
}

pub(super) const MANY: Settings = Settings { in_flight_limit: 1_000, ..SETTINGS };

async fn open(dir: &Path, fleet: &Fleet, names: &str) -> World {
    World::open_as(dir, played(fleet), serving(names), Duration::from_millis(1), MANY).await
}

/// Calls of each server since a moment.
pub(super) fn calls_since(world: &World, since: Instant) -> HashMap<char, usize> {
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
    let id = world.submit_models(9_000, "24h", |_| OWN).await;
    // The limits are found out.
    tokio::time::sleep(7 * SECOND).await;
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
    let id = world.submit_models(6_000, "24h", |_| OWN).await;
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
        let id = world.order(world::Order { rows: 2_000, prompt, ..world::Order::default() }, |_| OWN).await;
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

/// Two providers with two servers each, under one price.
#[tokio::test(start_paused = true)]
async fn rows_that_begin_alike_stay_with_one_server_of_all_providers_at_their_price() {
    let fleet = fleet(&[('a', 4), ('b', 4), ('c', 4), ('d', 4)]);
    let provider = |id: &str, one: char, other: char| {
        let urls = format!("base_urls = [\"http://{one}.test\", \"http://{other}.test\"]\nlocal = true\n");
        (format!("providers/{id}.toml"), format!("schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\n{urls}"))
    };
    let model = format!(
        "schema = 1\n[[model]]\nid = \"{OWN}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/embeddings\"]\n\
         [[model.offering]]\nprovider = \"x\"\n[[model.offering]]\nprovider = \"y\"\nupstream = \"another-name\"\n"
    );
    let files = [provider("x", 'a', 'b'), provider("y", 'c', 'd'), ("models/m.toml".to_owned(), model)].into_iter().collect();
    let seeds = crate::catalog::load_archive(crate::catalog::Archive(files)).unwrap_or_else(|faults| panic!("{faults}"));
    let snapshot = seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| true);
    // Rows next to each other begin alike, and would go to different providers by room alone.
    let family = |row: u32| row / 2 % 40;
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_as(dir.path(), played(&fleet), snapshot, Duration::from_millis(1), MANY).await;
    let prompt: fn(u32) -> &'static str = |row| PROMPTS[row as usize / 2 % PROMPTS.len()];
    let id = world.order(world::Order { rows: 4_000, prompt, ..world::Order::default() }, |_| OWN).await;
    assert_eq!(world.ended(id).await.progress.succeeded, 4_000);
    let (mut servers, mut providers) = (HashMap::<u32, HashMap<char, usize>>::new(), HashMap::<char, usize>::new());
    for seen in world.seen() {
        *servers.entry(family(seen.row)).or_default().entry(seen.provider).or_default() += 1;
        *providers.entry(seen.provider).or_default() += 1;
    }
    let at_home: usize = servers.values().map(|servers| servers.values().max().unwrap()).sum();
    assert!(at_home >= 3_200, "{at_home} of 4,000 rows went where most went that begin like them");
    assert!(providers.len() == 4 && providers.values().all(|rows| *rows >= 700), "each had its share: {providers:?}");
    world.close().await;
}

const PROMPTS: [&str; 40] = [
    "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "c0", "c1",
    "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9",
];

/// Providers of one model, each with a price for a million tokens.
fn priced(offers: &[(&str, u32)]) -> crate::catalog::Snapshot {
    let provider = |id: &str| {
        let text = format!("schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"http://{id}.test\"\n");
        (format!("providers/{id}.toml"), text)
    };
    let offering = |(id, price): &(&str, u32)| {
        format!(
            "[[model.offering]]\nprovider = \"{id}\"\nupstream = \"{id}-model\"\n\
             [[model.offering.price]]\ninput = \"{price}\"\nsource = \"https://p\"\nverified_at = 2026-01-01\n"
        )
    };
    let model =
        format!("schema = 1\n[[model]]\nid = \"{OWN}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/embeddings\"]\n");
    let model = offers.iter().map(offering).fold(model, |text, offering| text + &offering);
    let files = offers.iter().map(|(id, _)| provider(id)).chain([("models/m.toml".to_owned(), model)]).collect();
    let seeds = crate::catalog::load_archive(crate::catalog::Archive(files)).unwrap_or_else(|faults| panic!("{faults}"));
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| true)
}

#[tokio::test(start_paused = true)]
async fn providers_at_one_price_share_the_rows_and_dearer_ones_get_none() {
    let fleet = fleet(&[('a', 2), ('b', 6), ('c', 8)]);
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_as(dir.path(), played(&fleet), priced(&[("a", 1), ("b", 1), ("c", 2)]), Duration::from_millis(1), MANY).await;
    let started = Instant::now();
    let id = world.submit_models(3_000, "24h", |_| OWN).await;
    assert_eq!(world.ended(id).await.progress.succeeded, 3_000);
    let (took, lanes) = (started.elapsed(), world.lanes_of(id).await);
    assert!(took < SECOND * 3_000 / 80 * 11 / 10, "{took:?}, instead of {:?} with all eight slots", SECOND * 3_000 / 80);
    let at_a = lanes["a/a-model"];
    assert!((650..850).contains(&at_a) && lanes["b/b-model"] == 3_000 - at_a, "{lanes:?}");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_dearer_provider_helps_when_the_cheapest_cannot_make_the_deadline() {
    for (window, helps) in [("24h", false), ("5m", true)] {
        let fleet = fleet(&[('a', 1), ('b', 8)]);
        let dir = tempfile::tempdir().unwrap();
        let world = World::open_as(dir.path(), played(&fleet), priced(&[("a", 1), ("b", 2)]), Duration::from_millis(1), MANY).await;
        let fallback = crate::domain::batch::Fallback::Within(crate::domain::money::MaxPrice::default());
        // Ten rows a second at `a`: 600 seconds.
        let id = world.order(world::Order { rows: 6_000, window, fallback, ..world::Order::default() }, |_| OWN).await;
        let batch = world.ended(id).await;
        assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("completed", 6_000), "{window}");
        assert_eq!(world.lanes_of(id).await.contains_key("b/b-model"), helps, "{window}");
        world.close().await;
    }
}

/// A model server that is stopped closes its port, and never answers what it was working on.
#[tokio::test(start_paused = true)]
async fn calls_from_before_a_restart_do_not_block_the_server_that_is_back() {
    let (stopped, back) = (Instant::now() + 5 * SECOND, Instant::now() + 20 * SECOND);
    let provider = script(move |seen| {
        async move {
            if (stopped..back).contains(&seen.at) {
                return Err(gone());
            }
            tokio::time::sleep(SECOND).await;
            if seen.at < stopped && Instant::now() >= stopped {
                std::future::pending::<()>().await;
            }
            answer(200, None)
        }
        .boxed()
    });
    let is_open = move || !(stopped..back).contains(&Instant::now());
    let provider = Scripted { asked: Some(Arc::new(move |_| if is_open() { Ok(200) } else { Err(gone()) })), ..provider };
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_as(dir.path(), provider, serving("a"), Duration::from_millis(1), MANY).await;
    let id = world.submit_models(400, "24h", |_| OWN).await;
    let batch = world.ended(id).await;
    assert_eq!(batch.progress.succeeded, 400);
    let last = world.seen().iter().map(|seen| seen.at).max().unwrap();
    assert!(last < back + 90 * SECOND, "{:?} after the server was back", last - back);
    let repeated = world.seen().iter().filter(|seen| seen.attempt > 1 && seen.at >= back).count();
    assert!(repeated >= 8, "{repeated} rows were sent again");
    world.close().await;
}
