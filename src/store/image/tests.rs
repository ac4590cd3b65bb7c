//! Images of logs that sled has written, compared with a map of what they must hold.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use super::message::SEGMENT;
use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
const TREE: &[u8] = b"data";

fn open(folder: &Path) -> (sled::Db, sled::Tree) {
    let config = sled::Config::new().path(folder).flush_every_ms(None).cache_capacity(1 << 20);
    let db = loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    let tree = db.open_tree(TREE).unwrap();
    (db, tree)
}

/// Makes some groups of writes like those of the store's writer.
fn write(tree: &sled::Tree, model: &mut Model, random: &mut fastrand::Rng, groups: usize) {
    for _ in 0..groups {
        let mut batch = sled::Batch::default();
        for _ in 0..random.usize(1..60) {
            let key = format!("{:04}", random.u32(0..1_500)).into_bytes();
            if random.u8(0..10) < 3 {
                batch.remove(key.clone());
                model.remove(&key);
            } else {
                let length = random.usize(0..3_000);
                let value: Vec<_> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
                batch.insert(key.clone(), value.clone());
                model.insert(key, value);
            }
        }
        tree.apply_batch(batch).unwrap();
        tree.flush().unwrap();
    }
}

fn image(folder: &Path) -> Image {
    Image::read(File::open(folder.join("db")).unwrap()).unwrap()
}

fn entries(image: &Image) -> Model {
    let mut found = Model::new();
    image
        .entries(TREE, |key, value| {
            assert!(found.last_key_value().is_none_or(|(last, _)| last.as_slice() < key), "keys are in order");
            found.insert(key.to_vec(), value.to_vec());
        })
        .unwrap();
    found
}

/// Copies the log as a kill would leave it.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for name in ["db", "conf"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

/// Kills what is open, and hands the log over as the next start does.
fn next_life(dir: &tempfile::TempDir, (db, tree): (sled::Db, sled::Tree)) -> tempfile::TempDir {
    let next = copy(dir.path());
    drop((tree, db));
    image(next.path()).hand_over(next.path()).unwrap();
    next
}

#[test]
fn an_image_holds_what_sled_holds_over_many_lives_of_a_log() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for life in 0..12 {
        let (db, tree) = open(dir.path());
        write(&tree, &mut model, &mut random, 60);
        // Killed, or closed.
        let next = if life % 3 == 0 { None } else { Some(copy(dir.path())) };
        drop((tree, db));
        dir = next.unwrap_or(dir);
        let found = image(dir.path());
        assert_eq!(found.faults(), [], "life {life}");
        assert!(entries(&found) == model, "life {life}");
        assert!(found.live_bytes() > model.values().map(|value| value.len() as u64).sum());
        found.hand_over(dir.path()).unwrap();
        let again = image(dir.path());
        assert!(again.faults().is_empty() && entries(&again) == model, "nothing is lost by handing over, life {life}");
        let (db, tree) = open(dir.path());
        assert!(
            tree.iter().map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).eq(model.clone()),
            "life {life}"
        );
        drop((tree, db));
    }
}

/// A log that ends anywhere behind the part that was certainly on disk holds an earlier state, and
/// sled opens it with that state.
#[test]
fn a_log_that_was_cut_holds_an_earlier_state() {
    let mut random = fastrand::Rng::with_seed(11);
    let dir = tempfile::tempdir().unwrap();
    let (db, tree) = open(dir.path());
    let mut states = vec![Model::new()];
    for _ in 0..90 {
        let mut model = states.last().unwrap().clone();
        write(&tree, &mut model, &mut random, 1);
        states.push(model);
    }
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    drop((tree, db));
    let scan = image(dir.path()).scan;
    let mut held_less = 0;
    for _ in 0..60 {
        let mut torn = whole.clone();
        let last = scan.tip / SEGMENT as u64 * SEGMENT as u64;
        let lsn = random.u64(last - SEGMENT as u64 + 20..scan.tip);
        for (first, offset) in &scan.segments {
            let from = (*offset + lsn.saturating_sub(*first).min(SEGMENT as u64)) as usize;
            let to = torn.len().min(*offset as usize + SEGMENT);
            // Zeros as if never written, or noise.
            let noise = random.bool();
            torn[from.min(to)..to].iter_mut().for_each(|byte| *byte = if noise { random.u8(..) } else { 0 });
        }
        let cut = copy(dir.path());
        std::fs::write(cut.path().join("db"), torn).unwrap();
        let found = image(cut.path());
        let held = entries(&found);
        assert!(states.contains(&held), "cut at {lsn} of {}", scan.tip);
        held_less += usize::from(held != *states.last().unwrap());
        found.hand_over(cut.path()).unwrap();
        let (_db, tree) = open(cut.path());
        assert!(tree.iter().map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).eq(held), "cut at {lsn}");
    }
    assert!(held_less > 30, "{held_less}");
}

/// The state of a log does not depend on how often it was handed over, even with few writes in
/// between.
#[test]
fn a_log_goes_on_behind_what_was_handed_over() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    for life in 0..30 {
        let (db, tree) = open(dir.path());
        let groups = random.usize(0..3);
        write(&tree, &mut model, &mut random, groups);
        let next = if life % 2 == 0 { None } else { Some(copy(dir.path())) };
        drop((tree, db));
        dir = next.unwrap_or(dir);
        let found = image(dir.path());
        assert_eq!(found.faults(), [], "life {life}");
        assert!(entries(&found) == model, "life {life}");
        found.hand_over(dir.path()).unwrap();
    }
}

/// Damage changes nothing, makes the log unreadable, or is reported; or it hits the end of the log,
/// and then the length of the log, which is known elsewhere, reveals it.
#[test]
fn damage_is_told() {
    let mut random = fastrand::Rng::with_seed(3);
    let dir = tempfile::tempdir().unwrap();
    let (db, tree) = open(dir.path());
    let mut model = Model::new();
    write(&tree, &mut model, &mut random, 150);
    drop((tree, db));
    image(dir.path()).hand_over(dir.path()).unwrap();
    let (db, tree) = open(dir.path());
    write(&tree, &mut model, &mut random, 20);
    drop((tree, db));
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let tip = image(dir.path()).scan.tip;
    let mut told = 0;
    for _ in 0..200 {
        let damaged = copy(dir.path());
        let mut bytes = whole.clone();
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(0..8);
        std::fs::write(damaged.path().join("db"), bytes).unwrap();
        let found = image(damaged.path());
        let mut held = Model::new();
        let read = found.entries(TREE, |key, value| drop(held.insert(key.to_vec(), value.to_vec())));
        if read.is_err() || held != model {
            told += 1;
            assert!(!found.faults().is_empty() || found.scan.tip < tip, "byte {at}");
        }
    }
    assert!(told > 50, "{told}");
}

/// Keys of these tests.
fn is_key(key: &[u8]) -> bool {
    key.len() == 4 && key.iter().all(u8::is_ascii_digit)
}

/// Each value that a key ever had.
#[derive(Default)]
struct History(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

impl History {
    fn note(&mut self, model: &Model) {
        for (key, value) in model {
            let values = self.0.entry(key.clone()).or_default();
            if values.last() != Some(value) {
                values.push(value.clone());
            }
        }
    }

    fn has(&self, key: &[u8], value: &[u8]) -> bool {
        self.0.get(key).is_some_and(|values| values.iter().any(|was| was == value))
    }
}

/// Pages end and are used again with other ranges, because whole ranges of keys are removed and
/// written again. Whole segments, or their starts, are written over others, or the end of the file
/// is missing.
#[test]
fn a_wreck_makes_nothing_up_where_pages_have_had_many_lives() {
    let mut random = fastrand::Rng::with_seed(17);
    let mut dir = tempfile::tempdir().unwrap();
    let (mut model, mut history) = (Model::new(), History::default());
    for life in 0..4 {
        let (db, tree) = open(dir.path());
        for group in 0..60 {
            if group % 10 < 5 {
                let from = (life * 6 + group / 10) * 397 % 1_500;
                let mut batch = sled::Batch::default();
                for key in (0..60).map(|next| (from + group % 10 * 60 + next) % 1_500) {
                    let key = format!("{key:04}").into_bytes();
                    batch.remove(key.clone());
                    model.remove(&key);
                }
                tree.apply_batch(batch).unwrap();
            }
            write(&tree, &mut model, &mut random, 1);
            history.note(&model);
        }
        dir = next_life(&dir, (db, tree));
    }
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let last = *image(dir.path()).scan.segments.last_key_value().unwrap().1 as usize;
    for case in 0..120 {
        let mut bytes = whole.clone();
        if case % 3 == 0 {
            bytes.truncate(random.usize(SEGMENT..whole.len()));
        } else {
            let slots = whole.len() / SEGMENT;
            let (from, to) = (random.usize(..slots) * SEGMENT, random.usize(..slots) * SEGMENT);
            let length = [4_096, 65_536, SEGMENT][random.usize(..3)];
            bytes[to..to + length].copy_from_slice(&whole[from..from + length]);
        }
        let is_end_hit = bytes.len() < whole.len() || bytes[last..] != whole[last..];
        let damaged = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(damaged.path(), bytes).unwrap();
        let wreck = Wreck::read(damaged.reopen().unwrap(), is_key).unwrap();
        wreck.entries(|FoundPiece { key, value, is_newest }| {
            assert!(history.has(key, value), "case {case}: {key:?} never had that value");
            assert!(!is_newest || is_end_hit || model.get(key).is_some_and(|now| now == value), "case {case}: {key:?} is not the newest");
        });
    }
}

/// A wreck yields no value that never was, calls no old value the newest, and yields everything
/// that was not hit, except entries that shared a page with something that was hit.
#[test]
fn what_is_left_of_a_wreck_is_found() {
    let mut random = fastrand::Rng::with_seed(13);
    let mut dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let mut history = History::default();
    for _ in 0..4 {
        let (db, tree) = open(dir.path());
        for _ in 0..60 {
            write(&tree, &mut model, &mut random, 1);
            history.note(&model);
        }
        dir = next_life(&dir, (db, tree));
    }
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let sound = image(dir.path()).scan;
    let last = *sound.segments.last_key_value().unwrap().1 as usize;
    let (mut back, mut all, mut worst) = (BTreeMap::new(), 0, model.len());
    for case in 0..150 {
        let mut bytes = whole.clone();
        let kind = case % 6;
        let at = random.usize(..bytes.len());
        let to = (at + (1 << random.u8(4..18))).min(bytes.len());
        match kind {
            0 => bytes[at] ^= 1 << random.u8(0..8),
            1 => bytes[at..to].fill(0),
            2 => bytes[at..to].iter_mut().for_each(|byte| *byte = random.u8(..)),
            3 => {
                let block = bytes[at..to].to_vec();
                let elsewhere = random.usize(..=bytes.len() - block.len());
                bytes[elsewhere..elsewhere + block.len()].copy_from_slice(&block);
            }
            4 => drop(bytes.drain(at..to)),
            _ => bytes.extend_from_within(at..to),
        }
        let is_end_hit = bytes.len() < whole.len() || bytes[last..whole.len()] != whole[last..];
        let damaged = copy(dir.path());
        std::fs::write(damaged.path().join("db"), bytes).unwrap();
        let wreck = Wreck::read(File::open(damaged.path().join("db")).unwrap(), is_key).unwrap();
        let mut found = Model::new();
        wreck.entries(|entry| {
            let FoundPiece { key, value, is_newest } = entry;
            assert!(found.last_key_value().is_none_or(|(last, _)| last.as_slice() < key), "keys are in order");
            assert!(history.has(key, value), "case {case}: {key:?} never had that value");
            if is_newest && !is_end_hit {
                assert!(model.get(key).is_some_and(|now| now == value), "case {case}: {key:?} is not the newest");
            }
            found.insert(key.to_vec(), value.to_vec());
        });
        let exact = model.iter().filter(|(key, value)| found.get(*key) == Some(value)).count();
        *back.entry(kind).or_insert(0) += exact;
        all += model.len();
        if kind == 0 {
            worst = worst.min(exact);
        }
    }
    let of_each = all / 6;
    let figures = format!("brought back: {back:?} of {of_each} entries a kind; after one bit at least {worst} of {}", model.len());
    writeln!(std::io::stderr(), "{figures}").unwrap();
    assert!(model.len() - worst < 40, "one bit took {} of {} entries", model.len() - worst, model.len());
    assert!(back.values().all(|back| back * 100 > of_each * 90), "{back:?} of {of_each}");
}
