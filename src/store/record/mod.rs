//! Every value on disk: its own struct, a version byte, a bincode body.
//!
//! Records are apart from the domain types, so that a change of the domain cannot silently change
//! bytes on disk: bincode is not self-describing and would read a foreign record wrongly or not at
//! all. To change a record, freeze the old struct under its version, add the new one and convert;
//! the fixtures in the tests keep every version readable.
//!
//! Invariant: [`decode`] of any bytes returns a record or an error; it never panics and never
//! allocates more than [`DECODE_LIMIT`].

pub mod answer;
pub mod batch;
pub mod catalog;
mod compress;
mod constraints;
pub mod delivery;
pub mod error;
pub mod file;
pub mod lane_hold;
pub mod ledger;
pub mod org;
pub mod output_stats;
pub mod packed;
pub mod page;
mod phaseo;
pub mod plan;
pub mod quote;
pub mod result;
pub mod run;
pub mod spec;
pub mod stored_catalog;
pub mod upload;
pub mod webhook_events;

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::time::Timestamp;
use crate::store::record::error::RecordError;

/// The largest decoded record in bytes: the largest response and some room.
const DECODE_LIMIT: u64 = 512 << 20;

/// A struct as it is on disk.
pub trait Record: Serialize + DeserializeOwned {
    /// The version byte that this struct is written under.
    const VERSION: u8;
    /// The name of the record, for errors.
    const NAME: &'static str;
    /// The most bytes that a body of the record may unpack to.
    const LIMIT: u64 = DECODE_LIMIT;

    /// Whether a packed body of that version can be read; the reader must distinguish versions.
    fn is_packed_as(version: u8) -> bool {
        version == Self::VERSION
    }

    /// Reads a version other than the current one.
    ///
    /// # Errors
    /// [`RecordError::Version`] for a version that this build does not know.
    fn decode_other(version: u8, _body: &[u8]) -> Result<Self, RecordError> {
        Err(RecordError::unknown::<Self>(version))
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(DECODE_LIMIT)
}

/// Encodes a record: the version byte and the body.
///
/// # Errors
/// When the record exceeds the decode limit, and so could not be read back.
pub fn encode<T: Record>(record: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![T::VERSION];
    options().serialize_into(&mut bytes, record).map_err(RecordError::damaged::<T>)?;
    Ok(bytes)
}

/// Reads a record of any known version.
///
/// # Errors
/// When the bytes are not such a record.
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, RecordError> {
    match bytes.split_first() {
        None => Err(RecordError::Empty { what: T::NAME }),
        Some((version, body)) if *version == T::VERSION => decode_body(body),
        Some((version, body)) => T::decode_other(*version, body),
    }
}

/// Encodes a body without a version byte, for records whose envelope has one.
///
/// # Errors
/// As [`encode`].
pub(super) fn encode_body<T: Record>(record: &T) -> Result<Vec<u8>, RecordError> {
    options().serialize(record).map_err(RecordError::damaged::<T>)
}

pub(super) fn decode_body<T: Record>(body: &[u8]) -> Result<T, RecordError> {
    decode_old::<T, T>(body)
}

/// Reads the body of an earlier version of a record.
fn decode_old<T: Record, Old: DeserializeOwned>(body: &[u8]) -> Result<Old, RecordError> {
    options().deserialize(body).map_err(RecordError::damaged::<T>)
}

/// Parses a word of a vocabulary; `T` is the record that holds the word.
fn word<T: Record, W>(text: &str, parse: impl FnOnce(&str) -> Option<W>) -> Result<W, RecordError> {
    parse(text).ok_or_else(|| RecordError::damaged::<T>(format!("`{text}` is an unknown word")))
}

/// A moment on disk: microseconds since the Unix epoch.
pub(super) fn moment(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The moment with that number of microseconds since the Unix epoch.
pub(super) fn timestamp<T: Record>(micros: i64) -> Result<Timestamp, RecordError> {
    Timestamp::from_microsecond(micros).map_err(RecordError::damaged::<T>)
}

/// Decodes bytes as every kind of record in turn; for fuzzing.
#[doc(hidden)]
pub fn decode_anything(bytes: &[u8]) {
    let _ = decode::<file::FileRecord>(bytes).map(crate::domain::file::File::try_from);
    let _ = decode::<spec::SpecRecord>(bytes).map(crate::domain::batch::BatchSpec::try_from);
    let _ = decode::<batch::StateRecord>(bytes).map(|r| r.unpack());
    let _ = decode::<batch::ControlRecord>(bytes).map(crate::domain::batch::priority::Control::try_from);
    let _ = decode::<lane_hold::HoldRecord>(bytes).map(crate::domain::provider::lane_hold::LaneHold::try_from);
    let _ = decode::<answer::AnswerRecord>(bytes).map(|record| record.unpack());
    let _ = decode::<plan::PlanRecord>(bytes).map(crate::domain::batch::plan::Plan::try_from);
    let _ = decode::<batch::ProblemsRecord>(bytes).map(|r| r.unpack());
    let _ = decode::<batch::IdempotencyRecord>(bytes);
    let _ = decode::<upload::UploadRecord>(bytes).map(crate::domain::file::upload::Upload::try_from);
    let _ = decode::<upload::PartRecord>(bytes).map(crate::domain::file::upload::UploadPart::try_from);
    let _ = decode::<catalog::CatalogRecord>(bytes).map(|record| record.unpack(1));
    let _ = decode::<catalog::CatalogFilesRecord>(bytes);
    let _ = decode::<output_stats::ObservedRecord>(bytes).map(crate::domain::quote::output_stats::OutputStats::from);
    let _ = decode::<page::PageRecord>(bytes).map(page::Page::try_from);
    let _ = decode::<org::OrgRecord>(bytes).map(crate::domain::org::Organisation::try_from);
    let _ = decode::<org::KeyRecord>(bytes).map(crate::domain::org::ApiKey::try_from);
    let _ = decode::<ledger::AccountRecord>(bytes).map(crate::domain::org::ledger::Account::from);
    let _ = decode::<ledger::ReservationRecord>(bytes).map(crate::domain::org::ledger::Reservation::from);
    let _ = decode::<webhook_events::EventLogRecord>(bytes).map(crate::domain::webhook::event_log::EventLog::try_from);
    let _ = decode::<webhook_events::ReceiverRecord>(bytes).map(crate::domain::webhook::endpoint::Receiver::try_from);
    let _ = decode::<ledger::ReceiptRecord>(bytes).map(crate::domain::quote::receipt::Receipt::try_from);
    let key = RowKey { batch: BatchId::from_u128(0), row: RowIndex(0) };
    let _ = packed::Packed::open::<result::ResultRecord>(bytes)
        .and_then(|packed| packed.with_body::<result::ResultRecord, _>(|body| result::unpack(body, key)));
    let _ = packed::Packed::open::<quote::QuoteRecord>(bytes)
        .and_then(|packed| packed.with_body::<quote::QuoteRecord, _>(decode_body::<quote::QuoteRecord>))
        .map(crate::domain::quote::Quote::try_from);
    let _ = packed::Packed::open::<delivery::DeliveryRecord>(bytes)
        .and_then(|packed| packed.with_body::<delivery::DeliveryRecord, _>(|body| delivery::DeliveryRecord::read(packed.version, body)))
        .map(crate::domain::webhook::delivery::Delivery::try_from);
    let _ = run::StoredRun::open(0, bytes).and_then(run::StoredRun::unpack);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(version in 0_u8..3, bytes: Vec<u8>) {
            decode_anything(&bytes);
            decode_anything(&[vec![version], bytes].concat());
        }
    }
}
