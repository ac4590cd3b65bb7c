//! A trace of writes and syncs, and the states that a disk may hold when the power fails at a point
//! of the trace.
//!
//! The model covers:
//! * data written to a file before its last completed `fsync` or `fdatasync` began is there;
//! * of data written later, each sector (512 or 4,096 bytes, by chance) is there or not, whatever
//!   came before or after it; so writes are torn, reordered or missing. The file has its last
//!   durable size, its last size, or a size that the surviving data allows. `sync_file_range`
//!   counts for nothing;
//! * names (creates, renames, removals) are there once a sync of their folder has completed, if
//!   they are older than the start of the sync. Of later names, either each folder has those up to
//!   a random moment of its own, as POSIX allows; or they reach the disk in one order, and any sync
//!   takes along all names before it, as with a journal.
//!
//! The model does not cover: changes of names that reach a folder in another order than they were
//! made; a disk that lies about syncs, or damages sectors that were not written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// Identifies a file: its inode, and when the inode was made.
type Id = (u64, u64);

enum Op {
    Write(Id, u64, Range<usize>),
    Truncate(Id, u64),
    /// The file is new, whatever file had this inode before.
    Fresh(Id),
    SyncBegins(Id, u64),
    SyncEnds(Id, u64),
    /// The number of states of the names before this one.
    Names(usize),
}

pub struct Trace {
    bytes: Vec<u8>,
    /// Operations, each with the length of the trace up to its end.
    ops: Vec<(u64, Op)>,
    names: Vec<Names>,
}

/// The names in the directory.
#[derive(Default)]
struct Names {
    root: Option<Id>,
    /// The content of each folder: names, the files they refer to, and whether these are folders.
    folders: BTreeMap<Id, Vec<(String, Id, bool)>>,
}

impl Names {
    /// Reads lines of kind, inode, when it was made, path; a folder comes before its content.
    fn read(lines: &str) -> Option<Self> {
        let mut names = Self::default();
        let mut paths = HashMap::new();
        for line in lines.lines() {
            let mut parts = line.splitn(4, ' ');
            let (kind, id, path) = (parts.next()?, (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?), parts.next()?);
            let is_folder = kind == "d";
            if is_folder {
                names.folders.insert(id, Vec::new());
                paths.insert(path, id);
            }
            if path == "." {
                names.root = Some(id);
                continue;
            }
            let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
            names.folders.get_mut(paths.get(folder)?)?.push((name.to_owned(), id, is_folder));
        }
        Some(names)
    }
}

/// A file during the replay.
#[derive(Default)]
struct File {
    durable: Vec<u8>,
    /// Changes since the durable state: an offset with bytes, or a new size without bytes.
    later: Vec<(u64, Option<Range<usize>>)>,
    /// The number of changes before those in `later`.
    settled: usize,
    /// The size as the program sees it.
    size: u64,
}

/// The point at which the power fails.
pub struct Cut {
    /// The number of operations that happen.
    pub ops: usize,
    /// The length of the trace at that point.
    pub at: u64,
}

impl Trace {
    pub fn read(path: &Path) -> Self {
        const HEAD: usize = 40;
        let bytes = std::fs::read(path).expect("a trace");
        let (mut ops, mut names) = (Vec::new(), Vec::new());
        let mut from = 0;
        while from < bytes.len() {
            let head = from;
            let number = |index: usize| u64::from_ne_bytes(bytes[head + index * 8..][..8].try_into().expect("eight bytes"));
            let (id, at) = ((number(1), number(2)), number(3));
            let content = head + HEAD..head + HEAD + number(4) as usize;
            assert!(content.end <= bytes.len(), "a torn record at {head}");
            from = content.end;
            let op = match number(0) {
                1 => Op::Write(id, at, content),
                2 => Op::Truncate(id, at),
                3 => Op::SyncBegins(id, at),
                4 => Op::SyncEnds(id, at),
                5 => {
                    let lines = std::str::from_utf8(&bytes[content]).expect("names are text");
                    names.push(Names::read(lines).expect("a list of names"));
                    Op::Names(names.len() - 1)
                }
                6 => Op::Fresh(id),
                kind => panic!("a record of kind {kind} at {head}"),
            };
            ops.push((from as u64, op));
        }
        Self { bytes, ops, names }
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Picks a random point: after any operation or any byte, or where promises are made and kept:
    /// around the end of a sync, a change of names, or the first sync of a database.
    pub fn cut(&self, random: &mut fastrand::Rng) -> Cut {
        let ops = match random.u8(..5) {
            0 => random.usize(..self.ops.len()),
            1 => {
                let byte = random.u64(..self.bytes.len() as u64);
                self.ops.partition_point(|(end, _)| *end <= byte)
            }
            2 => self.one_of(random, |op| matches!(op, Op::SyncEnds(..))) + random.usize(..2),
            3 => self.one_of(random, |op| matches!(op, Op::Names(_))) + random.usize(..4),
            _ => {
                let logs = self.names.iter().flat_map(|names| names.folders.values().flatten());
                let logs: HashSet<Id> = logs.filter(|(name, ..)| name == "db").map(|(_, id, _)| *id).collect();
                let mut seen = HashSet::new();
                let mut is_first = |id: &Id| logs.contains(id) && seen.insert(*id);
                self.one_of(random, |op| matches!(op, Op::SyncEnds(id, _) if is_first(id))).saturating_sub(12) + random.usize(..36)
            }
        };
        let ops = ops.clamp(1, self.ops.len());
        Cut { ops, at: self.ops[ops - 1].0 }
    }

    fn one_of(&self, random: &mut fastrand::Rng, mut is_wanted: impl FnMut(&Op) -> bool) -> usize {
        let found: Vec<_> = (0..self.ops.len()).filter(|index| is_wanted(&self.ops[*index].1)).collect();
        random.choice(found).expect("there is one")
    }

    /// Writes to `dir` a state that the disk may hold at the cut; returns how many bytes were
    /// written and not synced.
    pub fn image(&self, cut: &Cut, random: &mut fastrand::Rng, dir: &Path) -> usize {
        let mut files: HashMap<Id, File> = HashMap::new();
        let mut begun = HashMap::new();
        let mut durable = Durable::default();
        let mut names = 0;
        for (_, op) in &self.ops[..cut.ops] {
            match op {
                Op::Write(id, at, content) => files.entry(*id).or_default().write(*at, content.clone()),
                Op::Truncate(id, size) => files.entry(*id).or_default().truncate(*size),
                Op::Fresh(id) => {
                    if files.get(id).is_some_and(|file| file.size > 0) {
                        files.remove(id);
                    }
                }
                Op::SyncBegins(id, number) => {
                    let file = files.entry(*id).or_default();
                    begun.insert(*number, (file.settled + file.later.len(), names));
                }
                Op::SyncEnds(id, number) => {
                    let (changes, named) = begun.remove(number).expect("it has begun");
                    files.entry(*id).or_default().settle(changes, &self.bytes);
                    durable.note(*id, named);
                }
                Op::Names(index) => names = index + 1,
            }
        }
        let luck = Luck { whole: [0.0, 0.1, 0.5, 0.9, 1.0][random.usize(..5)], sector: [512, 4096][random.usize(..2)] };
        let states = &self.names[..names];
        // With a journal, one moment applies to all folders.
        let moment = random.bool().then(|| random.usize(durable.any.max(1)..names.max(1) + 1) - 1);
        let Some(root) = states.last().and_then(|names| names.root) else { return 0 };
        let mut folders = vec![(root, dir.to_owned())];
        while let Some((folder, path)) = folders.pop() {
            std::fs::create_dir(&path).expect("a folder");
            let within = match moment {
                Some(moment) => states[moment].folders.get(&folder),
                None => durable.listing(folder, states, random),
            };
            for (name, id, is_folder) in within.into_iter().flatten() {
                if *is_folder {
                    folders.push((*id, path.join(name)));
                } else {
                    let content = files.get(id).map(|file| file.after(&luck, random, &self.bytes)).unwrap_or_default();
                    std::fs::write(path.join(name), content).expect("a file");
                }
            }
        }
        let changes = files.values().flat_map(|file| &file.later);
        changes.filter_map(|(_, bytes)| bytes.as_ref()).map(Range::len).sum()
    }
}

/// The number of states of the names that are durable: the last of them is there, or a later state.
#[derive(Default)]
struct Durable {
    /// By the folder that was synced.
    of: HashMap<Id, usize>,
    /// By a sync of anything.
    any: usize,
}

impl Durable {
    fn note(&mut self, id: Id, named: usize) {
        let of = self.of.entry(id).or_default();
        *of = named.max(*of);
        self.any = named.max(self.any);
    }

    /// The names in one folder; `None` if the folder was never synced and is out of luck.
    fn listing<'a>(&self, folder: Id, states: &'a [Names], random: &mut fastrand::Rng) -> Option<&'a Vec<(String, Id, bool)>> {
        let sure = self.of.get(&folder).copied().unwrap_or(0);
        let possible: Vec<_> = states[sure.saturating_sub(1)..].iter().filter_map(|names| names.folders.get(&folder)).collect();
        let first = usize::from(sure > 0);
        // A folder that was made and removed has at least had some state once.
        let chosen = random.usize(first.min(possible.len())..=possible.len());
        chosen.checked_sub(1).map(|index| possible[index])
    }
}

/// The share of unsynced data that survives.
struct Luck {
    whole: f64,
    sector: u64,
}

fn put(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = at as usize;
    content.resize(content.len().max(at + bytes.len()), 0);
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

impl File {
    fn write(&mut self, at: u64, content: Range<usize>) {
        self.size = self.size.max(at + content.len() as u64);
        self.later.push((at, Some(content)));
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        self.later.push((size, None));
    }

    /// Makes the first `changes` of all changes to the file durable.
    fn settle(&mut self, changes: usize, trace: &[u8]) {
        // A sync that began earlier may end later.
        for (at, content) in self.later.drain(..changes.saturating_sub(self.settled)) {
            match content {
                Some(content) => put(&mut self.durable, at, &trace[content]),
                None => self.durable.resize(at as usize, 0),
            }
        }
        self.settled = self.settled.max(changes);
    }

    fn after(&self, luck: &Luck, random: &mut fastrand::Rng, trace: &[u8]) -> Vec<u8> {
        let mut content = self.durable.clone();
        for (at, bytes) in &self.later {
            let Some(bytes) = bytes else {
                if random.f64() < luck.whole {
                    content.resize(*at as usize, 0);
                }
                continue;
            };
            let mut from = 0;
            while from < bytes.len() {
                let to = ((*at + from as u64) / luck.sector * luck.sector + luck.sector - *at).min(bytes.len() as u64) as usize;
                if random.f64() < luck.whole {
                    put(&mut content, at + from as u64, &trace[bytes.clone()][from..to]);
                }
                from = to;
            }
        }
        match random.u8(..3) {
            // The data has reached the disk, and the size has not.
            0 if !self.later.iter().any(|(_, bytes)| bytes.is_none()) => content.truncate(self.durable.len()),
            // The size has reached the disk, and the data has not.
            1 if content.len() < self.size as usize => content.resize(self.size as usize, 0),
            _ => {}
        }
        content
    }
}
