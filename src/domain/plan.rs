//! Where the rows of a batch go and what they cost, fixed when the batch was validated.

use super::money::PriceSheet;

/// Distinct models in one batch.
pub const MAX_MODELS: usize = 256;
/// Lanes that one model may fall back to.
pub const MAX_ALTERNATIVES: usize = 8;

/// One model of a batch and the offering chosen for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedModel {
    /// The name as the rows write it.
    pub requested: String,
    /// The provider's id in the catalog.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// The prices that this batch pays, whatever the catalog says later.
    pub price: PriceSheet,
    /// Rows that ask for it.
    pub rows: u32,
    /// Where its rows may go besides, the cheapest first; at most [`MAX_ALTERNATIVES`].
    pub alternatives: Vec<Alternative>,
}

/// Another offering of a planned model that its rows may go to when the planned one fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// The provider's id in the catalog.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// What rows that go there pay, whatever the catalog says later.
    pub price: PriceSheet,
}

/// Everything validation fixed about a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows in the input, 1 to 4,294,967,295.
    pub rows: u32,
    /// At most [`MAX_MODELS`], in order of first appearance.
    pub models: Vec<PlannedModel>,
}

impl Plan {
    /// The model of the batch object: the one that all rows name, if they agree.
    pub fn single_model(&self) -> Option<&str> {
        match self.models.as_slice() {
            [only] => Some(&only.requested),
            [] | [_, _, ..] => None,
        }
    }
}
