//! Plans of batches on disk, version 2.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Record, RecordError, decode_old};
use crate::domain::money::PriceSheet;
use crate::domain::plan::{Alternative, Plan, PlannedModel};

/// Version 2 of a batch's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    rows: u32,
    models: Vec<(ModelRecord, Vec<AlternativeRecord>)>,
}

/// Version 1 of it: no model has another lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRecord1 {
    rows: u32,
    models: Vec<ModelRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ModelRecord {
    requested: String,
    provider: String,
    upstream: String,
    price: PriceRecord,
    rows: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AlternativeRecord {
    provider: String,
    upstream: String,
    price: PriceRecord,
}

/// Input, cached input, output, request, image.
pub(super) type PriceRecord = [Option<[u8; 16]>; 5];

impl Record for PlanRecord {
    const VERSION: u8 = 2;
    const NAME: &'static str = "batch plan";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        match version {
            1 => {
                let PlanRecord1 { rows, models } = decode_old::<Self, _>(body)?;
                Ok(Self { rows, models: models.into_iter().map(|model| (model, Vec::new())).collect() })
            }
            _ => Err(RecordError::unknown::<Self>(version)),
        }
    }
}

impl From<&Plan> for PlanRecord {
    fn from(plan: &Plan) -> Self {
        let models = plan.models.iter().map(|model| {
            let alternatives = model.alternatives.iter().map(|other| AlternativeRecord {
                provider: other.provider.clone(),
                upstream: other.upstream.clone(),
                price: pack_price(&other.price),
            });
            let record = ModelRecord {
                requested: model.requested.clone(),
                provider: model.provider.clone(),
                upstream: model.upstream.clone(),
                price: pack_price(&model.price),
                rows: model.rows,
            };
            (record, alternatives.collect())
        });
        Self { rows: plan.rows, models: models.collect() }
    }
}

impl From<PlanRecord> for Plan {
    fn from(record: PlanRecord) -> Self {
        let models = record.models.into_iter().map(|(model, alternatives)| {
            let alternatives = alternatives.into_iter().map(|other| Alternative {
                provider: other.provider,
                upstream: other.upstream,
                price: unpack_price(other.price),
            });
            PlannedModel {
                requested: model.requested,
                provider: model.provider,
                upstream: model.upstream,
                price: unpack_price(model.price),
                rows: model.rows,
                alternatives: alternatives.collect(),
            }
        });
        Self { rows: record.rows, models: models.collect() }
    }
}

pub(super) fn pack_price(price: &PriceSheet) -> PriceRecord {
    let PriceSheet { input, cached_input, output, request, image } = price;
    [input, cached_input, output, request, image].map(|price| price.map(|p| p.serialize()))
}

pub(super) fn unpack_price(price: PriceRecord) -> PriceSheet {
    let [input, cached_input, output, request, image] = price.map(|price| price.map(Decimal::deserialize));
    PriceSheet { input, cached_input, output, request, image }
}
