//! The commands that write: seeds for a server without seeds yet, a copy to start from, schemas.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CatalogArgs, CommandRefused, FAILURE, archive, put, today};
use crate::catalog::{Archive, SeedPlace, load_archive, read_dir, schemas, write_seeds};
use crate::cli::{block_on_result, say};
use crate::daemon::{DiscoveredModels, Environment, discover_models};

#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Where the server is, such as `http://localhost:8000`; without a path, `/v1` is meant
    url: String,
    /// The folder to write to; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "catalog")]
    into: PathBuf,
    /// The provider's id, which names both files; derived from the host if absent
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The environment variable that holds the server's key, if it asks for one
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The folder to write to; made if it does not exist
    dir: PathBuf,
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

/// Which kind of seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SeedKind {
    Provider,
    Model,
    Workflow,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The kind of seed whose schema is printed
    #[arg(required_unless_present = "into")]
    kind: Option<SeedKind>,
    /// Write all schemas into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    into: Option<PathBuf>,
}

pub fn discover(args: &DiscoverArgs, env: Environment) -> Result<u8, CommandRefused> {
    let found: DiscoveredModels = block_on_result(discover_models(&args.url, args.key_env.as_deref(), env))
        .map_err(CommandRefused::usage)?
        .map_err(|error| CommandRefused(FAILURE, error.to_string()))?;
    let id = args.id.clone().unwrap_or_else(|| id_of(&args.url));
    let place =
        SeedPlace { base_url: args.url.trim_end_matches('/'), api_path: found.api_path.as_deref(), key_env: args.key_env.as_deref() };
    let seeds = write_seeds(&id, place, &found.models, today());
    write(&args.into, seeds, args.force)?;
    say(&format!(
        "{} models of {}; look them over, then: batchd serve --catalog-dir {}",
        found.models.len(),
        args.url,
        args.into.display()
    ));
    Ok(0)
}

pub fn export(args: &ExportArgs, env: Environment) -> Result<u8, CommandRefused> {
    let (mut files, origin) = archive(args.catalog.catalog_dir.as_deref(), &env)?;
    files.0.extend(schemas().map(|(name, text)| (name.to_owned(), text)));
    let count = files.0.len();
    write(&args.dir, files, args.force)?;
    say(&format!("{count} files of {origin}; change them, then: batchd serve --catalog-dir {}", args.dir.display()));
    Ok(0)
}

pub fn schema(args: &SchemaArgs) -> Result<u8, CommandRefused> {
    let [provider, model, workflow] = schemas();
    match (&args.into, args.kind) {
        (Some(dir), _) => write(dir, Archive([provider, model, workflow].map(|(name, text)| (name.to_owned(), text)).into()), true)?,
        (None, Some(SeedKind::Model)) => put(model.1.trim_end())?,
        (None, Some(SeedKind::Workflow)) => put(workflow.1.trim_end())?,
        (None, Some(SeedKind::Provider) | None) => put(provider.1.trim_end())?,
    }
    Ok(0)
}

/// Writes all files or, if one of them exists already, none. Each file appears whole: a daemon may
/// be watching the folder.
fn write(dir: &Path, files: Archive, force: bool) -> Result<(), CommandRefused> {
    let in_the_way = files.0.iter().map(|(name, _)| dir.join(name)).find(|path| !force && path.exists());
    if let Some(path) = in_the_way {
        return Err(CommandRefused(FAILURE, format!("{} exists; give --force to replace it", path.display())));
    }
    check_together(dir, &files)?;
    for (name, text) in &files.0 {
        let path = dir.join(name);
        let fail = |error: std::io::Error| CommandRefused(FAILURE, format!("cannot write {}: {error}", path.display()));
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).map_err(fail)?;
        let aside = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
        fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).map_err(fail)?;
        put(&path.display().to_string())?;
    }
    Ok(())
}

/// Refuses seeds that could not be loaded together with the seeds in the folder: no file is written
/// that a daemon would then refuse.
fn check_together(dir: &Path, files: &Archive) -> Result<(), CommandRefused> {
    let is_new = |name: &str| files.0.iter().any(|(new, _)| new == name);
    // A folder that does not exist, or is empty, accepts any seeds.
    let there = read_dir(dir).map(|archive| archive.0).unwrap_or_default();
    let kept = there.into_iter().filter(|(name, _)| !is_new(name));
    let seeds = files.0.iter().filter(|(name, _)| name.ends_with(".toml")).cloned();
    let together: Vec<_> = kept.chain(seeds).collect();
    if together.is_empty() {
        return Ok(());
    }
    match load_archive(Archive(together)) {
        Ok(_) => Ok(()),
        Err(faults) => {
            Err(CommandRefused(FAILURE, format!("nothing was written to {}: with what would be in it, {faults}", dir.display())))
        }
    }
}

/// The host and port of a URL as an id: `http://gpu-1:8000/v1` is `gpu-1-8000`.
fn id_of(url: &str) -> String {
    let host = url.split("://").nth(1).unwrap_or(url).split('/').next().unwrap_or_default();
    let words = host.to_ascii_lowercase();
    let words: Vec<_> = words.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty()).collect();
    words.join("-")
}
