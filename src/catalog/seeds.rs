//! A checked set of seeds, from the binary or from a folder, before the available keys are known.
//!
//! Reads files only: no environment, no network. A folder replaces the built-in seeds as a whole.
//! If two sources were mixed file by file, operators could not be sure which price counts.

use std::path::Path;

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::fault::{Fault, Faults, Source};
use super::folder;
use super::model::{Model, Provider};
use super::url::parse_base_url;
use super::validate::{self, Checked};
use super::workflow::Workflow;
use crate::catalog::archive::PROVIDERS;
use crate::catalog::archive::{Archive, is_seed};
use crate::domain::provider::connection::ProviderKind;
use crate::domain::text::hex;

#[derive(RustEmbed)]
#[folder = "catalog-seed/"]
struct Embedded;

/// A checked set of providers and models.
#[derive(Debug, Clone, PartialEq)]
pub struct Seeds {
    /// In order of file name.
    pub(super) providers: Vec<Provider>,
    /// In order of file name and then of the text.
    pub(super) models: Vec<Model>,
    /// In order of file name.
    pub(super) workflows: Vec<Workflow>,
    /// SHA-256 over names and contents of the files, and over later additions, in hexadecimal.
    pub(super) hash: String,
}

impl Seeds {
    /// SHA-256 of the seeds in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Fills in the URLs of providers that take theirs from an environment variable. A provider
    /// whose variable is not set stays unusable.
    ///
    /// # Errors
    /// When a variable holds no URL. Its value, which may hold a secret, is not repeated.
    pub fn with_urls(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        for provider in &mut self.providers {
            let Some((name, url)) = provider.base_url_env.as_ref().and_then(|name| Some((name, variable(name)?))) else { continue };
            let texts = url.split(',').map(str::trim).filter(|text| !text.is_empty());
            let urls = texts.map(parse_base_url).collect::<Result<Vec<_>, _>>();
            let urls = urls.and_then(|urls| if urls.is_empty() { parse_base_url("").map(|url| vec![url]) } else { Ok(urls) });
            match (urls, &mut provider.connection.kind) {
                (Ok(mut urls), ProviderKind::Server(connection)) => {
                    let names: Vec<_> = urls.iter().map(ToString::to_string).collect();
                    self.hash = hex(&Sha256::digest(format!("{}\n{name}={}", self.hash, names.join(","))));
                    connection.base_url = urls.remove(0);
                    urls.retain(|url| *url != connection.base_url);
                    urls.dedup();
                    provider.connection.replicas = urls;
                    provider.base_url_env = None;
                }
                (Ok(_), ProviderKind::Simulated { .. }) => {}
                (Err(rule), _) => {
                    let file = format!("{PROVIDERS}/{}.toml", provider.id());
                    faults.push(Fault { file, place: None, message: format!("the environment variable {name} {rule}") });
                }
            }
        }
        match Faults::new(faults) {
            Some(faults) => Err(faults),
            None => Ok(self),
        }
    }
}

/// The seeds inside the binary.
///
/// # Errors
/// Every fault of every file. A release has none; a test ensures that.
pub fn load_embedded() -> Result<Seeds, Faults> {
    load_archive(embedded())
}

/// The files inside the binary.
pub fn embedded() -> Archive {
    let text = |name: &str| Embedded::get(name).map(|file| String::from_utf8_lossy(&file.data).into_owned()).unwrap_or_default();
    Archive(Embedded::iter().filter(|name| is_seed(name)).map(|name| (name.to_string(), text(&name))).collect())
}

/// The seeds in `providers/*.toml`, `models/*.toml` and `workflows/*.toml` of a folder.
///
/// # Errors
/// Every fault of every file, or the first file that cannot be read.
pub fn load_dir(dir: &Path) -> Result<Seeds, Faults> {
    load_archive(read_dir(dir)?)
}

/// The files of a folder, all from one moment.
///
/// # Errors
/// The first file that cannot be read, or that the folder has no files.
pub fn read_dir(dir: &Path) -> Result<Archive, Faults> {
    Ok(folder::read(dir)?)
}

/// The seeds in files that were read before.
///
/// # Errors
/// Every fault of every file.
pub fn load_archive(archive: Archive) -> Result<Seeds, Faults> {
    from_sources(archive.0.into_iter().map(|(file, text)| Source { file, text }).collect())
}

/// Checks files in memory.
pub(super) fn from_sources(mut sources: Vec<Source>) -> Result<Seeds, Faults> {
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    let Checked { providers, models, workflows } = validate::check(&sources)?;
    let mut digest = Sha256::new();
    for Source { file, text } in &sources {
        // With the lengths included, no two sets of files hash the same bytes.
        digest.update((file.len() as u64).to_be_bytes());
        digest.update(file);
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    Ok(Seeds { providers, models, workflows, hash: hex(&digest.finalize()) })
}
