//! What the body of a create says, and whether it asks for more than its quote was made for.

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::Value;

use crate::domain::error::Code;
use crate::domain::id::{FileId, QuoteId};
use crate::domain::quote::Quote;
use crate::domain::quote::constraints::{Constraints, PriceProtection, RoutingMode, STANDARD_PRIVACY, SlaTier, TierTimes};
use crate::domain::row::batchrouter::Defaults;
use crate::domain::vocabulary::DataCollection;
use crate::http::batchrouter::error::{Issue, Refusal};
use crate::http::batchrouter::making::{FIELDS, defaults};
use crate::http::batchrouter::routing;
use crate::http::request::{Object, parse_id};
use crate::http::response::error::ApiError;
use crate::http::state::Api;

/// The fields that are read besides those of a quote.
const OWN_FIELDS: [&str; 3] = ["quote_id", "metadata", "webhook"];
/// Bytes of the metadata of a batch.
const MAX_METADATA: usize = 16 << 10;

/// Where the items of a batch are.
#[derive(Debug, Clone)]
pub enum Input {
    /// In the request: an array, as it is written.
    Inline(Bytes),
    File(FileId),
}

/// A receiver as a client names it.
#[derive(Debug, Clone)]
pub struct Receiver {
    pub url: String,
    pub secret: SecretString,
}

/// A create, read.
#[derive(Debug)]
pub struct Asked {
    pub quote: Option<QuoteId>,
    pub input: Input,
    pub item_count: Option<u32>,
    pub defaults: Defaults,
    /// What the body states; what it does not state is as by default.
    pub demands: Constraints,
    /// The tier and the price protection, if the body states them.
    pub tier: Option<SlaTier>,
    pub protection: Option<PriceProtection>,
    pub metadata: Option<String>,
    pub webhook: Option<Receiver>,
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// When a field has a value that it cannot have, or not exactly one of `items` and `input_file_id`
    /// is there.
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
            input: input(items, file)?,
            item_count,
            defaults: defaults(&object)?,
            demands: routing::read(&object)?,
            tier: routing::word(&object, "sla_tier", SlaTier::parse, SlaTier::choices)?,
            protection: routing::word(&object, "price_protection_policy", PriceProtection::parse, PriceProtection::choices)?,
            metadata: metadata(&object)?,
            webhook: webhook(&object)?,
        })
    }

    /// Refuses what asks for more than the quote promises. What asks for less, or says nothing, gets what
    /// was quoted.
    ///
    /// # Errors
    /// Naming the first field that does.
    pub fn check_against(&self, quote: &Quote, tiers: &TierTimes) -> Result<(), ApiError> {
        let (asked, quoted) = (&self.demands, &quote.demands);
        let subset = |these: &[String], of: &[String]| these.iter().all(|each| of.contains(each));
        let (wishes, given) = (&asked.preferences, &quoted.preferences);
        let faster = self.tier.is_some_and(|tier| tiers.of(tier) < tiers.of(quoted.tier));
        let safer = self.protection == Some(PriceProtection::LockTotalAndFallback) && quoted.protection == PriceProtection::LockTotal;
        let (only, ignored) = (&wishes.only, &wishes.ignore);
        let mismatches = [
            ("sla_tier", faster),
            ("price_protection_policy", safer),
            ("routing_mode", asked.mode == RoutingMode::EdgeOnly && quoted.mode != RoutingMode::EdgeOnly),
            ("privacy_tier", asked.privacy_tier != STANDARD_PRIVACY && asked.privacy_tier != quoted.privacy_tier),
            ("allowed_regions", !asked.is_global() && (quoted.is_global() || !subset(&quoted.regions, &asked.regions))),
            ("required_tools", !asked.tools.iter().all(|tool| quoted.tools.contains(tool))),
            ("provider_preferences.zdr", wishes.zdr && !given.zdr),
            (
                "provider_preferences.data_collection",
                wishes.data_collection == Some(DataCollection::Deny) && given.data_collection != Some(DataCollection::Deny),
            ),
            ("provider_preferences.only", !only.is_empty() && (given.only.is_empty() || !subset(&given.only, only))),
            ("provider_preferences.ignore", !subset(ignored, &given.ignore) && !excludes(quote, ignored)),
            ("provider_preferences.allow_fallbacks", !wishes.allow_fallbacks && given.allow_fallbacks),
        ];
        match mismatches.into_iter().find(|(_, mismatch)| *mismatch) {
            None => Ok(()),
            Some((field, _)) => {
                let message = format!("`{field}` demands more than the quote was made for; make a new quote with it");
                Err(ApiError::new(Code::QuoteMismatch, message).param(field))
            }
        }
    }
}

/// Whether no lane of the quote is by one of these providers.
fn excludes(quote: &Quote, providers: &[String]) -> bool {
    quote.groups.iter().flat_map(|group| &group.lanes).all(|lane| !providers.contains(&lane.provider))
}

/// The documented answer to both, and to neither, is a failed preflight.
fn input(items: Option<Bytes>, file: Option<FileId>) -> Result<Input, Refusal> {
    let (path, message) = match (items, file) {
        (Some(items), None) => return Ok(Input::Inline(items)),
        (None, Some(file)) => return Ok(Input::File(file)),
        (Some(_), Some(_)) => ("input_file_id", "stands beside `items`; a batch has one of them"),
        (None, None) => ("items", "is missing, and so is `input_file_id`; a batch has one of them"),
    };
    let issue = Issue { code: "invalid_input", path: path.to_owned(), message: message.to_owned() };
    Err(Refusal::Preflight { issues: vec![issue], lanes: Vec::new() })
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
pub fn webhook(object: &Object) -> Result<Option<Receiver>, ApiError> {
    object.object("webhook")?.map(|webhook| receiver(&webhook)).transpose()
}

/// A receiver: an absolute URL, and a secret of 8 to 256 characters (its guide to webhooks).
///
/// # Errors
/// When one of the two is missing or cannot be used.
pub fn receiver(object: &Object) -> Result<Receiver, ApiError> {
    let url = object.need_text("url", "it is where the message is sent, an `https` URL")?;
    let secret = object.need_text("secret", "messages are signed with it; 8 to 256 characters")?;
    if !(8..=256).contains(&secret.chars().count()) {
        return Err(object.invalid("secret", "must have 8 to 256 characters"));
    }
    if url.len() > 2_048 || url.parse::<http::Uri>().is_err() {
        return Err(object.invalid("url", "must be an absolute `https` URL of at most 2,048 characters"));
    }
    Ok(Receiver { url: url.to_owned(), secret: secret.into() })
}

/// Refuses a receiver that may not be called, as far as its URL says.
///
/// # Errors
/// When it may not.
pub fn check_receiver(api: &Api, receiver: &Receiver) -> Result<(), ApiError> {
    let url = receiver.url.parse().map_err(|_| ApiError::invalid("webhook.url", "`webhook.url` is not a URL"))?;
    api.accounts.targets.check(&url).map_err(|error| ApiError::invalid("webhook.url", format!("`webhook.url` {error}")))
}
