//! Compares salvaged directories with what clients were shown before the damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use super::super::Store;
use super::super::check::check;
use super::super::tests::{NOW, close};
use super::super::verify::tests::{Shown, options, shown};
use super::{SalvageNote, Salvaged, Thing, salvage};
use crate::domain::batch::Batch;
use crate::domain::file::FileSource;
use crate::domain::id::{BatchId, FileId, RowIndex, RowKey};

/// The outcomes of many salvages, summed up.
#[derive(Debug, Default)]
pub(in crate::store) struct Figures {
    cases: usize,
    lost_nothing: usize,
    rows_back: u64,
    rows: u64,
    files_back: usize,
    files: usize,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.lost_nothing += other.lost_nothing;
        self.rows_back += other.rows_back;
        self.rows += other.rows;
        self.files_back += other.files_back;
        self.files += other.files;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, lost_nothing, rows_back, rows, files_back, files } = self;
        write!(
            f,
            "{cases} salvaged, {lost_nothing} without any loss; {rows_back} of {rows} rows brought back, {files_back} of {files} files"
        )
    }
}

/// What a salvage reported.
#[derive(Debug, Default)]
struct Tellings {
    lost_batches: BTreeSet<BatchId>,
    lost_rows: BTreeSet<String>,
    lost_files: BTreeSet<FileId>,
    changed_batches: BTreeSet<BatchId>,
    changed_files: BTreeSet<FileId>,
    without_results: BTreeSet<BatchId>,
    /// Something was lost that cannot be named.
    unnamed: bool,
    all: Vec<SalvageNote>,
}

impl Tellings {
    fn add(&mut self, told: SalvageNote) {
        self.all.push(told.clone());
        match told {
            SalvageNote::Fault(_) => {}
            SalvageNote::Lost(Thing::Batch(id)) => drop(self.lost_batches.insert(id)),
            SalvageNote::Lost(Thing::File(id)) => drop(self.lost_files.insert(id)),
            SalvageNote::Lost(Thing::Rows(batch, rows)) => {
                self.lost_rows.extend(rows.into_iter().map(|row| RowKey { batch, row: RowIndex(row) }.to_string()));
            }
            SalvageNote::Lost(Thing::Other(_) | Thing::Results(_)) => self.unnamed = true,
            SalvageNote::Changed(Thing::Batch(id), _) | SalvageNote::Unsure(Thing::Batch(id), _) => drop(self.changed_batches.insert(id)),
            SalvageNote::Changed(Thing::File(id), _) | SalvageNote::Unsure(Thing::File(id), _) => drop(self.changed_files.insert(id)),
            SalvageNote::Unsure(Thing::Results(id), _) => drop(self.without_results.insert(id)),
            SalvageNote::Changed(..) | SalvageNote::Unsure(..) => {}
        }
    }

    fn has_losses(&self) -> bool {
        self.all.iter().any(|told| !matches!(told, SalvageNote::Fault(_)))
    }
}

/// The lines of a file over results, by the id of their row.
fn lines(content: &[u8]) -> BTreeMap<String, &[u8]> {
    let id = |line: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        value["id"].as_str().unwrap().strip_prefix("batch_req_").unwrap().to_owned()
    };
    content.split_inclusive(|byte| *byte == b'\n').map(|line| (id(line), line)).collect()
}

/// Salvages a directory and compares the new one with what was shown; `may_lose` if the damage
/// exceeds what can be rebuilt.
pub(in crate::store) async fn is_brought_back(case: &str, dir: &Path, expected: &Shown, may_lose: bool) -> Figures {
    let parent = tempfile::tempdir().unwrap();
    let to = parent.path().join("new");
    let mut told = Tellings::default();
    let done = salvage(dir, &to, NOW, &mut |what| told.add(what)).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(may_lose || !told.has_losses(), "{case}: nothing was lost, and yet {:?}", told.all);
    let mut damage = Vec::new();
    check(&to, true, &mut |line| damage.push(line.to_owned())).unwrap();
    assert!(damage.is_empty(), "{case}: what was salvaged is not sound: {damage:#?}\n{:#?}", told.all);
    let (store, _) = Store::open(options(&to)).unwrap();
    let found = shown(&store).await;
    close(store).await;
    if !told.has_losses() {
        assert!(found == *expected, "{case}: something is lost that is not told");
    }
    let rows_back = compare_batches(case, &found, expected, &told);
    let files_back = compare_files(case, &found, expected, &told);
    let rows = expected.batches.iter().map(|(_, content)| lines(content).len() as u64).sum();
    assert_eq!(done.rows, rows_back, "{case}: {:#?}", told.all);
    Figures { cases: 1, lost_nothing: usize::from(!told.has_losses()), rows_back, rows, files_back, files: expected.files.len() }
}

fn compare_batches(case: &str, found: &Shown, expected: &Shown, told: &Tellings) -> u64 {
    let expected: BTreeMap<_, _> = expected.batches.iter().map(|(batch, content)| (batch.spec.id, (batch, content))).collect();
    let mut rows_back = 0;
    for (batch, content) in &found.batches {
        let id = batch.spec.id;
        let (was, was_content) = expected.get(&id).unwrap_or_else(|| panic!("{case}: {id} is made up"));
        assert!(!told.lost_batches.contains(&id), "{case}: {id} is lost and there");
        let (now, before) = (lines(content), lines(was_content));
        let mut has_lost = false;
        // The batch is back in a state from before its rows were known, or without its results.
        let is_unknown = (told.changed_batches.contains(&id) && batch.progress.total == 0) || told.without_results.contains(&id);
        for (row, line) in before.iter().filter(|_| !is_unknown) {
            let is_back = now.get(row) == Some(line);
            assert!(
                is_back != told.lost_rows.contains(row),
                "{case}: row {row} is {}: {batch:?}\n{:#?}",
                if is_back { "lost and there" } else { "not told" },
                told.all
            );
            has_lost |= !is_back;
            rows_back += u64::from(is_back);
        }
        assert!(now.keys().all(|row| before.contains_key(row)), "{case}: {id} has rows that are made up");
        let lost = now.iter().filter(|(row, _)| told.lost_rows.contains(*row));
        for (row, line) in lost {
            assert!(String::from_utf8_lossy(line).contains("\"result_lost\""), "{case}: row {row}");
        }
        let counts = batch.progress;
        assert!((counts.succeeded + counts.failed) as usize == now.len() || told.without_results.contains(&id), "{case}: {id}");
        let is_same = *batch == **was || told.changed_batches.contains(&id);
        let is_but_for_rows = has_lost && Batch { progress: was.progress, ..batch.clone() } == **was;
        assert!(is_same || is_but_for_rows, "{case}: {id} is another: {batch:?}\n{was:?}\n{:#?}", told.all);
    }
    let there: BTreeSet<_> = found.batches.iter().map(|(batch, _)| batch.spec.id).collect();
    for id in expected.keys().filter(|id| !there.contains(id)) {
        assert!(told.lost_batches.contains(id) || told.unnamed, "{case}: {id} is lost, and nobody says so: {:#?}", told.all);
    }
    rows_back
}

fn compare_files(case: &str, found: &Shown, expected: &Shown, told: &Tellings) -> usize {
    let expected: BTreeMap<_, _> = expected.files.iter().map(|(file, content)| (file.id, (file, content))).collect();
    let mut back = 0;
    for (file, content) in &found.files {
        let id = file.id;
        assert!(!told.lost_files.contains(&id), "{case}: {id} is lost and there");
        assert_eq!(file.bytes, content.len() as u64, "{case}: {id}");
        let was = expected.get(&id);
        let is_same = was.is_some_and(|(was, was_content)| **was == *file && *was_content == content);
        let of_changed = match file.source {
            FileSource::Uploaded { .. } => false,
            FileSource::View { batch, .. } => {
                told.changed_batches.contains(&batch) || told.lost_rows.iter().any(|row| row.starts_with(&batch.to_string()[6..]))
            }
        };
        assert!(is_same || told.changed_files.contains(&id) || of_changed, "{case}: {id} is another: {file:?}\n{was:?}\n{:#?}", told.all);
        back += usize::from(is_same);
    }
    let there: BTreeSet<_> = found.files.iter().map(|(file, _)| file.id).collect();
    for id in expected.keys().filter(|id| !there.contains(id)) {
        assert!(told.lost_files.contains(id) || told.unnamed, "{case}: {id} is lost, and nobody says so: {:#?}", told.all);
    }
    back
}

/// A directory without damage is copied as it is.
#[tokio::test]
async fn a_sound_directory_is_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = super::super::tests::open(dir.path());
    super::super::verify::tests::some_batches(&store, 4).await;
    let expected = shown(&store).await;
    close(store).await;
    let figures = is_brought_back("sound", dir.path(), &expected, false).await;
    assert_eq!(figures.rows_back, 1_200);
    let into = |to: &Path| salvage(dir.path(), to, NOW, &mut |_| {}).map(|done: Salvaged| done.batches).map_err(|error| error.to_string());
    let refused = into(dir.path()).unwrap_err();
    assert!(refused.contains("is not empty"), "{refused}");
    let refused = into(&dir.path().join("files/new")).unwrap_err();
    assert!(refused.contains("lies within"), "{refused}");
    assert!(!dir.path().join("files/new").exists());
}
