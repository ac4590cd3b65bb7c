//! `batchd batches`: changing how a batch of a running daemon runs, and deleting a batch that has
//! ended.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::put;
use super::remote::{self, RemoteArgs};
use crate::daemon::Environment;
use crate::domain::batch::priority::{NoPriority, Priority};
use crate::domain::id::BatchId;

/// Pause, resume, prioritise and delete batches of a running daemon
#[derive(Debug, Subcommand)]
pub enum BatchesCommand {
    /// Dispatch no further row of a batch until it is resumed; its deadline goes on
    Pause(BatchArgs),
    /// Let a paused batch go on
    Resume(BatchArgs),
    /// Change how large a batch's share of a contended lane is
    Priority(PriorityArgs),
    /// Delete a batch that has ended, with its results, receipt and files; what it was charged stays
    Delete(BatchArgs),
}

#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The batch's id
    #[arg(value_name = "ID")]
    id: BatchId,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub struct PriorityArgs {
    /// The batch's id
    #[arg(value_name = "ID")]
    id: BatchId,
    /// Weighs 1, 4, 16 or 64
    #[arg(value_name = "LEVEL", value_parser = level())]
    level: Priority,
    #[command(flatten)]
    remote: RemoteArgs,
}

fn level() -> impl TypedValueParser<Value = Priority> {
    let words = PossibleValuesParser::new(Priority::ALL.map(Priority::as_str));
    words.try_map(|word| word.parse::<Priority>().map_err(|error: NoPriority| error))
}

/// Runs the command and returns the exit code.
pub fn run(command: &BatchesCommand, env: Environment) -> u8 {
    let (id, remote, change) = match command {
        BatchesCommand::Pause(BatchArgs { id, remote }) => (id, remote, Some(json!({ "paused": true }))),
        BatchesCommand::Resume(BatchArgs { id, remote }) => (id, remote, Some(json!({ "paused": false }))),
        BatchesCommand::Priority(PriorityArgs { id, level, remote }) => (id, remote, Some(json!({ "priority": level.as_str() }))),
        BatchesCommand::Delete(BatchArgs { id, remote }) => (id, remote, None),
    };
    remote::run(async {
        let (client, id) = (remote.client(&env)?, id.to_string());
        let answer = match change {
            Some(change) => client.change_batch(&id, &change).await?,
            None => client.delete_batch(&id).await?,
        };
        put(&if remote.json { answer.to_string() } else { render(&answer) })?;
        Ok(0)
    })
}

fn render(batch: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    if batch["deleted"] == true {
        return format!("{} is deleted", text(&batch["id"]));
    }
    let ours = &batch["batchd"];
    let paused = if ours["paused"] == true { ", paused" } else { "" };
    format!("{} is {}{paused}; its priority is {}", text(&batch["id"]), text(&batch["status"]), text(&ours["priority"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_told_in_a_line() {
        let batch = json!({"id": "batch_1", "status": "in_progress", "batchd": {"paused": true, "priority": "high"}});
        insta::assert_snapshot!(render(&batch), @"batch_1 is in_progress, paused; its priority is high");
        insta::assert_snapshot!(render(&json!({"id": "batch_1", "object": "batch", "deleted": true})), @"batch_1 is deleted");
    }
}
