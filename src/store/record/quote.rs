//! Quotes on disk, version 1. In the envelope of [`super::packed`], because they are long and repeat
//! themselves; the number there is not used.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::plan::{PriceRecord, pack_price, unpack_price};
use super::{Record, RecordError, moment, timestamp};
use crate::domain::id::QuoteId;
use crate::domain::money::Usd;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::routing::{Constraints, ProviderPreferences, RoutingMode, SlaTier};
use crate::domain::share::Owner;
use crate::domain::words::{DataCollection, HostedTool};

/// Version 1 of a quote. Words are as they are on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRecord {
    id: u128,
    owner: u64,
    created_at: i64,
    valid_until: i64,
    deadline: i64,
    demands: DemandsRecord,
    groups: Vec<GroupRecord>,
    #[serde(with = "serde_bytes")]
    shown: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DemandsRecord {
    mode: String,
    tier: String,
    privacy_tier: String,
    regions: Vec<String>,
    tools: Vec<String>,
    max_price: Option<[u8; 16]>,
    only: Vec<String>,
    ignore: Vec<String>,
    allow_fallbacks: bool,
    data_collection: Option<String>,
    zdr: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GroupRecord {
    models: Vec<String>,
    lanes: Vec<LaneRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LaneRecord {
    provider: String,
    upstream: String,
    model: String,
    price: Option<PriceRecord>,
    items: u32,
}

impl Record for QuoteRecord {
    const VERSION: u8 = 1;
    const NAME: &'static str = "quote";
    const LIMIT: u64 = 64 << 20;
}

impl From<&Quote> for QuoteRecord {
    fn from(quote: &Quote) -> Self {
        let lane = |lane: &QuotedLane| LaneRecord {
            provider: lane.provider.clone(),
            upstream: lane.upstream.clone(),
            model: lane.model.clone(),
            price: lane.price.as_ref().map(pack_price),
            items: lane.items,
        };
        let group = |group: &QuotedGroup| GroupRecord { models: group.models.clone(), lanes: group.lanes.iter().map(lane).collect() };
        Self {
            id: quote.id.as_u128(),
            owner: quote.owner.0,
            created_at: moment(quote.created_at),
            valid_until: moment(quote.valid_until),
            deadline: moment(quote.deadline),
            demands: (&quote.demands).into(),
            groups: quote.groups.iter().map(group).collect(),
            shown: quote.shown.clone(),
        }
    }
}

impl From<&Constraints> for DemandsRecord {
    fn from(demands: &Constraints) -> Self {
        let ProviderPreferences { only, ignore, allow_fallbacks, data_collection, zdr } = &demands.preferences;
        Self {
            mode: demands.mode.to_string(),
            tier: demands.tier.to_string(),
            privacy_tier: demands.privacy_tier.clone(),
            regions: demands.regions.clone(),
            tools: demands.tools.iter().map(HostedTool::to_string).collect(),
            max_price: demands.max_price.map(|most| most.0.serialize()),
            only: only.clone(),
            ignore: ignore.clone(),
            allow_fallbacks: *allow_fallbacks,
            data_collection: data_collection.map(|word| word.to_string()),
            zdr: *zdr,
        }
    }
}

/// The word of a vocabulary.
fn word<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, RecordError> {
    parse(text).ok_or_else(|| RecordError::damaged::<QuoteRecord>(format!("`{text}` is an unknown word")))
}

impl TryFrom<DemandsRecord> for Constraints {
    type Error = RecordError;

    fn try_from(record: DemandsRecord) -> Result<Self, RecordError> {
        let tools = record.tools.iter().map(|tool| word(tool, HostedTool::parse)).collect::<Result<_, _>>()?;
        let data_collection = record.data_collection.map(|text| word(&text, DataCollection::parse)).transpose()?;
        let preferences = ProviderPreferences {
            only: record.only,
            ignore: record.ignore,
            allow_fallbacks: record.allow_fallbacks,
            data_collection,
            zdr: record.zdr,
        };
        Ok(Self {
            mode: word(&record.mode, RoutingMode::parse)?,
            tier: word(&record.tier, SlaTier::parse)?,
            privacy_tier: record.privacy_tier,
            regions: record.regions,
            tools,
            max_price: record.max_price.map(|most| Usd(Decimal::deserialize(most))),
            preferences,
        })
    }
}

impl TryFrom<QuoteRecord> for Quote {
    type Error = RecordError;

    fn try_from(record: QuoteRecord) -> Result<Self, RecordError> {
        let lane = |lane: LaneRecord| QuotedLane {
            provider: lane.provider,
            upstream: lane.upstream,
            model: lane.model,
            price: lane.price.map(unpack_price),
            items: lane.items,
        };
        let group = |group: GroupRecord| QuotedGroup { models: group.models, lanes: group.lanes.into_iter().map(lane).collect() };
        Ok(Self {
            id: QuoteId::from_u128(record.id),
            owner: Owner(record.owner),
            created_at: timestamp::<QuoteRecord>(record.created_at)?,
            valid_until: timestamp::<QuoteRecord>(record.valid_until)?,
            deadline: timestamp::<QuoteRecord>(record.deadline)?,
            demands: record.demands.try_into()?,
            groups: record.groups.into_iter().map(group).collect(),
            shown: record.shown,
        })
    }
}
