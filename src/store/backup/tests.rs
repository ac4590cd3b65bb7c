//! Backups of a store in use: each opens, and has everything that was there when the backup was
//! requested.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::file::ResultPart;
use crate::domain::id::{BatchId, FileId};
use crate::store::tests::{NOW, add_file, close, open, read, record, result, running};
use crate::store::{BackupError, Store};

async fn back_up(store: &Store, target: &Path) -> Result<super::Backup, BackupError> {
    let (store, target) = (store.clone(), target.to_owned());
    tokio::task::spawn_blocking(move || store.backup(&target)).await.unwrap()
}

/// What was acknowledged: batches with the bytes of their results so far, and files.
#[derive(Clone, Default)]
struct Acknowledged {
    batches: Vec<(BatchId, Vec<u8>)>,
    files: Vec<FileId>,
}

async fn check(dir: &Path, acknowledged: &Acknowledged) {
    let mut damages = Vec::new();
    let checked = crate::store::check(dir, true, &mut |line| damages.push(line.to_owned())).unwrap();
    assert!(checked.damaged == 0 && damages.is_empty(), "{checked:?}: {damages:?}");
    let (store, _) = open(dir);
    for (batch, content) in &acknowledged.batches {
        let mut lines = store.lines(*batch, ResultPart::All).await.unwrap().unwrap();
        assert!(read(&mut lines).starts_with(content), "{batch}");
    }
    for file in &acknowledged.files {
        let found = store.file(*file, NOW).await.unwrap().unwrap();
        let content = std::io::read_to_string(store.open_content(*file).unwrap()).unwrap();
        assert_eq!(content.len() as u64, found.bytes);
    }
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = target.path().join("backup");
    let (store, _) = open(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, acknowledged) = tokio::sync::watch::channel(Acknowledged::default());
    let load = tokio_util::task::TaskTracker::new().spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            for number in 0.. {
                let file = add_file(&store, format!("content {number}").as_bytes(), None).await;
                let gone = add_file(&store, b"soon gone", None).await;
                let spec = running(&store, 200).await;
                for rows in [0..50, 50..120, 120..200] {
                    let results: Vec<_> = rows.map(|row| result(spec.id, row, (row * 13) as usize % 700)).collect();
                    record(&store, &results).await;
                }
                let mut lines = store.lines(spec.id, ResultPart::All).await.unwrap().unwrap();
                let content = read(&mut lines);
                store.delete_file(gone.id).await.unwrap();
                sender.send_modify(|shown| {
                    shown.batches.push((spec.id, content));
                    shown.files.push(file.id);
                });
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    });
    let mut rounds = acknowledged.clone();
    for round in 0..6 {
        rounds.wait_for(|shown| shown.files.len() > round * 6).await.unwrap();
        let before = acknowledged.borrow().clone();
        let made = back_up(&store, &target).await.unwrap();
        assert!(made.contents >= before.files.len() as u64 && made.copied <= made.contents + 64, "{made:?}");
        // The backup is restored by copying, so it stays as it is.
        let restored = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(format!("{}/.", target.display())).arg(restored.path()).status();
        assert!(copied.unwrap().success());
        check(restored.path(), &before).await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert!(
        std::fs::read_dir(dir.path().join("files")).unwrap().count() < 2 * acknowledged.borrow().files.len() + 2,
        "what was deleted meanwhile went"
    );
    close(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_will_not_do_is_refused_and_left_alone() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = open(dir.path());
    let error = |target: std::path::PathBuf| {
        let store = &store;
        async move { back_up(store, &target).await.unwrap_err() }
    };
    assert!(matches!(error("relative".into()).await, BackupError::Relative(_)));
    assert!(matches!(error(dir.path().join("inside")).await, BackupError::Within(_)));
    std::fs::write(other.path().join("mine"), "precious").unwrap();
    assert!(matches!(error(other.path().to_owned()).await, BackupError::Foreign(_)));
    assert_eq!(std::fs::read_to_string(other.path().join("mine")).unwrap(), "precious");
    let another = tempfile::tempdir().unwrap();
    let (second, _) = open(another.path());
    assert!(matches!(error(another.path().to_owned()).await, BackupError::InUse(_)));
    close(second).await;
    assert!(matches!(error(another.path().to_owned()).await, BackupError::Foreign(_)), "another store's directory");
    close(store).await;
}

/// This also holds when no write comes that would make the writer notice the failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_says_so_and_leaves_the_earlier_one() {
    let (dir, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = open(dir.path());
    let file = add_file(&store, b"content", None).await;
    back_up(&store, target.path()).await.unwrap();
    // The place of the next copy holds a folder that is too deep to be removed.
    std::fs::create_dir_all(target.path().join("store-1/1/2/3/4/5/6/7/8/9/10/11")).unwrap();
    let failed = tokio::time::timeout(std::time::Duration::from_secs(60), back_up(&store, target.path())).await;
    assert!(matches!(failed, Ok(Err(BackupError::GivenUp))), "{failed:?}");
    std::fs::remove_dir_all(target.path().join("store-1")).unwrap();
    check(target.path(), &Acknowledged { files: vec![file.id], ..Acknowledged::default() }).await;
    close(store).await;
}
