//! Data directories that another user has prepared, and disks that fail.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::domain::file::{File, Purpose};
use crate::domain::id::OrgId;
use crate::domain::time::Timestamp;
use crate::store::{NewFile, Options, Store};

const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);
const CONTENT: &[u8] = b"{\"custom_id\":\"one\"}\n";

fn options(dir: &Path) -> Options {
    Options { commit_interval: Duration::ZERO, ..Options::new(dir) }
}

/// The error with which a start refuses the directory, if it does.
fn refusal(dir: &Path) -> Option<String> {
    match Store::open(options(dir)) {
        Ok((store, _)) => {
            store.close();
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

async fn add(store: &Store) -> Result<File, StoreError> {
    let mut spool = store.spool()?;
    spool.write(CONTENT)?;
    let (filename, purpose, org) = ("in.jsonl".into(), Purpose::Batch, OrgId::OPERATOR);
    let new = NewFile { filename, purpose, mime: None, org, created_at: NOW, expires_at: None };
    store.add_file(new, spool.seal()?).await
}

fn content(store: &Store, file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    store.open_content(file.id).unwrap().read_to_end(&mut content).unwrap();
    content
}

async fn close(store: Store) {
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

/// A data directory with one file, `data`, and foreign files beside it.
fn prepared() -> (TempDir, File) {
    let dir = tempfile::tempdir().unwrap();
    let file = block_on(async {
        let (store, _) = Store::open(options(&dir.path().join("data"))).unwrap();
        let file = add(&store).await.unwrap();
        close(store).await;
        file
    });
    fs::write(dir.path().join("foreign"), "precious").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/0123456789abcdef0123456789abcdef"), "precious").unwrap();
    (dir, file)
}

fn assert_untouched(dir: &Path) {
    for name in ["foreign", "folder/0123456789abcdef0123456789abcdef"] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "precious", "{name}");
    }
    assert_eq!(fs::read_dir(dir.join("folder")).unwrap().count(), 1);
}

fn clear_place(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
}

const FILE_PLACES: [&str; 6] = ["lock", "seal.key", "seal.key.new", "store/db", "store/conf", "store/snap.0000000000000001"];
const FOLDER_PLACES: [&str; 5] = ["store", "files", "parts", "spool", "store/blobs"];

#[test]
fn links_inside_are_refused_and_what_they_lead_to_is_untouched() {
    for (places, target) in [(&FILE_PLACES[..], "foreign"), (&FOLDER_PLACES, "folder"), (&["lock", "seal.key"], "nothing")] {
        for place in places {
            let (dir, _) = prepared();
            let path = dir.path().join("data").join(place);
            if *place == "seal.key.new" {
                // This file is used only while there is no key.
                fs::remove_file(path.with_extension("")).unwrap();
            }
            clear_place(&path);
            symlink(dir.path().join(target), &path).unwrap();
            let refusal = refusal(&dir.path().join("data")).unwrap_or_else(|| panic!("{place} as a link to {target} was taken"));
            assert!(refusal.contains(path.to_str().unwrap()) && refusal.contains("it is a link where a"), "{place}: {refusal}");
            assert_untouched(dir.path());
            assert!(!dir.path().join("nothing").exists());
        }
    }
}

#[test]
fn what_is_no_file_is_refused_and_blocks_nobody() {
    for place in FILE_PLACES {
        for fifo in [true, false] {
            let (dir, _) = prepared();
            let path = dir.path().join("data").join(place);
            if place == "seal.key.new" {
                fs::remove_file(path.with_extension("")).unwrap();
            }
            clear_place(&path);
            if fifo {
                rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
            } else {
                fs::create_dir(&path).unwrap();
            }
            let refused = refusal(&dir.path().join("data"));
            // sled has folders of its own.
            if place.starts_with("store/") && !fifo {
                continue;
            }
            let expected = if fifo { "it is a fifo where a file should be" } else { "it is a directory where a file should be" };
            let refusal = refused.unwrap_or_else(|| panic!("{place} was taken"));
            assert!(refusal.contains(path.to_str().unwrap()) && refusal.contains(expected), "{place}: {refusal}");
        }
    }
    let (dir, _) = prepared();
    let path = dir.path().join("data/files");
    clear_place(&path);
    fs::write(&path, "").unwrap();
    let refusal = refusal(&dir.path().join("data")).unwrap();
    assert!(refusal.contains("it is a file where a directory should be"), "{refusal}");
}

#[tokio::test]
async fn content_behind_a_link_is_not_served() {
    let (dir, file) = tokio::task::spawn_blocking(prepared).await.unwrap();
    let path = dir.path().join("data/files").join(content_name(file.id.as_u128()));
    let (store, _) = Store::open(options(&dir.path().join("data"))).unwrap();
    assert_eq!(content(&store, &file), CONTENT);
    fs::remove_file(&path).unwrap();
    symlink(dir.path().join("foreign"), &path).unwrap();
    let refusal = store.open_content(file.id).unwrap_err().to_string();
    assert!(refusal.contains("links inside the data directory are not followed"), "{refusal}");
    // A folder that is swapped while the store is open is not entered.
    fs::rename(dir.path().join("data/spool"), dir.path().join("data/was-spool")).unwrap();
    symlink(dir.path().join("folder"), dir.path().join("data/spool")).unwrap();
    let added = add(&store).await.unwrap();
    assert_eq!(content(&store, &added), CONTENT);
    assert_untouched(dir.path());
    close(store).await;
}

/// As systemd sets it up for a dynamic user.
#[test]
fn the_way_to_the_directory_may_be_a_link() {
    let (dir, file) = prepared();
    symlink("data", dir.path().join("link")).unwrap();
    block_on(async {
        let (store, _) = Store::open(options(&dir.path().join("link"))).unwrap();
        assert_eq!(content(&store, &file), CONTENT);
        close(store).await;
    });
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn others_are_shut_out_again() {
    let (dir, file) = prepared();
    let data = dir.path().join("data");
    let content_path = data.join("files").join(content_name(file.id.as_u128()));
    let folders = [data.clone(), data.join("store"), data.join("files"), data.join("parts"), data.join("spool")];
    let files = [data.join("lock"), data.join("seal.key"), data.join("store/db"), data.join("store/conf"), content_path];
    for path in folders.iter().chain(&files) {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    block_on(async {
        let (store, _) = Store::open(options(&data)).unwrap();
        assert_eq!(content(&store, &file), CONTENT);
        close(store).await;
    });
    for path in &folders {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    for path in &files {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only the root user can change the owner of a file.
        return;
    }
    for place in ["", "lock", "seal.key", "store", "store/db", "files", "parts", "spool"] {
        let (dir, _) = prepared();
        let path = dir.path().join("data").join(place);
        chown(&path, Some(12_345), None).unwrap();
        let refusal = refusal(&dir.path().join("data")).unwrap_or_else(|| panic!("`{place}` was taken"));
        assert!(refusal.contains("it belongs to the user 12345, and batchd runs as the user 0"), "{place}: {refusal}");
    }
}

/// Each operation on the directory fails once, from the start to the end: everything that was
/// acknowledged before or meanwhile is there after the next start.
#[test]
fn no_failure_costs_what_was_acknowledged() {
    let (dir, first) = prepared();
    let data = dir.path().join("data");
    let one_life = |faults: &Faults| {
        block_on(async {
            let Ok((store, _)) = Store::open_with(&options(&data), faults) else { return Vec::new() };
            let added = [add(&store).await, add(&store).await];
            close(store).await;
            added.into_iter().flatten().collect()
        })
    };
    let healthy = Faults::default();
    assert_eq!(one_life(&healthy).len(), 2);
    let operations = healthy.seen().len();
    assert!(operations > 20, "{operations}");
    let mut acknowledged = vec![first];
    for errno in [Errno::IO, Errno::NOSPC] {
        for n in 0..operations {
            let faults = Faults::default();
            faults.fail(None, n, errno);
            acknowledged.extend(one_life(&faults));
            block_on(async {
                let (store, _) = Store::open(options(&data)).unwrap();
                for file in &acknowledged {
                    assert_eq!(content(&store, file), CONTENT, "after {errno} of operation {n}, {:?}", faults.seen()[n]);
                }
                close(store).await;
            });
        }
    }
    assert!(acknowledged.len() > 10, "most was refused, and nothing was tested: {}", acknowledged.len());
}

#[test]
fn a_name_leads_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let locked = Locked::take(dir.path()).unwrap();
    for name in ["", ".", "..", "a/b", "../a", "/a", "a/"] {
        let refused = locked.root().create(name).unwrap_err().to_string();
        assert!(refused.ends_with("it is not a name"), "{name}: {refused}");
    }
}

#[test]
fn only_our_own_things_are_discarded() {
    let (dir, _) = prepared();
    let data = dir.path().join("data");
    symlink(dir.path().join("folder"), data.join("spool/link")).unwrap();
    fs::write(data.join("notes.txt"), "precious").unwrap();
    discard(&data).unwrap_err();
    assert_eq!(fs::read_to_string(data.join("notes.txt")).unwrap(), "precious");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    assert_untouched(dir.path());
    fs::remove_file(data.join("notes.txt")).unwrap();
    discard(&data).unwrap();
    assert!(!data.exists());
}
