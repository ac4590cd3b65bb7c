//! The demands of a client on the lanes that serve its items.
//!
//! The words are BatchRouter's (guides to quotes and to SLA and routing). Where its documents do
//! not define a word, `docs/routing.md` does.

use std::time::Duration;

use crate::domain::money::{MaxPrice, Usd};
use crate::domain::vocabulary::{DataCollection, HostedTool, wire_enum};

wire_enum! {
    /// Which lanes may be used, and which of them are preferred.
    RoutingMode {
        /// The cheapest lane.
        Cheapest = "cheapest",
        /// The cheapest of the lanes that finish in half the available time; then the others.
        SlaAware = "sla_aware",
        /// The cheapest of the operator's own servers; then the others.
        Hybrid = "hybrid",
        /// Only the operator's own servers, the cheapest first.
        EdgeOnly = "edge_only",
    }
}

wire_enum! {
    /// How soon the work must be done.
    SlaTier {
        Standard = "standard",
        Flex = "flex",
        Priority = "priority",
    }
}

wire_enum! {
    /// What a quote protects its client from when items go to lanes other than the selected lanes.
    PriceProtection {
        /// The prices of the selected lanes hold. Other lanes are bound by the price limit alone.
        LockTotal = "lock_total",
        /// Other lanes are used only if they do not raise the total above the quoted price, or
        /// above the price limit if there is one.
        LockTotalAndFallback = "lock_total_and_fallback",
    }
}

/// The region that stands for everywhere.
pub const GLOBAL: &str = "global";
/// The privacy tier that every lane satisfies.
pub const STANDARD_PRIVACY: &str = "standard";

/// The maximum time of each tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierTimes {
    pub standard: Duration,
    pub flex: Duration,
    pub priority: Duration,
}

impl Default for TierTimes {
    /// 24 and 48 hours are documented. No number is published for priority: 4 hours is our choice.
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        Self { standard: hours(24), flex: hours(48), priority: hours(4) }
    }
}

impl TierTimes {
    /// The time of a tier.
    pub fn of(&self, tier: SlaTier) -> Duration {
        match tier {
            SlaTier::Standard => self.standard,
            SlaTier::Flex => self.flex,
            SlaTier::Priority => self.priority,
        }
    }
}

wire_enum! {
    /// How lanes are compared if the client has not ordered them itself (Phaseo's `provider.sort`).
    LaneSort {
        /// The cheaper lane is better.
        Price = "price",
        /// The lane that finishes sooner is better, if its rate is known; then the cheaper lane.
        Throughput = "throughput",
        /// The lane that answers its calls sooner is better, if it has answered any since the
        /// start; then the cheaper lane.
        Latency = "latency",
    }
}

/// A client's preferences among the lanes that meet its demands, and its limits on their rates:
/// Phaseo's `provider`. They apply only when lanes are chosen; the choice does not change later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingPreferences {
    /// Ids of providers, the best first; all other providers come after them.
    pub order: Vec<String>,
    pub sort: LaneSort,
    /// The highest rates that a lane may charge, by the token and by the request.
    pub most: MaxPrice,
}

impl RoutingPreferences {
    /// No preferences.
    pub const NONE: Self = Self { order: Vec::new(), sort: LaneSort::Price, most: MaxPrice { input: None, output: None, request: None } };
}

/// The demands of a quote or a batch. All of them must be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraints {
    pub mode: RoutingMode,
    pub tier: SlaTier,
    /// A tier that the lane must satisfy.
    pub privacy_tier: String,
    /// Where requests may be processed. Empty, or with [`GLOBAL`] among them, everywhere.
    pub regions: Vec<String>,
    /// Tools that the provider must run itself. All of them are required.
    pub tools: Vec<HostedTool>,
    /// The most that all items together may cost.
    pub max_price: Option<Usd>,
    pub protection: PriceProtection,
    pub preferences: ProviderPreferences,
}

impl Default for Constraints {
    /// No demands.
    fn default() -> Self {
        Self {
            mode: RoutingMode::Cheapest,
            tier: SlaTier::Standard,
            privacy_tier: STANDARD_PRIVACY.to_owned(),
            regions: Vec::new(),
            tools: Vec::new(),
            max_price: None,
            protection: PriceProtection::LockTotalAndFallback,
            preferences: ProviderPreferences::default(),
        }
    }
}

impl Constraints {
    /// Whether requests may be processed anywhere.
    pub fn is_global(&self) -> bool {
        self.regions.is_empty() || self.regions.iter().any(|region| region == GLOBAL)
    }
}

/// Which providers a client wants, and what they may do with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPreferences {
    /// Ids of the only providers that may be used; empty for all.
    pub only: Vec<String>,
    /// Ids of providers that may not be used.
    pub ignore: Vec<String>,
    /// Whether items may go to another lane when the lane chosen for them fails.
    pub allow_fallbacks: bool,
    /// [`DataCollection::Deny`] demands that the provider does not collect.
    pub data_collection: Option<DataCollection>,
    /// Demands zero data retention.
    pub zdr: bool,
}

impl Default for ProviderPreferences {
    fn default() -> Self {
        Self { only: Vec::new(), ignore: Vec::new(), allow_fallbacks: true, data_collection: None, zdr: false }
    }
}
