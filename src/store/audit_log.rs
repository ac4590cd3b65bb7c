//! The audit log: one JSON object a line, in files of the data directory that anyone who may read
//! the directory can read.
//!
//! This module does not know what is recorded, nor when.
//!
//! Invariant: a line that was appended survives a kill and a loss of power. The log never takes more
//! than 128 MiB on disk: the oldest lines go first.

use std::sync::{Mutex, PoisonError};

use super::Store;
use super::dir::{AUDIT, DataFile, Folder};
use crate::domain::audit::AuditLine;
use crate::store::error::StoreError;

/// The file that lines are appended to.
const CURRENT: &str = "audit.jsonl";
/// Bytes of a file before the next one is begun.
const FILE_BYTES: u64 = 16 << 20;
/// Earlier files that are kept: `audit.1.jsonl` is the latest of them.
const KEPT: u32 = 7;
/// The most bytes of one line.
const LINE_BYTES: usize = 8 << 10;

/// The log of a data directory.
#[derive(Debug)]
pub(super) struct AuditLog {
    root: Folder,
    file_bytes: u64,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    file: DataFile,
    bytes: u64,
}

impl AuditLog {
    /// The log in that data directory. Nothing is made before the first line.
    pub fn new(root: &Folder) -> Self {
        Self { root: root.clone(), file_bytes: FILE_BYTES, current: Mutex::default() }
    }

    /// Appends a line, without its end. Blocks until the line is durable.
    fn append(&self, line: &[u8]) -> Result<(), StoreError> {
        let mut held = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // After a fault the file is opened anew: its end is not known.
        let mut current = match held.take() {
            Some(current) => current,
            None => self.open()?,
        };
        let line = [line, b"\n"].concat();
        if current.bytes > 0 && current.bytes + line.len() as u64 > self.file_bytes {
            drop(current);
            self.rotate()?;
            current = self.open()?;
        }
        let path = self.root.path_of(AUDIT).join(CURRENT);
        let fault = |error: &std::io::Error| StoreError::io("writing", &path, error);
        current.file.write_all_at(&line, current.bytes).map_err(|error| fault(&error))?;
        current.file.sync_data().map_err(|error| fault(&error))?;
        current.bytes += line.len() as u64;
        *held = Some(current);
        Ok(())
    }

    fn open(&self) -> Result<Current, StoreError> {
        let folder = self.root.folder(AUDIT)?;
        let fault = |error: std::io::Error| StoreError::io("opening", &folder.path_of(CURRENT), &error);
        let file = folder.open_or_create(CURRENT)?;
        let mut bytes = file.bytes().map_err(fault)?;
        if let Some(last) = bytes.checked_sub(1) {
            let mut end = [0];
            file.read_exact_at(&mut end, last).map_err(fault)?;
            // The line that a kill cut off must not run into the next one.
            if end != *b"\n" {
                file.write_all_at(b"\n", bytes).map_err(fault)?;
                bytes += 1;
            }
        }
        folder.sync()?;
        self.root.sync()?;
        Ok(Current { file, bytes })
    }

    /// Makes room for a new file. A kill on the way leaves a gap in the numbers and loses no file.
    fn rotate(&self) -> Result<(), StoreError> {
        let folder = self.root.folder(AUDIT)?;
        let name = |number: u32| format!("audit.{number}.jsonl");
        folder.remove_tree(name(KEPT))?;
        for number in (1..KEPT).rev() {
            if folder.kind_of(name(number))?.is_some() {
                folder.rename(name(number), &folder, name(number + 1))?;
            }
        }
        folder.rename(CURRENT, &folder, name(1))?;
        folder.sync()
    }
}

impl Store {
    /// Appends a line to the audit log, and returns once it is durable. A line that cannot be kept is
    /// logged as an error: what it tells has been done.
    pub async fn audit(&self, line: AuditLine) {
        let appended = match serde_json::to_vec(&line) {
            Ok(bytes) if bytes.len() <= LINE_BYTES => {
                let store = self.clone();
                super::blocking(move || store.inner.audit.append(&bytes)).await
            }
            Ok(bytes) => Err(StoreError::Unexpected(format!("a line of {} bytes does not fit", bytes.len()))),
            Err(error) => Err(StoreError::Unexpected(error.to_string())),
        };
        if let Err(error) = appended {
            tracing::error!(%error, ?line, "a line of the audit log could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::Locked;
    use super::*;

    fn log(path: &std::path::Path, file_bytes: u64) -> AuditLog {
        let dir = Locked::take(path).unwrap().furnish().unwrap();
        AuditLog { file_bytes, ..AuditLog::new(dir.root()) }
    }

    #[test]
    fn lines_are_kept_in_order_and_the_oldest_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let audit = log(dir.path(), 100);
        for number in 0..200 {
            audit.append(format!("{{\"number\":{number:05}}}").as_bytes()).unwrap();
        }
        let folder = dir.path().join(AUDIT);
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), KEPT as usize + 1, "{names:?}");
        let oldest_first = (1..=KEPT).rev().map(|number| format!("audit.{number}.jsonl")).chain([CURRENT.to_owned()]);
        let text: String = oldest_first.map(|name| std::fs::read_to_string(folder.join(name)).unwrap()).collect();
        let numbers: Vec<_> = text.lines().map(|line| line[10..15].parse::<u32>().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.last() == Some(&199), "{numbers:?}");
        assert!(numbers.len() as u64 * 17 <= u64::from(KEPT + 1) * 100);
    }

    #[test]
    fn a_line_that_was_cut_off_stays_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), FILE_BYTES).append(b"first").unwrap();
        let path = dir.path().join(AUDIT).join(CURRENT);
        std::fs::write(&path, "first\nseco").unwrap();
        log(dir.path(), FILE_BYTES).append(b"third").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nseco\nthird\n");
    }
}
