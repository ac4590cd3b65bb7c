//! Tells when the files of a catalog folder changed. What to do about it is the caller's business.
//!
//! The folder is watched, with all below it, and not its files: an editor that saves by renaming,
//! and a container mount that swaps a link, replace the file and would leave a watch on the old one.
//! Network file systems may report nothing; a signal or an API call must be able to do the same.

use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, DebouncedEvent, Debouncer, RecommendedCache, new_debouncer};

/// How long a folder must be quiet before a change counts. Saving takes several events.
const QUIET: Duration = Duration::from_millis(300);

/// Watches for as long as it is held.
#[derive(Debug)]
pub struct Watcher {
    /// Stops its thread when dropped.
    _debouncer: Debouncer<RecommendedWatcher, RecommendedCache>,
}

/// The folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("failed to watch {dir}: {source}")]
pub struct WatchError {
    dir: String,
    source: notify::Error,
}

/// Calls `on_change` on a thread of its own after each burst of changes in `dir`.
///
/// # Errors
/// The folder does not exist, or the system has no watches left.
pub fn watch(dir: &Path, on_change: impl Fn() + Send + 'static) -> Result<Watcher, WatchError> {
    let fail = |source| WatchError { dir: dir.display().to_string(), source };
    let handler = move |result: DebounceEventResult| match result {
        Ok(events) if events.iter().any(changes_content) => on_change(),
        Ok(_) => {}
        // Events may have been lost; looking again costs little.
        Err(errors) => {
            for error in errors {
                tracing::warn!(%error, "catalog folder watch");
            }
            on_change();
        }
    };
    let mut debouncer = new_debouncer(QUIET, None, handler).map_err(fail)?;
    debouncer.watch(dir, RecursiveMode::Recursive).map_err(fail)?;
    Ok(Watcher { _debouncer: debouncer })
}

/// Opening and closing files is an event too; without this, each reload would bring about the next.
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
    use std::sync::mpsc::channel;

    const GENEROUS: Duration = Duration::from_secs(30);

    #[test]
    fn saving_by_rename_is_seen_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("providers").join("a.toml");
        fs::create_dir(dir.path().join("providers")).unwrap();
        fs::write(&file, "one").unwrap();
        let (changed, changes) = channel();
        let seen = file.clone();
        let watcher = watch(dir.path(), move || changed.send(fs::read_to_string(&seen).unwrap()).unwrap()).unwrap();

        for text in ["two", "three"] {
            let aside = dir.path().join("providers").join(".a.toml.swp");
            fs::write(&aside, text).unwrap();
            fs::rename(&aside, &file).unwrap();
            while changes.recv_timeout(GENEROUS).unwrap() != text {}
        }
        // Each callback has read the file; had that counted as a change, calls would go on for ever.
        assert!(changes.recv_timeout(QUIET * 5).is_err());
        drop(watcher);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_it() {
        let error = watch(Path::new("/nonexistent/catalog"), || {}).unwrap_err();
        assert!(error.to_string().starts_with("failed to watch /nonexistent/catalog: "), "{error}");
    }
}
