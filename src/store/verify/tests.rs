//! Damaged data directories: each is served as it was, or refused and left unchanged.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::domain::batch::{Batch, BatchState, ResultFiles};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{FileId, OrgId};
use crate::store::salvage::tests::{Figures, is_brought_back};
use crate::store::tests::{NOW, add_file, close, open, read, record, result, running};
use crate::store::{End, FileQuery, OpenError, Options, SortOrder, Store};

/// Everything that a client has been shown.
#[derive(Debug, PartialEq)]
pub(in crate::store) struct Shown {
    pub files: Vec<(File, Vec<u8>)>,
    pub batches: Vec<(Batch, Vec<u8>)>,
}

pub(in crate::store) async fn shown(store: &Store) -> Shown {
    let org = crate::domain::id::OrgId::OPERATOR;
    let query = FileQuery { purpose: None, org, after: None, limit: 1_000, order: SortOrder::Ascending, now: NOW };
    let mut shown = Shown { files: Vec::new(), batches: Vec::new() };
    for file in store.files(query).await.unwrap().items {
        let mut content = Vec::new();
        match file.source {
            FileSource::Uploaded { .. } => {
                std::io::Read::read_to_end(&mut store.open_content(file.id).unwrap(), &mut content).unwrap();
            }
            FileSource::View { batch, part } => content = read(&mut store.lines(batch, part).await.unwrap().unwrap()),
        }
        shown.files.push((file, content));
    }
    for batch in store.batches(crate::store::BatchQuery { limit: 1_000, ..Default::default() }).await.unwrap().items {
        let mut lines = store.lines(batch.spec.id, ResultPart::All).await.unwrap().unwrap();
        shown.batches.push((batch, read(&mut lines)));
    }
    shown
}

/// Makes batches with results: some have ended with files over the results, some without files, and
/// some have not ended.
pub(in crate::store) async fn some_batches(store: &Store, count: u32) {
    for number in 0..count {
        add_file(store, format!("content {number}").as_bytes(), None).await;
        let spec = running(store, 300).await;
        let results: Vec<_> = (0..300).map(|row| result(spec.id, row, (row * 37 + number) as usize % 500)).collect();
        // In pieces, so that damage can fall between them.
        for some in results.chunks(40) {
            record(store, some).await;
        }
        let progress = store.batch(spec.id).await.unwrap().unwrap().progress;
        if number % 3 == 0 {
            store.batch_settled(spec.id, BatchState::Failed { at: NOW }, progress, End::default()).await.unwrap();
        } else if number % 3 == 1 {
            let view = |part, bytes| File {
                id: FileId::generate(NOW),
                bytes,
                created_at: NOW,
                expires_at: None,
                filename: "view.jsonl".into(),
                purpose: Purpose::BatchOutput,
                mime: None,
                org: OrgId::OPERATOR,
                source: FileSource::View { batch: spec.id, part },
            };
            let views = [view(ResultPart::Output, progress.output_bytes), view(ResultPart::Errors, progress.error_bytes)];
            let files = ResultFiles { output: Some(views[0].id), errors: Some(views[1].id) };
            let state = BatchState::Completed { in_progress_at: Some(NOW), finalizing_at: NOW, at: NOW, files };
            store.batch_settled(spec.id, state, progress, End { files: views.into(), ..End::default() }).await.unwrap();
        }
    }
}

/// The content of each file below a folder, except the lock.
pub(in crate::store) fn content_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(content_of(&entry));
        } else if entry.file_name().is_none_or(|name| name != "lock") {
            found.insert(entry.clone(), std::fs::read(entry).unwrap());
        }
    }
    found
}

fn write_to(dir: &Path, from: &Path, content: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in content {
        let path = dir.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Damages one file; returns the kind of damage in words, and the new content, `None` if the file
/// is gone.
fn damage(bytes: &[u8], random: &mut fastrand::Rng) -> (&'static str, Option<Vec<u8>>) {
    let mut bytes = bytes.to_vec();
    let at = random.usize(..=bytes.len());
    let to = (at + (1 << random.u8(0..20))).min(bytes.len());
    let kind = match random.u8(0..16) {
        0..6 => match bytes.get_mut(at) {
            Some(byte) => {
                *byte ^= 1 << random.u8(0..8);
                "one bit"
            }
            None => return ("gone", None),
        },
        6..8 => {
            bytes[at..to].fill(0);
            "zeros"
        }
        8..10 => {
            bytes[at..to].iter_mut().for_each(|byte| *byte = random.u8(..));
            "noise"
        }
        10 => {
            bytes.truncate(at);
            "cut off"
        }
        11 => {
            bytes.extend_from_within(at..to);
            "longer"
        }
        12 => {
            // A block of the file is in another place, as on a disk that mixes up addresses.
            let block = bytes[at..to].to_vec();
            let elsewhere = random.usize(..=bytes.len() - block.len());
            bytes[elsewhere..elsewhere + block.len()].copy_from_slice(&block);
            "a block elsewhere"
        }
        13 => {
            bytes.drain(at..to);
            "a block left out"
        }
        14 => {
            bytes.clear();
            "empty"
        }
        _ => return ("gone", None),
    };
    (kind, Some(bytes))
}

pub(in crate::store) fn options(dir: &Path) -> Options {
    Options { commit_interval: std::time::Duration::ZERO, ..Options::new(dir.to_path_buf()) }
}

/// How many directories are damaged. For all of them:
/// `BATCHD_DAMAGES=500 cargo test --lib store::verify -- --nocapture`.
#[expect(clippy::disallowed_methods, reason = "the length of a test run is not a setting of the daemon")]
fn damages() -> usize {
    std::env::var("BATCHD_DAMAGES").map_or(150, |text| text.parse().expect("BATCHD_DAMAGES is a number"))
}

/// A start after damage to the store's files either serves everything that was shown, or refuses
/// and changes nothing.
#[tokio::test]
async fn a_damaged_store_is_served_whole_or_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut earlier = Vec::new();
    for life in 0..3 {
        let (store, _) = open(dir.path());
        some_batches(&store, 6 + life).await;
        // Copied while the store is open, as a kill would leave it.
        earlier.push(content_of(dir.path()));
        close(store).await;
    }
    let (store, _) = open(dir.path());
    some_batches(&store, 5).await;
    let expected = shown(&store).await;
    let whole = content_of(dir.path());
    close(store).await;
    let another = tempfile::tempdir().unwrap();
    let (store, _) = open(another.path());
    some_batches(&store, 3).await;
    let foreign_shown = shown(&store).await;
    close(store).await;
    let foreign: BTreeMap<_, _> = content_of(another.path())
        .into_iter()
        .map(|(path, bytes)| (dir.path().join(path.strip_prefix(another.path()).unwrap()), bytes))
        .collect();
    earlier.push(foreign.clone());

    let targets: Vec<_> = whole.keys().filter(|path| !path.starts_with(dir.path().join("files")) && !path.ends_with("seal.key")).collect();
    let mut random = fastrand::Rng::with_seed(1);
    let (mut served, mut refused) = (0, 0);
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    for case in 0..damages() {
        let mut damaged = whole.clone();
        let target = if random.u8(0..4) > 0 { dir.path().join("store/db") } else { (*random.choice(&targets).unwrap()).clone() };
        let of_another_time = random.u8(0..10) == 0;
        let (kind, replaced) = match of_another_time {
            true => ("another file", random.choice(&earlier).unwrap().get(&target).cloned()),
            false => damage(&whole[&target], &mut random),
        };
        match replaced {
            Some(bytes) => drop(damaged.insert(target.clone(), bytes)),
            None => drop(damaged.remove(&target)),
        }
        let copy = tempfile::tempdir().unwrap();
        write_to(copy.path(), dir.path(), &damaged);
        let before = content_of(copy.path());
        match Store::open(options(copy.path())) {
            Ok((store, _)) => {
                served += 1;
                assert!(shown(&store).await == expected, "case {case}, {}: something is missing", target.display());
                close(store).await;
            }
            Err(OpenError::Refused { .. }) => {
                refused += 1;
                assert!(content_of(copy.path()) == before, "case {case}, {}: it was refused, and yet changed", target.display());
                let name = format!("case {case}, {}", target.strip_prefix(dir.path()).unwrap().display());
                // A foreign store brings back its own batches, but not its files.
                let is_foreign = target.ends_with("db") && damaged.contains_key(&target) && damaged.get(&target) == foreign.get(&target);
                let expected = if is_foreign { &foreign_shown } else { &expected };
                *figures.entry(kind).or_default() += is_brought_back(&name, copy.path(), expected, target.ends_with("db")).await;
                assert!(content_of(copy.path()) == before, "{name}: it was salvaged, and yet changed");
            }
            Err(error) => panic!("case {case}, {}: {error}", target.display()),
        }
    }
    let mut out = std::io::stderr();
    writeln!(out, "of {}: {served} served, {refused} refused", damages()).unwrap();
    for (kind, figures) in &figures {
        writeln!(out, "{kind}: {figures}").unwrap();
    }
    assert!(served > damages() / 10 && refused > damages() / 4, "served {served}, refused {refused}");
}

#[tokio::test]
async fn a_missing_store_beside_what_belongs_to_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    add_file(&store, b"content", None).await;
    close(store).await;
    let whole = content_of(dir.path());
    let refusal = |without: &[&str]| {
        let copy = tempfile::tempdir().unwrap();
        write_to(copy.path(), dir.path(), &whole);
        for name in without {
            let path = copy.path().join(name);
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
        let before = content_of(copy.path());
        let text = Store::open(options(copy.path())).unwrap_err().to_string();
        assert_eq!(content_of(copy.path()), before);
        text.replace(&copy.path().display().to_string(), "DIR").split(". `batchd").next().unwrap().to_owned()
    };
    let cases: &[&[&str]] = &[&["store"], &["store", "mark"], &["mark"], &["store/db"], &["store/db", "mark"]];
    insta::assert_snapshot!(cases.iter().map(|without| format!("without {without:?}: {}", refusal(without))).collect::<Vec<_>>().join("\n"), @r#"
    without ["store"]: the data directory DIR is not opened, and nothing in it was changed: its store is missing (`store/db`), but the file `mark` is there
    without ["store", "mark"]: the data directory DIR is not opened, and nothing in it was changed: its store is missing (`store/db`), but uploaded content in `files` is there
    without ["mark"]: the data directory DIR is not opened, and nothing in it was changed: the file `mark` is missing, which tells how much was made durable
    without ["store/db"]: the data directory DIR is not opened, and nothing in it was changed: its store is missing (`store/db`), but the file `mark` is there
    without ["store/db", "mark"]: the data directory DIR is not opened, and nothing in it was changed: its store is missing (`store/db`), but uploaded content in `files` is there
    "#);
    // A store that never existed is made.
    let empty = tempfile::tempdir().unwrap();
    close(Store::open(options(empty.path())).unwrap().0).await;
}
