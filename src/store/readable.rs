//! Reads what is readable in a data directory, whether or not the directory may be opened. Only
//! reads.
//!
//! The log of the store is taken as it is if nothing in it is missing: if its sum fits, and the log
//! reaches as far as the mark. Otherwise everything that is left in the log is searched for.

use std::path::Path;

use super::dir::{self, DataFile, Folder, Guest, database};
use super::image::{FoundPiece, Image, ImageError, Unreadable, Wreck};
use super::key::is_key;
use super::mark::{self, Reached};
use super::sum::{AddedUp, Sum, TREE};
use super::verify::{self, SUMMED_FROM, StartRefused};
use super::{OpenError, migrate, record};
use crate::store::error::StoreError;
use crate::store::verify::LOG;

/// A data directory that is open for reading, while no daemon has it.
#[derive(Debug)]
pub(super) struct Readable {
    guest: Guest,
    log: Option<Log>,
    /// What is wrong with the directory, one line per fault.
    pub faults: Vec<String>,
    /// Whether nothing that was ever made durable is missing.
    pub is_whole: bool,
    /// Number of writes that the mark knows of and the log does not.
    pub missing_writes: u64,
    /// Number of entries that the store says it should have, if that can be read.
    pub expected: Option<u64>,
    /// The format of the data, if that can be read.
    pub format: Option<u32>,
    /// Bytes of the store's log.
    pub bytes: u64,
}

/// The log of a store.
#[derive(Debug)]
enum Log {
    Sound(Image),
    Damaged(Wreck),
}

/// Why a data directory cannot be examined.
#[derive(Debug, thiserror::Error)]
pub enum Unlookable {
    #[error("the data directory {dir} is in use by another batchd process; stop it first")]
    InUse { dir: String },
    #[error("the data directory {dir} was written by a newer batchd (format {found}, this one knows up to {known}); use that version")]
    Newer { dir: String, found: u32, known: u32 },
    #[error("the data directory {dir} is empty")]
    Empty { dir: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<OpenError> for Unlookable {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse { dir } => Self::InUse { dir },
            OpenError::Newer { dir, found, known } => Self::Newer { dir, found, known },
            OpenError::Store(error) => Self::Store(error),
            refused @ OpenError::Refused { .. } => Self::Store(StoreError::Unexpected(refused.to_string())),
        }
    }
}

/// The findings about one database.
#[derive(Debug)]
struct Looked {
    log: Option<Log>,
    faults: Vec<String>,
    is_whole: bool,
    missing_writes: u64,
    expected: Option<u64>,
    format: Option<u32>,
    bytes: u64,
}

impl Readable {
    /// Examines a data directory.
    ///
    /// # Errors
    /// When it is not a data directory, or is of a newer version. Damage is no error, but among
    /// [`Self::faults`].
    pub fn of(dir: &Path) -> Result<Self, Unlookable> {
        let guest = Guest::take(dir)?;
        let looked = Looked::at(guest.root())?;
        let Looked { log, faults, is_whole, missing_writes, expected, format, bytes } = looked;
        Ok(Self { guest, log, faults, is_whole, missing_writes, expected, format, bytes })
    }

    /// The directory itself.
    pub fn root(&self) -> &Folder {
        self.guest.root()
    }

    /// Passes each entry to `each`, in key order, and whether it is certain that nothing newer
    /// about the entry is among the lost writes.
    ///
    /// # Errors
    /// When the disk fails while entries are read.
    pub fn entries(&self, mut each: impl FnMut(&[u8], &[u8], bool)) -> Result<(), ImageError> {
        match &self.log {
            Some(Log::Sound(image)) => image.entries(TREE, |key, value| each(key, value, true)),
            Some(Log::Damaged(wreck)) => {
                // Writes that are later than all that is left may be about any entry.
                let is_behind = self.missing_writes > 0;
                wreck.entries(|FoundPiece { key, value, is_newest }| each(key, value, self.is_whole || (is_newest && !is_behind)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Looked {
    fn at(root: &Folder) -> Result<Self, Unlookable> {
        let dir = || root.path().display().to_string();
        let mut faults = Vec::new();
        match verify::verify(root) {
            Ok(sound) => {
                let image = sound.image.ok_or_else(|| Unlookable::Empty { dir: dir() })?;
                let in_free_space = |fault| format!("the log, {fault}; it is in space that is free, and nothing is lost");
                faults.extend(image.faults().iter().map(in_free_space));
                let bytes = log_of(root, sound.generation).and_then(|log| log.bytes().ok());
                return Ok(Self::sound(image, faults, bytes.unwrap_or(0)));
            }
            Err(StartRefused::Newer { found, known }) => return Err(Unlookable::Newer { dir: dir(), found, known }),
            Err(refusal) => faults.push(format!("the data directory: {refusal}")),
        }
        let reached = mark::read(root).ok().flatten().flatten();
        let mut best: Option<Self> = None;
        for generation in generations(root, reached)? {
            let found = Self::damaged(root, generation, reached, faults.clone());
            if best.as_ref().is_none_or(|best| found.rank() > best.rank()) {
                best = Some(found);
            }
        }
        Ok(best.unwrap_or_else(|| Self::without_log(faults, reached)))
    }

    fn sound(image: Image, faults: Vec<String>, bytes: u64) -> Self {
        let found = AddedUp::of(&image).unwrap_or_default();
        let (expected, format) = (Some(found.entries), format_of(&found));
        Self { log: Some(Log::Sound(image)), faults, is_whole: true, missing_writes: 0, expected, format, bytes }
    }

    fn without_log(faults: Vec<String>, reached: Option<Reached>) -> Self {
        let missing_writes = reached.map_or(0, |reached| reached.writes);
        Self { log: None, faults, is_whole: false, missing_writes, expected: None, format: None, bytes: 0 }
    }

    fn damaged(root: &Folder, generation: u64, reached: Option<Reached>, mut faults: Vec<String>) -> Self {
        let open = || log_of(root, generation);
        let Some(log) = open() else { return Self::without_log(faults, reached) };
        let bytes = log.bytes().unwrap_or(0);
        let is_behind = |sum: &Sum| reached.is_some_and(|reached| reached.store == sum.store && reached.writes > sum.writes);
        // Reads the log as sled would see it: exact, if its sum fits.
        if let Some(image) = open().and_then(|log| Image::read(log.into_plain()).ok()) {
            faults.extend(image.faults().iter().map(|fault| format!("the log, {fault}")));
            let sum = AddedUp::of(&image).ok().and_then(|added| prove(&added, Some(&image)));
            let is_promised = |sum: &Sum| reached.is_some_and(|reached| reached.store == sum.store) && !is_behind(sum);
            if sum.is_some_and(|sum| is_promised(&sum)) {
                return Self::sound(image, faults, bytes);
            }
        }
        let wreck = match Wreck::read(log.into_plain(), is_key) {
            Ok(wreck) => wreck,
            Err(error) => {
                faults.push(error.to_string());
                return Self::without_log(faults, reached);
            }
        };
        let unreadable = |place: &Unreadable| {
            let Unreadable { offset, bytes, reason } = place;
            format!("the log, byte {offset}: {bytes} bytes cannot be read: {reason}")
        };
        faults.extend(wreck.unreadable().iter().map(unreadable));
        let mut found = AddedUp::default();
        wreck.entries(|FoundPiece { key, value, .. }| found.add(key, value));
        let expected = found.expected.as_deref().and_then(|sum| record::decode::<Sum>(sum).ok());
        let is_whole = prove(&found, None).is_some_and(|sum| !is_behind(&sum));
        // A mark of another store says nothing about this one.
        let reached = reached.filter(|reached| expected.is_none_or(|sum| sum.store == reached.store)).map_or(0, |reached| reached.writes);
        Self {
            log: Some(Log::Damaged(wreck)),
            faults,
            is_whole,
            missing_writes: reached.saturating_sub(expected.map_or(0, |sum| sum.writes)),
            expected: expected.map(|sum| sum.entries),
            format: format_of(&found),
            bytes,
        }
    }

    fn rank(&self) -> (bool, bool, u64) {
        (self.is_whole, self.log.is_some(), self.expected.unwrap_or(0))
    }
}

/// The log of a database, if it is there and can be opened.
fn log_of(root: &Folder, generation: u64) -> Option<DataFile> {
    root.existing_folder(database(generation)).ok().flatten()?.open(LOG).ok()
}

fn format_of(found: &AddedUp) -> Option<u32> {
    migrate::version_of(found.format.as_deref()?).ok()
}

/// The stored sum, if it equals the sum of the entries. For formats before there was a sum: a sum
/// of the entries, if the log is whole.
fn prove(found: &AddedUp, image: Option<&Image>) -> Option<Sum> {
    if format_of(found)? < SUMMED_FROM {
        return image.filter(|image| image.faults().is_empty()).map(|_| found.as_first());
    }
    let sum = record::decode::<Sum>(found.expected.as_deref()?).ok()?;
    (sum.entries == found.entries && sum.sum == found.sum).then_some(sum)
}

/// Databases to examine: the database that the mark names if it exists, otherwise all.
fn generations(root: &Folder, reached: Option<Reached>) -> Result<Vec<u64>, StoreError> {
    if let Some(reached) = reached.filter(|reached| log_of(root, reached.generation).is_some()) {
        return Ok(vec![reached.generation]);
    }
    let mut found: Vec<u64> = root.entries()?.into_iter().filter_map(|entry| dir::generation(&entry.name)).collect();
    found.sort_unstable();
    Ok(found)
}
