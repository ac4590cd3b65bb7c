//! What a key names, read back from its bytes, and its name in plain words.
//!
//! The counterpart of [`super::format`], for code that looks at every record: the check and the
//! salvage.

use std::fmt;

use crate::domain::id::{BatchId, EventId, FileId, KeyId, OrgId, PartId, QuoteId, ReceiverId, RowIndex, UploadId};

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Meta,
    File(FileId),
    /// A file that was deleted and is still read.
    Deleted(FileId),
    Upload(UploadId),
    Part(UploadId, PartId),
    State(BatchId),
    Spec(BatchId),
    Plan(BatchId),
    Problems(BatchId),
    Receipt(BatchId),
    EventLog(BatchId),
    /// The batch's input was made with it.
    MadeInput(BatchId),
    Active(BatchId),
    Control(BatchId),
    Unseen(BatchId),
    Reservation(BatchId),
    Notice(BatchId),
    Watched(BatchId),
    Page(BatchId, u32),
    /// A result that is packed by itself.
    Alone(BatchId, RowIndex),
    /// A run, named by its first row.
    Run(BatchId, RowIndex),
    BatchOf(OrgId, BatchId),
    FileOf(OrgId, FileId),
    Idempotency([u8; 32]),
    Hold([u8; 32]),
    Quote(QuoteId),
    UsedQuote(QuoteId),
    Account(OrgId),
    Org(OrgId),
    /// An API key, by the digest of its secret.
    Access([u8; 32]),
    AccessOf(OrgId, KeyId),
    AccessOwner(KeyId),
    Due(OrgId, EventId),
    Delivery(EventId),
    Receiver(OrgId, ReceiverId),
    Observed([u8; 32]),
    Answer([u8; 16]),
    ExpiryOfFile(FileId),
    ExpiryOfUpload(UploadId),
    ExpiryOfIdempotency([u8; 32]),
    ExpiryOfQuote(QuoteId),
    Catalog(u64),
    CatalogFiles(u64),
}

/// Takes numbers off the front of what is left of a key.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn id(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }
}

/// Whether the bytes can be a key of the store.
pub(super) fn is_key(key: &[u8]) -> bool {
    parse(key).is_some()
}

/// What the key names, and the number of its chunk if the record is in chunks. `None` if the bytes
/// are not a key.
pub(super) fn parse(key: &[u8]) -> Option<(Key, Option<u16>)> {
    let mut rest = Rest(key.get(1..)?);
    let rest = &mut rest;
    let batch = |rest: &mut Rest<'_>| rest.id().map(BatchId::from_u128);
    let org = |rest: &mut Rest<'_>| rest.id().map(OrgId::from_u128);
    let file = |rest: &mut Rest<'_>| rest.id().map(FileId::from_u128);
    let version = |rest: &mut Rest<'_>| rest.take().map(u64::from_be_bytes);
    let row = |rest: &mut Rest<'_>| rest.take().map(u32::from_be_bytes);
    let found = match key.first()? {
        b'M' => return (key.len() < 32 && rest.0.iter().all(u8::is_ascii_lowercase)).then_some((Key::Meta, None)),
        b'F' => Key::File(file(rest)?),
        b'D' => Key::Deleted(file(rest)?),
        b'U' => Key::Upload(rest.id().map(UploadId::from_u128)?),
        b'P' => Key::Part(rest.id().map(UploadId::from_u128)?, rest.id().map(PartId::from_u128)?),
        b'B' => Key::State(batch(rest)?),
        b'S' => {
            let id = batch(rest)?;
            match rest.take::<1>()? {
                [1] => Key::Spec(id),
                [2] => Key::Plan(id),
                [3] => Key::Problems(id),
                [4] => Key::Receipt(id),
                [5] => Key::EventLog(id),
                [6] => Key::MadeInput(id),
                _ => return None,
            }
        }
        b'A' => Key::Active(batch(rest)?),
        b'K' => Key::Control(batch(rest)?),
        b'G' => Key::Unseen(batch(rest)?),
        b'Y' => Key::Reservation(batch(rest)?),
        b'R' => {
            let id = batch(rest)?;
            match rest.take::<1>()? {
                [1] => Key::Page(id, row(rest)?),
                [2] => Key::Alone(id, row(rest).map(RowIndex)?),
                [3] => Key::Run(id, row(rest).map(RowIndex)?),
                _ => return None,
            }
        }
        b'E' => match rest.take::<1>()? {
            [1] => Key::BatchOf(org(rest)?, batch(rest)?),
            [2] => Key::FileOf(org(rest)?, file(rest)?),
            _ => return None,
        },
        b'I' => Key::Idempotency(rest.take()?),
        b'L' => Key::Hold(rest.take()?),
        b'T' => Key::Quote(rest.id().map(QuoteId::from_u128)?),
        b'V' => Key::UsedQuote(rest.id().map(QuoteId::from_u128)?),
        b'W' => Key::Account(org(rest)?),
        b'Z' => Key::Org(org(rest)?),
        b'N' => match rest.take::<1>()? {
            [1] => Key::Access(rest.take()?),
            [2] => Key::AccessOf(org(rest)?, rest.id().map(KeyId::from_u128)?),
            [3] => Key::AccessOwner(rest.id().map(KeyId::from_u128)?),
            _ => return None,
        },
        b'J' => match rest.take::<1>()? {
            [1] => Key::Notice(batch(rest)?),
            [2] => {
                let org = org(rest)?;
                let _seconds = rest.take::<8>()?;
                Key::Due(org, rest.id().map(EventId::from_u128)?)
            }
            [3] => Key::Delivery(rest.id().map(EventId::from_u128)?),
            [4] => Key::Watched(batch(rest)?),
            _ => return None,
        },
        b'H' => Key::Receiver(org(rest)?, rest.id().map(ReceiverId::from_u128)?),
        b'O' => Key::Observed(rest.take()?),
        b'Q' => Key::Answer(rest.take()?),
        b'X' => {
            let _seconds = rest.take::<8>()?;
            match rest.take::<1>()? {
                [1] => Key::ExpiryOfFile(file(rest)?),
                [2] => Key::ExpiryOfUpload(rest.id().map(UploadId::from_u128)?),
                [3] => Key::ExpiryOfIdempotency(rest.take()?),
                [4] => Key::ExpiryOfQuote(rest.id().map(QuoteId::from_u128)?),
                _ => return None,
            }
        }
        b'C' => match rest.take::<1>()? {
            [1] => Key::Catalog(version(rest)?),
            [2] => Key::CatalogFiles(version(rest)?),
            _ => return None,
        },
        _ => return None,
    };
    let chunk = if found.is_in_chunks() { Some(rest.take().map(u16::from_be_bytes)?) } else { None };
    rest.0.is_empty().then_some((found, chunk))
}

impl Key {
    /// Whether a record of this kind may span several values.
    pub fn is_in_chunks(&self) -> bool {
        match self {
            Self::Spec(_)
            | Self::Plan(_)
            | Self::Problems(_)
            | Self::Receipt(_)
            | Self::EventLog(_)
            | Self::Alone(..)
            | Self::Run(..)
            | Self::Quote(_)
            | Self::Delivery(_)
            | Self::Catalog(_)
            | Self::CatalogFiles(_) => true,
            Self::Meta
            | Self::File(_)
            | Self::Deleted(_)
            | Self::Upload(_)
            | Self::Part(..)
            | Self::State(_)
            | Self::MadeInput(_)
            | Self::Active(_)
            | Self::Control(_)
            | Self::Unseen(_)
            | Self::Reservation(_)
            | Self::Notice(_)
            | Self::Watched(_)
            | Self::Page(..)
            | Self::BatchOf(..)
            | Self::FileOf(..)
            | Self::Idempotency(_)
            | Self::Hold(_)
            | Self::UsedQuote(_)
            | Self::Account(_)
            | Self::Org(_)
            | Self::Access(_)
            | Self::AccessOf(..)
            | Self::AccessOwner(_)
            | Self::Due(..)
            | Self::Receiver(..)
            | Self::Observed(_)
            | Self::Answer(_)
            | Self::ExpiryOfFile(_)
            | Self::ExpiryOfUpload(_)
            | Self::ExpiryOfIdempotency(_)
            | Self::ExpiryOfQuote(_) => false,
        }
    }

    /// The batch that the record belongs to.
    pub fn batch(&self) -> Option<BatchId> {
        match *self {
            Self::State(id)
            | Self::Spec(id)
            | Self::Plan(id)
            | Self::Problems(id)
            | Self::Receipt(id)
            | Self::EventLog(id)
            | Self::MadeInput(id)
            | Self::Active(id)
            | Self::Control(id)
            | Self::Unseen(id)
            | Self::Reservation(id)
            | Self::Notice(id)
            | Self::Watched(id)
            | Self::Page(id, _)
            | Self::Alone(id, _)
            | Self::Run(id, _)
            | Self::BatchOf(_, id) => Some(id),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("the store: what it says of itself"),
            Self::File(id) => write!(f, "file {id}"),
            Self::Deleted(id) => write!(f, "file {id}: that it was deleted"),
            Self::Upload(id) => write!(f, "upload {id}"),
            Self::Part(upload, id) => write!(f, "upload {upload}: part {id}"),
            Self::State(id) => write!(f, "batch {id}: its state"),
            Self::Spec(id) => write!(f, "batch {id}: what was asked for"),
            Self::Plan(id) => write!(f, "batch {id}: its plan"),
            Self::Problems(id) => write!(f, "batch {id}: its problems"),
            Self::Receipt(id) => write!(f, "batch {id}: its receipt"),
            Self::EventLog(id) => write!(f, "batch {id}: what its receiver was told"),
            Self::MadeInput(id) => write!(f, "batch {id}: that its input was made with it"),
            Self::Active(id) => write!(f, "batch {id}: its place among those that are not finished"),
            Self::Control(id) => write!(f, "batch {id}: its priority"),
            Self::Unseen(id) => write!(f, "batch {id}: that it, or its files, were deleted"),
            Self::Reservation(id) => write!(f, "batch {id}: what it has reserved"),
            Self::Notice(id) => write!(f, "batch {id}: that its end is to be told"),
            Self::Watched(id) => write!(f, "batch {id}: that its receiver is told of it"),
            Self::Page(id, page) => write!(f, "batch {id}: the counts of rows {} on", page.saturating_mul(super::ROWS_PER_PAGE)),
            Self::Alone(id, row) => write!(f, "batch {id}: the result of row {}", row.0),
            Self::Run(id, row) => write!(f, "batch {id}: results of row {} and others", row.0),
            Self::BatchOf(org, id) => write!(f, "batch {id}: its place among those of {org}"),
            Self::FileOf(org, id) => write!(f, "file {id}: its place among those of {org}"),
            Self::Idempotency(digest) => write!(f, "idempotency key with digest {}", short(digest)),
            Self::Hold(digest) => write!(f, "hold on a lane with digest {}", short(digest)),
            Self::Quote(id) => write!(f, "quote {id}"),
            Self::UsedQuote(id) => write!(f, "quote {id}: the batch that was made from it"),
            Self::Account(id) => write!(f, "account of {id}"),
            Self::Org(id) => write!(f, "organisation {id}"),
            Self::Access(digest) => write!(f, "API key with digest {}", short(digest)),
            Self::AccessOf(org, id) => write!(f, "API key {id}: its place among those of {org}"),
            Self::AccessOwner(id) => write!(f, "API key {id}: whose it is"),
            Self::Due(_, id) => write!(f, "message {id}: when it is due"),
            Self::Delivery(id) => write!(f, "message {id}"),
            Self::Receiver(org, id) => write!(f, "webhook endpoint {id} of {org}"),
            Self::Observed(digest) => write!(f, "how long answers of a lane are, with digest {}", short(digest)),
            Self::Answer(digest) => write!(f, "answer to the request with digest {}", short(digest)),
            Self::ExpiryOfFile(id) => write!(f, "file {id}: when it expires"),
            Self::ExpiryOfUpload(id) => write!(f, "upload {id}: when it expires"),
            Self::ExpiryOfIdempotency(digest) => write!(f, "idempotency key with digest {}: when it expires", short(digest)),
            Self::ExpiryOfQuote(id) => write!(f, "quote {id}: when it expires"),
            Self::Catalog(version) => write!(f, "catalog {version} of the history"),
            Self::CatalogFiles(version) => write!(f, "catalog {version} of the history: its files"),
        }
    }
}

fn short(digest: &[u8]) -> String {
    crate::domain::text::hex(digest.get(..4).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::format::{self, Blob, ExpiryKind};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_key_is_read_as_what_it_was_made_for(a: u128, b: u128, row: u32, chunk: u16, digest: [u8; 32], seconds: u64) {
            let (batch, org, file, at) = (BatchId::from_u128(a), OrgId::from_u128(b), FileId::from_u128(a), RowIndex(row));
            let none = |key: Vec<u8>, expected: Key| (key, expected, None);
            let some = |key: Vec<u8>, expected: Key| (format::chunk(&key, chunk), expected, Some(chunk));
            for (key, expected, chunk) in [
                none(format::file(file), Key::File(file)),
                none(format::deleted(file), Key::Deleted(file)),
                none(format::upload(UploadId::from_u128(a)), Key::Upload(UploadId::from_u128(a))),
                none(format::part(UploadId::from_u128(a), PartId::from_u128(b)), Key::Part(UploadId::from_u128(a), PartId::from_u128(b))),
                none(format::batch(batch), Key::State(batch)),
                some(format::blob(batch, Blob::Spec), Key::Spec(batch)),
                some(format::blob(batch, Blob::Plan), Key::Plan(batch)),
                some(format::blob(batch, Blob::Problems), Key::Problems(batch)),
                some(format::blob(batch, Blob::Receipt), Key::Receipt(batch)),
                some(format::blob(batch, Blob::EventLog), Key::EventLog(batch)),
                none(format::made_input(batch), Key::MadeInput(batch)),
                none(format::active(batch), Key::Active(batch)),
                none(format::control(batch), Key::Control(batch)),
                none(format::unseen(batch), Key::Unseen(batch)),
                none(format::reservation(batch), Key::Reservation(batch)),
                none(format::notice(batch), Key::Notice(batch)),
                none(format::watched(batch), Key::Watched(batch)),
                none(format::page(batch, row), Key::Page(batch, row)),
                some(format::result(batch, at), Key::Alone(batch, at)),
                some(format::run(batch, at), Key::Run(batch, at)),
                none(format::idempotency(&digest), Key::Idempotency(digest)),
                none(format::hold(&digest), Key::Hold(digest)),
                some(format::quote(QuoteId::from_u128(a)), Key::Quote(QuoteId::from_u128(a))),
                none(format::used_quote(QuoteId::from_u128(a)), Key::UsedQuote(QuoteId::from_u128(a))),
                none(format::account(org), Key::Account(org)),
                none(format::org(org), Key::Org(org)),
                none(format::key_at(&digest), Key::Access(digest)),
                none(format::key_of(org, KeyId::from_u128(a)), Key::AccessOf(org, KeyId::from_u128(a))),
                none(format::owner_of_key(KeyId::from_u128(a)), Key::AccessOwner(KeyId::from_u128(a))),
                none(format::delivery_due(org, seconds, EventId::from_u128(a)), Key::Due(org, EventId::from_u128(a))),
                some(format::delivery(EventId::from_u128(a)), Key::Delivery(EventId::from_u128(a))),
                none(format::receiver(org, ReceiverId::from_u128(a)), Key::Receiver(org, ReceiverId::from_u128(a))),
                none(format::observed(&digest), Key::Observed(digest)),
                none(format::expiry(seconds, ExpiryKind::File, &a.to_be_bytes()), Key::ExpiryOfFile(file)),
                none(format::expiry(seconds, ExpiryKind::IdempotencyKey, &digest), Key::ExpiryOfIdempotency(digest)),
                some(format::catalog(seconds), Key::Catalog(seconds)),
                some(format::catalog_files(seconds), Key::CatalogFiles(seconds)),
                none(format::FORMAT_KEY.to_vec(), Key::Meta),
                none(format::SUM_KEY.to_vec(), Key::Meta),
            ] {
                prop_assert_eq!(parse(&key), Some((expected, chunk)), "{}", expected);
                prop_assert_eq!(parse(&[&key[..], b"!"].concat()), None);
            }
        }

        #[test]
        fn any_bytes_are_a_key_or_none(noise: Vec<u8>) {
            let _ = parse(&noise);
        }
    }
}
