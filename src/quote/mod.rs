//! Which lanes serve some items, which do not and why, and what each would cost: the one question that
//! a quote and a batch ask.
//!
//! Pure: a snapshot of the lanes goes in, a decision comes out, and the same input gives the same
//! decision. Nothing is reserved, and no lane is called.
//!
//! Invariants others rely on:
//! * every lane that was considered is either selected or has at least one reason why it is not;
//! * a reason is true of the lane: whatever it says can be checked against the lane and the demands;
//! * one demand more never makes a lane eligible that was not.
//!
//! The order of work: what an item asks ([`content`], [`media`]), demands that a lane meets or not
//! ([`eligible`]), which items fit it, what they cost there ([`lane`]), and the choice among those that
//! are left ([`select`]).

mod content;
mod eligible;
pub mod file_estimate;
mod lane;
mod media;
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

/// What routing needs to know of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The forms in which it can be sent, any of them; that in which it asks is the first.
    pub formats: &'static [WireFormat],
    /// The tokens to be read, for each tokenizer of a model that may be asked.
    pub input_tokens: Vec<InputTokens>,
    pub output: Output,
    /// What it consists of besides text.
    pub modalities: Vec<Modality>,
    pub files: Vec<Attachment>,
}

/// What an item asks to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// About the tokens of all answers, as far as the item tells.
    pub tokens: u64,
    /// Answers that it asks for.
    pub answers: u64,
    /// The most tokens that one of them may have, if the item says so.
    pub limit: Option<u64>,
}

impl Output {
    /// No text is written.
    pub const NOTHING: Self = Self { tokens: 0, answers: 1, limit: None };

    /// About the tokens to be written where answers usually have so many: no more than the item allows.
    pub fn likely(&self, usual: Option<u64>) -> u64 {
        match usual.filter(|_| self.tokens > 0) {
            Some(usual) => self.limit.map_or(usual, |limit| limit.min(usual)).saturating_mul(self.answers),
            None => self.tokens,
        }
    }
}

/// About how many tokens an item is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputTokens {
    pub tokenizer: Tokenizer,
    /// Those that are paid for.
    pub all: u64,
    /// Those that must fit into a model's window at once: fewer where an item has several texts that are
    /// read one by one.
    pub longest: u64,
}

impl Item {
    fn read_by(&self, tokenizer: Tokenizer) -> Option<&InputTokens> {
        self.input_tokens.iter().find(|each| each.tokenizer == tokenizer)
    }

    /// About the tokens that a model with this tokenizer reads.
    pub fn input_tokens(&self, tokenizer: Tokenizer) -> u64 {
        self.read_by(tokenizer).map_or(0, |tokens| tokens.all)
    }

    /// About the tokens to be written where answers usually have so many: no more than the item allows.
    pub fn likely_output(&self, usual: Option<u64>) -> u64 {
        self.output.likely(usual)
    }

    /// About the most tokens that it reads at once.
    pub fn longest_input(&self, tokenizer: Tokenizer) -> u64 {
        self.read_by(tokenizer).map_or(0, |tokens| tokens.longest)
    }
}

/// A file that travels with an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its MIME type.
    pub mime: String,
    pub bytes: u64,
}

/// Items that the same models may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Canonical names of models, in the order of the request, which decides between equals.
    pub models: Vec<String>,
    /// Places of items.
    pub items: Vec<u32>,
}

impl Group {
    /// The place of a model among those of the group.
    pub fn place(&self, model: &str) -> Option<usize> {
        self.models.iter().position(|each| each == model)
    }
}
