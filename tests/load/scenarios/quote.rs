//! A quote of many items over many lanes: models of the built-in catalog, until they have the
//! requested number of offerings.

use std::io;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::temp_dir;
use crate::client::{get_json, post_json};
use crate::daemon::Daemon;
use crate::options::Options;
use crate::report::{Report, Target, median};

pub fn run(options: &Options) -> io::Result<Report> {
    let (items, lanes, rounds) = (options.get("items"), options.get("lanes"), options.get("rounds"));
    let dir = temp_dir()?;
    let daemon = Daemon::start(dir.path(), &["--max-inline-items", &items.to_string()])?;
    let catalog = get_json(daemon.address(), "/v1/catalog/models")?;
    let models = models(&catalog, lanes);
    let order = json!({ "models": models, "items": (0..items).map(item).collect::<Vec<_>>() });
    let before = daemon.used()?;
    let ask = || {
        let start = Instant::now();
        let quote = post_json(daemon.address(), "/v1/quotes/model", &order)?;
        Ok::<_, io::Error>((start.elapsed().as_secs_f64(), quote))
    };
    let (first, quote) = ask()?;
    let warm = (0..rounds).map(|_| Ok(ask()?.0)).collect::<io::Result<Vec<_>>>()?;
    let considered = quote["quote_lanes"].as_array().map_or(0, Vec::len);
    let bytes = order.to_string().len() >> 10;

    let what = format_args!("{items} items, {bytes} KiB, over {considered} lanes of {} models, {rounds} rounds, medians", models.len());
    let mut report = Report::new(what);
    report.figure("first, tokenisers cold", format_args!("{first:.3} s"), Target::None);
    report.figure("then", format_args!("{:.3} s", median(warm)), Target::AtMost(1.0));
    daemon.cost(before, items * (rounds + 1))?.tell(&mut report);
    Ok(report)
}

/// Models that answer, with this many offerings together.
fn models(catalog: &Value, lanes: u64) -> Vec<&str> {
    let all = catalog["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let answers = |model: &&Value| model["operations"].as_array().is_some_and(|all| all.iter().any(|one| one == "responses"));
    let mut sum = 0;
    let enough = all.iter().filter(answers).take_while(|model| {
        let before = sum;
        sum += model["provider_offerings"].as_array().map_or(0, Vec::len) as u64;
        before < lanes
    });
    enough.filter_map(|model| model["slug"].as_str()).collect()
}

fn item(number: u64) -> Value {
    let text = format!("Question {number}: what do people who live by the sea say about the weather of the day after tomorrow? ").repeat(3);
    json!({ "customer_item_id": format!("item-{number}"), "operation": "responses", "input": { "messages": [{ "role": "user", "content": text }], "max_output_tokens": 64 } })
}
