//! A quote: which lanes would serve some items, at which prices, held for some minutes.
//!
//! What it holds never changes. A batch that is made from it pays the prices that stand here, whatever
//! the catalog says by then.

use super::id::QuoteId;
use super::money::PriceSheet;
use super::routing::Constraints;
use super::share::Owner;
use super::time::Timestamp;

/// A quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub id: QuoteId,
    /// Who asked for it; nobody else can use it.
    pub owner: Owner,
    pub created_at: Timestamp,
    /// From then on no batch can be made from it.
    pub valid_until: Timestamp,
    /// When a batch that is made from it must be done.
    pub deadline: Timestamp,
    pub demands: Constraints,
    /// One for each list of models that items name.
    pub groups: Vec<QuotedGroup>,
    /// How it was shown to its owner: a JSON object.
    pub shown: Vec<u8>,
}

impl Quote {
    /// Whether a batch can be made from it.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.valid_until
    }
}

/// The lanes for items that name the same models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedGroup {
    /// The models as the items name them, in their order.
    pub models: Vec<String>,
    /// Those that serve the items, then those that may take over, the best first.
    pub lanes: Vec<QuotedLane>,
}

/// A lane that meets the demands of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedLane {
    /// The provider's id in the catalog.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// The model's canonical name.
    pub model: String,
    /// What its rows pay; `None` if nobody knows.
    pub price: Option<PriceSheet>,
    /// Items of the quote that it serves; 0 for one that may take over.
    pub items: u32,
}
