//! Quotes on disk, version 2. Version 1 could not become a batch and lived for a day, so it counts
//! as gone. Quotes use the envelope of [`super::packed`], because they are long and repetitive; the
//! number in the envelope is not used.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::constraints::{ConstraintsRecord, operation};
use super::plan::{PriceRecord, pack_price, unpack_price};
use super::{Record, moment, timestamp};
use crate::domain::id::{OrgId, QuoteId};
use crate::domain::money::Usd;
use crate::domain::quote::{Estimate, Quote, QuotedGroup, QuotedLane};
use crate::domain::row::batchrouter::Defaults;
use crate::store::record::error::RecordError;

/// Version 2 of a quote. Words are the same as on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRecord {
    id: u128,
    org: u128,
    created_at: i64,
    valid_until: i64,
    deadline: i64,
    constraints: ConstraintsRecord,
    operation: Option<String>,
    models: Vec<String>,
    fee: [u8; 16],
    items: u32,
    estimate: Option<EstimateRecord>,
    groups: Vec<GroupRecord>,
    #[serde(with = "serde_bytes")]
    shown: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EstimateRecord {
    provider: [u8; 16],
    fee: [u8; 16],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GroupRecord {
    operation: String,
    models: Vec<String>,
    asked: Vec<String>,
    lanes: Vec<QuotedLaneRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct QuotedLaneRecord {
    provider: String,
    upstream: String,
    model: String,
    price: Option<PriceRecord>,
    most_input: Option<u64>,
    most_output: Option<u64>,
    text_only: bool,
    usual_output: Option<u64>,
    each: Option<[u8; 16]>,
    items: u32,
    takes_over: bool,
}

impl Record for QuoteRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "quote";
    const LIMIT: u64 = 64 << 20;
}

impl From<&Quote> for QuoteRecord {
    fn from(quote: &Quote) -> Self {
        let lane = |lane: &QuotedLane| QuotedLaneRecord {
            provider: lane.provider.clone(),
            upstream: lane.upstream.clone(),
            model: lane.model.clone(),
            price: lane.price.as_ref().map(pack_price),
            most_input: lane.most_input,
            most_output: lane.most_output,
            text_only: lane.text_only,
            usual_output: lane.usual_output,
            each: lane.each.map(|each| each.0.serialize()),
            items: lane.items,
            takes_over: lane.takes_over,
        };
        let group = |group: &QuotedGroup| GroupRecord {
            operation: group.operation.to_string(),
            models: group.models.clone(),
            asked: group.asked.clone(),
            lanes: group.lanes.iter().map(lane).collect(),
        };
        Self {
            id: quote.id.as_u128(),
            org: quote.org.as_u128(),
            created_at: moment(quote.created_at),
            valid_until: moment(quote.valid_until),
            deadline: moment(quote.deadline),
            constraints: (&quote.constraints).into(),
            operation: quote.defaults.operation.map(|operation| operation.to_string()),
            models: quote.defaults.models.clone(),
            fee: quote.fee.serialize(),
            items: quote.items,
            estimate: quote.estimate.map(EstimateRecord::from),
            groups: quote.groups.iter().map(group).collect(),
            shown: quote.shown.clone(),
        }
    }
}

impl From<Estimate> for EstimateRecord {
    fn from(estimate: Estimate) -> Self {
        Self { provider: estimate.provider.0.serialize(), fee: estimate.fee.0.serialize() }
    }
}

impl From<EstimateRecord> for Estimate {
    fn from(record: EstimateRecord) -> Self {
        Self { provider: Usd(Decimal::deserialize(record.provider)), fee: Usd(Decimal::deserialize(record.fee)) }
    }
}

impl TryFrom<QuoteRecord> for Quote {
    type Error = RecordError;

    fn try_from(record: QuoteRecord) -> Result<Self, RecordError> {
        let lane = |lane: QuotedLaneRecord| QuotedLane {
            provider: lane.provider,
            upstream: lane.upstream,
            model: lane.model,
            price: lane.price.map(unpack_price),
            most_input: lane.most_input,
            most_output: lane.most_output,
            text_only: lane.text_only,
            usual_output: lane.usual_output,
            each: lane.each.map(|each| Usd(Decimal::deserialize(each))),
            items: lane.items,
            takes_over: lane.takes_over,
        };
        let group = |group: GroupRecord| {
            let operation = operation::<QuoteRecord>(&group.operation)?;
            Ok(QuotedGroup { operation, models: group.models, asked: group.asked, lanes: group.lanes.into_iter().map(lane).collect() })
        };
        Ok(Self {
            id: QuoteId::from_u128(record.id),
            org: OrgId::from_u128(record.org),
            created_at: timestamp::<QuoteRecord>(record.created_at)?,
            valid_until: timestamp::<QuoteRecord>(record.valid_until)?,
            deadline: timestamp::<QuoteRecord>(record.deadline)?,
            constraints: record.constraints.read::<QuoteRecord>()?,
            defaults: Defaults {
                operation: record.operation.map(|word| operation::<QuoteRecord>(&word)).transpose()?,
                models: record.models,
            },
            fee: Decimal::deserialize(record.fee),
            items: record.items,
            estimate: record.estimate.map(Estimate::from),
            groups: record.groups.into_iter().map(group).collect::<Result<_, RecordError>>()?,
            shown: record.shown,
        })
    }
}
