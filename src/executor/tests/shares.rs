//! How a lane is divided: owners, priorities, deadlines, pauses, and lanes that share a batch.

use super::lanes::two_lanes;
use super::world::Order;
use super::*;
use crate::domain::batch::priority::{ControlChange, Priority};

/// Calls that take a second each.
fn slow() -> Scripted {
    script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed())
}

/// Calls of each batch among `count` calls, beginning with the first call of one batch.
fn calls_since(world: &World, first_of: BatchId, count: usize) -> HashMap<BatchId, usize> {
    let seen = world.seen();
    let start = seen.iter().position(|seen| seen.batch == first_of).unwrap_or(seen.len());
    let mut calls = HashMap::new();
    for seen in seen.iter().skip(start).take(count) {
        *calls.entry(seen.batch).or_default() += 1;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn shares_follow_priorities_and_owners() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), slow()).await;
    let order = |owner, priority| Order { rows: 2_000, owner, priority, ..Order::default() };
    let many = [world.order(order(1, Priority::Normal), |_| MODEL).await, world.order(order(1, Priority::Normal), |_| MODEL).await];
    let one = world.order(order(2, Priority::Normal), |_| MODEL).await;
    world.until(one, |batch| batch.progress.succeeded >= 100).await;
    let calls = calls_since(&world, one, 240);
    assert!(calls[&one].abs_diff(120) <= 16, "an owner with two batches gets no more than one with one: {calls:?}");
    assert!(calls[&many[0]].abs_diff(60) <= 12, "{calls:?}");

    let urgent = world.order(order(1, Priority::Urgent), |_| MODEL).await;
    world.until(urgent, |batch| batch.progress.succeeded >= 300).await;
    let calls = calls_since(&world, urgent, 240);
    assert!(calls[&urgent] >= 190, "{calls:?}");
    assert!(calls.contains_key(&one), "the others are not shut out: {calls:?}");

    // The same effect through a change of a running batch.
    world.handle.cancel(urgent).await.unwrap();
    let changed = world.handle.control(one, ControlChange { priority: Some(Priority::Urgent), paused: None }).await.unwrap();
    assert_eq!(changed.control.priority, Priority::Urgent);
    let before = world.seen().len();
    world.until(one, |batch| batch.progress.succeeded >= 500).await;
    let seen = world.seen();
    let of_one = seen[before + 40..].iter().filter(|seen| seen.batch == one).count();
    assert!(of_one * 10 >= (seen.len() - before - 40) * 8, "{of_one} of {}", seen.len() - before - 40);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_batch_starts_nothing_until_it_is_resumed_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), slow()).await;
    let id = world.submit(500, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 8).await;
    let pause = |paused| ControlChange { paused: Some(paused), priority: None };
    assert!(world.handle.control(id, pause(true)).await.unwrap().control.paused);
    assert!(world.is_told(), "a pause was confirmed that the dispatcher did not know of");
    tokio::time::sleep(5 * SECOND).await;
    let calls = world.seen().len();
    tokio::time::sleep(60 * SECOND).await;
    let other = world.submit(20, "24h").await;
    assert_eq!(world.ended(other).await.progress.succeeded, 20, "a paused batch keeps no place");
    assert_eq!(world.seen().iter().filter(|seen| seen.batch == id).count(), calls);
    world.close().await;

    let world = World::open(dir.path(), slow()).await;
    tokio::time::sleep(30 * SECOND).await;
    assert!(world.seen().is_empty(), "a pause outlives a restart");
    world.handle.control(id, pause(false)).await.unwrap();
    assert_eq!(world.ended(id).await.progress.succeeded, 500);
    assert!(matches!(world.handle.control(id, pause(true)).await, Err(ControlError::TooLate("completed"))));
    assert!(matches!(world.handle.control(BatchId::from_u128(1), pause(true)).await, Err(ControlError::NotFound)));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_batch_can_be_cancelled_and_expires() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), slow()).await;
    let pause = ControlChange { paused: Some(true), priority: None };
    let (cancelled, expired) = (world.submit(100, "24h").await, world.submit(100, "2m").await);
    for id in [cancelled, expired] {
        world.handle.control(id, pause).await.unwrap();
    }
    world.handle.cancel(cancelled).await.unwrap();
    assert_eq!(world.ended(cancelled).await.state.as_str(), "cancelled");
    let batch = world.ended(expired).await;
    assert_eq!((batch.state.as_str(), batch.progress.unfinished()), ("expired", 0));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_must_run_to_meet_its_deadline_runs_first() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), slow()).await;
    // Eight rows a second: alone each batch would meet its deadline, with equal shares the second
    // would not.
    let easy = world.submit(5_000, "24h").await;
    world.until(easy, |batch| batch.progress.succeeded >= 200).await;
    let tight = world.submit(1_000, "5m").await;
    let batch = world.ended(tight).await;
    assert!(batch.progress.succeeded >= 950, "{:?}", batch.progress);
    let calls = calls_since(&world, tight, 600);
    assert!(calls[&easy] > 0, "others still get something: {calls:?}");
    world.close().await;
}

/// Guards against a slow lane that fills the window of its batch.
#[tokio::test(start_paused = true)]
async fn a_slow_lane_does_not_hold_up_the_other_models_of_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let provider = |id: &str| {
        let text = format!("schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"http://{id}.test\"\n");
        (format!("providers/{id}.toml"), text)
    };
    let model = |id: &str, limits: &str| {
        format!(
            "[[model]]\nid = \"{id}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/embeddings\"]\n[[model.offering]]\nprovider = \"{id}\"\n{limits}\n"
        )
    };
    let models = format!("schema = 1\n{}{}", model("slow", "limits = { requests_per_minute = 60 }"), model("well", ""));
    let files = vec![provider("slow"), provider("well"), ("models/m.toml".to_owned(), models)];
    let seeds = crate::catalog::load_archive(crate::catalog::Archive(files)).unwrap_or_else(|faults| panic!("{faults}"));
    let snapshot = seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false);
    let world = World::open_on(dir.path(), at_once(|_| 200), snapshot, Duration::from_millis(1)).await;
    let id = world.submit_models(9_000, "24h", |row| if row < 6_000 { "slow" } else { "well" }).await;
    world.until(id, |batch| batch.progress.succeeded >= 3_000).await;
    let slow = world.seen().iter().take(3_400).filter(|seen| seen.lane == 's').count();
    assert!(slow < 1_000, "{slow} slow rows before the others were done");
    world.handle.cancel(id).await.unwrap();
    world.ended(id).await;
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn many_batches_run_at_a_time_and_none_waits_for_a_large_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_on(dir.path(), slow(), two_lanes("limits = { in_flight = 4 }", ""), Duration::from_millis(1)).await;
    // More batches than there are places: those that wait get a place in turn.
    let large = world.submit(4_000, "24h").await;
    world.until(large, |batch| batch.progress.succeeded >= 8).await;
    let mut small = Vec::new();
    for owner in 0..12 {
        small.push(world.order(Order { rows: 3, owner, ..Order::default() }, |_| MODEL).await);
    }
    for id in &small {
        world.ended(*id).await;
    }
    assert!(world.store.batch(large).await.unwrap().unwrap().progress.succeeded < 2_000);
    world.handle.cancel(large).await.unwrap();
    world.close().await;
}
