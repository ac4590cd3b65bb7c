//! Compactions while the store is in use: nothing changes for readers, and the space that it uses
//! levels off.

use std::path::Path;
use std::time::Duration;

use crate::domain::batch::{BatchEvent, BatchState, ResultFiles};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{BatchId, FileId, OrgId};
use crate::store::tests::{NOW, close, read, record, result, running};
use crate::store::{Act, Compact, End, Faults, Options, Recovered, Store};

fn options(dir: &Path) -> Options {
    let compact = Compact { from_bytes: 2 << 20, ..Compact::default() };
    Options { commit_interval: Duration::ZERO, compact, ..Options::new(dir) }
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(options(dir)).unwrap()
}

/// A batch that has ended, with a file over its results.
async fn ended(store: &Store, number: u32) -> (BatchId, FileId, Vec<u8>) {
    let spec = running(store, 40).await;
    let results: Vec<_> = (0..40).map(|row| result(spec.id, row, (row * 31 + number * 7) as usize % 900)).collect();
    record(store, &results).await;
    let mut lines = store.lines(spec.id, ResultPart::All).await.unwrap().unwrap();
    let content = read(&mut lines);
    let progress = store.live(spec.id).unwrap().progress();
    let source = FileSource::View { batch: spec.id, part: ResultPart::Output };
    let id = FileId::generate(NOW);
    let (filename, bytes) = ("view.jsonl".to_owned(), progress.output_bytes);
    let file = File {
        id,
        bytes,
        created_at: NOW,
        expires_at: None,
        filename,
        purpose: Purpose::BatchOutput,
        mime: None,
        org: OrgId::OPERATOR,
        source,
    };
    let files = ResultFiles { output: Some(id), errors: None };
    let state = BatchState::InProgress { since: NOW }.apply(BatchEvent::RowsDone, NOW).unwrap();
    let state = state.apply(BatchEvent::Settled { files }, NOW).unwrap();
    store.batch_settled(spec.id, state, progress, End { files: vec![file], ..End::default() }).await.unwrap();
    (spec.id, id, content)
}

/// Makes a batch; one in twenty of these batches stays, and the others lose their results.
async fn churn(store: &Store, number: u32, kept: &mut Vec<(BatchId, Vec<u8>)>) {
    let (batch, file, content) = ended(store, number).await;
    if number.is_multiple_of(20) {
        kept.push((batch, content));
    } else {
        store.delete_file(file).await.unwrap();
    }
    store.sweep(NOW).await.unwrap();
}

async fn holds(store: &Store, batch: BatchId, content: &[u8]) -> bool {
    match store.lines(batch, ResultPart::All).await.unwrap() {
        Some(mut lines) => tokio::task::spawn_blocking(move || read(&mut lines)).await.unwrap() == content,
        None => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_comes_back_while_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut kept = Vec::new();
    let mut largest = 0;
    for number in 0..600 {
        churn(&store, number, &mut kept).await;
        largest = largest.max(store.space().log_bytes());
        // Every kept batch is there at every moment, also during a switch.
        let (batch, content) = &kept[number as usize % kept.len()];
        assert!(holds(&store, *batch, content).await, "batch {number}");
    }
    let space = store.space();
    assert!(space.compactions() >= 2, "{space:?}");
    assert!(largest < (8 << 20) + 4 * space.used_bytes(), "{largest}, {space:?}");
    for (batch, content) in &kept {
        assert!(holds(&store, *batch, content).await);
    }
    close(store).await;
    let databases = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        let names = names.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("store")).collect::<Vec<_>>()
    };
    // What a kill would have left behind is removed; the note keeps older versions from starting a
    // new store.
    std::fs::create_dir_all(dir.path().join("store-999/blobs")).unwrap();
    let (store, _) = open(dir.path());
    assert_eq!(databases().len(), 1, "{:?}", databases());
    assert!(std::fs::read_to_string(dir.path().join("store")).unwrap().contains("has moved"));
    for (batch, content) in &kept {
        assert!(holds(&store, *batch, content).await);
    }
    close(store).await;
}

/// A copy that fails changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_fails_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let (store, _) = Store::open_with(&options(dir.path()), &faults).unwrap();
    // No folder can be made for a copy.
    faults.fail_from(Some(Act::MakeFolder), 0, rustix::io::Errno::NOSPC);
    let mut kept = Vec::new();
    for number in 0..150 {
        churn(&store, number, &mut kept).await;
    }
    assert_eq!(store.space().compactions(), 0);
    assert!(!store.broken().is_cancelled() && !store.space().is_compacting());
    close(store).await;
    let (store, _) = open(dir.path());
    for (batch, content) in &kept {
        assert!(holds(&store, *batch, content).await);
    }
    close(store).await;
}
