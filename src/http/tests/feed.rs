//! Following batches: one watcher for all clients that follow the same batch.

use serde_json::json;

use super::*;
use crate::domain::batch::BatchState;
use crate::domain::id::BatchId;

#[tokio::test]
async fn one_watcher_serves_all_and_ends_with_the_last() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let order = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let id: BatchId = bench.post("/v1/batches", &order).await.id().parse().unwrap();
    let (mut one, mut other) = (bench.api.feeds.follow(&bench.api.service, id), bench.api.feeds.follow(&bench.api.service, id));
    let (first, same) = tokio::join!(one.now(), other.now());
    let (first, same) = (first.unwrap(), same.unwrap());
    assert!(Arc::ptr_eq(&first, &same), "rendered once");
    assert_eq!((bench.api.feeds.followed(), bench.api.service.tasks.len(), first.version), (1, 1, 1));

    // A committed change is sent without being asked for, and an end is sent however long ago the
    // last state was sent.
    bench.api.service.store.batch_refused(id, BatchState::Failed { at: bench.api.service.clock.now() }, Vec::new()).await.unwrap();
    let next = one.next(tokio::time::Instant::now() + std::time::Duration::from_secs(3_600)).await.unwrap();
    assert_eq!((next.version, next.message.as_ref().map(|message| message.ended)), (2, Some(true)));
    let asked = other.now().await.unwrap();
    assert!(Arc::ptr_eq(&next, &asked));

    // There is no such batch, but there may be later: its absence is sent like any other change.
    let mut nothing = bench.api.feeds.follow(&bench.api.service, BatchId::from_u128(7));
    let gone = nothing.now().await.unwrap();
    assert!(gone.message.is_none());
    assert_eq!(crate::http::phaseo::feed::deleted(&gone), json!({ "id": "batch_00000000000000000000000007", "kind": "batch" }));

    drop((one, other, nothing));
    while !bench.api.service.tasks.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.api.feeds.followed(), 0);
    let mut again = bench.api.feeds.follow(&bench.api.service, id);
    assert_eq!(again.now().await.unwrap().message, next.message);
}

#[tokio::test]
async fn the_last_state_is_told_to_all_of_many_however_often_they_are_interrupted() {
    let bench = Bench::new().await;
    let file = bench.upload(b"{}\n").await;
    let order = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    let id: BatchId = bench.post("/v1/batches", &order).await.id().parse().unwrap();
    let follow = |place: usize| {
        let mut follower = bench.api.feeds.follow(&bench.api.service, id);
        async move {
            follower.now().await.unwrap();
            loop {
                // Some followers are interrupted in whatever they wait for, like sockets whose
                // clients send something.
                let next = follower.next(tokio::time::Instant::now());
                let told = if place.is_multiple_of(2) {
                    tokio::time::timeout(std::time::Duration::from_millis(2), next).await.ok()
                } else {
                    Some(next.await)
                };
                if told.is_some_and(|frame| frame.unwrap().message.as_ref().is_some_and(|message| message.ended)) {
                    break;
                }
            }
        }
    };
    let all = futures_util::future::join_all((0..300).map(follow));
    let end = async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        bench.api.service.store.batch_refused(id, BatchState::Failed { at: bench.api.service.clock.now() }, Vec::new()).await.unwrap();
    };
    tokio::join!(all, end);
}
