//! A lane as a quote sees it: facts from the catalog, and what is going on there at the moment.

use rust_decimal::Decimal;

use super::Item;
use crate::catalog::{Files, Model, Offer, Privacy, Status};
use crate::domain::endpoint::Endpoint;
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::usage::Usage;
use crate::domain::vocabulary::{HostedTool, Modality};
use crate::quote::tokens::Tokenizer;

/// One provider's service of one model.
#[derive(Debug, Clone)]
pub struct Lane<'a> {
    /// The provider's id.
    pub provider: &'a str,
    /// The provider's name for the model.
    pub upstream: &'a str,
    /// The model's canonical name.
    pub model: &'a str,
    pub tokenizer: Tokenizer,
    /// A server of the operator's own, BatchRouter's "edge".
    pub own: bool,
    pub listing: Listing,
    /// Empty if not known.
    pub endpoints: &'a [Endpoint],
    /// In tokens, input and output together.
    pub context_window: Option<u64>,
    /// In tokens.
    pub max_input_tokens: Option<u64>,
    /// In tokens.
    pub max_output_tokens: Option<u64>,
    /// What the model reads. Empty if not known.
    pub input: &'a [Modality],
    pub files: Option<&'a Files>,
    pub regions: &'a [String],
    pub privacy: &'a Privacy,
    pub tools: &'a [HostedTool],
    /// What it charges; `None` if that is not established.
    pub price: Option<PriceSheet>,
    /// Tokens of its answers on average, if enough were observed.
    pub observed_output: Option<u64>,
    pub supply: Supply,
}

/// Whether the operator lets work go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Open,
    /// Why not, to be read after "it".
    Closed(&'static str),
}

/// What is going on in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// Rows that it has room for.
    pub room_rows: u64,
    /// Tokens to be read that it has room for.
    pub room_tokens: u64,
    /// Its server does not answer.
    pub silent: bool,
    /// Rows that wait there already.
    pub queued_rows: u64,
    /// About the tokens that those are to read.
    pub queued_tokens: u64,
    /// Requests a minute that it keeps to, stated or found out; `None` if not known.
    pub per_minute: Option<u64>,
    /// Tokens a minute that its provider states; `None` if not known.
    pub tokens_per_minute: Option<u64>,
    /// Milliseconds that its last answers took; `None` if not known.
    pub latency_ms: Option<u64>,
}

impl<'a> Lane<'a> {
    /// A lane of the catalog.
    pub fn of(model: &'a Model, offer: &Offer<'a>, price: PriceSheet, supply: Supply) -> Self {
        let Offer { provider, offering, usable, status } = *offer;
        let listing = match status {
            Status::Disabled => Listing::Closed("is disabled, or its provider has ended it"),
            Status::Paused => Listing::Closed("is paused"),
            Status::Active | Status::Deprecated if !usable => Listing::Closed("is not configured here"),
            Status::Active | Status::Deprecated => Listing::Open,
        };
        // A server of the operator's own that states no price costs nothing by the token.
        let known = provider.is_local || price != PriceSheet::default();
        Self {
            provider: provider.id(),
            upstream: &offering.upstream,
            model: &model.id,
            tokenizer: Tokenizer::of(&model.id),
            own: provider.is_local,
            listing,
            endpoints: &offering.endpoints,
            context_window: offering.context_window,
            max_input_tokens: model.max_input_tokens,
            max_output_tokens: offering.max_output_tokens,
            input: &model.input,
            files: offering.files.as_ref(),
            regions: &offering.regions,
            privacy: &offering.privacy,
            tools: &offering.hosted_tools,
            price: known.then_some(price),
            observed_output: None,
            supply,
        }
    }

    /// About the tokens that it writes for an item: as many as its answers usually have, but no more than
    /// the item allows.
    pub fn output_tokens(&self, item: &Item) -> u64 {
        item.likely_output(self.observed_output)
    }

    /// What these tokens of so many items cost, if the prices are known.
    pub fn cost(&self, sum: &Sum) -> Option<Usd> {
        let price = self.price?;
        let usage = Usage { input_tokens: sum.input_tokens, output_tokens: sum.output_tokens, ..Usage::default() };
        // A sheet prices one request; the tokens of all are priced at once, the requests one by one.
        let requests = price.request.unwrap_or_default().saturating_mul(Decimal::from(sum.items));
        Some(PriceSheet { request: None, ..price }.cost(&usage).plus(Usd(requests)))
    }

    /// About how long it takes until it is done with so many more items of so many tokens, in seconds:
    /// what is longer of requests and tokens. `None` if no rate is known.
    pub fn seconds_for(&self, items: u64, tokens: u64) -> Option<u64> {
        let at = |rate: Option<u64>, waiting: u64, more: u64| {
            let rate = rate.filter(|rate| *rate > 0)?;
            Some(waiting.saturating_add(more).saturating_mul(60).div_ceil(rate))
        };
        let supply = &self.supply;
        at(supply.per_minute, supply.queued_rows, items).max(at(supply.tokens_per_minute, supply.queued_tokens, tokens))
    }
}

/// Items summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub items: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Sum {
    /// Tokens that are read and written.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The sum with one more, as the lane reads and answers it.
    #[must_use]
    pub fn and(self, item: &Item, lane: &Lane<'_>) -> Self {
        Self {
            items: self.items + 1,
            input_tokens: self.input_tokens.saturating_add(item.input_tokens(lane.tokenizer)),
            output_tokens: self.output_tokens.saturating_add(lane.output_tokens(item)),
        }
    }
}
