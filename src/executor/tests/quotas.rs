//! The quota of calls in flight: it holds over all batches of an organisation, costs others nothing,
//! and changes while rows run.

use super::world::Order;
use super::*;
use crate::domain::id::OrgId;
use crate::domain::org::Organisation;
use crate::domain::org::quotas::Limit;

/// Calls that take a second each.
fn slow() -> Scripted {
    script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed())
}

async fn allow(world: &World, org: OrgId, calls: Option<u64>) {
    world.store.change_quotas(org, move |quotas| quotas.with(Limit::Calls, calls)).await.unwrap().unwrap();
}

/// The most calls of these batches that were in flight at the same time since then.
fn most_at_a_time(world: &World, batches: &[BatchId], since: Instant) -> usize {
    let calls: Vec<_> = world.seen().iter().filter(|seen| batches.contains(&seen.batch)).map(|seen| seen.at).collect();
    let beside = |at: Instant| calls.iter().filter(|other| **other <= at && at < **other + SECOND).count();
    calls.iter().filter(|at| **at >= since).map(|at| beside(*at)).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn an_organisation_has_no_more_calls_in_flight_than_its_quota() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), slow()).await;
    let org = Organisation::new("Acme".into(), world.clock.now());
    let id = org.id;
    world.store.add_org(org, Default::default(), None, 10).await.unwrap();
    allow(&world, id, Some(2)).await;
    let started = Instant::now();
    let order = |owner, org| Order { rows: 30, owner, org, ..Order::default() };
    let limited = [world.order(order(1, id), |_| MODEL).await, world.order(order(1, id), |_| MODEL).await];
    let other = world.order(order(2, OrgId::OPERATOR), |_| MODEL).await;
    world.ended(other).await;
    assert!(world.seen().iter().filter(|seen| limited.contains(&seen.batch)).count() < 40, "the other did not wait for them");
    world.until(limited[0], |batch| batch.progress.succeeded >= 10).await;
    assert_eq!(most_at_a_time(&world, &limited, started), 2);
    assert!(most_at_a_time(&world, &[other], started) >= 5);
    world.until(limited[1], |batch| batch.progress.succeeded >= 8).await;
    let turns: Vec<_> = world.seen().iter().map(|seen| seen.batch).filter(|batch| limited.contains(batch)).collect();
    let both = turns.iter().skip_while(|batch| **batch != limited[1]).take(12).filter(|batch| **batch == limited[1]).count();
    assert!((5..=7).contains(&both), "both have their turn: {both} of {turns:?}");

    allow(&world, id, Some(0)).await;
    tokio::time::sleep(5 * SECOND).await;
    let calls = world.seen().len();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(world.seen().len(), calls, "nothing is sent any more");
    assert_eq!(world.handle.board().calls_of(id), 0);

    let raised = Instant::now();
    allow(&world, id, Some(4)).await;
    world.until(limited[0], |batch| batch.progress.succeeded >= 20).await;
    assert_eq!(most_at_a_time(&world, &limited, raised), 4);
    allow(&world, id, None).await;
    for batch in limited {
        assert_eq!(world.ended(batch).await.progress.succeeded, 30);
    }
    world.close().await;
}
