//! Finds the folders that must be watched to learn of every change to the target of a path.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::catalog::archive::FOLDERS;

/// The most links that are followed from one path; the system's own limit is 40.
const MAX_LINKS: usize = 40;
/// The most watches that are set. Seeds that are links to many different folders are found by
/// scanning.
const MAX_PLACES: usize = 512;

/// The target of a watched path. If the path leads to another target later, the watch must be set
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchedPlace {
    device: u64,
    inode: u64,
    /// When the target was made, where the file system knows: the inode number of a removed folder
    /// is soon reused.
    made: Option<SystemTime>,
    /// The folder holds seeds.
    pub inside: bool,
}

/// The folders of the seeds, and each folder that holds a link or a name on a path to them.
pub fn places(dir: &Path) -> BTreeMap<PathBuf, WatchedPlace> {
    let mut found = BTreeMap::new();
    // An absolute path without `.` and `..`, but with its links.
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    follow(&dir, &mut found);
    for folder in FOLDERS {
        follow(&dir.join(folder), &mut found);
        let entries = fs::read_dir(dir.join(folder)).into_iter().flatten().filter_map(Result::ok);
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        for link in links {
            if found.len() < MAX_PLACES {
                follow(&link.path(), &mut found);
            }
        }
    }
    let folders = FOLDERS.map(|folder| (dir.join(folder), true));
    for (folder, inside) in [(dir.clone(), false)].into_iter().chain(folders) {
        if let Ok(real) = folder.canonicalize() {
            add(&real, inside, &mut found);
        }
    }
    found
}

/// Adds the folders in which a change would make `path` lead somewhere else.
fn follow(path: &Path, found: &mut BTreeMap<PathBuf, WatchedPlace>) {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        // A parent that does not exist will appear in the nearest existing one.
        let Some(parent) = path.ancestors().skip(1).find(|parent| parent.is_dir()) else { return };
        if let Ok(real) = parent.canonicalize() {
            add(&real, false, found);
        }
        // The outermost link first: links behind it cannot be reached without it.
        let parts: Vec<_> = path.ancestors().collect();
        let link = parts.into_iter().rev().find(|part| part.is_symlink()).map(Path::to_owned);
        let Some((link, target)) = link.and_then(|link| fs::read_link(&link).ok().map(|target| (link, target))) else { return };
        if let Some(Ok(holder)) = link.parent().map(Path::canonicalize) {
            add(&holder, false, found);
            let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
            path = holder.join(target).join(rest);
        } else {
            return;
        }
    }
}

fn add(path: &Path, inside: bool, found: &mut BTreeMap<PathBuf, WatchedPlace>) {
    let Ok(data) = fs::metadata(path) else { return };
    let place = WatchedPlace { device: data.dev(), inode: data.ino(), made: data.created().ok(), inside };
    let known = found.entry(path.to_owned()).or_insert(place);
    known.inside |= inside;
}
