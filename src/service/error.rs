//! Why the service refuses or fails a request, as values: a cause, its subject, and its place. Each
//! dialect words them in its own envelope; the sentences here are what the dialects share.

use std::fmt;

use serde::{Serialize, Serializer};

use super::quotes::outcome::Outcome;
use crate::domain::batch::problem::ProblemCode;
use crate::domain::id::{BatchId, FileId, KeyId, OrgId, QuoteId};
use crate::domain::org::ledger::Shortfall;
use crate::executor::Gone;
use crate::store::error::StoreError;

/// The most issues that one refusal lists.
pub const MAX_ISSUES: usize = 100;

/// Why a request was not carried out. Nothing of the request is kept then.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("the daemon is stopping and takes no new work; try again after it has restarted")]
    Draining,
    #[error(
        "the disk of the data directory is too full to take this; delete uploaded files that are no longer needed, or give it more room"
    )]
    NoRoom,
    /// The organisation has no such file.
    #[error("there is no file `{0}`")]
    FileNotFound(FileId),
    #[error("`{0}` was not uploaded as the input of a batch")]
    NotAnInput(FileId),
    #[error("there is no batch `{0}`")]
    BatchNotFound(BatchId),
    #[error("there is no quote `{0}`")]
    QuoteNotFound(QuoteId),
    #[error("the quote has expired; request a new one")]
    QuoteExpired,
    /// The batch that was made from the quote.
    #[error("`{0}` was made from the quote; make a new quote for another batch")]
    QuoteUsed(BatchId),
    #[error("`{field}` demands more than the quote was made for; make a new quote with it")]
    QuoteMismatch { field: &'static str },
    #[error("this `Idempotency-Key` was used before for another request; use a new key for each new batch")]
    KeyReused,
    /// The same work must not silently run, and be paid for, a second time.
    #[error("the batch that was made under this `Idempotency-Key` has been deleted; use a new key to make another one")]
    BatchDeleted,
    /// Rows without a quote reserve nothing, so prepaid organisations cannot run them.
    #[error("the organisation prepays; make a quote (`POST /v1/quotes/model`) and create the batch from it")]
    PrepaidNeedsQuote,
    #[error("cannot reserve credits: a provider of the items' model lists no price")]
    PrepaidNeedsPrices,
    #[error("{0}; nothing was reserved")]
    NotCovered(Shortfall),
    #[error("items: {0}")]
    Items(ItemsError),
    /// The items, or the demands on their lanes, cannot be served as they are.
    #[error("{}", first(.issues))]
    Preflight {
        /// At least one.
        issues: Vec<Issue>,
        /// The lanes that were considered, if the request came that far.
        outcome: Option<Box<Outcome>>,
    },
    /// The items could be served, but not in the current situation.
    #[error("{}", first(.issues))]
    NoCapacity { issues: Vec<Issue>, outcome: Box<Outcome> },
    /// The output of a row has no bound.
    #[error("row {row} does not say how much may be written; give it `max_output_tokens` or `max_tokens`")]
    Unbounded { row: u32 },
    /// The organisation prepays, and a row has a part whose price is not counted.
    #[error("the workspace prepays, and row {row} has {what}, whose price is not counted")]
    Uncounted { row: u32, what: String },
    /// The organisation prepays, and a provider of a model lists no price.
    #[error("cannot reserve credits: a provider of this model lists no price")]
    Unpriced,
    #[error("there are {0} organisations, and cannot be more")]
    TooManyOrgs(usize),
    #[error("an organisation can have {0} keys, those that were revoked included")]
    TooManyKeys(usize),
    #[error("the organisation is closed")]
    OrgClosed,
    #[error("there is no organisation `{0}`")]
    OrgNotFound(OrgId),
    #[error("the operator's own organisation cannot be closed")]
    OrgIsOperators,
    #[error("the operator's own organisation has no quotas; its made keys can have some")]
    OperatorHasNoQuotas,
    #[error("there is no API key `{0}`")]
    KeyNotFound(KeyId),
    #[error(transparent)]
    Retry(#[from] RetryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Gone(#[from] Gone),
    /// A fault of the daemon itself. The cause is meant for the daemon's log.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    /// A fault of the daemon itself.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::Internal(cause.to_string())
    }

    /// Issues without an outcome.
    pub fn preflight(issues: Vec<Issue>) -> Self {
        Self::Preflight { issues, outcome: None }
    }

    /// One issue without an outcome.
    pub fn issue(code: IssueCode, path: IssuePath, message: impl Into<String>) -> Self {
        Self::preflight(vec![Issue { code, path, message: message.into() }])
    }
}

/// Why no new batch was made of the unfinished rows of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetryError {
    #[error("the batch is {0}; only one that has ended can be run again")]
    StillRunning(&'static str),
    #[error("the batch was refused, none of its rows ever ran; mend its input and create a new batch")]
    Refused,
    #[error("the batch ran on a quote, which is used up; quote the items again that are to run again")]
    Quoted,
    #[error("every row of the batch succeeded; there is nothing to run again")]
    NothingToRetry,
    #[error("the input file of the batch was deleted; its rows cannot be read again")]
    InputGone,
    #[error("the results of the batch have been removed; which rows failed is no longer known")]
    ResultsGone,
}

fn first(issues: &[Issue]) -> String {
    issues.first().map_or_else(String::new, |issue| format!("{}: {}", issue.path, issue.message))
}

/// Why a value is not a list of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ItemsError {
    #[error("Expected array of items")]
    NotAnArray,
    #[error("Array must contain at least 1 element(s)")]
    Empty,
    #[error("Array must contain at most {0} element(s)")]
    TooMany(usize),
}

/// A fault in a request for lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub code: IssueCode,
    pub path: IssuePath,
    /// What was found and what would be right, in words for people.
    pub message: String,
}

/// The kind of fault. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueCode {
    /// The row itself is wrong.
    Row(ProblemCode),
    InvalidInput,
    DuplicateId,
    UnknownFile,
    UnknownModel,
    TooManyModels,
    NoEligibleLane,
    PriceCeiling,
    ModelNotQuoted,
}

impl IssueCode {
    /// The code as it is written in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Row(code) => code.as_str(),
            Self::InvalidInput => "invalid_input",
            Self::DuplicateId => "duplicate_customer_item_id",
            Self::UnknownFile => "unknown_file",
            Self::UnknownModel => "unknown_model",
            Self::TooManyModels => "too_many_models",
            Self::NoEligibleLane => "no_eligible_lane",
            Self::PriceCeiling => "price_ceiling",
            Self::ModelNotQuoted => "model_not_quoted",
        }
    }

    /// Whether the fault lies in the rows as they are written, and not in models and lanes.
    pub const fn is_of_rows(self) -> bool {
        !matches!(self, Self::UnknownModel | Self::NoEligibleLane | Self::PriceCeiling | Self::TooManyModels)
    }
}

impl Serialize for IssueCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The place of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuePath {
    /// An item, counted from 0, and its member at fault; empty for the item as a whole.
    Item(u32, String),
    /// A line of a file, counted from 1.
    Line(u64),
    /// A field of the request.
    Field(&'static str),
}

impl IssuePath {
    /// An item as a whole.
    pub const fn item(place: u32) -> Self {
        Self::Item(place, String::new())
    }

    /// The path as text, for a request whose list of items is called `items`.
    pub fn named(&self, items: &str) -> String {
        match self {
            Self::Item(place, member) if member.is_empty() => format!("{items}[{place}]"),
            Self::Item(place, member) => format!("{items}[{place}].{member}"),
            Self::Line(line) => format!("line {line}"),
            Self::Field("items") => items.to_owned(),
            Self::Field(field) => (*field).to_owned(),
        }
    }
}

impl fmt::Display for IssuePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named("items"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_own_name_for_the_list() {
        let paths = [IssuePath::item(3), IssuePath::Item(3, "input.n".into()), IssuePath::Line(7), IssuePath::Field("max_price")];
        let rows: Vec<_> = paths.iter().map(|path| path.named("rows")).collect();
        assert_eq!(rows, ["rows[3]", "rows[3].input.n", "line 7", "max_price"]);
        assert_eq!(paths[1].to_string(), "items[3].input.n");
    }
}
