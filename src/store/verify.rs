//! Checks whether a data directory holds all that was ever made durable in it, before anything is
//! written to it.
//!
//! Invariant: this module only reads. It refuses whatever it does not understand.

#[cfg(test)]
pub(super) mod tests;

use super::dir::{FILES, Folder, PARTS, database};
use super::format::FORMAT_KEY;
use super::holdings::found::Found;
use super::image::{Image, ImageError};
use super::mark::{self, Reached};
use super::migrate;
use super::record;
use super::sum::{AddedUp, Sum, TREE};
use super::tree::Tree;
use crate::store::error::StoreError;

/// The most faults that an error lists.
const FAULTS_NAMED: usize = 5;
/// The first format in which a store has a sum and a mark.
pub(super) const SUMMED_FROM: u32 = 5;

/// A data directory that may be opened.
#[derive(Debug)]
pub(super) struct Sound {
    /// Which of the directory's databases is the current one.
    pub generation: u64,
    /// The sum over the database's entries; `None` if the directory is new.
    pub sum: Option<Sum>,
    /// What organisations hold in it.
    pub held: Found,
    /// What sled should find; `None` if it should find nothing.
    pub image: Option<Image>,
}

/// Why a data directory is not opened. Nothing in the directory has been touched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartRefused {
    #[error("its store cannot be read: {0}")]
    Unreadable(String),
    #[error("its store is damaged: {0}")]
    Damaged(String),
    #[error("its store has less than was made durable in it: it ends with write {found}, and write {reached} was shown to others")]
    Behind { found: u64, reached: u64 },
    #[error("its store is missing (`{missing}`), but {beside} is there")]
    Missing { missing: String, beside: &'static str },
    #[error("its store and the file `mark` beside it do not belong together")]
    Foreign,
    #[error("the file `mark` is missing, which tells how much was made durable")]
    NoMark,
    #[error("the file `mark` is damaged, which tells how much was made durable")]
    MarkDamaged,
    #[error("it was written by a newer batchd (format {found}, this one knows up to {known})")]
    Newer { found: u32, known: u32 },
}

impl From<ImageError> for StartRefused {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Io { .. } => Self::Unreadable(error.to_string()),
            ImageError::Page { .. } => Self::Damaged(error.to_string()),
        }
    }
}

impl From<StoreError> for StartRefused {
    fn from(error: StoreError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Verifies a data directory.
pub(super) fn verify(root: &Folder) -> Result<Sound, StartRefused> {
    let mark = match mark::read(root)? {
        Some(None) => return Err(StartRefused::MarkDamaged),
        Some(Some(reached)) => Some(reached),
        None => None,
    };
    let generation = mark.map_or(0, |mark| mark.generation);
    // A mark of no writes promises nothing: the first start did not finish.
    let promised = mark.filter(|mark| mark.writes > 0);
    let folder = database(generation);
    let Some(image) = read_image(root, &folder)? else {
        return fresh(root, generation, promised, format!("{folder}/db"));
    };
    match sum_of(&image, mark) {
        Ok(Some((sum, held))) => Ok(Sound { generation, sum: Some(sum), held, image: Some(image) }),
        Ok(None) => fresh(root, generation, promised, format!("the data in {folder}")),
        Err(StartRefused::Damaged(reason)) if promised.is_some() => {
            before_the_last_batch(&image, mark, generation).ok_or(StartRefused::Damaged(reason))
        }
        Err(refusal) => Err(refusal),
    }
}

/// The image without the last batches, if it has all that was promised: the last batches were begun
/// and not acknowledged.
fn before_the_last_batch(image: &Image, mark: Option<Reached>, generation: u64) -> Option<Sound> {
    for earlier in image.earlier() {
        let earlier = earlier.ok()?;
        if let Ok(Some((sum, held))) = sum_of(&earlier, mark) {
            tracing::warn!("the last write of the store was not finished when it failed; it is left out");
            return Some(Sound { generation, sum: Some(sum), held, image: Some(earlier) });
        }
    }
    None
}

/// The sum over an image that holds what was promised, and whose it is; `None` if the image is empty.
fn sum_of(image: &Image, mark: Option<Reached>) -> Result<Option<(Sum, Found)>, StartRefused> {
    let found = match AddedUp::of(image) {
        Ok(found) => found,
        Err(error @ ImageError::Io { .. }) => return Err(error.into()),
        Err(error @ ImageError::Page { .. }) => return Err(StartRefused::Damaged(with_faults(&error.to_string(), image))),
    };
    let format = match &found.format {
        Some(bytes) => migrate::version_of(bytes).map_err(|error| StartRefused::Damaged(error.to_string()))?,
        None if found.entries == 0 && image.faults().is_empty() => return Ok(None),
        None => return Err(StartRefused::Damaged(with_faults("it does not say what format it has", image))),
    };
    if format > migrate::CURRENT {
        return Err(StartRefused::Newer { found: format, known: migrate::CURRENT });
    }
    let sum = if format < SUMMED_FROM { without_sum(&found, image, mark) } else { with_sum(&found, image, mark) };
    Ok(Some((sum?, found.held)))
}

fn read_image(root: &Folder, folder: &str) -> Result<Option<Image>, StartRefused> {
    let Some(folder) = root.existing_folder(folder)? else { return Ok(None) };
    if folder.kind_of(LOG)?.is_none() {
        return Ok(None);
    }
    let image = Image::read(folder.open(LOG)?.into_plain())?;
    let is_sound = image.faults().is_empty();
    let has_tree = match image.root(TREE) {
        Ok(root) => root.is_some(),
        Err(error) => return Err(StartRefused::Damaged(with_faults(&error.to_string(), &image))),
    };
    match (has_tree, is_sound) {
        (true, _) => Ok(Some(image)),
        (false, true) => Ok(None),
        (false, false) => Err(StartRefused::Damaged(with_faults("it has no data", &image))),
    }
}

/// Treats a directory without a store as new only if nothing else shows that there was a store.
fn fresh(root: &Folder, generation: u64, promised: Option<Reached>, missing: String) -> Result<Sound, StartRefused> {
    if promised.is_some() {
        return Err(StartRefused::Missing { missing, beside: "the file `mark`" });
    }
    for (folder, beside) in [(FILES, "uploaded content in `files`"), (PARTS, "uploaded content in `parts`")] {
        if let Some(found) = root.existing_folder(folder)?
            && !found.entries()?.is_empty()
        {
            return Err(StartRefused::Missing { missing, beside });
        }
    }
    Ok(Sound { generation, sum: None, held: Found::default(), image: None })
}

/// Verifies a store from before there were sums: all that can be checked is whether the log is
/// whole.
fn without_sum(found: &AddedUp, image: &Image, mark: Option<Reached>) -> Result<Sum, StartRefused> {
    if let Some(promised) = mark.filter(|mark| mark.writes > 0) {
        return Err(StartRefused::Behind { found: 0, reached: promised.writes });
    }
    if !image.faults().is_empty() {
        return Err(StartRefused::Damaged(with_faults("its log is not whole", image)));
    }
    Ok(found.as_first())
}

fn with_sum(found: &AddedUp, image: &Image, mark: Option<Reached>) -> Result<Sum, StartRefused> {
    let expected = found.expected.as_deref().map(record::decode::<Sum>);
    let expected = match expected {
        Some(Ok(expected)) => expected,
        Some(Err(error)) => return Err(StartRefused::Damaged(with_faults(&error.to_string(), image))),
        None => return Err(StartRefused::Damaged(with_faults("the sum over its entries is missing", image))),
    };
    if (expected.entries, expected.bytes, expected.sum) != (found.entries, found.bytes, found.sum) {
        let what = match found.entries {
            entries if entries == expected.entries => "entries of it are not as they were written".to_owned(),
            entries => format!("it has {entries} entries, and should have {}", expected.entries),
        };
        return Err(StartRefused::Damaged(with_faults(&what, image)));
    }
    match mark {
        None => Err(StartRefused::NoMark),
        Some(mark) if mark.store != expected.store && mark.writes > 0 => Err(StartRefused::Foreign),
        Some(mark) if mark.writes > expected.writes => Err(StartRefused::Behind { found: expected.writes, reached: mark.writes }),
        Some(_) => Ok(expected),
    }
}

/// Describes what is wrong, and the places in the log that may be why.
fn with_faults(what: &str, image: &Image) -> String {
    let faults = image.faults();
    let mut text = what.to_owned();
    for fault in faults.iter().take(FAULTS_NAMED) {
        text.push_str(&format!("; {fault}"));
    }
    if let Some(more) = faults.len().checked_sub(FAULTS_NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// Whether sled, once it is open, has what was verified.
pub(super) fn is_as_verified(tree: &Tree, sum: &Sum) -> Result<bool, StoreError> {
    let format = tree.get(FORMAT_KEY)?;
    let stored = tree.get(super::format::SUM_KEY)?;
    Ok(format.is_some() && stored.is_none_or(|stored| record::decode::<Sum>(&stored).is_ok_and(|stored| stored == *sum)))
}

/// The name of sled's log in the folder of a database.
pub const LOG: &str = "db";
