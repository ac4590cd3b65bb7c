//! Where the results of `batchd run` go, and what is not overwritten.

use std::fs::{File, Metadata};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::say;
use super::super::temporary::Temporary;
use crate::daemon::{Chain, ChainProgress, Core, JobError, RUN_OUTPUTS};

/// The most outputs that are remembered in a data directory.
const REMEMBERED: usize = 100;

/// Checks before any row runs whether the results can be written.
pub(super) fn check(output: &Path, input: &Path) -> Result<(), String> {
    let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (std::fs::metadata(output), std::fs::metadata(input)) {
        (Ok(target), Ok(source)) if same(&target, &source) && target.is_file() => {
            Err(format!("{} is the input; the results would overwrite it", output.display()))
        }
        (Ok(target), _) if target.is_dir() => Err(format!("{} is a directory; name a file for the results", output.display())),
        (Ok(_), _) => Ok(()),
        (Err(_), _) => match output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) if !parent.is_dir() => Err(format!("there is no directory {} for the results", parent.display())),
            Some(_) | None => Ok(()),
        },
    }
}

/// Refuses to overwrite a file that this job did not write, or that has changed since.
pub(super) fn check_overwrite(output: &Path, data_dir: &Path, job: &str) -> Result<(), String> {
    let Ok(target) = std::fs::metadata(output) else { return Ok(()) };
    // A pipe or a device is written into, and an empty file holds nothing to lose.
    if !target.is_file() || target.len() == 0 {
        return Ok(());
    }
    let is_ours = |written: &WrittenOutput| written.job == job && written.is(output, &target);
    if remembered(data_dir).iter().any(is_ours) {
        return Ok(());
    }
    Err(format!("{} exists, and this run has not written it; name another file, or add --force to overwrite it", output.display()))
}

/// An output that a job has written: the job may write it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WrittenOutput {
    job: String,
    path: PathBuf,
    inode: u64,
    bytes: u64,
    /// In nanoseconds since 1970; together with the size, shows whether it was changed.
    modified: i128,
}

impl WrittenOutput {
    fn new(job: &str, path: &Path, file: &Metadata) -> Self {
        Self { job: job.to_owned(), path: real(path), inode: file.ino(), bytes: file.len(), modified: modified(file) }
    }

    fn is(&self, path: &Path, file: &Metadata) -> bool {
        *self == Self::new(&self.job, path, file)
    }
}

fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn modified(file: &Metadata) -> i128 {
    i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec())
}

/// The outputs that jobs with this data directory have written, the oldest first.
fn remembered(data_dir: &Path) -> Vec<WrittenOutput> {
    let text = std::fs::read_to_string(data_dir.join(RUN_OUTPUTS)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Notes that a job has written an output. Best effort: without the note, the next run asks for
/// `--force`.
fn remember(data_dir: &Path, written: WrittenOutput) {
    let mut all = remembered(data_dir);
    all.retain(|other| other.path != written.path);
    all.push(written);
    let lines = all.iter().skip(all.len().saturating_sub(REMEMBERED)).filter_map(|each| serde_json::to_string(each).ok());
    let text: String = lines.map(|line| line + "\n").collect();
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(data_dir.join(RUN_OUTPUTS));
    let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
}

/// Where to write, for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Standard output if absent.
    pub path: Option<&'a Path>,
    pub data_dir: &'a Path,
    pub job: &'a str,
}

impl Target<'_> {
    /// Writes what is done of a job that is not finished. Without any result, an earlier output is left
    /// as it is.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_done(self, core: &Core, chain: &Chain, progress: &ChainProgress) -> Result<(), JobError> {
        if progress.done() > 0 { self.write(core, chain).await } else { Ok(()) }
    }

    /// Writes the latest result of each row that has one. A reader of the output never sees half of
    /// a file. A reader of a pipe that has gone has read enough.
    pub async fn write(self, core: &Core, chain: &Chain) -> Result<(), JobError> {
        let written = match self.path {
            None => chain.write(core, Box::new(std::io::stdout())).await,
            Some(path) if std::fs::metadata(path).is_ok_and(|target| !target.is_file()) => into_special(path, core, chain).await,
            Some(path) => self.replace(path, core, chain).await,
        };
        match written {
            Err(JobError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Replaces the file, or the one that a link of this name leads to.
    async fn replace(self, shown: &Path, core: &Core, chain: &Chain) -> Result<(), JobError> {
        let path = &real(shown);
        let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        name.push(".");
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = Temporary::create(folder, &name, ".partial", 0o666).map_err(JobError::Output)?;
        if let Ok(existing) = std::fs::metadata(path) {
            partial.file().set_permissions(existing.permissions()).map_err(JobError::Output)?;
        }
        let file = partial.file().try_clone().map_err(JobError::Output)?;
        chain.write(core, Box::new(std::io::BufWriter::new(file))).await?;
        partial.rename(path).map_err(JobError::Output)?;
        if let Ok(file) = std::fs::metadata(path) {
            remember(self.data_dir, WrittenOutput::new(self.job, path, &file));
        }
        say(&format!("results are in {}", shown.display()));
        Ok(())
    }
}

/// Writes into a pipe or a device, which a file of its name must not replace.
async fn into_special(path: &Path, core: &Core, chain: &Chain) -> Result<(), JobError> {
    let target = File::options().write(true).open(path).map_err(JobError::Output)?;
    chain.write(core, Box::new(std::io::BufWriter::new(target))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_job_has_written_is_overwritten_without_being_told() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out.jsonl");
        let check = |job: &str| check_overwrite(&output, dir.path(), job);
        assert_eq!(check("a"), Ok(()), "there is none yet");
        std::fs::write(&output, "").unwrap();
        assert_eq!(check("a"), Ok(()), "an empty file holds nothing");
        std::fs::write(&output, "precious\n").unwrap();
        assert!(check("a").unwrap_err().contains("--force"));

        remember(dir.path(), WrittenOutput::new("a", &output, &std::fs::metadata(&output).unwrap()));
        assert_eq!(check("a"), Ok(()));
        assert!(check("b").is_err(), "another job's output");
        std::fs::write(&output, "edited by hand\n").unwrap();
        assert!(check("a").is_err());
    }

    #[test]
    fn not_every_output_is_remembered_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..REMEMBERED + 5 {
            let output = dir.path().join(format!("{number}.jsonl"));
            std::fs::write(&output, "x").unwrap();
            remember(dir.path(), WrittenOutput::new("a", &output, &std::fs::metadata(&output).unwrap()));
        }
        let all = remembered(dir.path());
        assert_eq!((all.len(), all.last().unwrap().path.ends_with("104.jsonl")), (REMEMBERED, true));
    }
}
