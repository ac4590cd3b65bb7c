//! Inconsistent stores, and what a check reports about them.

use super::super::format::{self, Blob};
use super::super::tests::{close, open};
use super::super::verify::tests::some_batches;
use super::super::{BatchQuery, Store};
use super::check;
use crate::domain::id::{BatchId, OrgId};

/// Changes a store's records directly; returns what a deep check then reports, except that the
/// store's sum no longer fits.
async fn said(change: impl FnOnce(&Store, BatchId)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    some_batches(&store, 1).await;
    let id = store.batches(BatchQuery { limit: 1, ..BatchQuery::default() }).await.unwrap().items[0].spec.id;
    change(&store, id);
    store.inner.tree.flush().unwrap();
    close(store).await;
    let mut lines = Vec::new();
    check(dir.path(), true, &mut |line| lines.push(line.replace(&id.to_string(), "BATCH"))).unwrap();
    lines.retain(|line| !line.contains("not as they were written") && !line.contains("and should have"));
    // How many rows are stored together depends on timing.
    lines.iter().map(|line| line.find(" rows count").map_or(line.as_str(), |at| &line[at..at + 50])).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn each_thing_that_does_not_hang_together_is_named() {
    assert_eq!(said(|_, _| {}).await, "");
    let remove = |store: &Store, prefix: Vec<u8>| {
        for key in store.inner.tree.scan_prefix(prefix).keys() {
            store.inner.tree.remove(key.unwrap()).unwrap();
        }
    };
    let told = [
        said(|store, id| remove(store, format::run(id, crate::domain::id::RowIndex(0)))).await,
        said(|store, id| remove(store, format::pages_of(id))).await,
        said(|store, id| remove(store, format::blob(id, Blob::Spec))).await,
        said(|store, id| remove(store, format::blob(id, Blob::Plan))).await,
        said(|store, id| remove(store, format::batch(id))).await,
        said(|store, id| store.inner.tree.insert(format::batch(id), b"\x02\xff").unwrap()).await,
        said(|store, id| store.inner.tree.insert(format::active(id), &[0; 16]).unwrap()).await,
        said(|store, _| store.inner.tree.insert(format::notice(BatchId::from_u128(7)), &[]).unwrap()).await,
        said(|store, _| store.inner.tree.insert(format::account(OrgId::from_u128(7)), b"\x01").unwrap()).await,
        said(|store, _| store.inner.tree.insert(b"!odd", b"x").unwrap()).await,
    ];
    insta::assert_snapshot!(told.join("\n---\n"), @r"
     rows count as done, but their results are missing
    ---
    batch BATCH: the counts of rows from 0 on are missing
    ---
    batch BATCH: what was asked for is missing
    ---
    batch BATCH: its plan is missing
    ---
    batch BATCH: its state is missing
    batch BATCH: that its end is to be told: it leads to what is missing
    ---
    batch BATCH: its state: a batch state record is damaged: Byte 255 is treated as an extension point; it should not be encoding anything. Do you have a mismatched bincode version or configuration?
    ---
    batch BATCH: it has ended, and is among those that are not finished
    ---
    batch batch_00000000000000000000000007: that its end is to be told: it leads to what is missing
    ---
    account of org_00000000000000000000000000000007: a account record is damaged: io error: unexpected end of file
    ---
    the store: an entry of an unknown kind, 216f6464
    ");
}
