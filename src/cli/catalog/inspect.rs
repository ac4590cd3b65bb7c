//! The commands that look at seeds: check, list, show, diff.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::render::{offering_row, render_model};
use super::{CheckArgs, CommandRefused, DiffArgs, FAILURE, ListArgs, ShowArgs, archive, bare, put, snapshot};
use crate::catalog::{Model, Offer, Plan, Snapshot, load_archive};
use crate::cli::output::table;
use crate::daemon::Environment;

pub fn check(args: &CheckArgs, env: Environment) -> Result<u8, CommandRefused> {
    let (files, origin) = archive(args.dir.as_deref(), &env)?;
    let seeds = load_archive(files)?.with_urls(&|name| env.filled(name).ok().flatten())?;
    let snapshot = seeds.into_snapshot(super::today(), &|_| true);
    let (providers, models) = (snapshot.providers().count(), snapshot.all_models().len());
    let offerings: usize = snapshot.all_models().iter().map(|model| model.offerings.len()).sum();
    put(&format!("{origin}: {providers} providers, {models} models, {offerings} offerings, no fault"))?;
    Ok(0)
}

pub fn list(args: &ListArgs, env: Environment) -> Result<u8, CommandRefused> {
    let snapshot = snapshot(args.catalog.catalog_dir.as_deref(), env)?;
    if let Some(id) = args.provider.as_deref().filter(|id| snapshot.provider(id).is_none()) {
        let known: Vec<_> = snapshot.providers().map(|(provider, _)| provider.id().to_owned()).collect();
        return Err(CommandRefused::usage(format!("there is no provider {id:?}; there are {}", known.join(", "))));
    }
    let wanted = |offer: &Offer<'_>| args.provider.as_ref().is_none_or(|id| offer.provider.id() == id) && (offer.usable || !args.usable);
    let rows = snapshot.all_models().iter().flat_map(|model| snapshot.offers(model).filter(wanted).map(move |offer| (model, offer)));
    if args.json {
        for (model, offer) in rows {
            put(&line(&snapshot, model, &offer))?;
        }
    } else {
        let rows: Vec<_> = rows.map(|(model, offer)| offering_row(&snapshot, model, &offer)).collect();
        put(&table(&["model", "provider", "input", "output", "batch in", "batch out", "context", "status", "usable"], rows))?;
    }
    Ok(0)
}

fn line(snapshot: &Snapshot, model: &Model, offer: &Offer<'_>) -> String {
    let prices = |plan| {
        let amounts = offer.offering.rates.on(snapshot.today(), plan).map(|rate| &rate.amounts);
        amounts.map(|amounts| amounts.iter().map(|(meter, amount)| (meter.word(), amount.to_string())).collect::<BTreeMap<_, _>>())
    };
    json!({
        "model": model.id,
        "provider": offer.provider.id(),
        "upstream": offer.offering.upstream,
        "context_window": offer.offering.context_window,
        "price": prices(Plan::Standard),
        "batch_price": prices(Plan::Batch),
        "status": offer.status,
        "usable": offer.usable,
    })
    .to_string()
}

pub fn show(args: &ShowArgs, env: Environment) -> Result<u8, CommandRefused> {
    let snapshot = snapshot(args.catalog.catalog_dir.as_deref(), env)?;
    match snapshot.model(&args.model) {
        Some(model) => put(render_model(&snapshot, model).trim_end())?,
        None => {
            let why = snapshot.resolve(&args.model).err().map_or_else(String::new, |error| format!(": {error}"));
            return Err(CommandRefused(FAILURE, format!("the catalog has no model `{}`{why}", args.model)));
        }
    }
    Ok(0)
}

pub fn diff(args: &DiffArgs, env: Environment) -> Result<u8, CommandRefused> {
    let read = |name: &str| {
        let read = match name {
            "embedded" => bare(crate::catalog::embedded()),
            dir => archive(Some(Path::new(dir)), &env).and_then(|(files, _)| bare(files)),
        };
        // 1 means a difference, as in diff(1).
        read.map_err(|CommandRefused(_, message)| CommandRefused::usage(message))
    };
    let changes = crate::catalog::diff(&read(&args.old)?, &read(&args.new)?);
    for detail in &changes.details {
        put(detail)?;
    }
    put(&changes.to_string())?;
    Ok(if changes.is_empty() { 0 } else { FAILURE })
}
