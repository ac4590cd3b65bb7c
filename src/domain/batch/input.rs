//! The rows of a batch as its client stated them: for one endpoint, or as items of a quote.

use rust_decimal::Decimal;

use super::phaseo::PhaseoDetails;
use crate::domain::endpoint::RowEndpoint;
use crate::domain::id::QuoteId;
use crate::domain::money::Usd;
use crate::domain::quote::constraints::Constraints;
use crate::domain::quote::{Estimate, Quote};
use crate::domain::row::batchrouter::{Defaults, parse_item};
use crate::domain::row::openai::{RowFault, RowRequest, parse_line};
use crate::domain::time::{CompletionWindow, Timestamp};
use crate::domain::webhook::Webhook;

/// The rows of a batch and their deadline. This is where the dialects differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchInput {
    /// OpenAI's.
    Unquoted { endpoint: RowEndpoint, window: CompletionWindow, invalid: InvalidRows },
    /// BatchRouter's and Phaseo's: items that run on the lanes of a quote.
    Quoted(Box<QuotedInput>),
}

/// What becomes of a batch in which validation finds faulty rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InvalidRows {
    /// The batch fails, and no row runs.
    #[default]
    FailBatch,
    /// The faulty rows fail, each with what is wrong with it, and the others run.
    FailRows,
}

impl InvalidRows {
    /// Both choices, for messages.
    pub const ALL: [Self; 2] = [Self::FailBatch, Self::FailRows];

    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailBatch => "fail_batch",
            Self::FailRows => "fail_rows",
        }
    }
}

/// What a batch of items takes from its quote and from its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedInput {
    pub quote: QuoteId,
    /// The deadline that the quote promised.
    pub deadline: Timestamp,
    pub defaults: Defaults,
    pub constraints: Constraints,
    /// The fee on top of the providers' charges, in percent of those charges.
    pub fee: Decimal,
    /// The estimate for all items; `None` if the cost is unknown.
    pub estimate: Option<Estimate>,
    /// The average quoted price of one item, the fee included; `None` if it is unknown.
    pub each: Option<Usd>,
    /// The amount reserved when the batch is created, in whole micro-dollars.
    pub reserve: Usd,
    /// The number of items, if they were counted when the batch was created.
    pub items: Option<u32>,
    /// The client's own metadata: a JSON object.
    pub metadata: Option<String>,
    /// The receiver of a message when the batch has ended; the organisation's own receiver if
    /// `None`.
    pub webhook: Option<Webhook>,
    /// The additional details of a Phaseo batch.
    pub gateway: Option<PhaseoDetails>,
}

impl QuotedInput {
    /// The part of a batch that comes from its quote alone.
    pub fn of(quote: &Quote) -> Self {
        Self {
            quote: quote.id,
            deadline: quote.deadline,
            defaults: Defaults::default(),
            constraints: quote.constraints.clone(),
            fee: quote.fee,
            estimate: quote.estimate,
            each: quote.estimate.map(|estimate| Usd(estimate.total().0 / Decimal::from(quote.items.max(1)))),
            reserve: Usd::ZERO,
            items: None,
            metadata: None,
            webhook: None,
            gateway: None,
        }
    }

    /// See [`BatchInput::holds_the_most`].
    pub const fn holds_the_most(&self) -> bool {
        self.gateway.is_some()
    }
}

impl BatchInput {
    /// Reads a line of the input.
    ///
    /// # Errors
    /// Every independent fault of the line, at least one.
    pub fn parse<'a>(&'a self, line: &'a [u8]) -> Result<RowRequest<'a>, Vec<RowFault>> {
        match self {
            Self::Unquoted { endpoint, .. } => parse_line(line, *endpoint),
            Self::Quoted(order) => parse_item(line, &order.defaults),
        }
    }

    /// What becomes of the batch if rows are faulty. Items were counted and priced together, so none
    /// of them is left out.
    pub fn invalid_rows(&self) -> InvalidRows {
        match self {
            Self::Unquoted { invalid, .. } => *invalid,
            Self::Quoted(_) => InvalidRows::FailBatch,
        }
    }

    /// Whether the batch reserves the most that its rows may cost, instead of their expected cost.
    pub fn holds_the_most(&self) -> bool {
        matches!(self, Self::Quoted(order) if order.holds_the_most())
    }
}
