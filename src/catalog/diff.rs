//! The differences between two snapshots, in the words of a person: models, prices, lanes, routes.
//!
//! A lane is one provider's offering of one model, written `provider/upstream`. The list of details
//! is bounded; the counts are complete.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::model::{Capacity, Limits, Model, Offering, Privacy, Provider};
use super::rates::{Meter, Rate};
use super::snapshot::Snapshot;
use super::workflow::Workflow;
use crate::domain::provider::connection::{HostAddresses, KeySource, ProviderKind};

/// The most details that are kept.
const MAX_DETAILS: usize = 200;

/// How many things of a kind were added, removed and changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub added: usize,
    pub removed: usize,
    pub changed: usize,
}

/// The differences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub providers: Counts,
    pub models: Counts,
    /// Offerings.
    pub lanes: Counts,
    /// Lanes with a changed price.
    pub prices: usize,
    /// Models that another provider serves than before.
    pub routes: usize,
    /// Workflows. Builds before workflows existed did not write this field.
    #[serde(default)]
    pub workflows: Counts,
    /// The first 200 differences, one line each.
    pub details: Vec<String>,
}

impl Changes {
    /// `true` if there are no differences.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The differences are unknown, because the earlier seeds are not kept.
    pub fn unknown() -> Self {
        Self { details: vec!["not known: the seeds before are not kept".to_owned()], ..Self::default() }
    }

    fn note(&mut self, detail: impl FnOnce() -> String) {
        if self.details.len() < MAX_DETAILS {
            self.details.push(detail());
        }
    }
}

impl fmt::Display for Changes {
    /// One line of counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no difference");
        }
        let counts = |name: &str, Counts { added, removed, changed }: Counts| format!("{name} +{added} -{removed} ~{changed}");
        let mut parts = vec![counts("providers", self.providers), counts("models", self.models), counts("lanes", self.lanes)];
        if self.workflows != Counts::default() {
            parts.push(counts("workflows", self.workflows));
        }
        write!(f, "{}, prices ~{}, routes ~{}", parts.join(", "), self.prices, self.routes)
    }
}

/// What a reload from `old` to `new` changes.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Changes {
    let mut changes = Changes::default();
    let providers = |snapshot: &Snapshot| snapshot.providers().map(|(p, ready)| (p.id().to_owned(), provider_facts(p, ready))).collect();
    changes.providers = compare("provider", &providers(old), &providers(new), &mut changes);
    let models = |snapshot: &Snapshot| snapshot.all_models().iter().map(|model| (model.id.clone(), model_facts(model))).collect();
    let workflows = |snapshot: &Snapshot| snapshot.workflows().iter().map(|each| (each.slug.clone(), workflow_facts(each))).collect();
    changes.workflows = compare("workflow", &workflows(old), &workflows(new), &mut changes);
    changes.models = compare("model", &models(old), &models(new), &mut changes);
    changes.lanes = compare("lane", &lanes(old, offering_facts), &lanes(new, offering_facts), &mut changes);
    let (before, after) = (lanes(old, price_facts), lanes(new, price_facts));
    // Prices of lanes that were added or removed are not changes.
    for (lane, facts) in &before {
        if let Some(now) = after.get(lane).filter(|now| *now != facts) {
            changes.prices += 1;
            note_changes("price", lane, facts, now, &mut changes);
        }
    }
    for model in new.all_models() {
        let route = |snapshot: &Snapshot| snapshot.resolve(&model.id).map(|route| format!("{}/{}", route.provider, route.upstream)).ok();
        let (before, after) = (old.model(&model.id).and_then(|_| route(old)), route(new));
        if old.model(&model.id).is_some() && before != after {
            changes.routes += 1;
            let shown = |route: Option<String>| route.unwrap_or_else(|| "none".to_owned());
            changes.note(|| format!("route {}: {} -> {}", model.id, shown(before), shown(after)));
        }
    }
    changes
}

/// The names and values of the facts about one thing.
type Facts = Vec<(String, String)>;

fn compare(kind: &str, old: &BTreeMap<String, Facts>, new: &BTreeMap<String, Facts>, changes: &mut Changes) -> Counts {
    let mut counts = Counts::default();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        counts.removed += 1;
        changes.note(|| format!("{kind} {name}: removed"));
    }
    for (name, facts) in new {
        match old.get(name) {
            None => {
                counts.added += 1;
                changes.note(|| format!("{kind} {name}: added"));
            }
            Some(before) if before != facts => {
                counts.changed += 1;
                note_changes(kind, name, before, facts, changes);
            }
            Some(_) => {}
        }
    }
    counts
}

/// Notes each fact that differs.
fn note_changes(kind: &str, name: &str, before: &Facts, after: &Facts, changes: &mut Changes) {
    let value =
        |facts: &Facts, fact: &str| facts.iter().find(|(each, _)| each == fact).map_or_else(|| "none".to_owned(), |(_, v)| v.clone());
    let gone = before.iter().filter(|(fact, _)| !after.iter().any(|(each, _)| each == fact));
    for (fact, _) in after.iter().chain(gone) {
        let (was, is) = (value(before, fact), value(after, fact));
        if was != is {
            changes.note(|| format!("{kind} {name}: {fact} {was} -> {is}"));
        }
    }
}

fn lanes(snapshot: &Snapshot, facts: fn(&Offering, Date) -> Facts) -> BTreeMap<String, Facts> {
    let of_model = |model: &Model| {
        let lane = |offering: &Offering| {
            (format!("{}/{} of {}", offering.provider, offering.upstream, model.id), facts(offering, snapshot.today()))
        };
        model.offerings.iter().map(lane).collect::<Vec<_>>()
    };
    snapshot.all_models().iter().flat_map(of_model).collect()
}

fn fact(name: &str, value: impl Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

fn maybe(name: &str, value: Option<impl Display>) -> (String, String) {
    (name.to_owned(), value.map_or_else(|| "none".to_owned(), |value| value.to_string()))
}

fn list<T: Display>(name: &str, values: &[T]) -> (String, String) {
    let words: Vec<_> = values.iter().map(ToString::to_string).collect();
    (name.to_owned(), if words.is_empty() { "none".to_owned() } else { words.join(", ") })
}

fn provider_facts(provider: &Provider, ready: bool) -> Facts {
    let connection = &provider.connection;
    let mut facts = vec![
        fact("name", &provider.name),
        fact("usable", ready),
        fact("status", provider.status),
        fact("catch_all", provider.catch_all),
        fact("local", provider.is_local),
        list("regions", &provider.regions),
        list("tools", &provider.tool_names.iter().map(|(tool, name)| format!("{tool} = {name}")).collect::<Vec<_>>()),
    ];
    match &connection.kind {
        ProviderKind::Server(server) => {
            facts.push(fact("api", format!("{:?}", server.api)));
            // Only the authority: the path of a gateway may hold a token, and this record is kept
            // for a long time.
            let servers = std::iter::once(&server.base_url).chain(&connection.replicas);
            let authorities: Vec<_> = servers.filter_map(|server| server.authority()).map(ToString::to_string).collect();
            facts.push(fact("server", authorities.join(", ")));
            facts.push(fact("spread_addresses", server.addresses == HostAddresses::Each));
            facts.push(maybe("max_waiting", server.max_waiting));
            facts.push(fact("body", format!("{:?}", server.body)));
            facts.push(fact("timeouts", format!("{:?}", server.timeouts)));
            facts.push(fact("max_response_bytes", server.max_response_bytes));
        }
        ProviderKind::Simulated { default, models } => facts.push(fact("profile", format!("{default:?} {models:?}"))),
    }
    facts.push(fact(
        "key",
        match &connection.key {
            KeySource::None => "none".to_owned(),
            KeySource::Env(name) => format!("variable {name}"),
            KeySource::File(path) => format!("file {}", path.display()),
        },
    ));
    facts.extend(limit_facts(connection.limits));
    facts.extend(capacity_facts(provider.capacity));
    facts.extend(privacy_facts(&provider.privacy));
    facts
}

fn limit_facts(limits: Limits) -> [(String, String); 3] {
    [
        maybe("in_flight", limits.in_flight),
        maybe("requests_per_minute", limits.requests_per_minute),
        maybe("tokens_per_minute", limits.tokens_per_minute),
    ]
}

fn capacity_facts(capacity: Capacity) -> [(String, String); 2] {
    [fact("queue_items", capacity.queue_items), fact("queue_tokens", capacity.queue_tokens)]
}

fn privacy_facts(privacy: &Privacy) -> [(String, String); 6] {
    [
        maybe("retention_days", privacy.retention_days),
        maybe("zdr", privacy.zdr),
        maybe("data_collection", privacy.data_collection),
        maybe("training_use", privacy.training_use),
        list("privacy_tiers", &privacy.tiers),
        maybe("terms_url", privacy.terms_url.as_ref()),
    ]
}

fn workflow_facts(workflow: &Workflow) -> Facts {
    // The text of a workflow is long, and its version shows that it has changed.
    let Workflow { version, name, operation, models, constraints, item, artifact, .. } = workflow;
    let asks =
        format!("{item:?} {constraints:?} {artifact:?}").bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    vec![fact("version", version), fact("name", name), fact("operation", operation), list("models", models), fact("asks", asks)]
}

fn model_facts(model: &Model) -> Facts {
    vec![
        fact("name", &model.name),
        list("aliases", &model.aliases),
        maybe("family", model.family.as_ref()),
        fact("organisation", &model.organisation),
        maybe("released", model.released),
        maybe("deprecated", model.deprecated),
        maybe("retired", model.retired),
        list("endpoints", &model.endpoints),
        list("operations", &model.operations),
        list("input", &model.input),
        list("output", &model.output),
        maybe("context_window", model.context_window),
        maybe("max_input_tokens", model.max_input_tokens),
        maybe("max_output_tokens", model.max_output_tokens),
        list("hosted_tools", &model.hosted_tools),
        list("file_types", model.files.as_ref().map_or(&[][..], |files| &files.types)),
        maybe("max_file_bytes", model.files.as_ref().and_then(|files| files.max_bytes)),
    ]
}

fn offering_facts(offering: &Offering, today: Date) -> Facts {
    let mut facts = vec![
        fact("status", offering.status),
        maybe("retired", offering.retired),
        fact("open", offering.is_open(today)),
        list("endpoints", &offering.endpoints),
        maybe("context_window", offering.context_window),
        maybe("max_output_tokens", offering.max_output_tokens),
        list("regions", &offering.regions),
        list("hosted_tools", &offering.hosted_tools),
        list("runtime_capabilities", &offering.runtime_capabilities),
        fact("verification", offering.verification),
        list("file_types", offering.files.as_ref().map_or(&[][..], |files| &files.types)),
    ];
    facts.extend(limit_facts(offering.limits));
    facts.extend(capacity_facts(offering.capacity));
    facts.extend(privacy_facts(&offering.privacy));
    facts
}

fn price_facts(offering: &Offering, today: Date) -> Facts {
    let day = |day: Option<Date>| day.map_or_else(String::new, |day| day.to_string());
    let of_rate = |rate: &Rate| {
        // The rate in force is the price; other rates are listed with their days.
        let days = if rate.holds(today) { String::new() } else { format!(" {}..{}", day(rate.from), day(rate.until)) };
        let plan = rate.plan;
        let of_meter = |(meter, amount): (&Meter, &Decimal)| fact(&format!("{plan}{days} {}", meter.word()), amount);
        rate.amounts.iter().map(of_meter).collect::<Vec<_>>()
    };
    offering.rates.all().iter().flat_map(of_rate).collect()
}
