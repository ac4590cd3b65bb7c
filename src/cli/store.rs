//! `batchd store`: checking and salvaging a data directory that no daemon is using, and backing up
//! the directory of a running daemon.
//!
//! Each damaged or lost thing is a line on standard output; the summary goes to standard error.
//! Exit codes: 0 if all is well, 1 if something is damaged or lost, 2 if the directory cannot be
//! read or copied.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::output::put;
use super::remote::{self, RemoteArgs};
use super::{FAILURE, USAGE, complain, print, say};
use crate::daemon::config::{Flags, Settings};
use crate::daemon::{Checked, Environment, SalvageError, SalvageNote, Salvaged, Unlookable, check_store, salvage_store, system_clock};

/// Check a data directory, bring back what can be read of a damaged one, and make backups
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read all that is stored and name each thing that is damaged; changes nothing
    Check(CheckArgs),
    /// Copy all that can be read to a new directory, and say what is lost; leaves the old one as it is
    Salvage(SalvageArgs),
    /// Make or renew a backup of a running daemon's data directory
    Backup(BackupArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read the content of every file and every result, too
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
pub struct SalvageArgs {
    /// The new data directory; it must not exist, or be empty
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// An absolute path on the daemon's machine: of a new directory, an empty one, or an earlier backup
    #[arg(value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Which data directory. No daemon may be using it.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The configuration file (TOML) [env: BATCHD_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory, if the settings name another one [env: BATCHD_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print all of it as one line of JSON
    #[arg(long)]
    json: bool,
}

impl PlaceArgs {
    fn dir(&self, env: &Environment) -> Result<PathBuf, String> {
        let mut flags = Flags { config: self.config.clone(), ..Flags::default() };
        flags.written.data_dir.clone_from(&self.data_dir);
        Settings::load(&flags, &**env).map(|settings| settings.data_dir).map_err(|error| error.to_string())
    }
}

/// Runs the command and returns the exit code.
pub(super) fn run(command: &StoreCommand, env: Environment) -> u8 {
    let done = match command {
        StoreCommand::Check(args) => check(args, &env),
        StoreCommand::Salvage(args) => salvage(args, &env),
        StoreCommand::Backup(args) => return back_up(args, &env),
    };
    done.unwrap_or_else(|error| complain(&error, USAGE))
}

fn back_up(BackupArgs { target, remote }: &BackupArgs, env: &Environment) -> u8 {
    remote::run(async {
        let made = remote.client(env)?.back_up(target).await?;
        put(&if remote.json { made.to_string() } else { render_backup(&made) })?;
        Ok(0)
    })
}

fn render_backup(made: &Value) -> String {
    let number = |name: &str| made[name].as_u64().unwrap_or_default();
    let (copied, bytes) = (number("copied_contents"), size(number("copied_bytes")));
    let place = made["target"].as_str().unwrap_or("?");
    format!("{place} holds {} entries and {} files; {copied} of them were copied now, {bytes}", number("entries"), number("contents"))
}

fn check(CheckArgs { deep, place }: &CheckArgs, env: &Environment) -> Result<u8, String> {
    let dir = place.dir(env)?;
    let began = Instant::now();
    let mut lines = Vec::new();
    let checked = check_store(&dir, *deep, &mut |line| match place.json {
        true => lines.push(line.to_owned()),
        false => print(line),
    });
    let checked = checked.map_err(|error: Unlookable| error.to_string())?;
    let took = began.elapsed();
    if place.json {
        let Checked { batches, rows, files, bytes, damaged } = checked;
        let sound = damaged == 0;
        let told = json!({
            "object": "store.check", "sound": sound, "damaged": lines, "batches": batches, "rows": rows, "files": files,
            "bytes": bytes, "seconds": took.as_secs_f64(),
        });
        print(&told.to_string());
    } else {
        say(&render_checked(&checked, took));
    }
    Ok(if checked.damaged == 0 { 0 } else { FAILURE })
}

fn render_checked(checked: &Checked, took: Duration) -> String {
    let Checked { batches, rows, files, bytes, damaged } = *checked;
    let found = match damaged {
        0 => "sound".to_owned(),
        1 => "1 thing is damaged".to_owned(),
        _ => format!("{damaged} things are damaged"),
    };
    format!("{found}: {batches} batches, {rows} rows with a result, {files} files; {} read in {:.1} s", size(bytes), took.as_secs_f64())
}

fn salvage(SalvageArgs { to, place }: &SalvageArgs, env: &Environment) -> Result<u8, String> {
    let dir = place.dir(env)?;
    let began = Instant::now();
    let mut told = Vec::new();
    let mut is_complete = true;
    let done = salvage_store(&dir, to, system_clock().now(), &mut |what| {
        is_complete &= matches!(what, SalvageNote::Fault(_));
        match place.json {
            true => told.push(what),
            false => print(&what.to_string()),
        }
    });
    let done = done.map_err(|error: SalvageError| error.to_string())?;
    let took = began.elapsed();
    if place.json {
        print(&in_json(&done, &told, took).to_string());
    } else {
        say(&render_salvaged(&done, is_complete, took));
    }
    Ok(if is_complete { 0 } else { FAILURE })
}

fn in_json(done: &Salvaged, told: &[SalvageNote], took: Duration) -> serde_json::Value {
    let of = |wanted: fn(&SalvageNote) -> Option<String>| told.iter().filter_map(wanted).collect::<Vec<_>>();
    let Salvaged { batches, rows, files, bytes, lost_batches, lost_rows, lost_files, was_whole } = *done;
    json!({
        "object": "store.salvage",
        "was_whole": was_whole,
        "found": of(|told| if let SalvageNote::Fault(what) = told { Some(what.clone()) } else { None }),
        "lost": of(|told| if let SalvageNote::Lost(thing) = told { Some(thing.to_string()) } else { None }),
        "changed": of(|told| if let SalvageNote::Changed(thing, how) = told { Some(format!("{thing}: {how}")) } else { None }),
        "unsure": of(|told| if let SalvageNote::Unsure(thing, why) = told { Some(format!("{thing}: {why}")) } else { None }),
        "batches": batches, "rows": rows, "files": files, "bytes": bytes,
        "lost_batches": lost_batches, "lost_rows": lost_rows, "lost_files": lost_files, "seconds": took.as_secs_f64(),
    })
}

fn render_salvaged(done: &Salvaged, is_complete: bool, took: Duration) -> String {
    let Salvaged { batches, rows, files, bytes, lost_batches, lost_rows, lost_files, .. } = *done;
    let back = format!(
        "brought back: {batches} batches, {rows} rows with a result, {files} files; {} of content, in {:.1} s",
        size(bytes),
        took.as_secs_f64()
    );
    match is_complete {
        true => format!("{back}\nnothing is lost"),
        false => format!(
            "{back}\nlost: {lost_batches} batches, {lost_rows} results of other batches, {lost_files} files, and what else is named above"
        ),
    }
}

/// A number of bytes as text for people.
fn size(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_a_line_or_two() {
        let checked = Checked { batches: 12, rows: 4_800, files: 30, bytes: 7_654_321, damaged: 0 };
        let done = Salvaged {
            batches: 11,
            rows: 4_400,
            files: 28,
            bytes: 1_234_567,
            lost_batches: 1,
            lost_rows: 7,
            lost_files: 2,
            was_whole: false,
        };
        let took = Duration::from_millis(1_234);
        let lines = [
            render_checked(&checked, took),
            render_checked(&Checked { damaged: 1, ..checked }, took),
            render_checked(&Checked { damaged: 3, ..checked }, took),
            render_salvaged(&done, false, took),
            render_salvaged(&done, true, took),
            render_backup(&json!({"target": "/b", "entries": 7, "contents": 3, "copied_contents": 1, "copied_bytes": 2_500_000})),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        sound: 12 batches, 4800 rows with a result, 30 files; 7.2 MiB read in 1.2 s
        1 thing is damaged: 12 batches, 4800 rows with a result, 30 files; 7.2 MiB read in 1.2 s
        3 things are damaged: 12 batches, 4800 rows with a result, 30 files; 7.2 MiB read in 1.2 s
        brought back: 11 batches, 4400 rows with a result, 28 files; 1.1 MiB of content, in 1.2 s
        lost: 1 batches, 7 results of other batches, 2 files, and what else is named above
        brought back: 11 batches, 4400 rows with a result, 28 files; 1.1 MiB of content, in 1.2 s
        nothing is lost
        /b holds 7 entries and 3 files; 1 of them were copied now, 2.3 MiB
        ");
    }
}
