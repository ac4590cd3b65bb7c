//! The service over an executor with a scripted provider, under paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::task::TaskTracker;

use super::{RetryError, Service, ServiceError, ServiceLimits};
use crate::executor::tests::at_once;
use crate::executor::tests::world::World;
use crate::service::quotes::turns::QuoteTurns;

/// The service as the daemon sets it up.
fn service(world: &World) -> Arc<Service> {
    Arc::new(Service {
        store: world.store.clone(),
        catalog: world.catalog.clone(),
        executor: world.handle.clone(),
        clock: world.clock.clone(),
        limits: ServiceLimits::default(),
        turns: QuoteTurns::default(),
        requests: Default::default(),
        key_changes: tokio::sync::watch::Sender::default(),
        draining: world.drain.clone(),
        tasks: TaskTracker::new(),
    })
}

#[tokio::test(start_paused = true)]
async fn rows_that_failed_run_again_in_a_batch_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let is_well = Arc::new(AtomicBool::new(false));
    let seen = is_well.clone();
    let world =
        World::open(dir.path(), at_once(move |call| if call.row % 3 == 0 && !seen.load(Ordering::SeqCst) { 422 } else { 200 })).await;
    let service = service(&world);
    let id = world.submit(3_000, "24h").await;
    assert!(matches!(service.retry(id).await, Err(ServiceError::Retry(RetryError::StillRunning(_)))));
    assert_eq!(world.ended(id).await.progress.failed, 1_000);
    is_well.store(true, Ordering::SeqCst);

    let again = service.retry(id).await.unwrap();
    assert_eq!((again.spec.retry_of, again.spec.dialect), (Some(id), crate::domain::dialect::Dialect::OpenAi));
    let again = world.ended(again.spec.id).await;
    assert_eq!((again.state.as_str(), again.progress.succeeded), ("completed", 1_000));
    assert!(matches!(service.retry(again.spec.id).await, Err(ServiceError::Retry(RetryError::NothingToRetry))));
    world.close().await;
}
