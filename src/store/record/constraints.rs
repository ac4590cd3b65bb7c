//! A client's demands on lanes, as a part of other records. Words are the same as on the wire.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Record, word};
use crate::domain::money::Usd;
use crate::domain::quote::constraints::{Constraints, PriceProtection, ProviderPreferences, RoutingMode, SlaTier};
use crate::domain::vocabulary::{DataCollection, HostedTool, Operation};
use crate::store::record::error::RecordError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConstraintsRecord {
    mode: String,
    tier: String,
    privacy_tier: String,
    regions: Vec<String>,
    tools: Vec<String>,
    max_price: Option<[u8; 16]>,
    protection: String,
    only: Vec<String>,
    ignore: Vec<String>,
    allow_fallbacks: bool,
    data_collection: Option<String>,
    zdr: bool,
}

impl From<&Constraints> for ConstraintsRecord {
    fn from(constraints: &Constraints) -> Self {
        let ProviderPreferences { only, ignore, allow_fallbacks, data_collection, zdr } = &constraints.preferences;
        Self {
            mode: constraints.mode.to_string(),
            tier: constraints.tier.to_string(),
            privacy_tier: constraints.privacy_tier.clone(),
            regions: constraints.regions.clone(),
            tools: constraints.tools.iter().map(HostedTool::to_string).collect(),
            max_price: constraints.max_price.map(|most| most.0.serialize()),
            protection: constraints.protection.to_string(),
            only: only.clone(),
            ignore: ignore.clone(),
            allow_fallbacks: *allow_fallbacks,
            data_collection: data_collection.map(|word| word.to_string()),
            zdr: *zdr,
        }
    }
}

/// Returns the operation with that word; `T` is the record that holds the word.
pub(super) fn operation<T: Record>(text: &str) -> Result<Operation, RecordError> {
    word::<T, _>(text, Operation::parse)
}

impl ConstraintsRecord {
    /// Reads the demands; `T` is the record that holds them.
    pub fn read<T: Record>(self) -> Result<Constraints, RecordError> {
        let tools = self.tools.iter().map(|tool| word::<T, _>(tool, HostedTool::parse)).collect::<Result<_, _>>()?;
        let data_collection = self.data_collection.map(|text| word::<T, _>(&text, DataCollection::parse)).transpose()?;
        let preferences = ProviderPreferences {
            only: self.only,
            ignore: self.ignore,
            allow_fallbacks: self.allow_fallbacks,
            data_collection,
            zdr: self.zdr,
        };
        Ok(Constraints {
            mode: word::<T, _>(&self.mode, RoutingMode::parse)?,
            tier: word::<T, _>(&self.tier, SlaTier::parse)?,
            privacy_tier: self.privacy_tier,
            regions: self.regions,
            tools,
            max_price: self.max_price.map(|most| Usd(Decimal::deserialize(most))),
            protection: word::<T, _>(&self.protection, PriceProtection::parse)?,
            preferences,
        })
    }
}
