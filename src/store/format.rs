//! Every key on disk. All data is in one sled tree, so that one atomic batch covers everything that
//! belongs together, results and their bookkeeping included.
//!
//! Keys sort as bytes, so numbers are big-endian and of fixed width. The first byte is the kind:
//!
//! ```text
//! M name                          format version; the sum over everything else
//! F file(16)                      file record
//! D file(16)                      record of a deleted file that an unfinished batch still reads
//! U upload(16)                    upload record
//! P upload(16) part(16)           upload part record
//! B batch(16)                     state of a batch (the list of batches)
//! S batch(16) blob(1) chunk(2)    specification, plan, problems, receipt, event log, in chunks
//! S batch(16) 6                   the batch's input was made with it, and goes with it
//! A batch(16)                     unfinished batches; the value is the input file's id
//! I sha256(32)                    idempotency keys
//! K batch(16)                     control of a batch, where it differs from the default
//! L sha256(32)                    holds on lanes, by the digest of the lane's name
//! T quote(16) chunk(2)            a quote, in chunks
//! W org(16)                       account of an organisation: its credits and what it has spent
//! Y batch(16)                     what a batch has reserved, and was charged
//! Z org(16)                       an organisation
//! N 1 sha256(32)                  an API key, by the digest of its secret
//! N 2 org(16) key(16)             the digest of an organisation's key
//! N 3 key(16)                     the organisation of a key
//! E 1 org(16) batch(16)           the batches of an organisation, where that is not the operator's
//! E 2 org(16) file(16)            the files of an organisation, likewise
//! J 1 batch(16)                   a batch has ended, and its receiver was not notified yet
//! J 2 org(16) seconds(8) event(16)  when a message of an organisation is due; its host
//! J 3 event(16) chunk(2)          a message to a receiver, in chunks
//! J 4 batch(16)                   an unfinished batch that a receiver is notified of
//! H org(16) receiver(16)          a receiver that is managed on its own
//! V quote(16)                     the batch that was made from a quote
//! O sha256(32)                    lengths of answers so far, by the digest of lane and operation
//! Q digest(16)                    rows with an answer, by the digest of their request
//! X seconds(8) kind(1) id(16)     what expires, and when; of a quote, whose it is
//! G batch(16)                     a results file or the batch was deleted: removal to be checked
//! C 1 version(8) chunk(2)         the record of an accepted catalog, in chunks
//! C 2 version(8) chunk(2)         the files of an accepted catalog, in chunks
//! R batch(16) 1 page(4)           one page of rows: offsets, bitmaps, sums
//! R batch(16) 2 row(4) chunk(2)   the large result of one row, in chunks
//! R batch(16) 3 row(4) chunk(2)   results of rows of one page, this and later ones, in chunks
//! ```
//!
//! No value exceeds [`MAX_VALUE`]: sled 0.34 puts larger values into side files that it does not
//! reclaim.

use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::{BatchId, EventId, FileId, KeyId, OrgId, PartId, QuoteId, ReceiverId, RowIndex, UploadId};
use crate::domain::time::Timestamp;

/// The largest value in the tree, in bytes.
pub const MAX_VALUE: usize = 4_000;
/// Rows in one page. A page is rewritten when one of its rows finishes, so it is kept small.
pub const ROWS_PER_PAGE: u32 = 1_024;

/// The parts of a batch that may exceed one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blob {
    Spec = 1,
    Plan = 2,
    Problems = 3,
    Receipt = 4,
    EventLog = 5,
}

/// What an expiry entry points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryKind {
    File = 1,
    Upload = 2,
    IdempotencyKey = 3,
    Quote = 4,
}

fn key<const N: usize>(kind: u8, parts: [&[u8]; N]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub const FORMAT_KEY: &[u8] = b"Mformat";
pub const SUM_KEY: &[u8] = b"Msum";
pub const FILES: &[u8] = b"F";
pub const UPLOAD_PARTS: &[u8] = b"P";
pub const BATCHES: &[u8] = b"B";
pub const ACTIVE: &[u8] = b"A";
pub const EXPIRY: &[u8] = b"X";
pub const DELETED: &[u8] = b"D";

pub const UNSEEN: &[u8] = b"G";

pub const CATALOGS: &[u8] = b"C\x01";
pub const CATALOG_FILES: &[u8] = b"C\x02";

pub fn catalog(version: u64) -> Vec<u8> {
    [CATALOGS, &version.to_be_bytes()].concat()
}

pub fn catalog_files(version: u64) -> Vec<u8> {
    [CATALOG_FILES, &version.to_be_bytes()].concat()
}

/// The version in the key of a catalog.
pub fn catalog_version(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(2..10)?.try_into().ok()?))
}

pub fn file(id: FileId) -> Vec<u8> {
    key(b'F', [&id.as_u128().to_be_bytes()])
}

pub fn deleted(id: FileId) -> Vec<u8> {
    key(b'D', [&id.as_u128().to_be_bytes()])
}

pub fn upload(id: UploadId) -> Vec<u8> {
    key(b'U', [&id.as_u128().to_be_bytes()])
}

pub fn parts_of(upload: UploadId) -> Vec<u8> {
    key(b'P', [&upload.as_u128().to_be_bytes()])
}

pub fn part(upload: UploadId, part: PartId) -> Vec<u8> {
    key(b'P', [&upload.as_u128().to_be_bytes(), &part.as_u128().to_be_bytes()])
}

pub fn batch(id: BatchId) -> Vec<u8> {
    key(b'B', [&id.as_u128().to_be_bytes()])
}

pub fn blob(id: BatchId, blob: Blob) -> Vec<u8> {
    key(b'S', [&id.as_u128().to_be_bytes(), &[blob as u8]])
}

/// Prefix of everything that belongs to a batch besides its rows.
pub fn blobs_of(id: BatchId) -> Vec<u8> {
    key(b'S', [&id.as_u128().to_be_bytes()])
}

/// The key that says that the input of a batch was made with it.
pub fn made_input(id: BatchId) -> Vec<u8> {
    key(b'S', [&id.as_u128().to_be_bytes(), &[6]])
}

pub fn active(id: BatchId) -> Vec<u8> {
    key(b'A', [&id.as_u128().to_be_bytes()])
}

pub fn unseen(id: BatchId) -> Vec<u8> {
    key(b'G', [&id.as_u128().to_be_bytes()])
}

pub const HOLDS: &[u8] = b"L";

pub const ANSWERS: &[u8] = b"Q";

pub fn answer(request: RequestDigest) -> Vec<u8> {
    key(b'Q', [&request.0])
}

pub fn observed(digest: &[u8; 32]) -> Vec<u8> {
    key(b'O', [digest])
}

pub fn quote(id: QuoteId) -> Vec<u8> {
    key(b'T', [&id.as_u128().to_be_bytes()])
}

pub fn used_quote(id: QuoteId) -> Vec<u8> {
    key(b'V', [&id.as_u128().to_be_bytes()])
}

pub fn account(org: OrgId) -> Vec<u8> {
    key(b'W', [&org.as_u128().to_be_bytes()])
}

pub fn reservation(batch: BatchId) -> Vec<u8> {
    key(b'Y', [&batch.as_u128().to_be_bytes()])
}

pub const ORGS: &[u8] = b"Z";

pub fn org(id: OrgId) -> Vec<u8> {
    key(b'Z', [&id.as_u128().to_be_bytes()])
}

/// A key behind every key that consists of `list` and an id.
pub fn behind(list: &[u8]) -> Vec<u8> {
    [list, &[0xff; 17]].concat()
}

/// Prefix of the list of an organisation's batches; the operator's batches are in the list of all
/// batches.
pub fn batches_of(org: OrgId) -> Vec<u8> {
    if org == OrgId::OPERATOR { BATCHES.to_vec() } else { key(b'E', [&[1], &org.as_u128().to_be_bytes()]) }
}

/// Prefix of the list of an organisation's files; the operator's files are in the list of all
/// files.
pub fn files_of(org: OrgId) -> Vec<u8> {
    if org == OrgId::OPERATOR { FILES.to_vec() } else { key(b'E', [&[2], &org.as_u128().to_be_bytes()]) }
}

/// The key of a batch or file in the list of its organisation; `None` if that list is the list of
/// all.
pub fn owned(list: Vec<u8>, id: u128) -> Option<Vec<u8>> {
    (list.first() == Some(&b'E')).then(|| [list, id.to_be_bytes().to_vec()].concat())
}

/// Where the API key with this digest is.
pub fn key_at(digest: &[u8]) -> Vec<u8> {
    key(b'N', [&[1], digest])
}

pub fn keys_of(org: OrgId) -> Vec<u8> {
    key(b'N', [&[2], &org.as_u128().to_be_bytes()])
}

pub fn key_of(org: OrgId, id: KeyId) -> Vec<u8> {
    key(b'N', [&[2], &org.as_u128().to_be_bytes(), &id.as_u128().to_be_bytes()])
}

pub fn owner_of_key(id: KeyId) -> Vec<u8> {
    key(b'N', [&[3], &id.as_u128().to_be_bytes()])
}

pub fn receivers_of(org: OrgId) -> Vec<u8> {
    key(b'H', [&org.as_u128().to_be_bytes()])
}

pub fn receiver(org: OrgId, id: ReceiverId) -> Vec<u8> {
    key(b'H', [&org.as_u128().to_be_bytes(), &id.as_u128().to_be_bytes()])
}

pub const WATCHED: &[u8] = b"J\x04";

pub fn watched(batch: BatchId) -> Vec<u8> {
    key(b'J', [&[4], &batch.as_u128().to_be_bytes()])
}

pub const NOTICES: &[u8] = b"J\x01";
pub const DELIVERIES_DUE: &[u8] = b"J\x02";

pub fn notice(batch: BatchId) -> Vec<u8> {
    key(b'J', [&[1], &batch.as_u128().to_be_bytes()])
}

pub fn delivery_due(org: OrgId, seconds: u64, id: EventId) -> Vec<u8> {
    key(b'J', [&[2], &org.as_u128().to_be_bytes(), &seconds.to_be_bytes(), &id.as_u128().to_be_bytes()])
}

/// Prefix of the keys of an organisation among [`DELIVERIES_DUE`].
pub fn deliveries_of(org: OrgId) -> Vec<u8> {
    key(b'J', [&[2], &org.as_u128().to_be_bytes()])
}

/// The first key of an organisation that is not due at `seconds`.
pub fn deliveries_end(org: OrgId, seconds: u64) -> Vec<u8> {
    key(b'J', [&[2], &org.as_u128().to_be_bytes(), &seconds.saturating_add(1).to_be_bytes()])
}

/// The organisation in a key of [`DELIVERIES_DUE`].
pub fn org_of_delivery(key: &[u8]) -> Option<OrgId> {
    let bytes = key.strip_prefix(DELIVERIES_DUE)?.first_chunk::<16>()?;
    Some(OrgId::from_u128(u128::from_be_bytes(*bytes)))
}

pub fn delivery(id: EventId) -> Vec<u8> {
    key(b'J', [&[3], &id.as_u128().to_be_bytes()])
}

pub fn control(id: BatchId) -> Vec<u8> {
    key(b'K', [&id.as_u128().to_be_bytes()])
}

pub fn hold(digest: &[u8; 32]) -> Vec<u8> {
    key(b'L', [digest])
}

pub fn idempotency(digest: &[u8; 32]) -> Vec<u8> {
    key(b'I', [digest])
}

pub fn expiry(seconds: u64, kind: ExpiryKind, id: &[u8]) -> Vec<u8> {
    key(b'X', [&seconds.to_be_bytes(), &[kind as u8], id])
}

/// The first key of [`EXPIRY`] that is not due at `seconds`.
pub fn expiry_end(seconds: u64) -> Vec<u8> {
    key(b'X', [&seconds.saturating_add(1).to_be_bytes()])
}

pub fn rows_of(id: BatchId) -> Vec<u8> {
    key(b'R', [&id.as_u128().to_be_bytes()])
}

pub fn pages_of(id: BatchId) -> Vec<u8> {
    key(b'R', [&id.as_u128().to_be_bytes(), &[1]])
}

pub fn page(id: BatchId, page: u32) -> Vec<u8> {
    key(b'R', [&id.as_u128().to_be_bytes(), &[1], &page.to_be_bytes()])
}

/// Where a large result is; also every result that was stored before runs existed.
pub fn result(id: BatchId, row: RowIndex) -> Vec<u8> {
    key(b'R', [&id.as_u128().to_be_bytes(), &[2], &row.0.to_be_bytes()])
}

/// Where the run that begins with this row is.
pub fn run(id: BatchId, first: RowIndex) -> Vec<u8> {
    key(b'R', [&id.as_u128().to_be_bytes(), &[3], &first.0.to_be_bytes()])
}

pub fn chunk(prefix: &[u8], chunk: u16) -> Vec<u8> {
    [prefix, &chunk.to_be_bytes()].concat()
}

/// The row and chunk in the key of a result or a run; `None` if the key is of neither.
pub fn parse_chunk(key: &[u8]) -> Option<(RowIndex, u16)> {
    let tail = key.get(18..)?;
    let row = u32::from_be_bytes(tail.get(..4)?.try_into().ok()?);
    let chunk = u16::from_be_bytes(tail.get(4..6)?.try_into().ok()?);
    Some((RowIndex(row), chunk))
}

/// The id at the end of a key, for kinds of keys that end with one.
pub fn trailing_id(key: &[u8]) -> Option<u128> {
    let start = key.len().checked_sub(16)?;
    Some(u128::from_be_bytes(key[start..].try_into().ok()?))
}

/// Seconds since the epoch, for keys that sort by time.
pub fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_like_what_they_name(a: (u128, u32, u16), b: (u128, u32, u16)) {
            let key = |(id, row, n): (u128, u32, u16)| chunk(&result(BatchId::from_u128(id), RowIndex(row)), n);
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
            prop_assert_eq!(parse_chunk(&key(a)), Some((RowIndex(a.1), a.2)));
            let id = BatchId::from_u128(a.0);
            prop_assert!(key(a).starts_with(&rows_of(id)));
            prop_assert_eq!(trailing_id(&batch(id)), Some(a.0));
        }

        #[test]
        fn expiry_sorts_by_time(a: u32, b: u32, id: [u8; 16]) {
            let due = expiry(a.into(), ExpiryKind::File, &id) < expiry_end(b.into());
            prop_assert_eq!(due, a <= b);
        }
    }
}
