//! A lane as a quote sees it: facts from the catalog, and the lane's present load.

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
    /// Whether the server is the operator's own: BatchRouter's "edge".
    pub own: bool,
    pub listing: Listing,
    /// The endpoints that the lane serves; empty if unknown.
    pub endpoints: &'a [Endpoint],
    /// In tokens, input and output together.
    pub context_window: Option<u64>,
    /// In tokens.
    pub max_input_tokens: Option<u64>,
    /// In tokens.
    pub max_output_tokens: Option<u64>,
    /// The modalities that the model reads; empty if unknown.
    pub input: &'a [Modality],
    pub files: Option<&'a Files>,
    pub regions: &'a [String],
    pub privacy: &'a Privacy,
    pub tools: &'a [HostedTool],
    /// The lane's prices; `None` if they are not established.
    pub price: Option<PriceSheet>,
    /// The average tokens of the lane's answers, if enough were observed.
    pub observed_output: Option<u64>,
    pub supply: Supply,
}

/// Whether the operator admits work to the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Open,
    /// Why the lane is closed, as a phrase that follows "it".
    Closed(&'static str),
}

/// The present load and rates of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// Rows that the lane has room for.
    pub room_rows: u64,
    /// Input tokens that the lane has room for.
    pub room_tokens: u64,
    /// Whether the lane's server does not answer.
    pub silent: bool,
    /// Rows that already wait for the lane.
    pub queued_rows: u64,
    /// Approximate input tokens of the waiting rows.
    pub queued_tokens: u64,
    /// Requests a minute that the lane keeps to, stated or found out; `None` if unknown.
    pub per_minute: Option<u64>,
    /// Tokens a minute that the provider states; `None` if unknown.
    pub tokens_per_minute: Option<u64>,
    /// Milliseconds that the lane's last answers took; `None` if unknown.
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
        // A server of the operator's own without a stated price costs nothing by the token.
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

    /// Approximate tokens that the lane writes for an item: the usual number of its answers, but no
    /// more than the item allows.
    pub fn output_tokens(&self, item: &Item) -> u64 {
        item.likely_output(self.observed_output)
    }

    /// The cost of the tokens and items of a sum, if the prices are known.
    pub fn cost(&self, sum: &Sum) -> Option<Usd> {
        let price = self.price?;
        let usage = Usage { input_tokens: sum.input_tokens, output_tokens: sum.output_tokens, ..Usage::default() };
        // A sheet prices one request, so the tokens of all items are priced together and the
        // request charge is multiplied by the items.
        let requests = price.request.unwrap_or_default().saturating_mul(Decimal::from(sum.items));
        Some(PriceSheet { request: None, ..price }.cost(&usage).plus(Usd(requests)))
    }

    /// Approximate seconds until the lane is done with this many more items and tokens: the longer
    /// of the times for requests and for tokens. `None` if no rate is known.
    pub fn seconds_for(&self, items: u64, tokens: u64) -> Option<u64> {
        let at = |rate: Option<u64>, waiting: u64, more: u64| {
            let rate = rate.filter(|rate| *rate > 0)?;
            Some(waiting.saturating_add(more).saturating_mul(60).div_ceil(rate))
        };
        let supply = &self.supply;
        at(supply.per_minute, supply.queued_rows, items).max(at(supply.tokens_per_minute, supply.queued_tokens, tokens))
    }
}

/// Totals over several items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub items: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Sum {
    /// Tokens read and written.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The sum with one more item, as the lane reads and answers it.
    #[must_use]
    pub fn and(self, item: &Item, lane: &Lane<'_>) -> Self {
        Self {
            items: self.items + 1,
            input_tokens: self.input_tokens.saturating_add(item.input_tokens(lane.tokenizer)),
            output_tokens: self.output_tokens.saturating_add(lane.output_tokens(item)),
        }
    }
}
