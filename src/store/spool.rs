//! Bytes on their way to become a file: written to `spool/`, hashed as they pass, made durable,
//! and only then moved to where a record names them.
//!
//! Whatever is left in `spool/` when the store opens belonged to a process that died, and goes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use md5::Md5;
use sha2::{Digest, Sha256};

use super::{Store, StoreError};
use crate::domain::text::hex;

/// A file being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Spool {
    file: File,
    path: Temporary,
    sha256: Sha256,
    md5: Option<Md5>,
    bytes: u64,
    /// Line breaks, and whether the last byte was none.
    breaks: u64,
    open_line: bool,
}

/// A complete file that is on disk but has no name yet. Dropping it removes it.
#[derive(Debug)]
pub struct Sealed {
    path: Temporary,
    pub bytes: u64,
    pub sha256: [u8; 32],
    /// Lower-case hexadecimal MD5, if it was asked for.
    pub md5: Option<String>,
}

#[derive(Debug)]
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "could not remove a temporary file");
        }
    }
}

impl Spool {
    pub(super) fn create(folder: &Path, with_md5: bool) -> Result<Self, StoreError> {
        let path = folder.join(uuid::Uuid::now_v7().simple().to_string());
        let file = File::create_new(&path).map_err(|e| StoreError::io("creating", &path, &e))?;
        Ok(Self {
            file,
            path: Temporary(Some(path)),
            sha256: Sha256::new(),
            md5: with_md5.then(Md5::new),
            bytes: 0,
            breaks: 0,
            open_line: false,
        })
    }

    /// Appends. Blocks.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| StoreError::io("writing", self.path.get(), &e))?;
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        self.breaks += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.open_line = bytes.last().map_or(self.open_line, |last| *last != b'\n');
        Ok(())
    }

    /// Lines written so far.
    pub fn lines(&self) -> u64 {
        self.breaks + u64::from(self.open_line)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the content durable. Blocks.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn seal(self) -> Result<Sealed, StoreError> {
        self.file.sync_all().map_err(|e| StoreError::io("flushing", self.path.get(), &e))?;
        let md5 = self.md5.map(|md5| hex(&md5.finalize()));
        Ok(Sealed { path: self.path, bytes: self.bytes, sha256: self.sha256.finalize().into(), md5 })
    }
}

impl Temporary {
    fn get(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Sealed {
    /// Gives the content its final name, durably. Blocks.
    pub(super) fn move_to(mut self, target: &Path) -> Result<(), StoreError> {
        std::fs::rename(self.path.get(), target).map_err(|e| StoreError::io("renaming to", target, &e))?;
        self.path.0 = None;
        match target.parent() {
            Some(folder) => sync_folder(folder),
            None => Ok(()),
        }
    }
}

/// Makes renames and removals in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("flushing", folder, &e))
}

impl Store {
    /// Begins a file; blocks for as long as creating a file takes.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn spool(&self) -> Result<Spool, StoreError> {
        Spool::create(&self.inner.dir.join(super::open::SPOOL), false)
    }

    /// As [`Self::spool`], and computes the MD5 that OpenAI's uploads may be checked against.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn spool_with_md5(&self) -> Result<Spool, StoreError> {
        Spool::create(&self.inner.dir.join(super::open::SPOOL), true)
    }
}
