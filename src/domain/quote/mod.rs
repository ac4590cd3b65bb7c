//! A quote: which lanes would serve some items, at which prices, held for some minutes.
//!
//! What it holds never changes. A batch that is made from it pays the prices that stand here, whatever
//! the catalog says by then.

pub mod constraints;
pub mod output_stats;
pub mod receipt;

use rust_decimal::Decimal;

use self::constraints::Constraints;
use super::id::{BatchId, OrgId, QuoteId};
use super::money::{PriceSheet, Usd};
use super::row::batchrouter::Defaults;
use super::time::Timestamp;
use super::vocabulary::Operation;

/// A quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub id: QuoteId,
    /// Who asked for it; nobody else can use it.
    pub org: OrgId,
    pub created_at: Timestamp,
    /// From then on no batch can be made from it.
    pub valid_until: Timestamp,
    /// When a batch that is made from it must be done.
    pub deadline: Timestamp,
    pub demands: Constraints,
    /// What is said of all items.
    pub defaults: Defaults,
    /// What is charged besides what providers charge, in percent of that.
    pub fee: Decimal,
    /// Items that were quoted, 1 or more; a batch may have more of the same kind.
    pub items: u32,
    /// What they cost at the provider, and the fee; `None` if nobody knows.
    pub estimate: Option<Estimate>,
    /// One for each list of models that items name.
    pub groups: Vec<QuotedGroup>,
    /// How it was shown to its owner: a JSON object.
    pub shown: Vec<u8>,
}

/// What is expected to be charged, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// By providers.
    pub provider: Usd,
    pub fee: Usd,
}

impl Estimate {
    /// Provider and fee together.
    pub fn total(self) -> Usd {
        self.provider.plus(self.fee)
    }
}

/// A quote, and the batch that was made from it, if one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptQuote {
    pub quote: Quote,
    pub batch: Option<BatchId>,
}

impl Quote {
    /// The lanes for items that name these models, by canonical names, for this operation; `None` if
    /// no such item was quoted.
    pub fn group<T: AsRef<str>>(&self, operation: Operation, models: &[T]) -> Option<&QuotedGroup> {
        let same = |group: &&QuotedGroup| {
            let named = |names: &[String]| names.iter().map(String::as_str).eq(models.iter().map(AsRef::as_ref));
            group.operation == operation && (named(&group.models) || named(&group.asked))
        };
        self.groups.iter().find(same)
    }

    /// Whether a batch can be made from it.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.valid_until
    }
}

/// The lanes for items that name the same models for the same operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedGroup {
    pub operation: Operation,
    /// Canonical names of the models that the items name, each once, in their order.
    pub models: Vec<String>,
    /// The same as the first of the items names them: the catalog may change until a batch is made.
    pub asked: Vec<String>,
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
    /// Tokens that it reads at once, if that is known.
    pub most_input: Option<u64>,
    /// Tokens that it writes at most, if that is known.
    pub most_output: Option<u64>,
    /// It reads nothing but text.
    pub text_only: bool,
    /// Tokens that its answers usually have, if that was observed.
    pub usual_output: Option<u64>,
    /// What one item of the group is expected to cost there, on average and with the fee, in US dollars;
    /// `None` if nobody knows.
    pub each: Option<Usd>,
    /// Items of the quote that it serves; 0 for one that serves none.
    pub items: u32,
    /// It may take items of the other lanes, when those fail for good.
    pub takes_over: bool,
}
