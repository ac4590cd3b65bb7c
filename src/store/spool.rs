//! Bytes on their way to become a file: written to `spool/`, hashed on the way, made durable, and
//! only then moved to where a record names them.
//!
//! Files that are left in `spool/` when the store opens belonged to a process that died; they are
//! removed.

use std::io::{Read, Write};

use bytes::Bytes;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::Store;
use super::dir::{DataFile, Folder};
use crate::domain::text::hex;
use crate::store::error::StoreError;

/// A file being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Spool {
    file: DataFile,
    place: Temporary,
    sha256: Sha256,
    md5: Option<Md5>,
    bytes: u64,
    /// Number of line breaks, and whether the last byte was not a line break.
    breaks: u64,
    open_line: bool,
}

/// A complete file that is on disk but has no name yet. Dropping it removes it.
#[derive(Debug)]
pub struct Sealed {
    place: Temporary,
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// Lower-case hexadecimal MD5, if it was asked for.
    pub md5: Option<String>,
    /// Lines, the last one with or without its line break.
    pub lines: u64,
}

#[derive(Debug)]
struct Temporary {
    folder: Folder,
    name: String,
    /// The file has its final name by now.
    moved: bool,
}

impl Temporary {
    fn error(&self, action: &'static str, error: &std::io::Error) -> StoreError {
        StoreError::io(action, &self.folder.path_of(&self.name), error)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved
            && let Err(error) = self.folder.remove(&self.name)
        {
            tracing::warn!(%error, "could not remove a temporary file");
        }
    }
}

impl Spool {
    fn create(folder: &Folder, with_md5: bool) -> Result<Self, StoreError> {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let file = folder.create(&name)?;
        Ok(Self {
            file,
            place: Temporary { folder: folder.clone(), name, moved: false },
            sha256: Sha256::new(),
            md5: with_md5.then(Md5::new),
            bytes: 0,
            breaks: 0,
            open_line: false,
        })
    }

    /// Appends bytes. Blocks.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| self.place.error("writing", &e))?;
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        self.breaks += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.open_line = bytes.last().map_or(self.open_line, |last| *last != b'\n');
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The content, which is not kept on disk. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn into_bytes(self) -> Result<Bytes, StoreError> {
        let mut content = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        let mut file = self.place.folder.open(&self.place.name)?;
        file.read_to_end(&mut content).map_err(|e| self.place.error("reading", &e))?;
        Ok(content.into())
    }

    /// Makes the content durable. Blocks.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn seal(self) -> Result<Sealed, StoreError> {
        self.file.sync_all().map_err(|e| self.place.error("flushing", &e))?;
        let md5 = self.md5.map(|md5| hex(&md5.finalize()));
        let lines = self.breaks + u64::from(self.open_line);
        Ok(Sealed { place: self.place, bytes: self.bytes, sha256: self.sha256.finalize().into(), md5, lines })
    }
}

impl Sealed {
    /// Opens the content to read it.
    pub(super) fn open(&self) -> Result<DataFile, StoreError> {
        self.place.folder.open(&self.place.name)
    }

    /// The error of a failed read of the content.
    pub(super) fn unreadable(&self, error: &std::io::Error) -> StoreError {
        self.place.error("reading", error)
    }

    /// Gives the content its final name, durably. Blocks.
    pub(super) fn move_to(mut self, folder: &Folder, name: &str) -> Result<(), StoreError> {
        self.place.folder.rename(&self.place.name, folder, name)?;
        self.place.moved = true;
        folder.sync()
    }
}

impl Store {
    /// Begins a file; blocks while the file is created.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn spool(&self) -> Result<Spool, StoreError> {
        Spool::create(self.inner.dir.spool(), false)
    }

    /// As [`Self::spool`], and computes the MD5 against which OpenAI's uploads may be checked.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn spool_with_md5(&self) -> Result<Spool, StoreError> {
        Spool::create(self.inner.dir.spool(), true)
    }
}
