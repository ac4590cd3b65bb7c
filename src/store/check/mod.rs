//! Checks whether everything in a data directory is there and fits together, without opening the
//! store.
//!
//! Invariant: nothing in the directory changes, except that the lock file is made if it is missing.
//! Memory grows with the number of batches and files, not with their rows.

mod references;
mod rows;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::dir::Folder;
use super::examine::{Examined, Gathered, Gathering, examine};
use super::format;
use super::key::Key;
use super::readable::{Readable, Unlookable};
use crate::store::error::StoreError;
use references::References;
use rows::RowsOf;
pub(super) use rows::ranges;

/// The findings of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    pub batches: u64,
    /// Rows with a result.
    pub rows: u64,
    /// Uploaded files, and files over results.
    pub files: u64,
    /// Bytes of the log and, in a deep check, of content.
    pub bytes: u64,
    /// Things that are damaged.
    pub damaged: u64,
}

/// Checks a data directory; `report` receives one line for each thing that is damaged. A deep check
/// also reads the content of every file and every result. Blocks.
///
/// # Errors
/// When the directory is in use, is no data directory, or is from a newer version.
pub fn check(dir: &Path, deep: bool, report: &mut dyn FnMut(&str)) -> Result<Checked, Unlookable> {
    let readable = Readable::of(dir)?;
    let mut check = Check {
        deep,
        report: Report { report, damaged: 0 },
        references: References::default(),
        rows: None,
        gathering: Gathering::default(),
        checked: Checked { bytes: readable.bytes, ..Checked::default() },
    };
    for fault in &readable.faults {
        check.report.say(fault);
    }
    let read = readable.entries(|key, value, _| check.entry(key, value));
    if let Err(error) = read {
        check.report.say(&format!("the store: {error}"));
    }
    Ok(check.end(readable.root())?)
}

/// Reports and counts damage.
struct Report<'a> {
    report: &'a mut dyn FnMut(&str),
    damaged: u64,
}

impl Report<'_> {
    fn say(&mut self, line: &str) {
        self.damaged += 1;
        (self.report)(&one_line(line));
    }

    fn of(&mut self, key: &Key, what: impl std::fmt::Display) {
        self.say(&format!("{key}: {what}"));
    }
}

struct Check<'a> {
    deep: bool,
    report: Report<'a>,
    references: References,
    /// The rows of the batch that is being read.
    rows: Option<RowsOf>,
    gathering: Gathering,
    checked: Checked,
}

impl Check<'_> {
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        match self.gathering.next(key, value, true) {
            Ok(Some(record)) => self.record(&record),
            Ok(None) => {}
            Err(()) => self.report.say(&format!("the store: an entry of an unknown kind, {}", shown(key))),
        }
    }

    fn record(&mut self, record: &Gathered) {
        let key = record.key;
        if self.rows.as_ref().is_some_and(|rows| !rows.is_of(&key)) {
            self.close_rows();
        }
        let Some(bytes) = record.bytes() else {
            self.references.has_damaged(&key);
            return self.report.of(&key, "a part of it is missing");
        };
        match key {
            Key::Page(batch, _) | Key::Alone(batch, _) | Key::Run(batch, _) => {
                let rows = self.rows.get_or_insert_with(|| RowsOf::new(batch, self.deep));
                if let Err(error) = rows.add(&key, &bytes) {
                    self.report.of(&key, error);
                }
            }
            _ => match examine(&key, &bytes) {
                Ok(examined) => {
                    self.checked.batches += u64::from(matches!(examined, Examined::State(..)));
                    self.checked.files += u64::from(matches!(examined, Examined::File(_)));
                    self.references.add(key, examined);
                }
                Err(error) => {
                    self.references.has_damaged(&key);
                    self.report.of(&key, error);
                }
            },
        }
    }

    fn close_rows(&mut self) {
        let Some(rows) = self.rows.take() else { return };
        self.checked.rows += rows.found();
        let sums = rows.end(self.references.shows_results(rows.batch), &mut |line| self.report.say(line));
        self.references.has_rows(sums);
    }

    fn end(mut self, root: &Folder) -> Result<Checked, StoreError> {
        if let Some(last) = self.gathering.end() {
            self.record(&last);
        }
        self.close_rows();
        let Self { deep, mut report, references, mut checked, .. } = self;
        checked.bytes += references.end(root, deep, &mut |line| report.say(line))?;
        checked.damaged = report.damaged;
        Ok(checked)
    }
}

/// Joins a text into one line, because some errors have line breaks.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first bytes of an unknown key, in hexadecimal.
fn shown(key: &[u8]) -> String {
    let most = &key[..key.len().min(format::FORMAT_KEY.len() * 4)];
    crate::domain::text::hex(most)
}
