//! A batch's spec, which is the client's order, on disk, version 6.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::constraints::{ConstraintsRecord, operation};
use super::org::{WebhookRecord, pack_webhook, unpack_webhook};
use super::phaseo::GatewayRecord;
use super::quote::EstimateRecord;
use super::{Record, decode_old, moment, timestamp};
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::priority::Owner;
use crate::domain::batch::{BatchInput, BatchSpec, Fallback, InvalidRows, QuotedInput};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::ExpiresAfter;
use crate::domain::id::{BatchId, FileId, OrgId, QuoteId};
use crate::domain::money::{MaxPrice, Usd};
use crate::domain::row::batchrouter::Defaults;
use crate::store::record::error::RecordError;

/// Version 6 of the client's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecRecord {
    asked: SpecRecord5,
    /// More about rows in OpenAI's format; `None` for items and for batches from before it was noted.
    rows: Option<RowsRecord>,
    /// Headers of the create, by name.
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RowsRecord {
    /// What the rows ask, as the API has it.
    endpoint: String,
    /// Faulty rows fail alone.
    fail_rows: bool,
}

/// Version 5, which is a part of version 6: all rows ask the same, and a faulty row fails its batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecRecord5 {
    asked: SpecRecord4,
    dialect: u8,
}

/// Version 4, which is a part of version 5: batches did not have a dialect yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecRecord4 {
    asked: SpecRecord3,
    gateway: Option<GatewayRecord>,
}

/// Version 3, which is a part of version 4: there were no batches of Phaseo's yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecRecord3 {
    id: u128,
    order: OrderRecord,
    input_file: u128,
    created_at: i64,
    metadata: Vec<(String, String)>,
    output_expires_after: Option<u32>,
    retry_of: Option<u128>,
    org: u128,
    owner: u64,
    fallback: FallbackRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum OrderRecord {
    Rows { endpoint: u8, window: String },
    Items(Box<QuotedOrderRecord>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct QuotedOrderRecord {
    quote: u128,
    deadline: i64,
    operation: Option<String>,
    models: Vec<String>,
    constraints: ConstraintsRecord,
    fee: [u8; 16],
    estimate: Option<EstimateRecord>,
    each: Option<[u8; 16]>,
    reserve: [u8; 16],
    items: Option<u32>,
    metadata: Option<String>,
    webhook: Option<WebhookRecord>,
}

/// Version 2: all rows of a batch are for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecRecord2 {
    asked: SpecRecord1,
    owner: u64,
    fallback: FallbackRecord,
}

/// Version 1, which is a part of version 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SpecRecord1 {
    id: u128,
    endpoint: u8,
    input_file: u128,
    window: String,
    created_at: i64,
    metadata: Vec<(String, String)>,
    output_expires_after: Option<u32>,
    retry_of: Option<u128>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum FallbackRecord {
    NotDearer,
    /// Price limits for input, output and a request, in this order.
    Within([Option<[u8; 16]>; 3]),
    Never,
}

impl Record for SpecRecord {
    const VERSION: u8 = 6;
    const NAME: &'static str = "batch specification";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => {
                let asked = SpecRecord2 { asked: decode_old::<Self, _>(body)?, owner: 0, fallback: FallbackRecord::NotDearer };
                Ok(SpecRecord3::from(asked).into())
            }
            2 => Ok(SpecRecord3::from(decode_old::<Self, SpecRecord2>(body)?).into()),
            3 => Ok(decode_old::<Self, SpecRecord3>(body)?.into()),
            4 => Ok(decode_old::<Self, SpecRecord4>(body)?.into()),
            5 => Ok(Self { asked: decode_old::<Self, _>(body)?, rows: None, headers: Vec::new() }),
            _ => Err(RecordError::unknown::<Self>(version)),
        }
    }
}

impl From<SpecRecord3> for SpecRecord {
    fn from(asked: SpecRecord3) -> Self {
        SpecRecord4 { asked, gateway: None }.into()
    }
}

/// For batches from before the dialect was stored, the shape of the order reveals the dialect.
impl From<SpecRecord4> for SpecRecord {
    fn from(asked: SpecRecord4) -> Self {
        let dialect = match (&asked.asked.order, &asked.gateway) {
            (OrderRecord::Rows { .. }, _) => Dialect::OpenAi,
            (OrderRecord::Items(_), None) => Dialect::BatchRouter,
            (OrderRecord::Items(_), Some(_)) => Dialect::Phaseo,
        };
        Self { asked: SpecRecord5 { asked, dialect: dialect.code() }, rows: None, headers: Vec::new() }
    }
}

impl From<SpecRecord2> for SpecRecord3 {
    fn from(old: SpecRecord2) -> Self {
        let SpecRecord2 { asked, owner, fallback } = old;
        Self {
            id: asked.id,
            order: OrderRecord::Rows { endpoint: asked.endpoint, window: asked.window },
            input_file: asked.input_file,
            created_at: asked.created_at,
            metadata: asked.metadata,
            output_expires_after: asked.output_expires_after,
            retry_of: asked.retry_of,
            org: OrgId::OPERATOR.as_u128(),
            owner,
            fallback,
        }
    }
}

impl From<Fallback> for FallbackRecord {
    fn from(fallback: Fallback) -> Self {
        match fallback {
            Fallback::NotDearer => Self::NotDearer,
            Fallback::Within(MaxPrice { input, output, request }) => {
                Self::Within([input, output, request].map(|most| most.map(|most| most.serialize())))
            }
            Fallback::Never => Self::Never,
        }
    }
}

impl From<FallbackRecord> for Fallback {
    fn from(record: FallbackRecord) -> Self {
        match record {
            FallbackRecord::NotDearer => Self::NotDearer,
            FallbackRecord::Within(most) => {
                let [input, output, request] = most.map(|most| most.map(Decimal::deserialize));
                Self::Within(MaxPrice { input, output, request })
            }
            FallbackRecord::Never => Self::Never,
        }
    }
}

impl From<&BatchInput> for OrderRecord {
    fn from(order: &BatchInput) -> Self {
        match order {
            // The endpoint of a mixed batch is in `RowsRecord` alone.
            BatchInput::Unquoted { endpoint, window, .. } => {
                Self::Rows { endpoint: endpoint.one().map_or(0, Endpoint::code), window: window.to_string() }
            }
            BatchInput::Quoted(order) => Self::Items(Box::new(QuotedOrderRecord {
                quote: order.quote.as_u128(),
                deadline: moment(order.deadline),
                operation: order.defaults.operation.map(|operation| operation.to_string()),
                models: order.defaults.models.clone(),
                constraints: (&order.constraints).into(),
                fee: order.fee.serialize(),
                estimate: order.estimate.map(EstimateRecord::from),
                each: order.each.map(|each| each.0.serialize()),
                reserve: order.reserve.0.serialize(),
                items: order.items,
                metadata: order.metadata.clone(),
                webhook: order.webhook.as_ref().map(pack_webhook),
            })),
        }
    }
}

impl OrderRecord {
    fn input(self, rows: Option<RowsRecord>) -> Result<BatchInput, RecordError> {
        let damaged = |what: &str| RecordError::damaged::<SpecRecord>(what);
        Ok(match self {
            Self::Rows { endpoint, window } => BatchInput::Unquoted {
                endpoint: match &rows {
                    Some(rows) => RowEndpoint::stored(&rows.endpoint).map_err(RecordError::damaged::<SpecRecord>)?,
                    None => RowEndpoint::One(Endpoint::from_code(endpoint).ok_or_else(|| damaged("unknown endpoint"))?),
                },
                window: window.parse().map_err(RecordError::damaged::<SpecRecord>)?,
                invalid: if rows.is_some_and(|rows| rows.fail_rows) { InvalidRows::FailRows } else { InvalidRows::FailBatch },
            },
            Self::Items(record) => BatchInput::Quoted(Box::new(QuotedInput {
                quote: QuoteId::from_u128(record.quote),
                deadline: timestamp::<SpecRecord>(record.deadline)?,
                defaults: Defaults {
                    operation: record.operation.map(|word| operation::<SpecRecord>(&word)).transpose()?,
                    models: record.models,
                },
                constraints: record.constraints.read::<SpecRecord>()?,
                fee: Decimal::deserialize(record.fee),
                estimate: record.estimate.map(Into::into),
                each: record.each.map(|each| Usd(Decimal::deserialize(each))),
                reserve: Usd(Decimal::deserialize(record.reserve)),
                items: record.items,
                metadata: record.metadata,
                webhook: record.webhook.map(unpack_webhook),
                gateway: None,
            })),
        })
    }
}

impl From<&BatchSpec> for SpecRecord {
    fn from(spec: &BatchSpec) -> Self {
        let gateway = match &spec.input {
            BatchInput::Quoted(order) => order.gateway.as_ref().map(GatewayRecord::from),
            BatchInput::Unquoted { .. } => None,
        };
        let rows = match &spec.input {
            BatchInput::Unquoted { endpoint, invalid, .. } => {
                Some(RowsRecord { endpoint: endpoint.as_str().to_owned(), fail_rows: *invalid == InvalidRows::FailRows })
            }
            BatchInput::Quoted(_) => None,
        };
        Self {
            asked: SpecRecord5 { asked: SpecRecord4 { asked: spec.into(), gateway }, dialect: spec.dialect.code() },
            rows,
            headers: spec.headers.pairs().to_vec(),
        }
    }
}

impl From<&BatchSpec> for SpecRecord3 {
    fn from(spec: &BatchSpec) -> Self {
        Self {
            id: spec.id.as_u128(),
            order: (&spec.input).into(),
            input_file: spec.input_file.as_u128(),
            created_at: moment(spec.created_at),
            metadata: spec.metadata.pairs().to_vec(),
            output_expires_after: spec.output_expires_after.map(ExpiresAfter::seconds),
            retry_of: spec.retry_of.map(BatchId::as_u128),
            org: spec.org.as_u128(),
            owner: spec.owner.0,
            fallback: spec.fallback.into(),
        }
    }
}

impl TryFrom<SpecRecord> for BatchSpec {
    type Error = RecordError;

    fn try_from(SpecRecord { asked, rows, headers }: SpecRecord) -> Result<Self, RecordError> {
        let SpecRecord5 { asked: SpecRecord4 { asked: record, gateway }, dialect } = asked;
        let unknown = || RecordError::damaged::<SpecRecord>(format!("unknown dialect {dialect}"));
        let dialect = Dialect::from_code(dialect).ok_or_else(unknown)?;
        let mut input = record.order.input(rows)?;
        if let BatchInput::Quoted(order) = &mut input {
            order.gateway = gateway.map(GatewayRecord::details::<SpecRecord>).transpose()?;
        }
        Ok(Self {
            id: BatchId::from_u128(record.id),
            dialect,
            input,
            input_file: FileId::from_u128(record.input_file),
            created_at: timestamp::<SpecRecord>(record.created_at)?,
            metadata: Metadata::new(record.metadata).map_err(RecordError::damaged::<SpecRecord>)?,
            output_expires_after: record.output_expires_after.and_then(|seconds| ExpiresAfter::from_seconds(seconds.into())),
            retry_of: record.retry_of.map(BatchId::from_u128),
            org: OrgId::from_u128(record.org),
            owner: Owner(record.owner),
            fallback: record.fallback.into(),
            headers: Forwarded::new(headers),
        })
    }
}

#[cfg(test)]
mod tests {
    use bincode::Options;

    use super::super::{decode, encode, options};
    use super::*;
    use crate::domain::time::CompletionWindow;
    use crate::store::creation::tests::{of_phaseo, of_quote};
    use crate::store::tests::spec;

    #[test]
    fn a_mixed_batch_and_the_fate_of_faulty_rows_are_kept() {
        for (endpoint, invalid) in [
            (RowEndpoint::Mixed, InvalidRows::FailBatch),
            (RowEndpoint::Mixed, InvalidRows::FailRows),
            (RowEndpoint::One(Endpoint::Embeddings), InvalidRows::FailRows),
        ] {
            let mut spec = spec(FileId::from_u128(1));
            spec.input = BatchInput::Unquoted { endpoint, window: CompletionWindow::DAY, invalid };
            spec.headers = Forwarded::new(vec![("traceparent".into(), "00-1".into())]);
            let stored = encode(&SpecRecord::from(&spec)).unwrap();
            assert_eq!(BatchSpec::try_from(decode::<SpecRecord>(&stored).unwrap()).unwrap(), spec);
        }
    }

    #[test]
    fn the_order_of_an_older_batch_tells_its_dialect() {
        for spec in [spec(FileId::from_u128(1)), of_quote(1, 2), of_phaseo(1)] {
            let record = SpecRecord::from(&spec);
            assert_eq!(decode::<SpecRecord>(&encode(&record).unwrap()).unwrap(), record);
            let older = [vec![4], options().serialize(&record.asked.asked).unwrap()].concat();
            assert_eq!(BatchSpec::try_from(decode::<SpecRecord>(&older).unwrap()).unwrap(), spec);
            let older = [vec![5], options().serialize(&record.asked).unwrap()].concat();
            assert_eq!(BatchSpec::try_from(decode::<SpecRecord>(&older).unwrap()).unwrap(), spec);
        }
        let mut unknown = SpecRecord::from(&spec(FileId::from_u128(1)));
        unknown.asked.dialect = 99;
        assert!(BatchSpec::try_from(unknown).unwrap_err().to_string().contains("unknown dialect 99"));
    }
}
