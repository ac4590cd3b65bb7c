//! The preferences of a create beyond OpenAI's document: how urgent the batch is (`priority`), and
//! which other providers its rows may go to (`provider`; Phaseo's object has more members than are
//! meaningful here).

use serde_json::{Value, json};

use crate::domain::batch::Fallback;
use crate::domain::batch::priority::Priority;
use crate::domain::money::MaxPrice;
use crate::http::request::{Object, quoted, unknown_choice};
use crate::http::response::error::ApiError;

/// The preferences of one create.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preferences {
    pub priority: Priority,
    pub fallback: Fallback,
}

impl Preferences {
    /// Reads both fields; an absent field has its default.
    ///
    /// # Errors
    /// When one of the fields has no valid meaning.
    pub fn read(body: &Object) -> Result<Self, ApiError> {
        Ok(Self { priority: priority(body)?.unwrap_or_default(), fallback: fallback(body)? })
    }

    /// The preferences in one form, however they were spelt; `None` if they equal the defaults.
    pub fn stated(&self) -> Option<Value> {
        let Self { priority, fallback } = self;
        let fallback = match fallback {
            Fallback::NotDearer => json!("not_dearer"),
            Fallback::Within(MaxPrice { input, output, request }) => {
                json!([input, output, request].map(|amount| amount.map(|amount| amount.normalize().to_string())))
            }
            Fallback::Never => json!("never"),
        };
        (*self != Self::default()).then(|| json!([priority.as_str(), fallback]))
    }
}

/// Reads the field `priority`, if it is present.
///
/// # Errors
/// When the field is none of the known words.
pub fn priority(body: &Object) -> Result<Option<Priority>, ApiError> {
    let Some(word) = body.text("priority")? else { return Ok(None) };
    word.parse().map(Some).map_err(|_| unknown_choice("priority", word, &quoted(Priority::ALL.iter())))
}

fn fallback(body: &Object) -> Result<Fallback, ApiError> {
    let Some(provider) = body.object("provider")? else { return Ok(Fallback::default()) };
    provider.only(&["allow_fallbacks", "max_price"])?;
    let most = provider.object("max_price")?.map(|most| max_price(&most)).transpose()?;
    match (provider.flag("allow_fallbacks")?, most) {
        (Some(false), Some(_)) => {
            let message = "`provider.allow_fallbacks` is false, so no row goes to another provider, and `provider.max_price` \
                           bounds nothing; leave one of them out";
            Err(ApiError::invalid("provider", message))
        }
        (Some(false), None) => Ok(Fallback::Never),
        (Some(true) | None, Some(most)) => Ok(Fallback::Within(most)),
        (Some(true) | None, None) => Ok(Fallback::NotDearer),
    }
}

fn max_price(most: &Object) -> Result<MaxPrice, ApiError> {
    most.only(&["prompt", "completion", "request"])?;
    let price = MaxPrice { input: most.dollars("prompt")?, output: most.dollars("completion")?, request: most.dollars("request")? };
    if price == MaxPrice::default() {
        // If an empty bound counted as no bound, a slip would become a bill.
        let what = "give at least one of `prompt`, `completion` and `request`, in US dollars";
        return Err(ApiError::invalid("provider.max_price", format!("`provider.max_price` bounds nothing; {what}")));
    }
    Ok(price)
}
