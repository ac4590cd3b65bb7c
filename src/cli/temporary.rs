//! Files of `batchd run` that exist only while it works, such as an output that is not complete
//! yet.
//!
//! Each has the process id in its name, and is locked for as long as its process lives. If a
//! process was killed, the next run that would use the same name pattern removes its file. The id
//! alone would not suffice (in a container every run may have the same id, and processes of other
//! containers are not visible), and neither would the lock: there is a moment between making a file
//! and locking it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::{Pid, test_kill_process};

/// A file that is removed with its owner, unless it is renamed.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    /// Also holds the lock.
    file: File,
    renamed: bool,
}

impl Temporary {
    /// Makes `folder/before PID after`, and removes files that dead processes have left under that
    /// pattern. `mode` holds the permissions before the umask is applied.
    pub fn create(folder: &Path, before: &OsStr, after: &str, mode: u32) -> io::Result<Self> {
        // Best effort: a failure here does not matter.
        let _ = remove_stale(folder, before, after);
        let mut name = before.to_owned();
        name.push(format!("{}{after}", std::process::id()));
        let path = folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&path)?;
        // Some file systems have no locks; then the process id has to suffice.
        let _ = file.try_lock();
        Ok(Self { path, file, renamed: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Moves the file to `path`, replacing any file there.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(folder: &Path, before: &OsStr, after: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = pid_in(&name, before, after) else { continue };
        // A link was made by a user, whatever its name.
        if entry.file_type()?.is_file() && !is_another(pid) {
            remove_unlocked(&entry.path())?;
        }
    }
    Ok(())
}

/// The process id in a name that follows the same pattern.
fn pid_in(name: &OsStr, before: &OsStr, after: &str) -> Option<i32> {
    let digits = name.as_encoded_bytes().strip_prefix(before.as_encoded_bytes())?.strip_suffix(after.as_bytes())?;
    let digits = std::str::from_utf8(digits).ok()?;
    digits.parse::<i32>().ok().filter(|pid| *pid > 0 && pid.to_string() == digits)
}

/// Whether a process other than this one has that id now.
fn is_another(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return true };
    pid != rustix::process::getpid() && test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

fn remove_unlocked(path: &Path) -> io::Result<()> {
    let carefully = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(carefully.bits().cast_signed()).open(path)?;
    match file.try_lock() {
        Ok(()) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process id beyond any that a system assigns.
    const DEAD: i32 = i32::MAX;

    #[test]
    fn only_what_dead_processes_have_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(dir.path().join(name), "left").unwrap();
        let own = std::process::id();
        let stale = [format!("out.jsonl.{DEAD}.partial"), format!("out.jsonl.{own}.partial")];
        let kept = [
            "out.jsonl".into(),
            // The id of a process that lives: the first one.
            "out.jsonl.1.partial".into(),
            "out.jsonl.0.partial".into(),
            format!("out.jsonl.0{DEAD}.partial"),
            format!("out.jsonl.+{DEAD}.partial"),
            "out.jsonl..partial".into(),
            format!("out.jsonl.{DEAD}.partial.gz"),
            format!("other.jsonl.{DEAD}.partial"),
            // A file of another container, which holds its lock.
            format!("out.jsonl.{}.partial", DEAD - 1),
        ];
        stale.iter().chain(&kept).for_each(|name| make(name));
        let locked = File::open(dir.path().join(&kept[8])).unwrap();
        locked.try_lock().unwrap();
        let link = dir.path().join(format!("out.jsonl.{}.partial", DEAD - 2));
        std::os::unix::fs::symlink("out.jsonl", &link).unwrap();

        let temporary = Temporary::create(dir.path(), OsStr::new("out.jsonl."), ".partial", 0o600).unwrap();
        assert_eq!(std::fs::read(temporary.path()).unwrap(), b"", "ours is a new one");
        assert!(!dir.path().join(&stale[0]).exists());
        for name in &kept {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"left", "{name}");
        }
        assert!(link.is_symlink());
        let path = temporary.path().to_owned();
        drop(temporary);
        assert!(!path.exists());
    }
}
