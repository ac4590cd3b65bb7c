//! Several servers behind one name: each address gets its share of the rows, also after it joins, dies
//! or leaves.

use super::lane::Lanes;
use super::servers::{Fleet, MANY, OWN, calls_since, fleet, played};
use super::*;

/// What the name resolves to now: the ends of the addresses, or nothing because the resolver is out of
/// order; and how often it was asked.
#[derive(Clone, Default)]
struct Resolved {
    ends: Arc<Mutex<Option<Vec<u8>>>>,
    count: Arc<AtomicU32>,
}

impl Resolved {
    fn to(ends: &[u8]) -> Self {
        let resolved = Self::default();
        resolved.set(Some(ends));
        resolved
    }

    fn set(&self, ends: Option<&[u8]>) {
        *self.ends.lock().unwrap() = ends.map(<[u8]>::to_vec);
    }

    /// The servers of a fleet behind the name.
    fn played(&self, fleet: &Fleet) -> Scripted {
        let resolved = self.clone();
        let resolver: Resolver = Arc::new(move || {
            resolved.count.fetch_add(1, SeqCst);
            let ends = resolved.ends.lock().unwrap().clone().ok_or_else(|| std::io::Error::other("no answer"))?;
            Ok(ends.into_iter().map(|end| IpAddr::from([10, 0, 0, end])).collect())
        });
        Scripted { resolver: Some(resolver), ..played(fleet) }
    }
}

/// A name whose first letter stands for all servers behind it.
fn serving() -> crate::catalog::Snapshot {
    let upstreams = Upstreams::parse(&[format!("{OWN}=http://name.test:8000")]).unwrap();
    let seeds = load_embedded().unwrap().with_upstreams(&upstreams, &UpstreamOptions::default());
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
}

async fn open(dir: &Path, provider: Scripted) -> World {
    World::open_as(dir, provider, serving(), Duration::from_millis(1), MANY).await
}

/// The calls of each server in so many seconds.
async fn calls_in(world: &World, seconds: u32) -> HashMap<char, usize> {
    let since = Instant::now();
    tokio::time::sleep(SECOND * seconds).await;
    calls_since(world, since)
}

#[tokio::test(start_paused = true)]
async fn servers_behind_one_name_share_the_rows_and_come_and_go() {
    let (fleet, resolved) = (fleet(&[('n', 2), ('a', 2), ('b', 6), ('c', 4)]), Resolved::to(&[1, 2]));
    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), resolved.played(&fleet)).await;
    let id = world.submit_models(9_000, "24h", |_| OWN).await;
    tokio::time::sleep(7 * SECOND).await;
    let calls = calls_in(&world, 5).await;
    assert!((90..=110).contains(&calls[&'a']) && (270..=330).contains(&calls[&'b']) && calls.len() == 2, "{calls:?}");
    // One joins.
    resolved.set(Some(&[3, 2, 1]));
    tokio::time::sleep(16 * SECOND).await;
    let calls = calls_in(&world, 5).await;
    assert!(calls[&'c'] >= 180 && calls[&'b'] >= 270, "{calls:?} after c has joined");
    // One dies, and its address stays for a while.
    let before = resolved.count.load(SeqCst);
    fleet[&'b'].is_dead.store(true, SeqCst);
    let calls = calls_in(&world, 10).await;
    assert!(calls[&'b'] < 40 && calls[&'c'] >= 380 && calls[&'a'] >= 180, "{calls:?} after b has died");
    assert!((4..=6).contains(&(resolved.count.load(SeqCst) - before)), "the name is looked up sooner");
    resolved.set(Some(&[3, 1]));
    tokio::time::sleep(3 * SECOND).await;
    let calls = calls_in(&world, 5).await;
    assert_eq!(calls.get(&'b'), None, "{calls:?} after b has left");
    // The resolver is out of order, and one server of its last answer goes on.
    resolved.set(Some(&[3]));
    tokio::time::sleep(11 * SECOND).await;
    resolved.set(None);
    let (before, calls) = (resolved.count.load(SeqCst), calls_in(&world, 30).await);
    assert!(calls[&'c'] >= 1_100 && calls.len() == 1, "{calls:?} without a resolver");
    assert!((2..=4).contains(&(resolved.count.load(SeqCst) - before)), "the name is looked up every ten seconds");
    resolved.set(Some(&[]));
    assert_eq!(world.ended(id).await.progress.succeeded, 9_000);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_with_one_address_is_one_server_until_there_are_more() {
    let (fleet, resolved) = (fleet(&[('n', 4), ('a', 4), ('b', 4)]), Resolved::to(&[1]));
    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), resolved.played(&fleet)).await;
    let id = world.submit_models(3_000, "24h", |_| OWN).await;
    assert_eq!(calls_in(&world, 20).await.into_keys().collect::<Vec<_>>(), ['n']);
    assert!(world.handle.board().lanes().all(|(.., lane)| lane.servers.is_empty()));
    resolved.set(Some(&[1, 2]));
    tokio::time::sleep(12 * SECOND).await;
    let calls = calls_in(&world, 5).await;
    // What is known of the one is known of the first.
    assert!(calls[&'a'] >= 180 && calls[&'b'] >= 150 && calls.len() == 2, "{calls:?}");
    let shown: Vec<_> = world.handle.board().lanes().flat_map(|(.., lane)| lane.servers).map(|(server, _)| server).collect();
    assert_eq!(shown, ["http://name.test:8000/ at 10.0.0.1", "http://name.test:8000/ at 10.0.0.2"]);
    assert_eq!(world.ended(id).await.progress.succeeded, 3_000);
    world.close().await;
}

/// Pods of a cluster have another address after each restart.
#[tokio::test(start_paused = true)]
async fn servers_that_are_replaced_for_ever_take_bounded_room() {
    let (provider, catalog) = (Resolved::to(&[1]).played(&fleet(&[])), serving());
    let open: OpenProvider = Arc::new(move |_| Ok(provider.named('n')));
    let mut lanes = Lanes::new(open, 64, 3);
    let lane = lanes.of("upstream", OWN, &catalog).unwrap();
    for turn in 0..100_u8 {
        let now = Instant::now();
        let due = lanes.names_due(now, (10 * SECOND, SECOND));
        let [(name, _)] = &due[..] else { panic!("{} names", due.len()) };
        // A call is still with a server that has left.
        let sent = lanes.start(lane, lanes.slot(lane, now).unwrap().server, now, 1).unwrap();
        let found = (0..8).map(|pod| IpAddr::from([10, 0, turn, pod])).collect();
        assert!(lanes.on_found(name, Ok(found)));
        assert_eq!(lanes.of("upstream", OWN, &catalog), Some(lane));
        assert_eq!(lanes.pools().count(), 8);
        lanes.end(lane, now, Timestamp::UNIX_EPOCH, &sent, None);
        tokio::time::advance(10 * SECOND).await;
    }
    let all = (0..).take_while(|index| lanes.pool(*index).is_some()).count();
    assert!(all <= 64 + 2 * 8, "{all} servers are remembered");
}
