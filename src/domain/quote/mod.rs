//! A quote: which lanes would serve a set of items, and at which prices, held for some minutes.
//!
//! A quote never changes. A batch made from it pays the prices of the quote, whatever the catalog
//! says by then.

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
    /// The organisation that asked for the quote. No other organisation can use it.
    pub org: OrgId,
    pub created_at: Timestamp,
    /// From this moment on, no batch can be made from the quote.
    pub valid_until: Timestamp,
    /// The deadline of a batch that is made from the quote.
    pub deadline: Timestamp,
    pub constraints: Constraints,
    /// Settings that apply to all items.
    pub defaults: Defaults,
    /// The fee on top of the providers' charges, in percent of those charges.
    pub fee: Decimal,
    /// The number of items quoted, 1 or more. A batch may have more items of the same kind.
    pub items: u32,
    /// The cost of the items at the providers, and the fee; `None` if it is unknown.
    pub estimate: Option<Estimate>,
    /// One group for each list of models that items name.
    pub groups: Vec<QuotedGroup>,
    /// The quote as its owner saw it: a JSON object.
    pub shown: Vec<u8>,
}

/// The expected charge, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Charged by providers.
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
    /// The lanes for items that name these models, by canonical names, for this operation; `None`
    /// if no such item was quoted.
    pub fn group<T: AsRef<str>>(&self, operation: Operation, models: &[T]) -> Option<&QuotedGroup> {
        let same = |group: &&QuotedGroup| {
            let named = |names: &[String]| names.iter().map(String::as_str).eq(models.iter().map(AsRef::as_ref));
            group.operation == operation && (named(&group.models) || named(&group.asked))
        };
        self.groups.iter().find(same)
    }

    /// Whether a batch can still be made from the quote.
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
    /// The same models, as the first item names them: the catalog may change before a batch is
    /// made.
    pub asked: Vec<String>,
    /// The lanes that serve the items, then the lanes that may take over, the best first.
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
    /// The price that the lane's rows pay; `None` if it is unknown.
    pub price: Option<PriceSheet>,
    /// The most tokens that the lane reads at once, if known.
    pub most_input: Option<u64>,
    /// The most tokens that the lane writes, if known.
    pub most_output: Option<u64>,
    /// Whether the lane reads only text.
    pub text_only: bool,
    /// The usual number of tokens in the lane's answers, if observed.
    pub usual_output: Option<u64>,
    /// The expected cost of one item of the group on this lane, on average and with the fee, in US
    /// dollars; `None` if it is unknown.
    pub each: Option<Usd>,
    /// Items of the quote that the lane serves; 0 if it serves none.
    pub items: u32,
    /// Whether the lane may take items of other lanes when those lanes fail for good.
    pub takes_over: bool,
}
