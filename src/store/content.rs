//! Reading the content of uploaded files, which is not trusted: a disk may return other bytes than
//! were written, and a person may put other files in their place.
//!
//! Invariant: a reader that reads a content from its first byte to its end through [`Verified`]
//! gets what was uploaded, or an error before the last bytes. Nothing is read twice for this check.
//! For ranges, only the size of the whole is checked.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::dir::DataFile;
use super::record::{self, file::FileRecord};
use super::{Store, format};
use crate::domain::file::{File, FileSource};
use crate::domain::id::FileId;
use crate::store::error::{DamagedContent, StoreError};

/// A content that is read from its beginning. After it was read to its end, it may be read again
/// from anywhere.
#[derive(Debug)]
pub struct Verified {
    content: DataFile,
    /// `None` once the content is known to be good, or if its size and digest are not known.
    check: Option<ContentCheck>,
}

#[derive(Debug)]
struct ContentCheck {
    file: FileId,
    bytes: u64,
    sha256: [u8; 32],
    read: u64,
    hasher: Sha256,
    /// How often damage was found.
    found: Arc<AtomicU64>,
}

impl ContentCheck {
    fn damaged(&self, reason: String) -> DamagedContent {
        self.found.fetch_add(1, Ordering::Relaxed);
        let damage = DamagedContent { file: self.file, reason };
        tracing::error!(file = %damage.file, reason = damage.reason, "the content of a file is damaged; restore it from a backup");
        damage
    }

    fn check_size(&self, found: u64) -> Result<(), DamagedContent> {
        match found == self.bytes {
            true => Ok(()),
            false => Err(self.damaged(format!("it has {found} bytes on the disk, and had {} when it was uploaded", self.bytes))),
        }
    }
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buf)?;
        let Some(check) = &mut self.check else { return Ok(read) };
        if buf.is_empty() {
            return Ok(0);
        }
        check.hasher.update(&buf[..read]);
        check.read += read as u64;
        if read > 0 && check.read < check.bytes {
            return Ok(read);
        }
        // The reader has all of it, unless the file is being changed at this very moment.
        check.check_size(check.read).map_err(invalid)?;
        if check.hasher.clone().finalize()[..] != check.sha256 {
            return Err(invalid(check.damaged("its bytes are not those that were uploaded".to_owned())));
        }
        self.check = None;
        Ok(read)
    }
}

impl Seek for Verified {
    /// # Errors
    /// When the end was not reached before: a skipped part cannot be checked.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self.check {
            None => self.content.seek(to),
            Some(_) => Err(io::Error::other("a content that is being verified is read from its beginning to its end")),
        }
    }
}

impl Verified {
    /// Reads the rest, so that it is known whether the content is good.
    ///
    /// # Errors
    /// When the content is damaged or cannot be read.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.check.is_some() {
            io::copy(self, &mut io::sink())?;
        }
        Ok(())
    }
}

fn invalid(damage: DamagedContent) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, damage)
}

impl Store {
    /// Opens the content of an uploaded file, to be read as a whole. Blocks.
    ///
    /// # Errors
    /// When the content's size differs from the recorded size, or the content cannot be read.
    pub fn open_verified(&self, file: &File) -> Result<Verified, StoreError> {
        let FileSource::Uploaded { sha256 } = file.source else {
            return Err(StoreError::Broken(format!("`{}` is a view, and has no content", file.id)));
        };
        let (id, bytes, found) = (file.id, file.bytes, self.inner.damage_found.clone());
        let check = ContentCheck { file: id, bytes, sha256, read: 0, hasher: Sha256::new(), found };
        let content = match self.open_content(id) {
            // The file's record may have been removed a moment ago.
            Err(StoreError::Io { missing: true, .. }) if self.recorded(id)?.is_some() => {
                return Err(check.damaged("it is missing on the disk".to_owned()).into());
            }
            other => other?,
        };
        let on_disk = DataFile::bytes(&content).map_err(|error| StoreError::unreadable(id, &error))?;
        check.check_size(on_disk)?;
        Ok(Verified { content, check: Some(check) })
    }

    /// Like `open_verified`, for the input of an unfinished batch, which may have been deleted
    /// since. Blocks.
    ///
    /// # Errors
    /// As [`Self::open_verified`].
    pub fn open_input(&self, id: FileId) -> Result<Verified, StoreError> {
        match self.recorded(id)? {
            Some(file) => self.open_verified(&file),
            // Deleted by a version that did not keep the file's record.
            None => Ok(Verified { content: self.open_content(id)?, check: None }),
        }
    }

    /// Opens the content of an uploaded file to read a part of it; only its size is checked.
    /// Blocks.
    ///
    /// # Errors
    /// As [`Self::open_verified`].
    pub fn open_part(&self, file: &File) -> Result<DataFile, StoreError> {
        Ok(self.open_verified(file)?.content)
    }

    /// How often a content was found to be damaged since the store was opened.
    pub fn damage_found(&self) -> u64 {
        self.inner.damage_found.load(Ordering::Relaxed)
    }

    /// What is known of a file, including a file that was deleted while an unfinished batch reads
    /// it.
    fn recorded(&self, id: FileId) -> Result<Option<File>, StoreError> {
        for key in [format::file(id), format::deleted(id)] {
            if let Some(bytes) = self.inner.tree.get(key)?.filter(|bytes| !bytes.is_empty()) {
                return Ok(Some(record::decode::<FileRecord>(&bytes)?.try_into()?));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add_file, close, open};
    use super::*;
    use crate::store::Deletion;
    use crate::store::error::damage_in;

    /// The case's name, the damage done to the content, and the error that the reader gets.
    type Damage = (&'static str, fn(&mut Vec<u8>), &'static str);

    const CASES: [Damage; 6] = [
        ("a bit of its beginning", |content| content[0] ^= 1, "its bytes are not"),
        ("a bit of its end", |content| *content.last_mut().unwrap() ^= 0x80, "its bytes are not"),
        ("a block of zeros", |content| content[1_000..5_000].fill(0), "its bytes are not"),
        ("the last byte is gone", |content| _ = content.pop(), "it has 699999 bytes on the disk, and had 700000"),
        ("all of it is gone", Vec::clear, "it has 0 bytes on the disk, and had 700000"),
        ("there is more", |content| content.push(b'x'), "it has 700001 bytes on the disk, and had 700000"),
    ];

    #[tokio::test]
    async fn a_damaged_content_never_ends_well() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let good: Vec<u8> = (0..700_000_u32).flat_map(|n| n.to_le_bytes()).step_by(4).collect();
        let file = add_file(&store, &good, None).await;
        let path = dir.path().join("files").join(crate::store::dir::content_name(file.id.as_u128()));
        let read = |reader: Result<Verified, StoreError>| {
            let mut content = Vec::new();
            let mut reader = reader?;
            let read = reader.read_to_end(&mut content);
            read.map_err(|error| StoreError::unreadable(file.id, &error))?;
            Ok::<_, StoreError>((content, reader))
        };
        let (content, mut reader) = read(store.open_verified(&file)).unwrap();
        assert!(content == good && reader.finish().is_ok());
        reader.rewind().expect("it is known to be good");
        assert!(store.open_verified(&file).unwrap().rewind().is_err(), "it is not known to be good");
        assert_eq!(store.damage_found(), 0);
        let mut found = 0;
        for (what, damage, told) in CASES {
            let mut bad = good.clone();
            damage(&mut bad);
            std::fs::write(&path, &bad).unwrap();
            let error = read(store.open_verified(&file)).expect_err(what);
            assert!(
                matches!(&error, StoreError::Content(damaged) if damaged.file == file.id && damaged.reason.contains(told)),
                "{what}: {error}"
            );
            let size_is_right = bad.len() == good.len();
            assert_eq!(store.open_part(&file).is_ok(), size_is_right, "{what}");
            // A wrong size alone is found twice.
            found += if size_is_right { 1 } else { 2 };
            assert_eq!(store.damage_found(), found, "{what}");
        }
        // The reader gets the error before it has the whole content, whatever the size of its
        // reads.
        let mut bad = good.clone();
        bad[7] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        for piece in [1, 9_999, 256 << 10, 700_000, 1 << 20] {
            let mut reader = store.open_verified(&file).unwrap();
            let (mut buffer, mut got) = (vec![0; piece], 0);
            let error = loop {
                match reader.read(&mut buffer) {
                    Ok(0) => panic!("it ends well"),
                    Ok(read) => got += read,
                    Err(error) => break error,
                }
            };
            assert!(got < good.len() && damage_in(&error).is_some(), "{piece}: {got} {error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(store.open_verified(&file), Err(StoreError::Content(_))), "it has a record");
        close(store).await;
    }

    #[tokio::test]
    async fn empty_content_is_content_and_a_deleted_file_is_not_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let file = add_file(&store, b"", None).await;
        let mut nothing = Vec::new();
        assert_eq!(store.open_verified(&file).unwrap().read_to_end(&mut nothing).unwrap(), 0);
        assert_eq!(store.delete_file(file.id).await.unwrap(), Deletion::Deleted);
        assert!(matches!(store.open_verified(&file), Err(StoreError::Io { missing: true, .. })));
        assert_eq!(store.damage_found(), 0);
        close(store).await;
    }

    #[tokio::test]
    async fn an_input_that_was_deleted_meanwhile_is_still_verified() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let spec = super::super::tests::running(&store, 1).await;
        store.delete_file(spec.input_file).await.unwrap();
        store.open_input(spec.input_file).unwrap().finish().unwrap();
        std::fs::write(dir.path().join("files").join(crate::store::dir::content_name(spec.input_file.as_u128())), b"[]\n").unwrap();
        let error = store.open_input(spec.input_file).unwrap().finish().unwrap_err();
        assert!(damage_in(&error).is_some(), "{error}");
        close(store).await;
    }
}
