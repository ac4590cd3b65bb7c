//! The envelope of results on disk: a small header, then a body, usually compressed, cut into as
//! many values as it needs.
//!
//! The header holds one number that a reader can use without unpacking the rest; the kind of record
//! decides what the number means.

use super::Record;
use super::compress::{squeeze, unsqueeze};
use crate::store::format::MAX_VALUE;
use crate::store::record::error::RecordError;

/// Version, flags, the number (4 bytes), chunks (2 bytes).
const HEADER: usize = 8;
const COMPRESSED: u8 = 1;
/// The flag for a body that is compressed with the dictionary; not set in data of format 1.
const DICTIONARY: u8 = 2;
/// Below this size in bytes zstd's frame costs more than it saves.
const COMPRESS_FROM: usize = 100;

/// Packs the body of a `T`.
///
/// # Errors
/// When the body is too large to be stored.
pub fn pack<T: Record>(number: u32, body: &[u8]) -> Result<Vec<u8>, RecordError> {
    if body.len() as u64 > T::LIMIT {
        return Err(RecordError::damaged::<T>(format!("{} bytes are more than it can have", body.len())));
    }
    let mut packed = Vec::with_capacity(HEADER + 4 + body.len() / 2);
    packed.extend_from_slice(&[T::VERSION, 0]);
    packed.extend_from_slice(&number.to_be_bytes());
    packed.extend_from_slice(&[0, 0]);
    packed.extend_from_slice(&u32::try_from(body.len()).map_err(RecordError::damaged::<T>)?.to_be_bytes());
    let squeezed = body.len() >= COMPRESS_FROM && squeeze(body, &mut packed).is_ok();
    if squeezed && packed.len() < HEADER + body.len() {
        packed[1] = COMPRESSED | DICTIONARY;
    } else {
        packed.truncate(HEADER);
        packed.extend_from_slice(body);
    }
    let chunks = u16::try_from(packed.len().div_ceil(MAX_VALUE)).map_err(RecordError::damaged::<T>)?;
    packed[6..HEADER].copy_from_slice(&chunks.to_be_bytes());
    Ok(packed)
}

/// The values that hold a packed record, in order.
pub fn chunks(packed: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    (0..).zip(packed.chunks(MAX_VALUE))
}

/// A packed record, its header read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed<'a> {
    /// The version of the record.
    pub version: u8,
    flags: u8,
    pub number: u32,
    /// Values that hold the record.
    pub chunks: u16,
    body: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Reads the header; `packed` may be the first chunk alone.
    ///
    /// # Errors
    /// When `packed` is shorter than a header.
    pub fn open<T: Record>(packed: &'a [u8]) -> Result<Self, RecordError> {
        let Some((&[version, flags, a, b, c, d, e, f], body)) = packed.split_first_chunk::<HEADER>() else {
            return Err(RecordError::damaged::<T>("shorter than its header"));
        };
        Ok(Self { version, flags, number: u32::from_be_bytes([a, b, c, d]), chunks: u16::from_be_bytes([e, f]), body })
    }

    /// Passes the uncompressed body to `read`.
    ///
    /// # Errors
    /// When the bytes are damaged or of a later version, and the errors of `read`.
    pub fn with_body<T: Record, R>(self, read: impl FnOnce(&[u8]) -> Result<R, RecordError>) -> Result<R, RecordError> {
        if !T::is_packed_as(self.version) {
            return Err(RecordError::unknown::<T>(self.version));
        }
        let with_dictionary = match self.flags {
            0 => return read(self.body),
            COMPRESSED => false,
            flags if flags == COMPRESSED | DICTIONARY => true,
            flags => return Err(RecordError::damaged::<T>(format!("packed in an unknown way ({flags})"))),
        };
        let Some((size, body)) = self.body.split_first_chunk::<4>() else {
            return Err(RecordError::damaged::<T>("no size before the compressed body"));
        };
        let size = u32::from_be_bytes(*size);
        if u64::from(size) > T::LIMIT {
            return Err(RecordError::damaged::<T>(format!("{size} bytes are more than it can have")));
        }
        unsqueeze(body, size, with_dictionary, RecordError::damaged::<T>, read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::result::ResultRecord;
    use super::*;
    use proptest::prelude::*;

    fn unpack(packed: &[u8]) -> Result<Vec<u8>, RecordError> {
        Packed::open::<ResultRecord>(packed)?.with_body::<ResultRecord, _>(|body| Ok(body.to_vec()))
    }

    #[test]
    fn what_was_packed_before_the_dictionary_is_unpacked() {
        let body = b"0123456789".repeat(100);
        let size = 1_000_u32.to_be_bytes();
        let header = |flags| [ResultRecord::VERSION, flags, 0, 0, 0, 1, 0, 1];
        let squeezed = zstd::bulk::compress(&body, 1).unwrap();
        for packed in [
            [&header(COMPRESSED)[..], &size, &squeezed].concat(),
            [&header(0)[..], &body].concat(),
            pack::<ResultRecord>(1, &body).unwrap(),
        ] {
            assert_eq!(unpack(&packed).as_ref(), Ok(&body));
        }
        for unknown in [DICTIONARY, 4, 4 | COMPRESSED] {
            assert!(unpack(&[&header(unknown)[..], &size, &squeezed].concat()).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(body: Vec<u8>, repeat in 1_usize..400, number: u32) {
            let body = body.repeat(repeat);
            let packed = pack::<ResultRecord>(number, &body).unwrap();
            let opened = Packed::open::<ResultRecord>(&packed).unwrap();
            prop_assert_eq!((opened.number, usize::from(opened.chunks)), (number, chunks(&packed).count()));
            prop_assert_eq!(unpack(&packed).unwrap(), body);
        }
    }
}
