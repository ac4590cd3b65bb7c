//! An open file of the data directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::seam::{Act, Seam};

/// An open regular file of the data directory. It is read and written like any other file.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    seam: Seam,
}

impl DataFile {
    pub(super) fn new(file: File, seam: Seam) -> Self {
        Self { file, seam }
    }

    /// The file itself, for callers that only read.
    pub fn into_plain(self) -> File {
        self.file
    }

    /// The file's size in bytes.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn bytes(&self) -> io::Result<u64> {
        self.seam.pass(Act::Look)?;
        Ok(self.file.metadata()?.len())
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the file ends before that, or cannot be read.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.seam.pass(Act::Read)?;
        self.file.read_exact_at(buffer, offset)
    }

    /// Writes all of `bytes` from `offset` on.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.seam.pass(Act::Write) {
            let _ = self.file.write_all_at(&bytes[..bytes.len() / 2], offset);
            return Err(error);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Makes content and size durable.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn sync_all(&self) -> io::Result<()> {
        self.seam.pass(Act::Sync)?;
        self.file.sync_all()
    }

    /// Makes the content durable, and the metadata that is needed to read it.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn sync_data(&self) -> io::Result<()> {
        self.seam.pass(Act::Sync)?;
        self.file.sync_data()
    }

    /// Takes the lock on the file, for as long as the file is open.
    pub(super) fn try_lock(&self) -> Result<(), std::fs::TryLockError> {
        self.seam.pass(Act::Lock).map_err(std::fs::TryLockError::Error)?;
        self.file.try_lock()
    }
}

impl Read for DataFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.seam.pass(Act::Read)?;
        self.file.read(buffer)
    }
}

impl Write for DataFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.seam.pass(Act::Write) {
            let _ = self.file.write_all(&bytes[..bytes.len() / 2]);
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for DataFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
