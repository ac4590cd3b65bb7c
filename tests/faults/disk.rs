//! A trace of writes and syncs, and what a disk may hold when the power goes at a point of it.
//!
//! What is modelled:
//! * what was written to a file before its last completed `fsync` or `fdatasync` began is there;
//! * of what was written later, each sector (512 or 4,096 bytes, by chance) is there or not, whatever came before or
//!   after it; so writes are torn, reordered or missing. The file has the size that it had durably, the one that it
//!   had last, or one that what is there allows. `sync_file_range` counts for nothing;
//! * names (creates, renames, removals) reach the disk in their order, as on a file system with a journal. They are
//!   there at the latest once a sync of any file, begun after them, has completed; later ones are there up to a random one of them.
//!
//! What is not: a file system that reorders changes of names, so that a sync of a folder (which the recorder does not
//! see) is not known to be needed; a disk that lies about syncs, or damages sectors that nobody wrote.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Which file: its inode, and when that was made.
type Id = (u64, u64);

enum Op {
    Write(Id, u64, std::ops::Range<usize>),
    Truncate(Id, u64),
    /// The file is a new one, whatever had this inode before.
    Fresh(Id),
    SyncBegins(Id, u64),
    SyncEnds(Id, u64),
    Names(std::ops::Range<usize>),
}

pub struct Trace {
    bytes: Vec<u8>,
    /// Each with the length of the trace up to its end.
    ops: Vec<(u64, Op)>,
}

/// A file as the replay goes on.
#[derive(Default)]
struct File {
    durable: Vec<u8>,
    /// Changes since: an offset with bytes, or a new size without.
    later: Vec<(u64, Option<std::ops::Range<usize>>)>,
    /// How many changes there were before those in `later`.
    settled: usize,
    /// Its size as the program sees it.
    size: u64,
}

/// Where the power goes.
pub struct Cut {
    /// How many operations happen.
    pub ops: usize,
    /// The length of the trace then.
    pub at: u64,
}

impl Trace {
    pub fn read(path: &Path) -> Self {
        const HEAD: usize = 40;
        let bytes = std::fs::read(path).expect("a trace");
        let mut ops = Vec::new();
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
                5 => Op::Names(content),
                6 => Op::Fresh(id),
                kind => panic!("a record of kind {kind} at {head}"),
            };
            ops.push((from as u64, op));
        }
        Self { bytes, ops }
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// A random point: anywhere, or just before a sync has completed, or where names have just changed.
    pub fn cut(&self, random: &mut fastrand::Rng) -> Cut {
        let kind = random.u8(..3);
        let wanted = |(_, op): &(u64, Op)| match kind {
            0 => true,
            1 => matches!(op, Op::SyncEnds(..)),
            _ => matches!(op, Op::Names(_)),
        };
        let points: Vec<_> = (0..self.ops.len()).filter(|index| wanted(&self.ops[*index])).collect();
        let ops = match kind {
            2 => random.choice(points).expect("names change") + random.usize(..4),
            _ => random.choice(points).expect("there are syncs"),
        };
        let ops = ops.clamp(1, self.ops.len());
        Cut { ops, at: self.ops[ops - 1].0 }
    }

    /// Writes what a disk may hold then to `dir`.
    pub fn image(&self, cut: &Cut, random: &mut fastrand::Rng, dir: &Path) {
        let mut files: HashMap<Id, File> = HashMap::new();
        let mut begun = HashMap::new();
        let (mut names, mut named_for_sure) = (vec![0..0], 0);
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
                    begun.insert(*number, (file.settled + file.later.len(), names.len() - 1));
                }
                Op::SyncEnds(id, number) => {
                    let (changes, named) = begun.remove(number).expect("it has begun");
                    files.entry(*id).or_default().settle(changes, &self.bytes);
                    named_for_sure = named_for_sure.max(named);
                }
                Op::Names(list) => names.push(list.clone()),
            }
        }
        let named = &names[random.usize(named_for_sure..names.len())];
        std::fs::create_dir(dir).expect("a folder");
        let list = std::str::from_utf8(&self.bytes[named.clone()]).expect("names are text");
        let sorted: BTreeMap<_, _> = list.lines().map(|line| name(line).expect("a name")).collect();
        let luck = Luck { whole: [0.0, 0.1, 0.5, 0.9, 1.0][random.usize(..5)], sector: [512, 4096][random.usize(..2)] };
        for (path, id) in sorted {
            match id {
                None => std::fs::create_dir(dir.join(path)).expect("a folder"),
                Some(id) => {
                    let content = files.get(&id).map(|file| file.after(&luck, random, &self.bytes)).unwrap_or_default();
                    std::fs::write(dir.join(path), content).expect("a file");
                }
            }
        }
    }
}

/// A line of names: the path, and which file it is, unless it is a folder.
fn name(line: &str) -> Option<(&str, Option<Id>)> {
    let mut parts = line.splitn(4, ' ');
    let (kind, inode, made, path) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    Some((path, (kind == "f").then_some((inode, made))))
}

/// How much of what was not synced is there.
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
    fn write(&mut self, at: u64, content: std::ops::Range<usize>) {
        self.size = self.size.max(at + content.len() as u64);
        self.later.push((at, Some(content)));
    }

    fn truncate(&mut self, size: u64) {
        self.size = size;
        self.later.push((size, None));
    }

    /// The first so many of all its changes are durable.
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
            // Data has come to the disk, and the size has not.
            0 if !self.later.iter().any(|(_, bytes)| bytes.is_none()) => content.truncate(self.durable.len()),
            // The other way round.
            1 if content.len() < self.size as usize => content.resize(self.size as usize, 0),
            _ => {}
        }
        content
    }
}
