//! Which lanes serve a set of items, which do not and why, and what each would cost: the question
//! that both a quote and a batch ask.
//!
//! Pure: a snapshot of the lanes goes in, a decision comes out, and the same input gives the same
//! decision. Nothing is reserved, and no lane is called.
//!
//! Invariants others rely on:
//! * every lane that was considered is either selected or has at least one reason why it is not;
//! * a reason is true of the lane: it can be checked against the lane and the demands;
//! * one demand more never makes a lane eligible that was not.
//!
//! The order of work: what an item asks ([`content`], [`media`]), demands that a lane meets or not
//! ([`eligible`]), which items fit it, what they cost there ([`lane`]), and the choice among those
//! that are left ([`select`]).

mod content;
mod eligible;
pub mod file_estimate;
mod lane;
pub mod measured;
pub mod media;
mod rejection;
mod select;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod upper_bound;

pub use content::{Content, Misread, OBSERVED, OutputBasis};
pub use eligible::fits;
pub use lane::{Lane, Listing, Supply};
pub use rejection::Rejection;
pub use select::{Considered, Decision, GroupDecision, LaneVerdict, Terms, decide};

use self::tokens::Tokenizer;
use crate::domain::format::wire::WireFormat;
use crate::domain::vocabulary::Modality;

/// The facts about an item that routing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The forms in which the item can be sent. The form in which it asks is the first.
    pub formats: &'static [WireFormat],
    /// The tokens to be read, for each tokenizer of the possible models.
    pub input_tokens: Vec<InputTokens>,
    pub output: Output,
    /// The modalities of the item besides text.
    pub modalities: Vec<Modality>,
    pub files: Vec<Attachment>,
}

/// The output that an item asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Approximate tokens of all answers, as far as the item states them.
    pub tokens: u64,
    /// The number of answers that the item asks for.
    pub answers: u64,
    /// The most tokens of one answer, if the item states a limit.
    pub limit: Option<u64>,
}

impl Output {
    /// No text is written.
    pub const NOTHING: Self = Self { tokens: 0, answers: 1, limit: None };

    /// Approximate tokens to be written, given the usual length of answers: no more than the item
    /// allows.
    pub fn likely(&self, usual: Option<u64>) -> u64 {
        match usual.filter(|_| self.tokens > 0) {
            Some(usual) => self.limit.map_or(usual, |limit| limit.min(usual)).saturating_mul(self.answers),
            None => self.tokens,
        }
    }
}

/// Approximate tokens that an item reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputTokens {
    pub tokenizer: Tokenizer,
    /// The tokens that are paid for.
    pub all: u64,
    /// The tokens that must fit into a model's window at once: fewer if the item has several texts
    /// that are read one by one.
    pub longest: u64,
}

impl Item {
    fn read_by(&self, tokenizer: Tokenizer) -> Option<&InputTokens> {
        self.input_tokens.iter().find(|each| each.tokenizer == tokenizer)
    }

    /// Approximate tokens that a model with this tokenizer reads.
    pub fn input_tokens(&self, tokenizer: Tokenizer) -> u64 {
        self.read_by(tokenizer).map_or(0, |tokens| tokens.all)
    }

    /// Approximate tokens to be written, given the usual length of answers: no more than the item
    /// allows.
    pub fn likely_output(&self, usual: Option<u64>) -> u64 {
        self.output.likely(usual)
    }

    /// The most tokens that a model with this tokenizer reads at once, approximately.
    pub fn longest_input(&self, tokenizer: Tokenizer) -> u64 {
        self.read_by(tokenizer).map_or(0, |tokens| tokens.longest)
    }
}

/// A file that travels with an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The MIME type of the file.
    pub mime: String,
    pub bytes: u64,
}

/// Items that the same models may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Canonical names of models, in the order of the request. The order decides between equal
    /// lanes.
    pub models: Vec<String>,
    /// Places of the items.
    pub items: Vec<u32>,
}

impl Group {
    /// The place of a model in the group.
    pub fn place(&self, model: &str) -> Option<usize> {
        self.models.iter().position(|each| each == model)
    }
}
