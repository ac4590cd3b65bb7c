//! What the body of a create says.

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::Value;

use crate::domain::id::{FileId, QuoteId};
use crate::domain::quote::constraints::{PriceProtection, SlaTier};
use crate::domain::row::batchrouter::Defaults;
use crate::http::batchrouter::error::Refusal;
use crate::http::batchrouter::quotes::body::{FIELDS, defaults};
use crate::http::batchrouter::routing::{self, word};
use crate::http::request::{Object, parse_id};
use crate::http::response::error::ApiError;
use crate::http::state::Api;
use crate::service::batches::prepare::Items;
use crate::service::batches::quoted::StatedConstraints;
use crate::service::{IssueCode, IssuePath, ServiceError};

/// The fields that are read besides the fields of a quote.
const OWN_FIELDS: [&str; 3] = ["quote_id", "metadata", "webhook"];
/// The most bytes of the metadata of a batch.
const MAX_METADATA: usize = 16 << 10;

/// A receiver as a client names it.
#[derive(Debug, Clone)]
pub struct NamedReceiver {
    pub url: String,
    pub secret: SecretString,
}

/// The body of a create, after reading.
#[derive(Debug)]
pub struct CreateBody {
    pub quote: Option<QuoteId>,
    pub items: Items,
    pub item_count: Option<u32>,
    pub defaults: Defaults,
    pub stated: StatedConstraints,
    pub metadata: Option<String>,
    pub webhook: Option<NamedReceiver>,
}

impl CreateBody {
    /// Reads a body.
    ///
    /// # Errors
    /// When a field has an invalid value, or when not exactly one of `items` and `input_file_id` is
    /// present.
    pub fn read(body: &Bytes) -> Result<Self, Refusal> {
        let (object, [items]) = Object::picking(body, &[&FIELDS[..], &OWN_FIELDS].concat(), ["items"])?;
        let items = items.filter(|items| items.as_ref() != b"null");
        let file = object.text("input_file_id")?.map(|id| parse_id("input_file_id", id)).transpose()?;
        let quote = object.text("quote_id")?.map(|id| parse_id("quote_id", id)).transpose()?;
        let item_count = object.integer("input_item_count")?;
        let item_count = item_count.map(|count| u32::try_from(count).ok().filter(|count| *count > 0).ok_or(())).transpose();
        let item_count =
            item_count.map_err(|()| ApiError::invalid("input_item_count", "`input_item_count` must be a count of items, 1 or more"))?;
        Ok(Self {
            quote,
            items: input(items, file)?,
            item_count,
            defaults: defaults(&object)?,
            stated: StatedConstraints {
                constraints: routing::read(&object)?,
                tier: word(&object, "sla_tier", SlaTier::parse, SlaTier::choices)?,
                protection: word(&object, "price_protection_policy", PriceProtection::parse, PriceProtection::choices)?,
            },
            metadata: metadata(&object)?,
            webhook: webhook(&object)?,
        })
    }
}

/// The items of a create. If both sources are given, or neither, the documented answer is a failed
/// preflight.
fn input(items: Option<Bytes>, file: Option<FileId>) -> Result<Items, Refusal> {
    let (field, message) = match (items, file) {
        (Some(items), None) => return Ok(Items::Inline(items)),
        (None, Some(file)) => return Ok(Items::File(file)),
        (Some(_), Some(_)) => ("input_file_id", "stands beside `items`; a batch has one of them"),
        (None, None) => ("items", "is missing, and so is `input_file_id`; a batch has one of them"),
    };
    Err(ServiceError::issue(IssueCode::InvalidInput, IssuePath::Field(field), message).into())
}

fn metadata(object: &Object) -> Result<Option<String>, ApiError> {
    let Some(members) = object.object("metadata")? else { return Ok(None) };
    let text = Value::Object(members.into_fields()).to_string();
    match text.len() > MAX_METADATA {
        true => {
            Err(ApiError::invalid("metadata", format!("`metadata` may have at most {MAX_METADATA} bytes as JSON, found {}", text.len())))
        }
        false => Ok(Some(text)),
    }
}

/// `{"url": ..., "secret": ...}`
///
/// # Errors
/// When one of the two is missing or cannot be used.
pub fn webhook(object: &Object) -> Result<Option<NamedReceiver>, ApiError> {
    object.object("webhook")?.map(|webhook| receiver(&webhook)).transpose()
}

/// A receiver: an absolute URL, and a secret of 8 to 256 characters (BatchRouter's guide to
/// webhooks).
///
/// # Errors
/// When one of the two is missing or cannot be used.
pub fn receiver(object: &Object) -> Result<NamedReceiver, ApiError> {
    let url = object.need_text("url", "it is where the message is sent, an `https` URL")?;
    let secret = object.need_text("secret", "messages are signed with it; 8 to 256 characters")?;
    if !(8..=256).contains(&secret.chars().count()) {
        return Err(object.invalid("secret", "must have 8 to 256 characters"));
    }
    if url.len() > 2_048 || url.parse::<http::Uri>().is_err() {
        return Err(object.invalid("url", "must be an absolute `https` URL of at most 2,048 characters"));
    }
    Ok(NamedReceiver { url: url.to_owned(), secret: secret.into() })
}

/// Refuses a receiver whose URL shows that it may not be called.
///
/// # Errors
/// When the URL is invalid or may not be called.
pub fn check_receiver(api: &Api, receiver: &NamedReceiver) -> Result<(), ApiError> {
    let url = receiver.url.parse().map_err(|_| ApiError::invalid("webhook.url", "`webhook.url` is not a URL"))?;
    api.accounts.targets.check(&url).map_err(|error| ApiError::invalid("webhook.url", format!("`webhook.url` {error}")))
}
