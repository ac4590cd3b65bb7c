//! What a quote demands of its lanes, read from its fields. Unknown fields are ignored, as
//! everywhere in this dialect; a known field with an invalid value is an error.

use crate::domain::money::Usd;
use crate::domain::quote::constraints::{Constraints, PriceProtection, ProviderPreferences, RoutingMode, SlaTier};
use crate::domain::vocabulary::{DataCollection, HostedTool};
use crate::http::request::{Object, unknown_choice};
use crate::http::response::error::ApiError;

/// The most names in one list.
const MAX_NAMES: usize = 256;

/// The demands that a body states; a missing field demands nothing.
///
/// # Errors
/// When a field has an invalid value.
pub fn read(body: &Object) -> Result<Constraints, ApiError> {
    let default = Constraints::default();
    Ok(Constraints {
        mode: word(body, "routing_mode", RoutingMode::parse, RoutingMode::choices)?.unwrap_or(default.mode),
        tier: word(body, "sla_tier", SlaTier::parse, SlaTier::choices)?.unwrap_or(default.tier),
        privacy_tier: body.text("privacy_tier")?.map_or(default.privacy_tier, str::to_owned),
        regions: names(body, "allowed_regions")?,
        tools: tools(body)?,
        max_price: max_price(body)?,
        protection: word(body, "price_protection_policy", PriceProtection::parse, PriceProtection::choices)?.unwrap_or(default.protection),
        preferences: preferences(body)?,
    })
}

/// A field of a body that must be one of several words, if the field is present.
///
/// # Errors
/// When the value is none of the words.
pub fn word<T>(body: &Object, field: &str, parse: fn(&str) -> Option<T>, choices: fn() -> String) -> Result<Option<T>, ApiError> {
    let Some(text) = body.text(field)? else { return Ok(None) };
    parse(text).map(Some).ok_or_else(|| unknown_choice(field, text, &choices()))
}

/// A list of names.
///
/// # Errors
/// When the field is not a list of texts, or the list is longer than allowed.
pub fn names(body: &Object, field: &str) -> Result<Vec<String>, ApiError> {
    let names = body.texts(field)?;
    match names.len() > MAX_NAMES {
        true => Err(ApiError::invalid(field, format!("`{field}` may have at most {MAX_NAMES} members, found {}", names.len()))),
        false => Ok(names),
    }
}

fn tools(body: &Object) -> Result<Vec<HostedTool>, ApiError> {
    let tool = |name: String| HostedTool::parse(&name).ok_or_else(|| unknown_choice("required_tools", &name, &HostedTool::choices()));
    names(body, "required_tools")?.into_iter().map(tool).collect()
}

/// Money, `{"currency": "usd", "amount": "0.05"}`, or the amount alone.
fn max_price(body: &Object) -> Result<Option<Usd>, ApiError> {
    let Some(money) = body.object_or_other("max_price")? else { return Ok(body.dollars("max_price")?.map(Usd)) };
    if let Some(currency) = money.text("currency")?
        && !currency.eq_ignore_ascii_case("usd")
    {
        return Err(unknown_choice("max_price.currency", currency, "`usd`"));
    }
    match money.dollars("amount")? {
        Some(amount) => Ok(Some(Usd(amount))),
        None => Err(ApiError::missing("max_price.amount", "it is the most that all items may cost, such as \"0.05\"")),
    }
}

fn preferences(body: &Object) -> Result<ProviderPreferences, ApiError> {
    let default = ProviderPreferences::default();
    let Some(wishes) = body.object("provider_preferences")? else { return Ok(default) };
    Ok(ProviderPreferences {
        only: names(&wishes, "only")?,
        ignore: names(&wishes, "ignore")?,
        allow_fallbacks: wishes.flag("allow_fallbacks")?.unwrap_or(default.allow_fallbacks),
        data_collection: word(&wishes, "data_collection", DataCollection::parse, DataCollection::choices)?,
        zdr: wishes.flag("zdr")?.unwrap_or(default.zdr),
    })
}
