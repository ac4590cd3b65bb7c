//! Where the items of a batch ran and what that cost, summed up when the batch ended.

use super::money::Usd;
use super::usage::Usage;
use super::words::Operation;

/// What ran where. Rows that never reached a provider are in none of the lanes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// In the order in which they first served an item.
    pub lanes: Vec<LaneReceipt>,
}

/// What one lane did for a batch, for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneReceipt {
    /// The provider's id; `cache` for answers that were there already.
    pub provider: String,
    /// The provider's name for the model.
    pub upstream: String,
    /// The model's name; empty if the plan does not know the lane.
    pub model: String,
    pub operation: Option<Operation>,
    /// Items whose last attempt was there.
    pub items: u32,
    /// Those of them that it answered.
    pub answered: u32,
    /// Those of them that were planned for another lane, which failed.
    pub taken_over: u32,
    pub usage: Usage,
    /// What its provider charges, in US dollars.
    pub cost: Usd,
}
