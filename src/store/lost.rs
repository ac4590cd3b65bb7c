//! `lost+found/`: what a start found in the data directory and no record names.
//!
//! Usually a process died between writing content and its record, or between removing the record
//! and the content. But the content may also be all that is left of a file, so it is moved and not
//! removed. Only the start can do this, because only then is it certain that no record is about to
//! be written. The first sweep after that puts the time in front of the name; a sweep 30 days later
//! removes the content. Names:
//!
//! ```text
//! files.01a0c4506c0073f997f3c8024a599215                   moved by this start
//! 20261124T150600Z.files.01a0c4506c0073f997f3c8024a599215  since then
//! ```
//!
//! Other names in this folder are not ours: at the top of a file system the folder is also
//! `fsck`'s.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::FileType;

use super::dir::{DataDir, FILES, Folder, LOST_FOUND, LOST_FOUND_TOO, PARTS, SPOOL, content_id};
use super::{Store, format};
use crate::domain::id::FileId;
use crate::domain::time::{Timestamp, later};
use crate::store::error::StoreError;

/// How long content is kept in `lost+found/`.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// How often the folder is looked through.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
/// Format of the time in a name; of a fixed length.
const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// Names of folders that content may come from.
const ORIGINS: [&str; 3] = [FILES, PARTS, SPOOL];
/// Bytes of a foreign name that are kept: the whole must still be a valid file name.
const NAME_KEPT: usize = 160;
/// The most names that one log line lists.
const NAMED: usize = 10;

/// The state of `lost+found/`.
#[derive(Debug, Default)]
pub(super) struct LostFound {
    count: AtomicU64,
    looked: Mutex<Option<Timestamp>>,
}

/// A name in the folder, if it is one of ours.
enum Name {
    Undated,
    Since(Timestamp),
}

impl Name {
    fn of(name: &OsStr) -> Option<Self> {
        let (first, rest) = name.to_str()?.split_once('.')?;
        if ORIGINS.contains(&first) {
            return Some(Self::Undated);
        }
        let since = jiff::civil::DateTime::strptime(STAMP, first).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        rest.split_once('.').filter(|(origin, _)| ORIGINS.contains(origin)).map(|_| Self::Since(since))
    }
}

/// Opens the folder; `None` if it does not exist and is not to be made. The usual folder may belong
/// to the root user.
fn folder(dir: &DataDir, make: bool) -> Result<Option<Folder>, StoreError> {
    let open = |name| if make { dir.root().folder(name).map(Some) } else { dir.root().existing_folder(name) };
    open(LOST_FOUND).or_else(|error| open(LOST_FOUND_TOO).map_err(|_| error))
}

/// Moves a file to the folder.
pub(super) fn move_there(from: &Folder, origin: &str, name: &OsStr, to: &Folder) -> Result<(), StoreError> {
    let mut kept = name.to_string_lossy().into_owned();
    while kept.len() > NAME_KEPT {
        kept.pop();
    }
    let mut target = format!("{origin}.{kept}");
    let mut number = 1_u32;
    // Nothing in the folder is overwritten.
    while to.kind_of(&target)?.is_some() {
        number += 1;
        target = format!("{origin}.{kept}.{number}");
    }
    from.rename(name, to, &target)
}

impl Store {
    /// Number of things in `lost+found/` that no record names and that are not removed yet.
    pub fn lost_found(&self) -> u64 {
        self.inner.lost.count.load(Ordering::Relaxed)
    }

    /// Moves what no record names to `lost+found/`. Runs before any write to the store is possible.
    ///
    /// # Errors
    /// When the directory or the store cannot be read. A file that cannot be moved is no error: it
    /// stays where it is.
    pub(super) fn set_unknown_aside(&self) -> Result<(), StoreError> {
        let dir = &self.inner.dir;
        let known_parts = self.known_parts()?;
        let is_known = |id| -> Result<bool, StoreError> {
            let (file, deleted) = (format::file(FileId::from_u128(id)), format::deleted(FileId::from_u128(id)));
            Ok(self.inner.tree.contains_key(file)? || self.inner.tree.contains_key(deleted)?)
        };
        let mut unknown = Vec::new();
        unknown.extend(unknown_content(dir.files(), is_known)?.into_iter().map(|name| (dir.files(), FILES, name)));
        unknown
            .extend(unknown_content(dir.parts(), |id| Ok(known_parts.contains(&id)))?.into_iter().map(|name| (dir.parts(), PARTS, name)));
        unknown.extend(clear(dir.spool())?.into_iter().map(|name| (dir.spool(), SPOOL, name)));
        if !unknown.is_empty()
            && let Err(error) = self.set_aside(&unknown)
        {
            tracing::error!(%error, "not all that no record names could be moved to lost+found; the rest stays where it is");
        }
        Ok(())
    }

    fn set_aside(&self, unknown: &[(&Folder, &str, OsString)]) -> Result<(), StoreError> {
        let dir = &self.inner.dir;
        let Some(to) = folder(dir, true)? else { return Ok(()) };
        let tries = unknown.iter().map(|(from, origin, name)| move_there(from, origin, name, &to));
        let (moved, failed): (Vec<_>, Vec<_>) = tries.partition(Result::is_ok);
        for folder in [&to, dir.files(), dir.parts(), dir.spool(), dir.root()] {
            folder.sync()?;
        }
        let count = moved.len() as u64;
        self.inner.lost.count.fetch_add(count, Ordering::Relaxed);
        tracing::warn!(count, path = %to.path().display(), "what no record names was moved to lost+found, where it stays for 30 days");
        failed.into_iter().collect()
    }

    fn known_parts(&self) -> Result<HashSet<u128>, StoreError> {
        let mut known = HashSet::new();
        for key in self.inner.tree.scan_prefix(format::UPLOAD_PARTS).keys() {
            known.extend(format::trailing_id(&key?));
        }
        Ok(known)
    }

    /// Dates what was moved to `lost+found/` and removes what has been there for 30 days. Only
    /// looks once in a while. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn sweep_lost(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut looked = self.inner.lost.looked.lock().unwrap_or_else(|p| p.into_inner());
        if looked.is_some_and(|at| now < later(at, LOOK_EVERY)) {
            return Ok(0);
        }
        *looked = Some(now);
        let Some(folder) = folder(&self.inner.dir, false)? else { return Ok(0) };
        let (mut kept, mut removed, mut changed) = (0, 0, false);
        for name in folder.entries()?.into_iter().map(|entry| entry.name) {
            match Name::of(&name) {
                Some(Name::Since(since)) if later(since, RETENTION) <= now => {
                    folder.remove_tree(&name)?;
                    (removed, changed) = (removed + 1, true);
                }
                Some(Name::Undated) => {
                    let dated = format!("{}.{}", now.strftime(STAMP), name.to_string_lossy());
                    // If a file of that name came from here within the same second, the next look
                    // uses another name.
                    if folder.kind_of(&dated)?.is_none() {
                        folder.rename(&name, &folder, &dated)?;
                    }
                    (kept, changed) = (kept + 1, true);
                }
                Some(Name::Since(_)) => kept += 1,
                None => {}
            }
        }
        self.inner.lost.count.store(kept, Ordering::Relaxed);
        if changed {
            folder.sync()?;
        }
        if removed > 0 {
            tracing::info!(removed, path = %folder.path().display(), "removed from lost+found what has been there for 30 days");
        }
        Ok(removed)
    }
}

/// Content that has the name of an unknown id. Other names are not ours: they are logged once, and
/// stay.
fn unknown_content(folder: &Folder, is_known: impl Fn(u128) -> Result<bool, StoreError>) -> Result<Vec<OsString>, StoreError> {
    let (mut unknown, mut foreign) = (Vec::new(), Vec::new());
    for name in folder.entries()?.into_iter().map(|entry| entry.name) {
        match content_id(&name) {
            Some(id) if is_known(id)? => {}
            Some(_) => unknown.push(name),
            None => foreign.push(name),
        }
    }
    if !foreign.is_empty() {
        let (count, names) = (foreign.len(), &foreign[..foreign.len().min(NAMED)]);
        tracing::warn!(path = %folder.path().display(), count, ?names, "files that batchd did not make are ignored");
    }
    Ok(unknown)
}

/// Removes our half-written files; returns all other names.
fn clear(spool: &Folder) -> Result<Vec<OsString>, StoreError> {
    let mut foreign = Vec::new();
    for entry in spool.entries()? {
        if entry.kind == FileType::RegularFile && content_id(&entry.name).is_some() {
            spool.remove(&entry.name)?;
        } else {
            foreign.push(entry.name);
        }
    }
    Ok(foreign)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Options;
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

    fn open(dir: &Path) -> Store {
        Store::open(Options { commit_interval: Duration::ZERO, ..Options::new(dir) }).unwrap().0
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_no_record_names_is_kept_for_thirty_days() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).close();
        let (five, odd) = (format!("{:032x}", 5), "x".repeat(255));
        for name in [format!("files/{five}"), format!("parts/{five}"), "spool/notes.txt".into(), format!("spool/{odd}")] {
            std::fs::write(dir.path().join(name), "precious").unwrap();
        }
        std::fs::write(dir.path().join(format!("spool/{}", uuid::Uuid::now_v7().simple())), "half").unwrap();
        std::fs::create_dir(dir.path().join("spool/01a0c4506c0073f997f3c8024a599215")).unwrap();
        std::fs::write(dir.path().join("spool/01a0c4506c0073f997f3c8024a599215/a"), "precious").unwrap();
        std::fs::write(dir.path().join("files/readme"), "not an id").unwrap();
        let lost = dir.path().join("lost+found");
        let store = open(dir.path());
        assert_eq!(names(&dir.path().join("files")), ["readme"]);
        assert!(names(&dir.path().join("parts")).is_empty() && names(&dir.path().join("spool")).is_empty());
        let odd = format!("spool.{}", "x".repeat(NAME_KEPT));
        let moved = [&format!("files.{five}"), &format!("parts.{five}"), "spool.01a0c4506c0073f997f3c8024a599215", "spool.notes.txt", &odd];
        assert_eq!(names(&lost), moved);
        assert_eq!(store.lost_found(), 5);
        store.close();

        // The same name again, before a sweep has run.
        std::fs::write(dir.path().join(format!("files/{five}")), "precious too").unwrap();
        let store = open(dir.path());
        assert_eq!(std::fs::read_to_string(lost.join(format!("files.{five}"))).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(lost.join(format!("files.{five}.2"))).unwrap(), "precious too");
        std::fs::write(lost.join("#12345"), "of fsck").unwrap();
        std::fs::write(lost.join("20200101T000000Z.mine"), "of somebody").unwrap();
        assert_eq!(store.sweep_lost(NOW).unwrap(), 0);
        assert_eq!(store.lost_found(), 6);
        assert!(names(&lost).contains(&format!("20260921T141320Z.files.{five}")), "{:?}", names(&lost));
        store.close();

        // The 30 days count from then on, across restarts.
        let store = open(dir.path());
        let days = |days: u64| later(NOW, Duration::from_secs(days * 86_400));
        assert_eq!(store.sweep_lost(days(29)).unwrap(), 0);
        assert_eq!(store.lost_found(), 6);
        assert_eq!(store.sweep_lost(days(30)).unwrap(), 6);
        assert_eq!(names(&lost), ["#12345", "20200101T000000Z.mine"]);
        assert_eq!(store.lost_found(), 0);
        store.close();
    }

    #[test]
    fn a_lost_and_found_that_is_not_ours_is_left_alone() {
        if !rustix::process::geteuid().is_root() {
            // Only the root user can give a folder to another user.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).close();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        std::os::unix::fs::chown(dir.path().join("lost+found"), Some(12_345), None).unwrap();
        std::fs::write(dir.path().join(format!("files/{:032x}", 5)), "precious").unwrap();
        let store = open(dir.path());
        assert!(names(&dir.path().join("lost+found")).is_empty());
        assert_eq!(names(&dir.path().join("lost+found.batchd")).len(), 1);
        assert_eq!(store.sweep_lost(NOW).unwrap(), 0);
        assert_eq!(store.lost_found(), 1);
        store.close();
    }
}
