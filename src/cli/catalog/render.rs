//! A model and its offerings as text for a person. Facts that are not established are marked as
//! such.

use std::fmt::{Display, Write as _};

use crate::catalog::{Evidence, Meter, Model, Offer, Plan, Privacy, Rate, Snapshot};

const UNKNOWN: &str = "not established";

/// One line of the list: US dollars per million tokens.
pub fn offering_row(snapshot: &Snapshot, model: &Model, offer: &Offer<'_>) -> Vec<String> {
    let price = |plan, meter| {
        let rate: Option<&Rate> = offer.offering.rates.on(snapshot.today(), plan);
        rate.and_then(|rate| rate.amounts.get(&meter)).map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    vec![
        model.id.clone(),
        offer.provider.id().to_owned(),
        price(Plan::Standard, Meter::Input),
        price(Plan::Standard, Meter::Output),
        price(Plan::Batch, Meter::Input),
        price(Plan::Batch, Meter::Output),
        offer.offering.context_window.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
        offer.status.to_string(),
        if offer.usable { "yes" } else { "no" }.to_owned(),
    ]
}

/// All known facts about a model.
pub fn render_model(snapshot: &Snapshot, model: &Model) -> String {
    let mut text = format!("{}\n", model.id);
    let mut fact = |name: &str, value: String| _ = writeln!(text, "  {name:20} {value}");
    fact("name", model.name.clone());
    let qualified = Some(model.qualified()).filter(|name| *name != model.id && !model.aliases.contains(name));
    fact("also called", list(model.aliases.iter().chain(&qualified)));
    fact("organisation", model.organisation.clone());
    fact("family", or_unknown(model.family.as_ref()));
    fact("released", or_unknown(model.released));
    fact("deprecated", model.deprecated.map_or_else(|| "no day known".to_owned(), |day| day.to_string()));
    fact("retired", model.retired.map_or_else(|| "no day known".to_owned(), |day| day.to_string()));
    fact("endpoints", list(&model.endpoints));
    fact("operations", list(&model.operations));
    fact("reads", list(&model.input));
    fact("writes", list(&model.output));
    fact("context window", tokens(model.context_window));
    fact("most input", tokens(model.max_input_tokens));
    fact("most output", tokens(model.max_output_tokens));
    fact("files", model.files.as_ref().map_or_else(|| UNKNOWN.to_owned(), |files| list(&files.types)));
    fact("hosted tools", list(&model.hosted_tools));
    fact("source", evidence(model.evidence.as_ref()));
    fact(
        "served by",
        match snapshot.resolve(&model.id) {
            Ok(route) => format!("{} as {}", route.provider, route.upstream),
            Err(error) => error.to_string(),
        },
    );
    for offer in snapshot.offers(model) {
        render_offer(&mut text, snapshot, &offer);
    }
    text
}

fn render_offer(text: &mut String, snapshot: &Snapshot, offer: &Offer<'_>) {
    let (offering, provider) = (offer.offering, offer.provider);
    let usable = if offer.usable { "usable" } else { "not usable" };
    let _ = writeln!(text, "\n  offered by {} ({})", provider.id(), provider.name);
    let mut fact = |name: &str, value: String| _ = writeln!(text, "    {name:18} {value}");
    fact("its name for it", offering.upstream.clone());
    fact("status", format!("{}, {usable}", offer.status));
    fact("ends", offering.retired.map_or_else(|| "no day known".to_owned(), |day| day.to_string()));
    fact("endpoints", list(&offering.endpoints));
    fact("context window", tokens(offering.context_window));
    fact("most output", tokens(offering.max_output_tokens));
    fact("regions", list(&offering.regions));
    fact("privacy", privacy(&offering.privacy));
    fact("terms", or_unknown(offering.privacy.terms_url.as_ref()));
    fact("capabilities", list(&offering.runtime_capabilities));
    fact("verification", offering.verification.to_string());
    if offering.rates.all().is_empty() {
        fact("price", UNKNOWN.to_owned());
    }
    for rate in offering.rates.all() {
        let now = if rate.holds(snapshot.today()) { "" } else { " (not today)" };
        fact(&format!("{} price", rate.plan), format!("{}{now}", amounts(rate)));
        if let Some(note) = &rate.note {
            fact("", note.clone());
        }
        fact("", evidence(Some(&rate.evidence)));
    }
}

fn amounts(rate: &Rate) -> String {
    let amounts = rate.amounts.iter().map(|(meter, amount)| match meter.unit() {
        (unit, 1) => format!("{} {amount} a {unit}", meter.word()),
        (unit, size) => format!("{} {amount} per {size} {unit}s", meter.word()),
    });
    let days = match (rate.from, rate.until) {
        (None, None) => String::new(),
        (Some(from), None) => format!(", from {from}"),
        (None, Some(until)) => format!(", until {until}"),
        (Some(from), Some(until)) => format!(", from {from} until {until}"),
    };
    format!("US$ {}{days}", amounts.collect::<Vec<_>>().join(", "))
}

fn privacy(privacy: &Privacy) -> String {
    let kept = match privacy.retention_days {
        None => "retention not established".to_owned(),
        Some(0) => "nothing kept".to_owned(),
        Some(days) => format!("kept {days} days"),
    };
    let yes_no = |what: &str, value: Option<bool>| match value {
        None => format!("{what} not established"),
        Some(true) => what.to_owned(),
        Some(false) => format!("no {what}"),
    };
    let collection = privacy.data_collection.map_or_else(|| "collection not established".to_owned(), |word| format!("collection {word}"));
    [kept, yes_no("zero retention", privacy.zdr), collection, yes_no("training", privacy.training_use)].join(", ")
}

fn evidence(evidence: Option<&Evidence>) -> String {
    evidence.map_or_else(|| UNKNOWN.to_owned(), |evidence| format!("{} ({})", evidence.source, evidence.verified_at))
}

fn tokens(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| format!("{number} tokens"))
}

fn or_unknown(value: Option<impl Display>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if words.is_empty() { UNKNOWN.to_owned() } else { words.join(", ") }
}
