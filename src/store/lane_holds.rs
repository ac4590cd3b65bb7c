//! Holds that an operator has put on lanes. All holds are also in memory: there are few.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Store;
use super::format;
use super::record::lane_hold::HoldRecord;
use super::record::{self};
use super::tree::Tree;
use crate::domain::provider::lane_hold::{Hold, LaneHold, LaneSelector};
use crate::domain::time::Timestamp;
use crate::store::error::StoreError;

/// Limit on simultaneous holds; each was put by hand.
pub const MAX_HOLDS: usize = 1_000;

/// The outcome of a request to hold a lane or to release it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldOutcome {
    /// The hold is as requested, and durable.
    Done,
    /// There are [`MAX_HOLDS`] holds already.
    TooMany,
}

impl Store {
    /// Puts a hold on lanes, or removes the hold on exactly these lanes.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn hold_lane(&self, lane: LaneSelector, hold: Option<Hold>, now: Timestamp) -> Result<HoldOutcome, StoreError> {
        let shown = self.inner.holds.clone();
        self.commit(move |tx| {
            let key = format::hold(&Sha256::digest(lane.to_string()).into());
            let mut holds = read(tx.tree())?;
            holds.retain(|held| held.lane != lane);
            if let Some(hold) = hold {
                if holds.len() >= MAX_HOLDS {
                    return Ok(HoldOutcome::TooMany);
                }
                let held = LaneHold { lane, hold, since: now };
                tx.put(key, &HoldRecord::from(&held))?;
                holds.push(held);
            } else {
                tx.remove(key);
            }
            tx.after(move |_| shown.store(Arc::new(holds)));
            Ok(HoldOutcome::Done)
        })
        .await
    }

    /// The holds that are durable.
    pub fn lane_holds(&self) -> Arc<Vec<LaneHold>> {
        self.inner.holds.load_full()
    }

    pub(super) fn revive_holds(&self) -> Result<(), StoreError> {
        self.inner.holds.store(Arc::new(read(&self.inner.tree)?));
        Ok(())
    }
}

fn read(tree: &Tree) -> Result<Vec<LaneHold>, StoreError> {
    let entries = tree.scan_prefix(format::HOLDS);
    entries.map(|entry| Ok(record::decode::<HoldRecord>(&entry?.1)?.try_into()?)).collect()
}
