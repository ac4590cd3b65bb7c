//! Decodes any record of the store according to its key: for code that looks at every record.

use super::catalog;
use super::key::{self, Key};
use super::record::answer::AnswerRecord;
use super::record::batch::{ControlRecord, IdempotencyRecord, ProblemsRecord, StateRecord};
use super::record::catalog::CatalogRecord;
use super::record::delivery::DeliveryRecord;
use super::record::file::FileRecord;
use super::record::lane_hold::HoldRecord;
use super::record::ledger::{AccountRecord, ReceiptRecord, ReservationRecord};
use super::record::org::{KeyRecord, OrgRecord};
use super::record::output_stats::ObservedRecord;
use super::record::packed::Packed;
use super::record::page::{Page, PageRecord};
use super::record::plan::PlanRecord;
use super::record::quote::QuoteRecord;
use super::record::result::{self, ResultRecord};
use super::record::run::{Run, RunRecord, StoredRun};
use super::record::spec::SpecRecord;
use super::record::upload::{PartRecord, UploadRecord};
use super::record::webhook_events::{EventLogRecord, ReceiverRecord};
use super::record::{Record, decode, decode_body};
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{BatchSpec, BatchState, Progress};
use crate::domain::file::File;
use crate::domain::file::upload::{Upload, UploadPart};
use crate::domain::id::RowKey;
use crate::domain::org::ledger::{Account, Reservation};
use crate::domain::org::{ApiKey, Organisation};
use crate::domain::provider::lane_hold::LaneHold;
use crate::domain::quote::Quote;
use crate::domain::quote::receipt::Receipt;
use crate::domain::row::RowResult;
use crate::domain::webhook::delivery::Delivery;
use crate::domain::webhook::endpoint::Receiver;
use crate::domain::webhook::event_log::EventLog;
use crate::store::record::error::RecordError;

/// A decoded record; records that other records lead to keep their content.
#[derive(Debug)]
pub(super) enum Examined {
    File(Box<File>),
    /// A file that was deleted and is still read.
    Deleted(Option<Box<File>>),
    Upload(Box<Upload>),
    Part(UploadPart),
    State(BatchState, Option<Progress>),
    Spec(Box<BatchSpec>),
    Plan(u32),
    Page(Box<Page>),
    Run(Run),
    /// A result that is packed by itself, and the size of its line.
    Alone(Box<RowResult>, u32),
    Account(Account),
    Reservation(Reservation),
    ApiKey(Box<ApiKey>),
    Quote(Box<Quote>),
    Delivery(Box<Delivery>),
    Idempotency(IdempotencyRecord),
    Answer(RowKey),
    /// An id or a digest that leads to another record.
    Pointer(Vec<u8>),
    Other,
}

/// Decodes a record; `bytes` are all of its chunks.
///
/// # Errors
/// When the bytes are not a record of that kind.
pub(super) fn examine(key: &Key, bytes: &[u8]) -> Result<Examined, RecordError> {
    Ok(match key {
        Key::File(_) => Examined::File(Box::new(decode::<FileRecord>(bytes)?.try_into()?)),
        // Written before deleted files kept their record.
        Key::Deleted(_) if bytes.is_empty() => Examined::Deleted(None),
        Key::Deleted(_) => Examined::Deleted(Some(Box::new(decode::<FileRecord>(bytes)?.try_into()?))),
        Key::Upload(_) => Examined::Upload(Box::new(decode::<UploadRecord>(bytes)?.try_into()?)),
        Key::Part(..) => Examined::Part(decode::<PartRecord>(bytes)?.try_into()?),
        Key::State(_) => {
            let (state, progress) = decode::<StateRecord>(bytes)?.unpack()?;
            Examined::State(state, progress)
        }
        Key::Spec(_) => Examined::Spec(Box::new(decode::<SpecRecord>(bytes)?.try_into()?)),
        Key::Plan(_) => Examined::Plan(Plan::try_from(decode::<PlanRecord>(bytes)?)?.rows),
        Key::Page(..) => Examined::Page(Box::new(Page::try_from(decode::<PageRecord>(bytes)?)?)),
        Key::Run(_, first) => {
            let run = StoredRun::open(first.0, bytes)?;
            whole::<RunRecord>(bytes, run.chunks())?;
            Examined::Run(run.unpack()?)
        }
        Key::Alone(batch, row) => {
            let packed = opened::<ResultRecord>(bytes)?;
            let key = RowKey { batch: *batch, row: *row };
            let result = packed.with_body::<ResultRecord, _>(|body| result::unpack(body, key))?;
            Examined::Alone(Box::new(result), packed.number)
        }
        Key::Account(_) => Examined::Account(decode::<AccountRecord>(bytes)?.into()),
        Key::Reservation(_) => Examined::Reservation(decode::<ReservationRecord>(bytes)?.into()),
        Key::Access(_) => Examined::ApiKey(Box::new(decode::<KeyRecord>(bytes)?.try_into()?)),
        Key::Quote(_) => match opened::<QuoteRecord>(bytes)?.with_body::<QuoteRecord, _>(decode_body::<QuoteRecord>) {
            // A quote of version 1 lived for a day, and counts as gone.
            Err(RecordError::Version { found: 1, .. }) => Examined::Other,
            quote => Examined::Quote(Box::new(Quote::try_from(quote?)?)),
        },
        Key::Delivery(_) => {
            let packed = opened::<DeliveryRecord>(bytes)?;
            let record = packed.with_body::<DeliveryRecord, _>(|body| DeliveryRecord::read(packed.version, body))?;
            Examined::Delivery(Box::new(record.try_into()?))
        }
        Key::Idempotency(_) => Examined::Idempotency(decode(bytes)?),
        Key::Answer(_) => Examined::Answer(decode::<AnswerRecord>(bytes)?.unpack()?.0),
        Key::Active(_) | Key::UsedQuote(_) | Key::AccessOwner(_) | Key::Due(..) => pointer(bytes, 16)?,
        Key::AccessOf(..) => pointer(bytes, 32)?,
        _ => other(key, bytes)?,
    })
}

/// Decodes the records that nothing leads to.
fn other(key: &Key, bytes: &[u8]) -> Result<Examined, RecordError> {
    match key {
        Key::Problems(_) => drop(decode::<ProblemsRecord>(bytes)?.unpack()?),
        Key::Receipt(_) => drop(Receipt::try_from(decode::<ReceiptRecord>(bytes)?)?),
        Key::EventLog(_) => drop(EventLog::try_from(decode::<EventLogRecord>(bytes)?)?),
        Key::Control(_) => drop(Control::try_from(decode::<ControlRecord>(bytes)?)?),
        Key::Hold(_) => drop(LaneHold::try_from(decode::<HoldRecord>(bytes)?)?),
        Key::Org(_) => drop(Organisation::try_from(decode::<OrgRecord>(bytes)?)?),
        Key::Receiver(..) => drop(Receiver::try_from(decode::<ReceiverRecord>(bytes)?)?),
        Key::Observed(_) => drop(decode::<ObservedRecord>(bytes)?),
        Key::Catalog(version) => drop(decode::<CatalogRecord>(bytes)?.unpack(*version)?),
        Key::CatalogFiles(_) => drop(catalog::unpack(bytes)?),
        // The other keys belong to lists and have no content.
        _ => {}
    }
    Ok(Examined::Other)
}

fn pointer(bytes: &[u8], length: usize) -> Result<Examined, RecordError> {
    if bytes.len() != length {
        return Err(RecordError::Damaged { what: "pointer", reason: format!("it has {} bytes and not {length}", bytes.len()) });
    }
    Ok(Examined::Pointer(bytes.to_vec()))
}

/// Opens the header of a packed record all of whose chunks are there.
fn opened<T: Record>(bytes: &[u8]) -> Result<Packed<'_>, RecordError> {
    let packed = Packed::open::<T>(bytes)?;
    whole::<T>(bytes, packed.chunks)?;
    Ok(packed)
}

fn whole<T: Record>(bytes: &[u8], chunks: u16) -> Result<(), RecordError> {
    let found = bytes.len().div_ceil(super::format::MAX_VALUE);
    if found != usize::from(chunks) {
        return Err(RecordError::Damaged { what: T::NAME, reason: format!("{found} of its {chunks} parts are there") });
    }
    Ok(())
}

/// Joins the chunks of records, which come in key order.
#[derive(Debug, Default)]
pub(super) struct Gathering(Option<Gathered>);

/// A record with all of its chunks that were found.
#[derive(Debug)]
pub(super) struct Gathered {
    pub key: Key,
    /// Keys and values of the chunks.
    pub values: Vec<(Vec<u8>, Vec<u8>)>,
    /// No chunk before the last is missing.
    is_whole: bool,
    pub is_newest: bool,
}

impl Gathering {
    /// Takes an entry; returns the previous record if that is complete now.
    ///
    /// # Errors
    /// When `bytes` is not a key.
    pub fn next(&mut self, bytes: &[u8], value: &[u8], is_newest: bool) -> Result<Option<Gathered>, ()> {
        let (key, chunk) = key::parse(bytes).ok_or(())?;
        if let Some(chunk) = chunk
            && let Some(gathered) = self.0.as_mut().filter(|gathered| gathered.key == key)
        {
            gathered.is_whole &= usize::from(chunk) == gathered.values.len();
            gathered.is_newest &= is_newest;
            gathered.values.push((bytes.to_vec(), value.to_vec()));
            return Ok(None);
        }
        let is_whole = chunk.is_none_or(|chunk| chunk == 0);
        Ok(self.0.replace(Gathered { key, values: vec![(bytes.to_vec(), value.to_vec())], is_whole, is_newest }))
    }

    /// Returns the last record.
    pub fn end(&mut self) -> Option<Gathered> {
        self.0.take()
    }
}

impl Gathered {
    /// The record's bytes; `None` if a chunk is missing.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        self.is_whole.then(|| self.values.iter().flat_map(|(_, value)| value).copied().collect())
    }
}
