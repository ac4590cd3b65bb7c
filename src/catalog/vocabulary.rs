//! The closed vocabularies of the catalog: words that a seed may write and a view shows.
//!
//! Vocabularies that other layers use, too, are in [`crate::domain::vocabulary`]. Open vocabularies
//! (regions, capabilities, privacy tiers) are plain [`slug`]s.

use super::schema::kinds::inline_schema;
use crate::domain::vocabulary::wire_enum;
pub use crate::domain::vocabulary::{DataCollection, HostedTool, Modality, Operation};

/// Longest word of an open vocabulary, in bytes.
const MAX_SLUG: usize = 64;

wire_enum! {
    /// The life of an offering, in BatchRouter's words.
    Status {
        /// Routed to.
        Active = "active",
        /// Not routed to for now; rows that wait for it go on waiting.
        Paused = "paused",
        /// Still routed to; it will end.
        Deprecated = "deprecated",
        /// Not routed to.
        Disabled = "disabled",
    }
}

wire_enum! {
    /// Whether somebody has compared an offering's facts with its provider's own words.
    Verification {
        Verified = "verified",
        Unverified = "unverified",
        Undeclared = "undeclared",
    }
}

wire_enum! {
    /// A price list of a provider.
    Plan {
        /// Ordinary calls. This is what a row costs that is dispatched by itself.
        Standard = "standard",
        /// The provider's own batch API.
        Batch = "batch",
    }
}

wire_enum! {
    /// What speaks to a provider.
    Kind {
        /// Any server with OpenAI's API.
        OpenAi = "openai",
        /// Anthropic's.
        Anthropic = "anthropic",
        /// Built in; needs nothing.
        Simulated = "simulated",
    }
}

/// The place of vocabularies in the JSON Schema of seeds.
macro_rules! schemas {
    ($($name:ident),+) => {
        $(inline_schema!($name, { "type": "string", "enum": Self::ALL });)+
    };
}

schemas!(Operation, Modality, HostedTool, DataCollection, Status, Verification, Plan, Kind);

/// A word of an open vocabulary.
///
/// # Errors
/// The rule for the word, in words that follow "it".
pub(super) fn slug(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let rest = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
    if first && rest && text.len() <= MAX_SLUG {
        return Ok(text.to_owned());
    }
    Err(format!("must be at most {MAX_SLUG} of a-z, 0-9, `.`, `_` and `-`, and start with a letter or digit"))
}
