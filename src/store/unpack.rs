//! Unpacks input that was packed with gzip or zstd, before it becomes a file.
//!
//! Rows are read by their place in a file, which packed content does not have. The size of the
//! packed content says nothing about what is in it, so unpacking has a bound of its own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use tokio::sync::Semaphore;

use super::Store;
use super::spool::Sealed;
use crate::store::error::StoreError;

/// Bytes that are read and written at once.
const PIECE: usize = 256 << 10;
/// Bytes between two looks at the free space of the disk.
const LOOK_EVERY: u64 = 16 << 20;

/// How far content is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// The most bytes that the content may have when it is unpacked.
    pub max_bytes: u64,
    /// Free space that must remain on the disk, in bytes.
    pub min_free_bytes: u64,
}

/// Why packed content cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnpackError {
    #[error("the file is packed with {0} and has more than {1} bytes unpacked, which is the most it may have")]
    TooLarge(Packing, u64),
    #[error("the file is packed with {0} and cannot be unpacked: {1}")]
    Corrupt(Packing, String),
    #[error("the disk has no room for the unpacked file")]
    NoRoom,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How content is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Zstd,
}

impl std::fmt::Display for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl Packing {
    /// How content that begins with these bytes is packed, if it is.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The media type of input that was unpacked.
    pub const UNPACKED_MIME: &str = "application/jsonl";

    /// A file's name without the ending that says how the file was packed.
    pub fn unpacked_name(name: &str) -> &str {
        let shorter = [".gz", ".gzip", ".zst", ".zstd"].into_iter().find_map(|ending| {
            let at = name.len().checked_sub(ending.len())?;
            (at > 0 && name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(ending)).then_some(&name[..at])
        });
        shorter.unwrap_or(name)
    }

    fn reader<'a>(self, packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            // Refuses what takes more than 128 MiB of memory to unpack.
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(packed)?),
        })
    }
}

/// Files that are unpacked at the same time: each keeps a processor busy, which the running batches
/// need too, and up to 128 MiB of memory.
static SLOTS: Semaphore = Semaphore::const_new(1);

impl Store {
    /// [`Self::unpack`] in its turn, off the async threads.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub async fn unpack_input(&self, packed: Sealed, limits: UnpackLimits) -> Result<(Sealed, Option<Packing>), UnpackError> {
        let slot = SLOTS.acquire().await.map_err(|_| StoreError::Closed)?;
        let store = self.clone();
        super::blocking(move || {
            let _slot = slot;
            Ok::<_, StoreError>(store.unpack(packed, limits))
        })
        .await?
    }

    /// Unpacks content that was packed with gzip or zstd; also says how it was packed. Other
    /// content is returned as it is. Blocks.
    ///
    /// # Errors
    /// When the content is damaged or exceeds the limits, or the disk fails.
    pub fn unpack(&self, packed: Sealed, limits: UnpackLimits) -> Result<(Sealed, Option<Packing>), UnpackError> {
        let mut content = BufReader::with_capacity(PIECE, packed.open()?);
        let Some(packing) = Packing::of(content.fill_buf().map_err(|error| packed.unreadable(&error))?) else {
            return Ok((packed, None));
        };
        let mut spool = self.spool()?;
        let write = |piece: &[u8]| spool.write(piece);
        pour(packing, content, limits, || self.free_bytes(), write)?;
        Ok((spool.seal()?, Some(packing)))
    }
}

/// [`Store::unpack`] without a store: from one file into another, which is empty. Content that is
/// not packed is not copied. Blocks.
///
/// # Errors
/// As [`Store::unpack`].
pub fn unpack_file(packed: &Path, (to, out): (&Path, &File), limits: UnpackLimits) -> Result<Option<Packing>, UnpackError> {
    let unreadable = |error: io::Error| StoreError::io("reading", packed, &error);
    let mut content = BufReader::with_capacity(PIECE, File::open(packed).map_err(unreadable)?);
    let Some(packing) = Packing::of(content.fill_buf().map_err(unreadable)?) else { return Ok(None) };
    let free = || {
        let stat = rustix::fs::fstatvfs(out).map_err(|error| StoreError::io("asking for free space of", to, &error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    };
    pour(packing, content, limits, free, |piece| (&*out).write_all(piece).map_err(|error| StoreError::io("writing", to, &error)))?;
    Ok(Some(packing))
}

/// Unpacks all of `content`, a piece at a time.
fn pour(
    packing: Packing,
    content: impl BufRead,
    limits: UnpackLimits,
    free: impl Fn() -> Result<u64, StoreError>,
    mut write: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), UnpackError> {
    let corrupt = |error: io::Error| UnpackError::Corrupt(packing, error.to_string());
    let mut reader = packing.reader(content).map_err(corrupt)?;
    let mut piece = vec![0; PIECE];
    let (mut bytes, mut look_at) = (0_u64, 0);
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(corrupt(error)),
        };
        if bytes + read as u64 > limits.max_bytes {
            return Err(UnpackError::TooLarge(packing, limits.max_bytes));
        }
        if bytes >= look_at {
            look_at = bytes + LOOK_EVERY;
            if free()? < limits.min_free_bytes.saturating_add(LOOK_EVERY) {
                return Err(UnpackError::NoRoom);
            }
        }
        write(&piece[..read])?;
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, open};
    use super::*;

    const ROOMY: UnpackLimits = UnpackLimits { max_bytes: 1 << 20, min_free_bytes: 0 };

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(store: &Store, content: &[u8], limits: UnpackLimits) -> Result<(String, Option<Packing>), String> {
        let mut spool = store.spool().unwrap();
        spool.write(content).unwrap();
        let (content, packing) = store.unpack(spool.seal().unwrap(), limits).map_err(|error| error.to_string())?;
        let text = io::read_to_string(content.open().unwrap()).unwrap();
        assert_eq!(content.bytes, text.len() as u64);
        Ok((text, packing))
    }

    #[tokio::test]
    async fn packed_content_is_unpacked_within_its_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let text = "one line\n".repeat(60_000);
        let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
        let parts = [gzip(b"first\n"), gzip(b"second\n")].concat();
        let read = |content: &[u8]| unpacked(&store, content, ROOMY);
        assert_eq!(read(b"plain"), Ok(("plain".to_owned(), None)));
        assert_eq!(read(b""), Ok((String::new(), None)));
        assert_eq!(read(&gzip(text.as_bytes())), Ok((text.clone(), Some(Packing::Gzip))));
        assert_eq!(read(&zstd), Ok((text.clone(), Some(Packing::Zstd))));
        assert_eq!(read(&parts), Ok(("first\nsecond\n".to_owned(), Some(Packing::Gzip))));
        let bomb = vec![b' '; 5 << 20];
        for packed in [gzip(&bomb), zstd::encode_all(bomb.as_slice(), 1).unwrap()] {
            assert!(read(&packed).unwrap_err().contains("has more than 1048576 bytes unpacked"), "{:?}", read(&packed));
        }
        for packed in [gzip(text.as_bytes()), zstd] {
            assert!(read(&packed[..packed.len() / 2]).unwrap_err().contains("cannot be unpacked"));
        }
        let full = UnpackLimits { min_free_bytes: u64::MAX, ..ROOMY };
        assert!(unpacked(&store, &gzip(b"x"), full).unwrap_err().contains("no room"));
        let left = std::fs::read_dir(dir.path().join("spool")).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
        close(store).await;
    }

    #[test]
    fn a_name_loses_the_ending_of_its_packing() {
        for (name, without) in
            [("a.jsonl.gz", "a.jsonl"), ("b.ZST", "b"), (".gz", ".gz"), ("é.zstd", "é"), ("gz", "gz"), ("a.tgz", "a.tgz")]
        {
            assert_eq!(Packing::unpacked_name(name), without);
        }
    }
}
