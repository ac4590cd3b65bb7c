//! What the body of a quote says.

use bytes::Bytes;

use crate::domain::id::OrgId;
use crate::domain::row::batchrouter::{Defaults, is_name};
use crate::domain::row::openai::MAX_MODEL_CHARS;
use crate::domain::vocabulary::Operation;
use crate::http::batchrouter::error::Refusal;
use crate::http::batchrouter::routing::{self, names, word};
use crate::http::request::{Object, parse_id};
use crate::http::response::error::ApiError;
use crate::service::Service;
use crate::service::quotes::create::{QuoteOptions, QuoteRequest};
use crate::service::quotes::manifest;

/// The fields that are read, besides the items.
pub const FIELDS: [&str; 13] = [
    "input_file_id",
    "input_item_count",
    "model",
    "models",
    "operation",
    "routing_mode",
    "sla_tier",
    "privacy_tier",
    "allowed_regions",
    "required_tools",
    "max_price",
    "price_protection_policy",
    "provider_preferences",
];

/// Reads a body, with its items as an array. This takes time if the items are in a file of the
/// organisation.
///
/// # Errors
/// When a field has an invalid value, or the file cannot be used.
pub fn read(service: &Service, org: OrgId, body: &Bytes) -> Result<(Bytes, QuoteRequest), Refusal> {
    let (object, [items]) = Object::picking(body, &FIELDS, ["items"])?;
    let (defaults, constraints) = (defaults(&object)?, routing::read(&object)?);
    let file = object.text("input_file_id")?.map(|id| parse_id("input_file_id", id)).transpose()?;
    let items = match (items.filter(|items| items.as_ref() != b"null"), file) {
        (Some(items), None) => items,
        (None, Some(file)) => manifest::items(service, org, file)?,
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("input_file_id", "`input_file_id` stands beside `items`; one is quoted").into());
        }
        (None, None) => {
            let message =
                "it is an array of the items to be quoted, or of some that are like them; or `input_file_id` names a file of them";
            return Err(ApiError::missing("items", message).into());
        }
    };
    Ok((items, QuoteRequest { defaults, constraints, options: QuoteOptions::default() }))
}

/// What a body says for all its items.
///
/// # Errors
/// When a field has an invalid value.
pub fn defaults(object: &Object) -> Result<Defaults, ApiError> {
    let model = object.text("model")?.map(str::to_owned);
    let (field, models) = match names(object, "models")? {
        models if models.is_empty() => ("model", model.into_iter().collect()),
        models => ("models", models),
    };
    if !models.iter().all(|name| is_name(name)) {
        return Err(ApiError::invalid(field, format!("`{field}` must name models, with 1 to {MAX_MODEL_CHARS} characters each")));
    }
    let operation = word(object, "operation", Operation::parse, Operation::choices)?;
    Ok(Defaults { operation, models })
}
