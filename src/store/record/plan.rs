//! Plans of batches on disk, version 5.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::constraints::operation;
use super::{Record, decode_old};
use crate::domain::batch::plan::{Plan, PlannedLane, PlannedModel, QuotedShare, RefusedModel};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::money::PriceSheet;
use crate::store::record::error::RecordError;

/// Version 5 of a batch's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    planned: PlanRecord4,
    /// The path of the endpoint of each model's rows, if it was noted; as many as there are models.
    endpoints: Vec<Option<String>>,
    refused: Vec<RefusedRecord>,
    warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RefusedRecord {
    requested: String,
    endpoint: String,
    code: String,
    message: String,
}

/// Version 4, which is a part of version 5: all rows of a batch are for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRecord4 {
    rows: u32,
    models: Vec<PlannedRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlannedRecord {
    requested: String,
    lane: PlannedLaneRecord,
    rows: u32,
    alternatives: Vec<PlannedLaneRecord>,
    quoted: Option<ShareRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlannedLaneRecord {
    model: String,
    provider: String,
    upstream: String,
    price: PriceRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ShareRecord {
    operation: String,
    weight: u32,
    most_input: Option<u64>,
    most_output: Option<u64>,
    text_only: bool,
    /// The endpoints, as codes.
    endpoints: Vec<u8>,
}

/// Version 3: nothing says which endpoints a quoted lane has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRecord3 {
    rows: u32,
    models: Vec<PlannedRecord3>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlannedRecord3 {
    requested: String,
    lane: PlannedLaneRecord,
    rows: u32,
    alternatives: Vec<PlannedLaneRecord>,
    quoted: Option<ShareRecord3>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ShareRecord3 {
    operation: String,
    weight: u32,
    most_input: Option<u64>,
    most_output: Option<u64>,
    text_only: bool,
}

/// Version 2: no lane comes from a quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRecord2 {
    rows: u32,
    models: Vec<(ModelRecord2, Vec<AlternativeRecord2>)>,
}

/// Version 1: each model has a single lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlanRecord1 {
    rows: u32,
    models: Vec<ModelRecord2>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ModelRecord2 {
    requested: String,
    provider: String,
    upstream: String,
    price: PriceRecord,
    rows: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AlternativeRecord2 {
    provider: String,
    upstream: String,
    price: PriceRecord,
}

/// Prices of input, cached input, output, a request and an image, in this order.
pub(super) type PriceRecord = [Option<[u8; 16]>; 5];

impl Record for PlanRecord {
    const VERSION: u8 = 5;
    const NAME: &'static str = "batch plan";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        let planned = match version {
            1 => {
                let PlanRecord1 { rows, models } = decode_old::<Self, _>(body)?;
                PlanRecord4 { rows, models: models.into_iter().map(|model| model.with(Vec::new())).collect() }
            }
            2 => {
                let PlanRecord2 { rows, models } = decode_old::<Self, _>(body)?;
                PlanRecord4 { rows, models: models.into_iter().map(|(model, others)| model.with(others)).collect() }
            }
            3 => {
                let PlanRecord3 { rows, models } = decode_old::<Self, _>(body)?;
                PlanRecord4 { rows, models: models.into_iter().map(PlannedRecord::from).collect() }
            }
            4 => decode_old::<Self, PlanRecord4>(body)?,
            _ => return Err(RecordError::unknown::<Self>(version)),
        };
        Ok(Self { endpoints: vec![None; planned.models.len()], planned, refused: Vec::new(), warnings: Vec::new() })
    }
}

impl From<PlannedRecord3> for PlannedRecord {
    fn from(record: PlannedRecord3) -> Self {
        let PlannedRecord3 { requested, lane, rows, alternatives, quoted } = record;
        let share = |share: ShareRecord3| {
            let ShareRecord3 { operation, weight, most_input, most_output, text_only } = share;
            ShareRecord { operation, weight, most_input, most_output, text_only, endpoints: Vec::new() }
        };
        Self { requested, lane, rows, alternatives, quoted: quoted.map(share) }
    }
}

impl ModelRecord2 {
    fn with(self, others: Vec<AlternativeRecord2>) -> PlannedRecord {
        let Self { requested, provider, upstream, price, rows } = self;
        let other = |other: AlternativeRecord2| PlannedLaneRecord {
            model: requested.clone(),
            provider: other.provider,
            upstream: other.upstream,
            price: other.price,
        };
        let alternatives = others.into_iter().map(other).collect();
        let lane = PlannedLaneRecord { model: requested.clone(), provider, upstream, price };
        PlannedRecord { requested, lane, rows, alternatives, quoted: None }
    }
}

impl From<&PlannedLane> for PlannedLaneRecord {
    fn from(lane: &PlannedLane) -> Self {
        let PlannedLane { model, provider, upstream, price } = lane;
        Self { model: model.clone(), provider: provider.clone(), upstream: upstream.clone(), price: pack_price(price) }
    }
}

impl From<PlannedLaneRecord> for PlannedLane {
    fn from(record: PlannedLaneRecord) -> Self {
        let PlannedLaneRecord { model, provider, upstream, price } = record;
        Self { model, provider, upstream, price: unpack_price(price) }
    }
}

/// Reads an endpoint that is stored by its path.
fn stored_endpoint(path: &str) -> Result<Endpoint, RecordError> {
    let endpoint = RowEndpoint::stored(path).map_err(RecordError::damaged::<PlanRecord>)?;
    endpoint.one().ok_or_else(|| RecordError::damaged::<PlanRecord>("unknown endpoint"))
}

impl From<&RefusedModel> for RefusedRecord {
    fn from(refused: &RefusedModel) -> Self {
        let RefusedModel { requested, endpoint, code, message } = refused;
        let (endpoint, code) = (endpoint.path().to_owned(), code.as_str().to_owned());
        Self { requested: requested.clone(), endpoint, code, message: message.clone() }
    }
}

impl TryFrom<RefusedRecord> for RefusedModel {
    type Error = RecordError;

    fn try_from(record: RefusedRecord) -> Result<Self, RecordError> {
        let RefusedRecord { requested, endpoint, code, message } = record;
        let code = ProblemCode::parse(&code).ok_or_else(|| RecordError::damaged::<PlanRecord>("unknown code of a problem"))?;
        Ok(Self { requested, endpoint: stored_endpoint(&endpoint)?, code, message })
    }
}

impl From<&Plan> for PlanRecord {
    fn from(plan: &Plan) -> Self {
        let share = |share: QuotedShare| ShareRecord {
            operation: share.operation.to_string(),
            weight: share.weight,
            most_input: share.most_input,
            most_output: share.most_output,
            text_only: share.text_only,
            endpoints: share.endpoints.iter().map(Endpoint::code).collect(),
        };
        let models = plan.models.iter().map(|model| PlannedRecord {
            requested: model.requested.clone(),
            lane: (&model.lane).into(),
            rows: model.rows,
            alternatives: model.alternatives.iter().map(PlannedLaneRecord::from).collect(),
            quoted: model.quoted.map(share),
        });
        let endpoints = plan.models.iter().map(|model| model.endpoint.map(|endpoint| endpoint.path().to_owned()));
        Self {
            planned: PlanRecord4 { rows: plan.rows, models: models.collect() },
            endpoints: endpoints.collect(),
            refused: plan.refused.iter().map(RefusedRecord::from).collect(),
            warnings: plan.warnings.clone(),
        }
    }
}

impl TryFrom<PlanRecord> for Plan {
    type Error = RecordError;

    fn try_from(record: PlanRecord) -> Result<Self, RecordError> {
        let share = |share: ShareRecord| {
            let operation = operation::<PlanRecord>(&share.operation)?;
            let ShareRecord { weight, most_input, most_output, text_only, endpoints, .. } = share;
            let endpoint = |code| Endpoint::from_code(code).ok_or_else(|| RecordError::damaged::<PlanRecord>("unknown endpoint"));
            let endpoints = endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?;
            Ok(QuotedShare { operation, weight, most_input, most_output, text_only, endpoints })
        };
        let PlanRecord { planned: PlanRecord4 { rows, models }, endpoints, refused, warnings } = record;
        if models.len() != endpoints.len() {
            return Err(RecordError::damaged::<PlanRecord>("the endpoints are not as many as the models"));
        }
        let path = |path: String| stored_endpoint(&path);
        let models = models.into_iter().zip(endpoints).map(|(model, endpoint)| {
            Ok(PlannedModel {
                requested: model.requested,
                endpoint: endpoint.map(path).transpose()?,
                lane: model.lane.into(),
                rows: model.rows,
                alternatives: model.alternatives.into_iter().map(PlannedLane::from).collect(),
                quoted: model.quoted.map(share).transpose()?,
            })
        });
        let refused = refused.into_iter().map(RefusedModel::try_from).collect::<Result<_, _>>()?;
        Ok(Self { rows, models: models.collect::<Result<_, RecordError>>()?, refused, warnings })
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
