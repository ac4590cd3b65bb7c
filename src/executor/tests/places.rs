//! Places are shared by owner, and a run that can do nothing with its place gives it to another.

use super::world::Order;
use super::*;
use crate::domain::batch::priority::Priority;

/// A model of a server that is never well, and one of a server that is.
const BAD: &str = "bad-model";
const GOOD: &str = "good-model";

async fn world(dir: &Path, provider: Scripted) -> World {
    let upstreams = [format!("{BAD}=http://a.test"), format!("{GOOD}=http://b.test")];
    let upstreams: Vec<_> = upstreams.iter().map(String::as_str).collect();
    World::open_with(dir, provider, &upstreams, Duration::from_millis(1)).await
}

fn by(owner: u64, rows: u32) -> Order<'static> {
    Order { rows, owner, ..Order::default() }
}

#[tokio::test(start_paused = true)]
async fn runs_that_wait_for_a_server_that_is_not_well_keep_no_place_from_others() {
    for bad in [
        || answer(429, Some(300 * SECOND)),
        || answer(503, None),
        || Err(gone()),
        || saying(401, "{\"error\":{\"code\":\"invalid_api_key\"}}"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let provider = script(move |seen| std::future::ready(if seen.provider == 'a' { bad() } else { answer(200, None) }).boxed());
        let world = world(dir.path(), provider).await;
        let mut stuck = Vec::new();
        for _ in 0..3 * SETTINGS.max_running {
            stuck.push(world.order(by(1, 1), |_| BAD).await);
        }
        // Long enough for the server to be known to be not well.
        tokio::time::sleep(30 * SECOND).await;
        let start = Instant::now();
        for owner in [1, 2] {
            let id = world.order(by(owner, 3), |_| GOOD).await;
            assert_eq!(world.ended(id).await.progress.succeeded, 3, "owner {owner}");
        }
        assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
        for id in stuck {
            assert!(!world.store.batch(id).await.unwrap().unwrap().state.is_terminal(), "no row is lost");
        }
        world.abort.cancel();
        world.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rows_come_again_when_their_server_is_well_however_many_batches_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let provider = script(move |seen| {
        let is_down = seen.provider == 'a' && start.elapsed() < 100 * SECOND;
        tokio::time::sleep(SECOND / 10).map(move |()| if is_down { Err(gone()) } else { answer(200, None) }).boxed()
    });
    let world = world(dir.path(), provider).await;
    let mut ids = Vec::new();
    for number in 0..3 * SETTINGS.max_running {
        ids.push(world.order(by(1 + number as u64 % 3, 5), |_| BAD).await);
    }
    for id in ids {
        let batch = world.ended_some_time(id).await;
        assert_eq!((batch.state.as_str(), batch.progress.succeeded), ("completed", 5));
    }
    assert!(start.elapsed() < 200 * SECOND, "{:?}", start.elapsed());
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_many_long_batches_shares_the_places_with_one_that_has_few() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|seen| {
        // The one server is slow, the other quick.
        let takes = if seen.provider == 'a' { 600 * SECOND } else { SECOND / 10 };
        tokio::time::sleep(takes).map(|()| answer(200, None)).boxed()
    });
    let world = world(dir.path(), provider).await;
    for _ in 0..3 * SETTINGS.max_running {
        world.order(by(1, 100), |_| BAD).await;
    }
    tokio::time::sleep(5 * SECOND).await;
    let start = Instant::now();
    let id = world.order(by(2, 20), |_| GOOD).await;
    assert_eq!(world.ended(id).await.progress.succeeded, 20);
    // The same for an urgent batch of the owner that has all places.
    let urgent = Order { priority: Priority::Urgent, ..by(1, 20) };
    let id = world.order(urgent, |_| GOOD).await;
    assert_eq!(world.ended(id).await.progress.succeeded, 20);
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
    world.abort.cancel();
    world.close().await;
}
