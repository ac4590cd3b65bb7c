//! Where the rows of a batch go and what they cost, fixed when the batch was validated.

use super::money::PriceSheet;

/// Distinct models in one batch.
pub const MAX_MODELS: usize = 256;

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
