//! What can be read of a data directory, whether or not it may be opened. Only reads.
//!
//! The log of the store is taken as it is if nothing in it is missing: if its sum fits, and it reaches as far as
//! the mark. Otherwise all that is left in it is looked for.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::check::CheckError;
use super::image::{Found, Image, ImageError, Unreadable, Wreck};
use super::key::is_key;
use super::mark::{self, Reached};
use super::sum::{AddedUp, Sum, TREE};
use super::verify::{self, Refusal, SUMMED_FROM};
use super::{migrate, record};

/// A data directory to be read.
#[derive(Debug)]
pub(super) struct Readable {
    pub dir: PathBuf,
    log: Option<Log>,
    /// What is wrong with it, each in a line.
    pub faults: Vec<String>,
    /// Nothing that was ever made durable is missing.
    pub is_whole: bool,
    /// Writes that the mark knows of and the log does not.
    pub missing_writes: u64,
    /// Entries that the store says it should have, if that can be read.
    pub expected: Option<u64>,
    /// Of the data, if that can be read.
    pub format: Option<u32>,
    /// Bytes of its log.
    pub bytes: u64,
}

/// The log of a store.
#[derive(Debug)]
enum Log {
    Sound(Image),
    Damaged(Wreck),
}

/// Why there is nothing to look at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unlookable {
    #[error("the data directory {dir} was written by a newer batchd (format {found}, this one knows up to {known}); use that version")]
    Newer { dir: String, found: u32, known: u32 },
    #[error("the data directory {dir} is empty")]
    Empty { dir: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Readable {
    /// Looks at a data directory.
    ///
    /// # Errors
    /// When it is none, or one of a newer version. Damage is no error, but among [`Self::faults`].
    pub fn of(dir: &Path) -> Result<Self, Unlookable> {
        let mut faults = Vec::new();
        match verify::verify(dir) {
            Ok(sound) => {
                let Some(image) = sound.image else {
                    return Err(Unlookable::Empty { dir: dir.display().to_string() });
                };
                let in_free_space = |fault| format!("the log, {fault}; it is in space that is free, and nothing is lost");
                faults.extend(image.faults().iter().map(in_free_space));
                let path = log_path(dir, sound.generation);
                return Ok(Self::sound(dir, image, faults, &path));
            }
            Err(Refusal::Newer { found, known }) => {
                return Err(Unlookable::Newer { dir: dir.display().to_string(), found, known });
            }
            Err(refusal) => faults.push(format!("the data directory: {refusal}")),
        }
        let reached = mark::read(dir).ok().flatten().flatten();
        let mut best: Option<Self> = None;
        for generation in generations(dir, reached)? {
            let found = Self::damaged(dir, generation, reached, faults.clone());
            if best.as_ref().is_none_or(|best| found.rank() > best.rank()) {
                best = Some(found);
            }
        }
        Ok(best.unwrap_or_else(|| Self::without_log(dir, faults, reached)))
    }

    fn sound(dir: &Path, image: Image, faults: Vec<String>, path: &Path) -> Self {
        let found = AddedUp::of(&image).unwrap_or_default();
        Self {
            dir: dir.to_path_buf(),
            log: Some(Log::Sound(image)),
            faults,
            is_whole: true,
            missing_writes: 0,
            expected: Some(found.entries),
            format: format_of(&found),
            bytes: size(path),
        }
    }

    fn without_log(dir: &Path, faults: Vec<String>, reached: Option<Reached>) -> Self {
        let missing_writes = reached.map_or(0, |reached| reached.writes);
        Self { dir: dir.to_path_buf(), log: None, faults, is_whole: false, missing_writes, expected: None, format: None, bytes: 0 }
    }

    fn damaged(dir: &Path, generation: u64, reached: Option<Reached>, mut faults: Vec<String>) -> Self {
        let path = log_path(dir, generation);
        let Ok(log) = File::open(&path) else { return Self::without_log(dir, faults, reached) };
        // As sled would see it: exact, if its sum fits.
        let image = log.try_clone().ok().and_then(|log| Image::read(log).ok());
        let added = image.as_ref().and_then(|image| AddedUp::of(image).ok());
        let proof = added.as_ref().and_then(|added| prove(added, image.as_ref()));
        let is_behind = |sum: &Sum| reached.is_some_and(|reached| reached.store == sum.store && reached.writes > sum.writes);
        if let (Some(image), Some(sum)) = (&image, &proof) {
            faults.extend(image.faults().iter().map(|fault| format!("the log, {fault}")));
            let is_promised = reached.is_some_and(|reached| reached.store == sum.store);
            if is_promised && !is_behind(sum) {
                let image = Image::read(log).ok();
                return image.map_or_else(
                    || Self::without_log(dir, faults.clone(), reached),
                    |image| Self::sound(dir, image, faults.clone(), &path),
                );
            }
        } else if let Some(image) = &image {
            faults.extend(image.faults().iter().map(|fault| format!("the log, {fault}")));
        }
        let wreck = match Wreck::read(log, is_key) {
            Ok(wreck) => wreck,
            Err(error) => {
                faults.push(error.to_string());
                return Self::without_log(dir, faults, reached);
            }
        };
        faults.extend(
            wreck
                .unreadable()
                .iter()
                .map(|Unreadable { offset, bytes, reason }| format!("the log, byte {offset}: {bytes} bytes cannot be read: {reason}")),
        );
        let mut found = AddedUp::default();
        wreck.entries(|Found { key, value, .. }| found.add(key, value));
        let expected = found.expected.as_deref().and_then(|sum| record::decode::<Sum>(sum).ok());
        let is_whole = prove(&found, None).is_some_and(|sum| !is_behind(&sum));
        // A mark of another store says nothing.
        let reached = reached.filter(|reached| expected.is_none_or(|sum| sum.store == reached.store)).map_or(0, |reached| reached.writes);
        Self {
            dir: dir.to_path_buf(),
            log: Some(Log::Damaged(wreck)),
            faults,
            is_whole,
            missing_writes: reached.saturating_sub(expected.map_or(0, |sum| sum.writes)),
            expected: expected.map(|sum| sum.entries),
            format: format_of(&found),
            bytes: size(&path),
        }
    }

    fn rank(&self) -> (bool, bool, u64) {
        (self.is_whole, self.log.is_some(), self.expected.unwrap_or(0))
    }

    /// Gives each entry, in the order of the keys; whether nothing newer about it can be among what is lost is told
    /// with it.
    ///
    /// # Errors
    /// When the disk fails in the middle of it.
    pub fn entries(&self, mut each: impl FnMut(&[u8], &[u8], bool)) -> Result<(), ImageError> {
        match &self.log {
            Some(Log::Sound(image)) => image.entries(TREE, |key, value| each(key, value, true)),
            Some(Log::Damaged(wreck)) => {
                // What was written later than all that is left may be about anything.
                let is_behind = self.missing_writes > 0;
                wreck.entries(|Found { key, value, is_newest }| each(key, value, self.is_whole || (is_newest && !is_behind)));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn log_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(super::open::folder(generation)).join("db")
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn format_of(found: &AddedUp) -> Option<u32> {
    migrate::version_of(found.format.as_deref()?).ok()
}

/// The sum, if it is that of the entries. Before there was one: if the log is whole.
fn prove(found: &AddedUp, image: Option<&Image>) -> Option<Sum> {
    if format_of(found)? < SUMMED_FROM {
        return image.filter(|image| image.faults().is_empty()).map(|_| found.as_first());
    }
    let sum = record::decode::<Sum>(found.expected.as_deref()?).ok()?;
    (sum.entries == found.entries && sum.sum == found.sum).then_some(sum)
}

/// Databases that there may be: the one that the mark names, if it is there, else all.
fn generations(dir: &Path, reached: Option<Reached>) -> Result<Vec<u64>, StoreError> {
    if let Some(reached) = reached.filter(|reached| log_path(dir, reached.generation).exists()) {
        return Ok(vec![reached.generation]);
    }
    let number = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number = name.strip_prefix(&super::open::folder(0))?;
        if number.is_empty() { Some(0) } else { number.strip_prefix('-')?.parse().ok() }
    };
    let mut found: Vec<u64> = super::open::entries(dir)?.into_iter().filter_map(number).collect();
    found.sort_unstable();
    Ok(found)
}

/// Takes the lock of a data directory, so that no daemon works on it meanwhile. `None` where the lock is missing
/// and cannot be made, as on a disk that is mounted to be read only: then none can work there.
pub(super) fn lock(dir: &Path) -> Result<Option<File>, CheckError> {
    let path = dir.join("lock");
    let options = || std::fs::OpenOptions::new();
    let file = match options().create(true).truncate(false).write(true).open(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("opening", &path, &error).into()),
        },
        opened => opened.map_err(|error| StoreError::io("opening", &path, &error))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(CheckError::InUse { dir: dir.display().to_string() }),
        Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("locking", &path, &error).into()),
    }
}
