//! Rows that make the same request: one call, one cost, and an answer for each row.

use super::world::Order;
use super::*;
use crate::domain::batch::dedup::Dedup;

/// Five requests, in turn.
fn five(row: u32) -> &'static str {
    ["a", "b", "c", "d", "e"][row as usize % 5]
}

fn order(rows: u32, owner: u64) -> Order<'static> {
    Order { rows, owner, prompt: five, ..Order::default() }
}

fn slow(status: impl Fn(SeenCall) -> u16 + Send + Sync + 'static) -> Scripted {
    script(move |seen| {
        let status = status(seen);
        tokio::time::sleep(SECOND).map(move |()| answer(status, None)).boxed()
    })
}

/// Rows that ended with the answer of another row.
async fn copies(world: &World, id: BatchId) -> usize {
    world.lanes_of(id).await.iter().filter(|(lane, _)| lane.starts_with("cache:batch_")).map(|(_, rows)| rows).sum()
}

#[tokio::test(start_paused = true)]
async fn equal_rows_share_one_call_and_its_cost() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_sharing(dir.path(), slow(|_| 200), Dedup::Batch).await;
    let id = world.order(order(3_000, 0), |_| MODEL).await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.usage.input_tokens), (3_000, 5));
    assert_eq!((world.seen().len(), copies(&world, id).await), (5, 2_995));
    let again = world.order(order(10, 0), |_| MODEL).await;
    assert_eq!(world.ended(again).await.progress.succeeded, 10);
    assert_eq!(world.seen().len(), 10, "another batch asks for itself");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn batches_of_one_key_share_across_restarts_and_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open_sharing(dir.path(), slow(|_| 200), Dedup::Key).await;
    let (one, other) = (world.order(order(10, 1), |_| MODEL).await, world.order(order(10, 1), |_| MODEL).await);
    world.ended(one).await;
    world.ended(other).await;
    assert_eq!(world.seen().len(), 5, "two at a time");
    let foreign = world.order(order(10, 2), |_| MODEL).await;
    world.ended(foreign).await;
    assert_eq!(world.seen().len(), 10, "another key asks for itself");
    world.close().await;

    let world = World::open_sharing(dir.path(), slow(|_| 200), Dedup::Key).await;
    let later = world.order(order(10, 1), |_| MODEL).await;
    assert_eq!((world.ended(later).await.progress.succeeded, world.seen().len()), (10, 0));
    // The clock of each world starts afresh, so the answers may be some seconds younger than it
    // seems.
    tokio::time::sleep(SETTINGS.dedup_max_age + 10 * SECOND).await;
    let stale = world.order(order(10, 1), |_| MODEL).await;
    assert_eq!((world.ended(stale).await.progress.succeeded, world.seen().len()), (10, 5));
    tokio::time::sleep(SECOND).await;
    let limit = world.clock.now();
    assert_eq!(world.store.forget_answers(limit).await.unwrap(), 10, "those that were just given among them");
    assert_eq!(world.store.forget_answers(limit).await.unwrap(), 0);
    let forgotten = world.order(order(10, 1), |_| MODEL).await;
    assert_eq!((world.ended(forgotten).await.progress.succeeded, world.seen().len()), (10, 10));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    // The very first call fails temporarily; one kind of request always fails for good.
    let (calls, kinds) = (AtomicU32::new(0), 5);
    let provider = slow(move |seen| match (calls.fetch_add(1, SeqCst), seen.row % kinds) {
        (0, _) => 503,
        (_, 3) => 400,
        (_, _) => 200,
    });
    let world = World::open_sharing(dir.path(), provider, Dedup::Batch).await;
    let id = world.order(order(200, 0), |_| MODEL).await;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (160, 40));
    let to_fail = world.seen().iter().filter(|seen| seen.row % kinds == 3).count();
    assert_eq!(to_fail, 40, "each of those that fail has asked for itself");
    // After the temporary failure another row asked, and the row that failed asked again.
    assert!((5..=6).contains(&(world.seen().len() - to_fail)), "{}", world.seen().len());
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_batch_that_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|seen| {
        if seen.at.elapsed() < SECOND && seen.row == 0 {
            tokio::time::sleep(3_600 * SECOND).map(|()| answer(200, None)).boxed()
        } else {
            std::future::ready(answer(200, None)).boxed()
        }
    });
    let world = World::open_sharing(dir.path(), provider, Dedup::Key).await;
    let first = world.order(order(1, 1), |_| MODEL).await;
    while world.seen().is_empty() {
        tokio::time::sleep(SECOND / 100).await;
    }
    let second = world.order(Order { prompt: |_| "a", ..order(3, 1) }, |_| MODEL).await;
    world.until(second, |batch| batch.state.as_str() == "in_progress").await;
    world.handle.cancel(first).await.unwrap();
    world.ended(first).await;
    // One of the followers asks in its place.
    tokio::time::sleep(SECOND).await;
    assert_eq!(world.seen().len(), 2);
    assert_eq!(world.seen()[1].batch, second);
    world.close().await;
}
