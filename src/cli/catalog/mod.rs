//! `batchd catalog`: looking at seeds, checking and comparing them, and making new ones.
//!
//! Works on a folder, or on the catalog that the settings name, without a running daemon. The exit
//! code is 0, 1 if seeds have faults or differ, and 2 if the question could not be answered.

mod inspect;
mod render;
mod write;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::civil::Date;

use super::output::{CommandRefused, put};
use super::{FAILURE, complain};
use crate::catalog::{Archive, Faults, Snapshot, load_archive, read_dir};
use crate::daemon::config::{Flags, Settings};
use crate::daemon::{Environment, load_catalog, system_clock};

/// Check, compare and make catalog seeds
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Check seeds and report every fault with its place
    Check(CheckArgs),
    /// List the models, who serves them and at which price
    List(ListArgs),
    /// Show everything that is known of a model
    Show(ShowArgs),
    /// Tell what a reload from one catalog to another would change; exit code 1 if anything
    Diff(DiffArgs),
    /// Ask a server with OpenAI's API for its models and write seeds for it
    Discover(write::DiscoverArgs),
    /// Write the seeds into a folder, to start from
    Export(write::ExportArgs),
    /// Print or write the JSON Schemas of both kinds of seed, for editors
    Schema(write::SchemaArgs),
}

/// Which catalog.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    /// The catalog folder; if absent, the one of the settings, else the seeds in the program
    #[arg(long, value_name = "DIR")]
    catalog_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The catalog folder; if absent, the one of the settings, else the seeds in the program
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Only offerings of this provider
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Only what can be used with the keys that are set
    #[arg(long)]
    usable: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The model's id, an alias, or `organisation/id`
    model: String,
    #[command(flatten)]
    catalog: CatalogArgs,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A catalog folder, or `embedded` for the seeds in the program
    #[arg(value_name = "OLD")]
    old: String,
    /// A catalog folder, or `embedded` for the seeds in the program
    #[arg(value_name = "NEW")]
    new: String,
}

impl From<Faults> for CommandRefused {
    fn from(faults: Faults) -> Self {
        Self(FAILURE, faults.to_string())
    }
}

/// Runs the command and returns the exit code.
pub fn run(command: &CatalogCommand, env: Environment) -> u8 {
    let outcome = match command {
        CatalogCommand::Check(args) => inspect::check(args, env),
        CatalogCommand::List(args) => inspect::list(args, env),
        CatalogCommand::Show(args) => inspect::show(args, env),
        CatalogCommand::Diff(args) => inspect::diff(args, env),
        CatalogCommand::Discover(args) => write::discover(args, env),
        CatalogCommand::Export(args) => write::export(args, env),
        CatalogCommand::Schema(args) => write::schema(args),
    };
    outcome.unwrap_or_else(|CommandRefused(code, message)| complain(&message, code))
}

fn settings(dir: Option<&Path>, env: &Environment) -> Result<Settings, CommandRefused> {
    let mut settings = Settings::load(&Flags::default(), &**env).map_err(CommandRefused::usage)?;
    if let Some(dir) = dir {
        settings.catalog_dir = Some(dir.to_owned());
    }
    Ok(settings)
}

/// The snapshot that a daemon with these settings would serve.
fn snapshot(dir: Option<&Path>, env: Environment) -> Result<Snapshot, CommandRefused> {
    let settings = settings(dir, &env)?;
    load_catalog(&settings, env).map_err(|error| match error {
        crate::daemon::StartError::Catalog(faults) => faults.into(),
        other => CommandRefused::usage(other),
    })
}

/// The files of the folder if given, else of the settings, else of the program.
fn archive(dir: Option<&Path>, env: &Environment) -> Result<(Archive, String), CommandRefused> {
    let settings = settings(dir, env)?;
    match &settings.catalog_dir {
        Some(dir) => Ok((read_dir(dir).map_err(CommandRefused::from)?, dir.display().to_string())),
        None => Ok((crate::catalog::embedded(), "the seeds in the program".to_owned())),
    }
}

/// A snapshot of these files alone, whatever keys are set.
fn bare(archive: Archive) -> Result<Snapshot, CommandRefused> {
    Ok(load_archive(archive)?.into_snapshot(today(), &|_| true))
}

fn today() -> Date {
    system_clock().now().to_zoned(jiff::tz::TimeZone::UTC).date()
}
