//! `batchd lanes`: showing the lanes of a running daemon, and holding them.

use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::time::Instant;

use super::output::{CommandRefused, put, table};
use super::remote::{self, RemoteArgs};
use super::{FAILURE, INTERRUPTED, say};
use crate::client::Client;
use crate::daemon::Environment;
use crate::domain::provider::lane_hold::LaneSelector;

/// How often a drain is polled.
const POLL: Duration = Duration::from_millis(250);
/// How long no call may have been in flight: the daemon's numbers may be a second old.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a plain line is printed.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Show, pause, resume and drain the lanes of a running daemon
#[derive(Debug, Subcommand)]
pub enum LanesCommand {
    /// Show what the lanes are doing, and which are held
    List(ListLanesArgs),
    /// Let the rows of a lane wait; calls in flight finish
    Pause(HoldArgs),
    /// Let a lane go on that is paused or drained
    Resume(HoldArgs),
    /// Send nothing new to a lane, and wait for its calls in flight
    ///
    /// Its rows go to another lane of the same model where their batch allows that, or wait. It stays
    /// drained until it is resumed.
    Drain(DrainArgs),
}

#[derive(Debug, Args)]
pub struct ListLanesArgs {
    /// Only this lane, or only the lanes of this provider
    #[arg(value_name = "LANE")]
    lane: Option<LaneSelector>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct HoldArgs {
    /// A provider's id for all its lanes, or the id, a slash and its name for a model
    #[arg(value_name = "LANE")]
    lane: LaneSelector,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    hold: HoldArgs,
    /// Do not wait for calls in flight
    #[arg(long)]
    no_wait: bool,
}

/// Runs the command and returns the exit code.
pub fn run(command: &LanesCommand, env: Environment) -> u8 {
    remote::run(async {
        match command {
            LanesCommand::List(args) => list(args, env).await,
            LanesCommand::Pause(args) => hold(args, "pause", env).await,
            LanesCommand::Resume(args) => hold(args, "resume", env).await,
            LanesCommand::Drain(args) => drain(args, env).await,
        }
    })
}

async fn list(args: &ListLanesArgs, env: Environment) -> Result<u8, CommandRefused> {
    let mut lanes = args.remote.client(&env)?.lanes().await?;
    if let Some(only) = &args.lane {
        select(&mut lanes, only);
    }
    if args.remote.json {
        put(&lanes.to_string())?;
    } else if let Some(text) = render(&lanes) {
        put(&text)?;
    } else {
        say("no such lane has had a row since the daemon started, and none is held");
    }
    Ok(0)
}

async fn hold(args: &HoldArgs, action: &str, env: Environment) -> Result<u8, CommandRefused> {
    let answer = args.remote.client(&env)?.hold_lane(action, &args.lane.to_string()).await?;
    put(&if args.remote.json { answer.to_string() } else { message(&answer) })?;
    Ok(0)
}

async fn drain(args: &DrainArgs, env: Environment) -> Result<u8, CommandRefused> {
    let DrainArgs { hold: HoldArgs { lane, remote }, no_wait } = args;
    if *no_wait {
        return hold(&args.hold, "drain", env).await;
    }
    let client = remote.client(&env)?;
    let answer = client.hold_lane("drain", &lane.to_string()).await?;
    if !remote.json {
        put(&message(&answer))?;
    }
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let drained = tokio::select! {
        drained = wait(&client, lane) => drained?,
        _ = &mut interrupt => {
            say(&format!("interrupted; `{lane}` stays drained"));
            return Ok(INTERRUPTED);
        }
    };
    put(&if remote.json { drained.to_string() } else { format!("nothing is in flight on `{lane}`") })?;
    Ok(0)
}

/// Waits until no call is in flight on the drained lanes; returns their state then.
async fn wait(client: &Client, lane: &LaneSelector) -> Result<Value, CommandRefused> {
    let mut shown = Waiting::new();
    let mut quiet_since = None;
    loop {
        let mut lanes = client.lanes().await?;
        select(&mut lanes, lane);
        let is_held = |held: &Value| held["lane"] == lane.to_string() && held["hold"] == "drained";
        if !each(&lanes, "holds").any(is_held) {
            return Err(CommandRefused(FAILURE, format!("`{lane}` is no longer drained: another command has paused or resumed it")));
        }
        let in_flight: u64 = each(&lanes, "data").filter_map(|each| each["in_flight"].as_u64()).sum();
        let now = Instant::now();
        quiet_since = if in_flight == 0 { quiet_since.or(Some(now)) } else { None };
        if quiet_since.is_some_and(|since| now - since >= SETTLED) {
            return Ok(lanes);
        }
        shown.update(in_flight, lane);
        tokio::time::sleep(POLL).await;
    }
}

/// Shows the wait: a live line on a terminal, otherwise a line every few seconds. The line
/// disappears when the value is dropped.
struct Waiting {
    line: Option<ProgressBar>,
    printed: Option<Instant>,
}

impl Waiting {
    fn new() -> Self {
        Self { line: std::io::stderr().is_terminal().then(ProgressBar::new_spinner), printed: None }
    }

    fn update(&mut self, in_flight: u64, lane: &LaneSelector) {
        let calls = if in_flight == 1 { "call" } else { "calls" };
        let text = format!("{in_flight} {calls} in flight on `{lane}`");
        if let Some(line) = &self.line {
            line.set_message(text);
            line.tick();
        } else if in_flight > 0 && self.printed.is_none_or(|printed| printed.elapsed() >= PLAIN_EVERY) {
            say(&text);
            self.printed = Some(Instant::now());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

fn each<'a>(lanes: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    lanes[list].as_array().into_iter().flatten()
}

/// Keeps only the lanes that a selector means, and the holds that apply to them.
fn select(lanes: &mut Value, only: &LaneSelector) {
    if let Some(data) = lanes["data"].as_array_mut() {
        data.retain(|lane| only.covers(lane["provider"].as_str().unwrap_or_default(), lane["model"].as_str()));
    }
    if let Some(holds) = lanes["holds"].as_array_mut() {
        let held = |held: &Value| held["lane"].as_str()?.parse::<LaneSelector>().ok();
        holds.retain(|each| held(each).is_some_and(|held| held.overlaps(only)));
    }
}

fn message(answer: &Value) -> String {
    answer["message"].as_str().unwrap_or("done").to_owned()
}

/// The lanes and the holds as two tables; `None` if there are neither.
fn render(lanes: &Value) -> Option<String> {
    const LANE: [(&str, &str); 11] = [
        ("lane", "lane"),
        ("status", "status"),
        ("in flight", "in_flight"),
        ("allowed", "allowed"),
        ("a minute", "requests_per_minute"),
        ("ms", "latency_ms"),
        ("rows", "queued_rows"),
        ("tokens", "queued_tokens"),
        ("last answer", "last_answer"),
        ("resting until", "resting_until"),
        ("waits because", "waiting"),
    ];
    const HOLD: [(&str, &str); 3] = [("held", "lane"), ("hold", "hold"), ("since", "since")];
    let parts = [tabulate(lanes, "data", &LANE), tabulate(lanes, "holds", &HOLD)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

fn tabulate(lanes: &Value, list: &str, columns: &[(&str, &str)]) -> Option<String> {
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(waiting) => match waiting["provider_said"].as_str() {
            Some(said) => format!("{}: {said}", waiting["reason"].as_str().unwrap_or_default()),
            None => waiting["reason"].as_str().unwrap_or_default().to_owned(),
        },
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = each(lanes, list).map(|row| columns.iter().map(|(_, field)| cell(&row[*field])).collect()).collect();
    let head: Vec<_> = columns.iter().map(|(title, _)| *title).collect();
    (!rows.is_empty()).then(|| table(&head, rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lanes() -> Value {
        let lane = |lane: &str, provider: &str, model: Option<&str>, status: &str, allowed: Option<u32>| {
            json!({
                "lane": lane, "provider": provider, "model": model, "status": status, "in_flight": 3, "allowed": allowed,
                "requests_per_minute": allowed.map(|allowed| allowed * 60), "latency_ms": allowed.map(|_| 120), "queued_rows": 1200, "queued_tokens": 48000,
                "last_answer": "2026-11-24T15:06:00Z", "resting_until": (status == "resting").then_some("2026-11-24T15:06:30Z"),
                "waiting": (status == "held").then(|| json!({
                    "reason": "key_refused", "since": "2026-11-24T15:05:00Z", "provider_said": "the provider answered 401 Unauthorized", "remedy": "set the key",
                })),
            })
        };
        json!({
            "object": "list",
            "data": [
                lane("groq/meta/llama", "groq", Some("meta/llama"), "drained", Some(8)),
                lane("groq/qwen", "groq", Some("qwen"), "resting", Some(12)),
                lane("openai/gpt", "openai", Some("gpt"), "held", None),
                lane("upstream", "upstream", None, "active", None),
            ],
            "holds": [{"lane": "groq/meta/llama", "hold": "drained", "since": "2026-11-24T15:00:00Z"}],
        })
    }

    #[test]
    fn lanes_and_holds_are_two_tables() {
        insta::assert_snapshot!(render(&lanes()).unwrap());
        assert_eq!(render(&json!({"data": [], "holds": []})), None);
    }

    #[test]
    fn a_selector_leaves_its_lanes_and_what_bears_on_them() {
        let left = |only: &str| {
            let mut lanes = lanes();
            select(&mut lanes, &only.parse().unwrap());
            (each(&lanes, "data").count(), each(&lanes, "holds").count())
        };
        assert_eq!(
            [left("groq"), left("groq/qwen"), left("groq/meta/llama"), left("upstream"), left("other")],
            [(2, 1), (1, 0), (1, 1), (1, 0), (0, 0)]
        );
    }
}
