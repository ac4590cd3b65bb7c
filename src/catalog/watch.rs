//! Reports when the files of a catalog folder change. The caller decides what to do about it.
//!
//! Folders are watched, and not their files: an editor that saves by renaming, and a container
//! mount that swaps a link, replace the file and would leave a watch on the old one. For the same
//! reason every folder on the path is watched: the folder itself may be a link that is swapped, or
//! may be deleted and made again. After each burst of events the watches are set again, because by
//! then the same path may lead somewhere else.
//!
//! Network file systems may report nothing, so the folder is also scanned now and then.

mod paths;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, DebouncedEvent, Debouncer, RecommendedCache, new_debouncer};

use self::paths::{WatchedPlace, places};
use super::folder::{Mark, marks};

/// How long a folder must be quiet before a change counts. Saving takes several events.
const QUIET: Duration = Duration::from_millis(150);
/// How often the folder is scanned without an event.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// Watches for as long as the value is held.
#[derive(Debug)]
pub struct Watcher {
    stop: mpsc::Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The receiver and the thread may be gone already, which is the goal.
        let _ = self.stop.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The system allows no watch at all.
#[derive(Debug, thiserror::Error)]
#[error("failed to watch {dir}: {source}")]
pub struct WatchError {
    dir: String,
    source: notify::Error,
}

#[derive(Debug)]
enum Message {
    Events(DebounceEventResult),
    Stop,
}

/// Calls `on_change` on a thread of its own after each burst of changes in `dir`, which need not
/// exist yet. Folders that cannot be watched are scanned every few seconds.
///
/// # Errors
/// When the system grants no watches or no threads.
pub fn watch(dir: &Path, on_change: impl Fn() + Send + 'static) -> Result<Watcher, WatchError> {
    let fail = |source| WatchError { dir: dir.display().to_string(), source };
    let (sender, messages) = mpsc::channel();
    let events = sender.clone();
    let handler = move |result: DebounceEventResult| _ = events.send(Message::Events(result));
    let debouncer = new_debouncer(QUIET, None, handler).map_err(fail)?;
    let mut armed = Armed { dir: dir.to_owned(), debouncer, watched: BTreeMap::new(), marks: None, in_part: false };
    armed.rearm();
    armed.marks = marks(dir).ok();
    let run = move || armed.run(&messages, &on_change);
    let thread = std::thread::Builder::new().name("catalog-watch".to_owned()).spawn(run).map_err(|error| fail(error.into()))?;
    Ok(Watcher { stop: sender, thread: Some(thread) })
}

/// The watches that are set.
struct Armed {
    dir: PathBuf,
    debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
    /// Each path with the identity of its target when the watch was set.
    watched: BTreeMap<PathBuf, WatchedPlace>,
    /// The seeds at the last scan; `None` if they could not be read.
    marks: Option<Vec<Mark>>,
    /// Some folders cannot be watched, and that has been logged.
    in_part: bool,
}

impl Armed {
    fn run(mut self, messages: &mpsc::Receiver<Message>, on_change: &impl Fn()) {
        loop {
            let inside = match messages.recv_timeout(SCAN_INTERVAL) {
                Ok(Message::Events(Ok(events))) => {
                    let inside = events.iter().any(|event| changes_content(event) && self.is_inside(event));
                    self.forget(&events);
                    inside
                }
                // Events may have been lost; scanning again costs little.
                Ok(Message::Events(Err(errors))) => {
                    errors.iter().for_each(|error| tracing::warn!(%error, "catalog folder watch"));
                    true
                }
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            self.rearm();
            let now = marks(&self.dir).ok();
            // An event beside the folder does not matter, unless it has changed the folder's
            // content.
            if inside || now != self.marks {
                self.marks = now;
                on_change();
            }
        }
    }

    /// Drops the watches on removed or renamed paths, so that they are set again.
    fn forget(&mut self, events: &[DebouncedEvent]) {
        let gone = |event: &&DebouncedEvent| matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let paths: Vec<_> = events.iter().filter(gone).flat_map(|event| &event.paths).collect();
        let lost: Vec<_> = self.watched.keys().filter(|watched| paths.iter().any(|path| watched.starts_with(path))).cloned().collect();
        for path in lost {
            let _ = self.debouncer.unwatch(&path);
            self.watched.remove(&path);
        }
    }

    /// Whether an event is about the folder or its content, rather than about a neighbour.
    fn is_inside(&self, event: &DebouncedEvent) -> bool {
        let inside = || self.watched.iter().filter(|(_, place)| place.inside);
        event.paths.is_empty() || event.paths.iter().any(|path| inside().any(|(folder, _)| path.starts_with(folder)))
    }

    fn rearm(&mut self) {
        match self.arm() {
            Err(error) if !self.in_part => {
                self.in_part = true;
                let seconds = SCAN_INTERVAL.as_secs();
                tracing::warn!(%error, seconds, "the catalog folder cannot be watched in full; it is looked at every few seconds");
            }
            Err(_) => {}
            Ok(()) => self.in_part = false,
        }
    }

    /// Sets the watches that are missing or outdated, and drops the watches that are no longer
    /// needed.
    fn arm(&mut self) -> Result<(), notify::Error> {
        let wanted = places(&self.dir);
        let stale: Vec<_> =
            self.watched.iter().filter(|(path, place)| wanted.get(*path) != Some(place)).map(|(path, _)| path.clone()).collect();
        for path in stale {
            // A removed folder has taken its watch with it.
            let _ = self.debouncer.unwatch(&path);
            self.watched.remove(&path);
        }
        let mut failure = None;
        for (path, place) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.debouncer.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.watched.insert(path, place),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Opening and closing files are events too; without this filter, each reload would trigger the
/// next.
fn changes_content(event: &DebouncedEvent) -> bool {
    match event.kind {
        EventKind::Access(_) => event.need_rescan(),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};

    const GENEROUS: Duration = Duration::from_secs(30);

    /// A watcher that reports the content of `providers/a.toml` at each change.
    fn follow(dir: &Path) -> (Watcher, Receiver<String>) {
        let (changed, changes) = channel();
        let file = dir.join("providers/a.toml");
        let watcher = watch(dir, move || changed.send(fs::read_to_string(&file).unwrap_or_default()).unwrap()).unwrap();
        (watcher, changes)
    }

    fn wait_for(changes: &Receiver<String>, text: &str) {
        while changes.recv_timeout(GENEROUS).unwrap() != text {}
    }

    fn fill(dir: &Path, text: &str) {
        fs::create_dir_all(dir.join("providers")).unwrap();
        fs::write(dir.join("providers/a.toml"), text).unwrap();
    }

    #[test]
    fn saving_by_rename_is_seen_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), "one");
        let (watcher, changes) = follow(dir.path());
        for text in ["two", "three"] {
            let aside = dir.path().join("providers/.a.toml.swp");
            fs::write(&aside, text).unwrap();
            fs::rename(&aside, dir.path().join("providers/a.toml")).unwrap();
            wait_for(&changes, text);
        }
        // Each callback has read the file. If reading counted as a change, calls would go on for
        // ever. A burst may come in two parts.
        let more = std::iter::from_fn(|| changes.recv_timeout(QUIET * 5).ok()).take(10).count();
        assert!(more < 10, "reading brings about the next change");
        drop(watcher);
    }

    #[test]
    fn a_swapped_link_is_seen_at_every_level() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for (release, text) in [("r1", "one"), ("r2", "two"), ("r3", "three")] {
            fill(&at(release), text);
        }
        let swap = |target: &str, link: &Path| {
            symlink(target, at("new")).unwrap();
            fs::rename(at("new"), link).unwrap();
        };
        swap("r1", &at("current"));
        // `catalog` leads to `current`, which leads to a release.
        symlink("current", at("catalog")).unwrap();
        let (_watcher, changes) = follow(&at("catalog"));
        swap("r2", &at("current"));
        wait_for(&changes, "two");
        swap("r3", &at("catalog"));
        wait_for(&changes, "three");
        fs::write(at("r3/providers/a.toml"), "four").unwrap();
        wait_for(&changes, "four");
    }

    #[test]
    fn a_mounted_folder_whose_data_is_swapped_is_seen() {
        // As Kubernetes mounts: `providers` leads to `..data/providers`, `..data` to a dated
        // folder.
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fill(&at("..one"), "one");
        symlink("..one", at("..data")).unwrap();
        symlink("..data/providers", at("providers")).unwrap();
        let (_watcher, changes) = follow(dir.path());
        for (folder, text) in [("..two", "two"), ("..three", "three")] {
            fill(&at(folder), text);
            symlink(folder, at("..tmp")).unwrap();
            fs::rename(at("..tmp"), at("..data")).unwrap();
            wait_for(&changes, text);
        }
    }

    #[test]
    fn a_folder_that_comes_goes_and_comes_back_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/catalog");
        let (_watcher, changes) = follow(&dir);
        for text in ["one", "two"] {
            fill(&dir, text);
            wait_for(&changes, text);
            fs::remove_dir_all(root.path().join("etc")).unwrap();
            wait_for(&changes, "");
        }
    }

    #[test]
    fn neighbours_of_the_folder_are_nobodys_business() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("catalog");
        fill(&dir, "one");
        let (_watcher, changes) = follow(&dir);
        fs::write(root.path().join("other"), "x").unwrap();
        assert!(changes.recv_timeout(QUIET * 5).is_err());
    }
}
