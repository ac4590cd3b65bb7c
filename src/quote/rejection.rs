//! Why a lane is not selected: a code for programs, a sentence for people.
//!
//! `tool_support` and `region_unavailable` are BatchRouter's codes. For the other causes it
//! documents no codes, so those are our own. A lane that could serve some of the items, while
//! another lane takes all of them, is rejected for the first item that it cannot take.

use std::fmt;

use crate::domain::endpoint::Endpoint;
use crate::domain::money::Usd;
use crate::domain::vocabulary::{DataCollection, HostedTool, Modality};

/// One reason. Items are named by their place, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The offering or its provider does not accept work; the text says why, as a phrase that
    /// follows "it".
    OfferingInactive(&'static str),
    /// The client's preferences exclude the provider.
    ProviderExcluded,
    /// The lane is not a server of the operator's own.
    NotOwn,
    /// The lane cannot be asked for this endpoint.
    OperationUnsupported { item: u32, asked: Endpoint },
    /// The provider does not run these tools.
    ToolSupport { missing: Vec<HostedTool> },
    /// The regions where the lane processes requests; empty if they are not established.
    RegionUnavailable { regions: Vec<String> },
    /// The lane does not satisfy the privacy tier.
    PrivacyTier { tiers: Vec<String> },
    /// The provider collects data, or it is not established that it does not.
    DataCollection(Option<DataCollection>),
    /// The provider keeps data, or it is not established that it does not.
    DataRetention,
    /// The lane's server does not answer.
    StaleHeartbeat,
    /// The model does not read this modality.
    ModalityUnsupported { item: u32, modality: Modality },
    /// The lane takes no files of this type, or none of this size.
    FileUnsupported { item: u32, mime: String },
    /// An item is too long for the model's window.
    ContextWindowExceeded { item: u32, tokens: u64, window: u64 },
    /// An item asks for a higher output limit than the lane can write.
    OutputLimitExceeded { item: u32, tokens: u64, limit: u64 },
    /// The lane has room only for this much.
    CapacityUnavailable { rows: u64, tokens: u64 },
    /// At its rate, the lane would take longer than the tier allows.
    SlaUnattainable { seconds: u64, target: u64 },
    /// The items cost more on this lane than the client allows, or their cost is unknown.
    PriceCeiling { price: Option<Usd>, ceiling: Usd },
    /// The lane charges more by the token or the request than the client allows, or its rates are
    /// unknown.
    RateCeiling,
    /// The lane could serve the items, but another lane is better.
    NotCheapest,
}

impl Rejection {
    /// The code on the wire.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OfferingInactive(_) => "offering_inactive",
            Self::ProviderExcluded | Self::NotOwn => "provider_excluded",
            Self::OperationUnsupported { .. } => "operation_unsupported",
            Self::ToolSupport { .. } => "tool_support",
            Self::RegionUnavailable { .. } => "region_unavailable",
            Self::PrivacyTier { .. } => "privacy_tier",
            Self::DataCollection(_) | Self::DataRetention => "data_policy",
            Self::StaleHeartbeat => "stale_heartbeat",
            Self::ModalityUnsupported { .. } => "modality_unsupported",
            Self::FileUnsupported { .. } => "file_unsupported",
            Self::ContextWindowExceeded { .. } | Self::OutputLimitExceeded { .. } => "context_window_exceeded",
            Self::CapacityUnavailable { .. } => "capacity_unavailable",
            Self::SlaUnattainable { .. } => "sla_unattainable",
            Self::PriceCeiling { .. } | Self::RateCeiling => "price_ceiling",
            Self::NotCheapest => "not_cheapest",
        }
    }

    /// Whether the lane could serve items, were it not for its present condition.
    pub const fn is_momentary(&self) -> bool {
        match self {
            Self::StaleHeartbeat | Self::CapacityUnavailable { .. } | Self::SlaUnattainable { .. } => true,
            Self::OfferingInactive(_)
            | Self::ProviderExcluded
            | Self::NotOwn
            | Self::OperationUnsupported { .. }
            | Self::ToolSupport { .. }
            | Self::RegionUnavailable { .. }
            | Self::PrivacyTier { .. }
            | Self::DataCollection(_)
            | Self::DataRetention
            | Self::ModalityUnsupported { .. }
            | Self::FileUnsupported { .. }
            | Self::ContextWindowExceeded { .. }
            | Self::OutputLimitExceeded { .. }
            | Self::PriceCeiling { .. }
            | Self::RateCeiling
            | Self::NotCheapest => false,
        }
    }
}

impl fmt::Display for Rejection {
    /// Written as a phrase that follows the name of the lane.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfferingInactive(why) => write!(f, "takes no work: it {why}"),
            Self::ProviderExcluded => f.write_str("is left out by `provider_preferences`"),
            Self::NotOwn => f.write_str("is no server of the operator's own, which `edge_only` asks for"),
            Self::OperationUnsupported { item, asked } => write!(f, "does not serve {asked}, which item {item} asks for"),
            Self::ToolSupport { missing } => write!(f, "does not run {}", list(missing)),
            Self::RegionUnavailable { regions } if regions.is_empty() => f.write_str("does not say where it processes requests"),
            Self::RegionUnavailable { regions } => write!(f, "processes requests in {}", list(regions)),
            Self::PrivacyTier { tiers } if tiers.is_empty() => f.write_str("states no privacy tier"),
            Self::PrivacyTier { tiers } => write!(f, "satisfies the privacy tiers {} only", list(tiers)),
            Self::DataCollection(Some(_)) => f.write_str("may collect what it is sent"),
            Self::DataCollection(None) => f.write_str("does not say whether it collects what it is sent"),
            Self::DataRetention => f.write_str("is not known to offer zero data retention"),
            Self::StaleHeartbeat => f.write_str("does not answer at present"),
            Self::ModalityUnsupported { item, modality } => write!(f, "does not read {modality}, which item {item} has"),
            Self::FileUnsupported { item, mime } => write!(f, "does not take the {mime} file of item {item}"),
            Self::ContextWindowExceeded { item, tokens, window } => {
                write!(f, "has room for {window} tokens, and item {item} needs about {tokens}")
            }
            Self::OutputLimitExceeded { item, tokens, limit } => {
                write!(f, "writes at most {limit} tokens, and item {item} asks for up to {tokens}")
            }
            Self::CapacityUnavailable { rows, tokens } => write!(f, "has room for {rows} items of {tokens} tokens at present"),
            Self::SlaUnattainable { seconds, target } => write!(f, "would take about {seconds} s of the {target} s that the tier allows"),
            Self::PriceCeiling { price: Some(price), ceiling } => write!(f, "would cost {price} USD, more than {ceiling} USD"),
            Self::PriceCeiling { price: None, ceiling } => write!(f, "has no established price to compare with {ceiling} USD"),
            Self::RateCeiling => f.write_str("charges more by the token or the request than is allowed, or does not say what it charges"),
            Self::NotCheapest => f.write_str("could serve the items, and another lane is better"),
        }
    }
}

fn list(words: &[impl fmt::Display]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
