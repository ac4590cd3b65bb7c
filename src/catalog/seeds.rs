//! A checked set of seeds, from the binary or from a folder, before it is known which keys there are.
//!
//! Reads files and nothing else; no environment, no network. A folder replaces the built-in seeds
//! as a whole: two sources mixed file by file would leave nobody sure which price counts.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

use super::fault::{Fault, Faults, Source};
use super::model::{Model, Provider};
use super::validate::{self, MODELS, PROVIDERS};

/// Calls at the same time to a provider whose seed states no number.
pub(super) const DEFAULT_CONCURRENCY: u32 = 64;
/// The largest answer, in bytes, of a provider whose seed states no number.
pub(super) const DEFAULT_MAX_RESPONSE_BYTES: u64 = 64 << 20;
/// The largest seed file, in bytes.
const MAX_FILE: u64 = 16 << 20;

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
    /// SHA-256 over names and contents of the files, and over what was added since, in hexadecimal.
    pub(super) hash: String,
}

impl Seeds {
    /// SHA-256 of the seeds in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The seeds inside the binary.
///
/// # Errors
/// Every fault of every file. A release has none; a test sees to it.
pub fn load_embedded() -> Result<Seeds, Faults> {
    let mut sources = Vec::new();
    for name in Embedded::iter().filter(|name| is_seed(name)) {
        let bytes = Embedded::get(&name).map(|file| file.data.into_owned()).unwrap_or_default();
        sources.push(text_of(name.into_owned(), bytes)?);
    }
    from_sources(sources)
}

/// The seeds in `providers/*.toml` and `models/*.toml` of a folder.
///
/// # Errors
/// Every fault of every file, or the first file that cannot be read.
pub fn load_dir(dir: &Path) -> Result<Seeds, Faults> {
    let mut sources = Vec::new();
    for folder in [PROVIDERS, MODELS] {
        let entries = match fs::read_dir(dir.join(folder)) {
            Ok(entries) => entries,
            // Models without a provider, or the other way round, are named by the check.
            Err(error) if error.kind() == ErrorKind::NotFound && dir.is_dir() => continue,
            Err(error) => return Err(unreadable(&dir.join(folder).to_string_lossy(), &error).into()),
        };
        for entry in entries {
            let name = entry.map_err(|error| unreadable(folder, &error))?.file_name();
            let file = format!("{folder}/{}", name.to_string_lossy());
            if is_seed(&file) {
                let bytes = read_file(&dir.join(folder).join(&name)).map_err(|error| unreadable(&file, &error))?;
                sources.push(text_of(file, bytes)?);
            }
        }
    }
    if sources.is_empty() {
        let message = "holds no seed; it must hold `providers/<id>.toml` and `models/<name>.toml`".to_owned();
        return Err(Fault { file: dir.to_string_lossy().into_owned(), place: None, message }.into());
    }
    from_sources(sources)
}

/// Checks files in memory.
pub(super) fn from_sources(mut sources: Vec<Source>) -> Result<Seeds, Faults> {
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    let (providers, models) = validate::check(&sources)?;
    let mut digest = Sha256::new();
    for Source { file, text } in &sources {
        // With the lengths, no two sets of files run together to the same bytes.
        digest.update((file.len() as u64).to_be_bytes());
        digest.update(file);
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    Ok(Seeds { providers, models, hash: hex(&digest.finalize()) })
}

/// `bytes` in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `true` for `providers/a.toml`; not for what editors leave beside it, such as `.#a.toml`.
fn is_seed(file: &str) -> bool {
    match file.split('/').collect::<Vec<_>>().as_slice() {
        [PROVIDERS | MODELS, name] => name.ends_with(".toml") && !name.starts_with('.'),
        _ => false,
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {MAX_FILE} bytes")));
    }
    fs::read(path)
}

fn text_of(file: String, bytes: Vec<u8>) -> Result<Source, Fault> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { file, text }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(Fault { file, place: None, message: format!("byte {} is not UTF-8; a seed must be UTF-8", at + 1) })
        }
    }
}

fn unreadable(file: &str, error: &std::io::Error) -> Fault {
    Fault { file: file.to_owned(), place: None, message: format!("cannot be read: {error}") }
}
