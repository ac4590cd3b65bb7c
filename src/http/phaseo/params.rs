//! The parameters of a batch that a model supports, with their details, in Phaseo's form.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalog::Offer;
use crate::domain::endpoint::Endpoint;

/// The advertised completion windows. Any other window from `1m` to `30d` is accepted as well.
const WINDOWS: [&str; 1] = ["24h"];

/// The details of one parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    supported: bool,
    r#type: &'static str,
    values: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<&'static str>,
    aliases: [&'static str; 1],
    /// Present only where the details of several providers are merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    providers: Option<Vec<String>>,
}

/// Details by the parameter's name, in order of name.
pub type Details = BTreeMap<&'static str, Detail>;

/// The parameters that a provider supports for a model.
pub fn of_offer(offer: &Offer<'_>) -> Details {
    let mut endpoints: Vec<_> = match offer.offering.endpoints.as_slice() {
        // The offering's endpoints are unknown, so it may be asked for any endpoint.
        [] => Endpoint::HOSTED.to_vec(),
        known => known.to_vec(),
    };
    // Responses, the newer endpoint, is the default where a model has both.
    endpoints.sort_by_key(|endpoint| *endpoint != Endpoint::Responses);
    let detail = |values: Vec<&'static str>, alias| {
        let default = values.first().copied();
        Detail { supported: true, r#type: "enum", values, default, aliases: [alias], providers: None }
    };
    let endpoints = endpoints.into_iter().map(Endpoint::path).collect();
    BTreeMap::from([("endpoint", detail(endpoints, "request_endpoint")), ("completion_window", detail(WINDOWS.to_vec(), "window"))])
}

/// Every name that a filter can mean.
pub const NAMES: [&str; 4] = ["completion_window", "endpoint", "request_endpoint", "window"];

/// Whether `name` is the name or an alias of any of the parameters.
pub fn has(details: &Details, name: &str) -> bool {
    details.iter().any(|(own, detail)| *own == name || detail.aliases.contains(&name))
}

/// Merges the details of several providers: values are united in sorted order; for everything else,
/// later providers win.
pub fn merge<'a>(each: impl Iterator<Item = (&'a str, &'a Details)>) -> Details {
    let mut merged: Details = BTreeMap::new();
    for (provider, details) in each {
        for (name, detail) in details {
            let earlier = merged.remove(name);
            let mut now = detail.clone();
            let mut providers = earlier.as_ref().and_then(|earlier| earlier.providers.clone()).unwrap_or_default();
            providers.push(provider.to_owned());
            providers.sort();
            now.values.extend(earlier.map(|earlier| earlier.values).unwrap_or_default());
            now.values.sort_unstable();
            now.values.dedup();
            now.providers = Some(providers);
            merged.insert(name, now);
        }
    }
    merged
}
