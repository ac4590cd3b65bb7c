//! Which demands a lane meets, as far as they do not depend on an item, and which items fit the
//! lane.

use super::Item;
use super::lane::{Lane, Listing};
use super::rejection::Rejection;
use crate::domain::quote::constraints::{Constraints, RoutingMode, STANDARD_PRIVACY};
use crate::domain::vocabulary::{DataCollection, HostedTool, Modality};

/// Every demand that the lane fails, whatever the items are.
pub(super) fn failed_demands(lane: &Lane<'_>, constraints: &Constraints) -> Vec<Rejection> {
    let preferences = &constraints.preferences;
    let names = |ids: &[String]| ids.iter().any(|id| id == lane.provider);
    let mut failed = Vec::new();
    if let Listing::Closed(why) = lane.listing {
        failed.push(Rejection::OfferingInactive(why));
    }
    if (!preferences.only.is_empty() && !names(&preferences.only)) || names(&preferences.ignore) {
        failed.push(Rejection::ProviderExcluded);
    }
    if constraints.mode == RoutingMode::EdgeOnly && !lane.own {
        failed.push(Rejection::NotOwn);
    }
    let missing: Vec<HostedTool> = constraints.tools.iter().copied().filter(|tool| !lane.tools.contains(tool)).collect();
    if !missing.is_empty() {
        failed.push(Rejection::ToolSupport { missing });
    }
    if !constraints.is_global() && !lane.regions.iter().any(|region| constraints.regions.contains(region)) {
        failed.push(Rejection::RegionUnavailable { regions: lane.regions.to_vec() });
    }
    if constraints.privacy_tier != STANDARD_PRIVACY && !lane.privacy.tiers.contains(&constraints.privacy_tier) {
        failed.push(Rejection::PrivacyTier { tiers: lane.privacy.tiers.clone() });
    }
    // A property that has not been established is not promised to a client.
    if preferences.data_collection == Some(DataCollection::Deny) && lane.privacy.data_collection != Some(DataCollection::Deny) {
        failed.push(Rejection::DataCollection(lane.privacy.data_collection));
    }
    if preferences.zdr && lane.privacy.zdr != Some(true) {
        failed.push(Rejection::DataRetention);
    }
    if lane.supply.silent {
        failed.push(Rejection::StaleHeartbeat);
    }
    failed
}

/// Why an item cannot go to the lane, if it cannot.
pub(super) fn misfit(lane: &Lane<'_>, place: u32, item: &Item) -> Option<Rejection> {
    if !lane.endpoints.is_empty() && !item.formats.iter().any(|format| lane.endpoints.contains(&format.endpoint())) {
        let asked = item.formats.first()?.endpoint();
        return Some(Rejection::OperationUnsupported { item: place, asked });
    }
    let unread = |modality: &&Modality| !lane.input.is_empty() && !lane.input.contains(modality);
    if let Some(modality) = item.modalities.iter().find(unread) {
        return Some(Rejection::ModalityUnsupported { item: place, modality: *modality });
    }
    if let Some(file) = item.files.iter().find(|file| !lane.files.is_some_and(|files| files.takes(&file.mime, file.bytes))) {
        return Some(Rejection::FileUnsupported { item: place, mime: file.mime.clone() });
    }
    if let (Some(limit), Some(tokens)) = (lane.max_output_tokens, item.output.limit)
        && tokens > limit
    {
        return Some(Rejection::OutputLimitExceeded { item: place, tokens, limit });
    }
    let input = item.longest_input(lane.tokenizer);
    if let Some(window) = lane.max_input_tokens.filter(|most| input > *most) {
        return Some(Rejection::ContextWindowExceeded { item: place, tokens: input, window });
    }
    // The permitted output takes room in the window too, if the item states its limit.
    let tokens = input.saturating_add(item.output.limit.unwrap_or(0));
    let window = lane.context_window.filter(|window| tokens > *window)?;
    Some(Rejection::ContextWindowExceeded { item: place, tokens, window })
}

/// Whether an item can go to the lane, as far as that depends on the item.
pub fn fits(lane: &Lane<'_>, item: &Item) -> bool {
    misfit(lane, 0, item).is_none()
}
