//! The command line: the commands that a person types, and the output that they read.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 for success; 1
//! when rows failed, a store is damaged, the daemon had to stop, or a running daemon cannot be
//! reached or did not carry out the command; 2 for bad usage, settings or input; 130 when a run or
//! a wait was interrupted.

mod batches;
mod catalog;
pub mod config;
mod demo;
mod keys;
mod lanes;
mod org;
mod orgs;
mod output;
pub mod progress;
mod quotas;
mod remote;
mod run;
mod serve;
mod store;
mod temporary;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::daemon::Environment;
use crate::daemon::config::{Flags, Origin, ProcessEnvironment, Settings};
use crate::descriptors::{Share, raise};

/// A self-hosted LLM batch API: upload JSONL, dispatch every row to a provider, keep every result.
#[derive(Debug, Parser)]
#[command(name = "batchd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the batch API over HTTP
    Serve(Flags),
    /// Run one JSONL file and print its results, without a server
    Run(run::RunArgs),
    /// Show all of it in a minute: a daemon, a sample of rows, the simulated provider
    Demo(demo::DemoArgs),
    /// Show, pause, resume and drain the lanes of a running daemon
    #[command(subcommand)]
    Lanes(lanes::LanesCommand),
    /// Pause, resume and prioritise batches of a running daemon
    #[command(subcommand)]
    Batches(batches::BatchesCommand),
    /// Make, show and revoke the API keys of a running daemon's clients
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show, name, fund and close the organisations of a running daemon
    #[command(subcommand)]
    Orgs(orgs::OrgsCommand),
    /// Check, compare and make catalog seeds
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Check a data directory, bring back what can be read of a damaged one, and make backups
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Inspect the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Bad usage, settings or input.
const USAGE: u8 = 2;
/// Some rows failed, or the daemon had to stop.
const FAILURE: u8 = 1;
/// Stopped by a signal: 128 plus the number of SIGINT, as in shells.
const INTERRUPTED: u8 = 130;

/// Runs the command that this process's arguments name.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; clap knows which stream each belongs on.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let env: Environment = Arc::new(ProcessEnvironment);
    let code = match cli.command {
        Command::Serve(flags) => serve::serve(&flags, env),
        Command::Run(args) => run::run(&args, env),
        Command::Demo(args) => demo::demo(&args, env),
        Command::Lanes(command) => lanes::run(&command, env),
        Command::Batches(command) => batches::run(&command, env),
        Command::Keys(command) => keys::run(&command, env),
        Command::Orgs(command) => orgs::run(&command, env),
        Command::Catalog(command) => catalog::run(&command, env),
        Command::Store(command) => store::run(&command, env),
        Command::Config(command) => match config::run(&command, env, &mut std::io::stdout()) {
            Ok(()) => 0,
            Err(error) => complain(&error, USAGE),
        },
    };
    ExitCode::from(code)
}

/// The command line, with the flags of `run` cut down to those that apply to it.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("run", |run| run::SERVER_ONLY.iter().fold(run, |run, name| run.mut_arg(name, |flag| flag.hide(true))))
}

fn parse(args: impl Iterator<Item = std::ffi::OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    if let Some(("run", run)) = matches.subcommand()
        && let Some(name) = run::SERVER_ONLY.iter().find(|name| run.value_source(name) == Some(ValueSource::CommandLine))
    {
        let message = format!("--{} means nothing to `run`, which starts no server", name.replace('_', "-"));
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    Cli::from_arg_matches(&matches)
}

/// Prints a message for the person at the terminal. A missing reader is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints data for the calling person or program. A reader that has gone has read enough.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Reports the error and returns the exit code.
fn complain(error: &dyn std::fmt::Display, code: u8) -> u8 {
    say(&format!("batchd: {error}"));
    code
}

/// The settings of a command, with the logger installed; it logs for as long as its guard is held.
fn settings(flags: &Flags, env: &Environment) -> Result<(Settings, impl Drop + use<>), String> {
    let settings = Settings::load(flags, &**env).map_err(|error| error.to_string())?;
    let guard = crate::daemon::telemetry::init(&settings, &**env).map_err(|error| error.to_string())?;
    Ok((settings, guard))
}

/// Like `settings`, for a command that shows progress: only problems are logged, unless the user
/// asked for more.
fn quiet_settings(flags: &Flags, env: &Environment) -> Result<(Settings, impl Drop + use<>), String> {
    let mut settings = Settings::load(flags, &**env).map_err(|error| error.to_string())?;
    if settings.origin("log") == Origin::Default {
        settings.log = "error".to_owned();
    }
    let guard = crate::daemon::telemetry::init(&settings, &**env).map_err(|error| error.to_string())?;
    Ok((settings, guard))
}

/// Runs a future on a runtime of its own and returns its exit code.
fn block_on(future: impl Future<Output = u8>) -> u8 {
    block_on_result(future).unwrap_or_else(|error| complain(&error, FAILURE))
}

/// Runs a future on a runtime of its own.
fn block_on_result<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    // Threads that may block are those that open files, so there must be a descriptor for each.
    let threads = Share::threads(raise());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(threads).thread_name("batchd").build()?;
    let result = runtime.block_on(future);
    // Blocking work that still runs must not hold up the exit.
    runtime.shutdown_background();
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn run_refuses_the_flags_of_a_server() {
        let parse = |args: &[&str]| parse(args.iter().map(Into::into));
        assert!(parse(&["batchd", "run", "in.jsonl", "--max-attempts", "3"]).is_ok());
        let refused = parse(&["batchd", "run", "in.jsonl", "--listen", "127.0.0.1:1"]).unwrap_err().to_string();
        assert!(refused.contains("--listen means nothing to `run`"), "{refused}");
    }
}
