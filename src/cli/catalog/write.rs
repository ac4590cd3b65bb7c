//! The commands that write: seeds for a server without seeds yet, a copy to start from, schemas.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::{StreamExt, stream};

use super::{CatalogArgs, CommandRefused, FAILURE, archive, put, today};
use crate::catalog::archive::{FOLDERS, is_seed};
use crate::catalog::{Archive, Merged, SeedPlace, load_archive, merge_server, read_dir, schemas};
use crate::cli::{block_on_result, say};
use crate::daemon::{DiscoveredModels, Environment, discover_models};
use crate::domain::authority::without_passwords;

/// Servers that are asked at the same time.
const ASKED_AT_ONCE: usize = 16;

#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Where the servers are, such as `http://localhost:8000`; without a path, `/v1` is meant
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// The folder to write to; made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "catalog")]
    into: PathBuf,
    /// The provider's id, which names both files; derived from the host if absent. A server with the
    /// models of another provider joins that one, unless this names a new one
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
    let ask = |url: &String| discover_models(url.clone(), args.key_env.clone(), env.clone());
    let asked: Vec<_> = args.urls.iter().map(ask).collect();
    let found: Vec<_> = block_on_result(stream::iter(asked).buffered(ASKED_AT_ONCE).collect::<Vec<_>>()).map_err(CommandRefused::usage)?;
    let refused = |error: String| CommandRefused(FAILURE, error);
    let before = if has_seeds(&args.into) { read_dir(&args.into)? } else { Archive::default() };
    let (mut files, mut told, mut made) = (before.clone(), Vec::new(), Vec::new());
    for (url, found) in args.urls.iter().zip(found) {
        let DiscoveredModels { models, api_path } = found.map_err(|error| refused(format!("{}: {error}", without_passwords(url))))?;
        let id = args.id.clone().unwrap_or_else(|| id_of(url));
        let place = SeedPlace { base_url: url.trim_end_matches('/'), api_path: api_path.as_deref(), key_env: args.key_env.as_deref() };
        // What this command has just made is no file that exists.
        let force = args.force && !made.contains(&id);
        let merged = merge_server(&mut files, (&id, args.id.is_some()), place, &models, today(), force);
        let merged = merged.map_err(|error| refused(format!("nothing was written to {}: {error}", args.into.display())))?;
        told.push(tell(url, models.len(), &merged));
        if let Merged::Alone { id, .. } = merged {
            made.push(id);
        }
    }
    replace(&args.into, &before, files)?;
    told.iter().for_each(|line| say(line));
    say(&format!("look them over, then: batchd serve --catalog-dir {}", args.into.display()));
    Ok(0)
}

/// Whether there is anything to add to; an empty folder is no catalog.
fn has_seeds(dir: &Path) -> bool {
    let is_there = |folder: &str, entry: fs::DirEntry| is_seed(&format!("{folder}/{}", entry.file_name().to_string_lossy()));
    FOLDERS.iter().any(|folder| fs::read_dir(dir.join(folder)).is_ok_and(|entries| entries.flatten().any(|entry| is_there(folder, entry))))
}

/// What became of a server.
fn tell(url: &str, models: usize, merged: &Merged) -> String {
    match merged {
        Merged::Alone { id, known: 0 } => format!("{models} models of {url}, which is the provider `{id}`"),
        Merged::Alone { id, known } => {
            format!("{models} models of {url}, which is the provider `{id}`; {known} of them were there and are now offered by it, too")
        }
        Merged::Joined { id } => format!("{models} models of {url}, which is now one of the servers of `{id}`, because that has the same"),
        Merged::Known { id } => format!("{models} models of {url}, which was a server of `{id}` before"),
    }
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

/// Writes all files or, if one of them exists already, none.
fn write(dir: &Path, files: Archive, force: bool) -> Result<(), CommandRefused> {
    let in_the_way = files.0.iter().map(|(name, _)| dir.join(name)).find(|path| !force && path.exists());
    if let Some(path) = in_the_way {
        return Err(CommandRefused(FAILURE, format!("{} exists; give --force to replace it", path.display())));
    }
    check_together(dir, &files, &[])?;
    files.0.iter().try_for_each(|(name, text)| put_file(dir, name, text))
}

/// Makes the seeds in a folder, which were `before`, those in `after`.
fn replace(dir: &Path, before: &Archive, after: Archive) -> Result<(), CommandRefused> {
    let has = |archive: &Archive, name: &str| archive.0.iter().any(|(other, _)| other == name);
    let gone: Vec<_> = before.0.iter().map(|(name, _)| name.clone()).filter(|name| !has(&after, name)).collect();
    let changed = Archive(after.0.into_iter().filter(|file| !before.0.contains(file)).collect());
    if let Some(path) = changed.0.iter().filter(|(name, _)| !has(before, name)).map(|(name, _)| dir.join(name)).find(|path| path.exists()) {
        return Err(CommandRefused(FAILURE, format!("{} has appeared in the meantime; try again", path.display())));
    }
    check_together(dir, &changed, &gone)?;
    changed.0.iter().try_for_each(|(name, text)| put_file(dir, name, text))?;
    for path in gone.iter().map(|name| dir.join(name)) {
        fs::remove_file(&path).map_err(|error| CommandRefused(FAILURE, format!("cannot remove {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Writes a file that appears whole: a daemon may be watching the folder.
fn put_file(dir: &Path, name: &str, text: &str) -> Result<(), CommandRefused> {
    let path = dir.join(name);
    let fail = |error: std::io::Error| CommandRefused(FAILURE, format!("cannot write {}: {error}", path.display()));
    let folder = path.parent().unwrap_or(dir);
    fs::create_dir_all(folder).map_err(fail)?;
    let aside = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).map_err(fail)?;
    put(&path.display().to_string())
}

/// Refuses seeds that could not be loaded together with the seeds in the folder: no file is written
/// that a daemon would then refuse.
fn check_together(dir: &Path, files: &Archive, gone: &[String]) -> Result<(), CommandRefused> {
    let is_new = |name: &String| files.0.iter().any(|(new, _)| new == name) || gone.contains(name);
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
