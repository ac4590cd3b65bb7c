//! Builds the receipt: where the items of a batch ran, summed up from their results at its end.

use std::collections::HashMap;

use crate::domain::batch::plan::{Plan, PlannedLane};
use crate::domain::quote::receipt::{LaneReceipt, Receipt, Rows};
use crate::domain::row::RowResult;
use crate::domain::vocabulary::Operation;

/// The lane name for answers that came from the cache.
const CACHE: &str = "cache";

/// Sums up the results of a batch's items.
pub struct Adding<'a> {
    plan: &'a Plan,
    /// By lane and operation: the index of the entry in the receipt.
    places: HashMap<(String, Option<Operation>), usize>,
    receipt: Receipt,
}

impl<'a> Adding<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, places: HashMap::new(), receipt: Receipt::default() }
    }

    /// Notes that the result of an item is damaged.
    pub fn unreadable(&mut self) {
        self.receipt.unreadable += 1;
    }

    /// Adds the result of an item. Results arrive in input order.
    pub fn add(&mut self, result: &RowResult) {
        let (Some(first), Some(last)) = (result.attempts.first(), result.attempts.last()) else { return };
        let copied = last.lane.starts_with("cache:");
        let name = if copied { CACHE } else { last.lane.as_str() };
        let key = (name.to_owned(), result.operation);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => {
                self.receipt.lanes.push(self.lane(name, result.operation));
                self.places.insert(key, self.receipt.lanes.len() - 1);
                self.receipt.lanes.len() - 1
            }
        };
        let Some(lane) = self.receipt.lanes.get_mut(place) else { return };
        lane.items += 1;
        lane.answered += u32::from(result.outcome.is_success());
        lane.taken_over += u32::from(!copied && first.lane != last.lane);
        lane.usage += result.usage;
        lane.cost = lane.cost.plus(result.cost);
        lane.rows = lane.rows.take().and_then(|rows| rows.and(result.key.row));
    }

    fn lane(&self, name: &str, operation: Option<Operation>) -> LaneReceipt {
        let (provider, upstream) = name.split_once('/').unwrap_or((name, ""));
        let planned = self.plan.models.iter().flat_map(|model| std::iter::once(&model.lane).chain(&model.alternatives));
        let is_it = |lane: &&PlannedLane| lane.provider == provider && lane.upstream == upstream;
        LaneReceipt {
            provider: provider.to_owned(),
            upstream: upstream.to_owned(),
            model: planned.into_iter().find(is_it).map(|lane| lane.model.clone()).unwrap_or_default(),
            operation,
            items: 0,
            answered: 0,
            taken_over: 0,
            usage: Default::default(),
            cost: Default::default(),
            rows: Some(Rows::default()),
        }
    }

    pub fn receipt(self) -> Receipt {
        self.receipt
    }
}
