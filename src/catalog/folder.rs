//! Reading a catalog folder while others write to it.
//!
//! Invariant: the returned files were in the folder at one moment. The folder may be a link that is
//! swapped, and so may the files in it (as container mounts and deployment tools do). So paths are
//! resolved once, and the read counts only if nothing has changed in the meantime.

use std::fs;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::Fault;
use crate::catalog::archive::FOLDERS;
use crate::catalog::archive::{Archive, is_seed};

/// The largest seed file, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// The most files in a folder, and the most bytes in all of them.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 128 << 20;
/// Reads that concurrent writes may spoil before reading is given up.
const READS: u32 = 10;
/// The wait between two such reads.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Facts that distinguish one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    file: String,
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The seeds of a folder, all from one moment. Blocks.
pub(super) fn read(dir: &Path) -> Result<Archive, Fault> {
    let mut last = None;
    for _ in 0..READS {
        match read_once(dir) {
            Ok(Some(archive)) => return Ok(archive),
            Ok(None) => last = None,
            // A file that has just been removed is no fault if the next read is complete.
            Err(fault) if last.as_ref() == Some(&fault) => return Err(fault),
            Err(fault) => last = Some(fault),
        }
        std::thread::sleep(RETRY_DELAY);
    }
    let message = "its files keep changing while they are read; try again when they are complete".to_owned();
    Err(last.unwrap_or(Fault { file: dir.to_string_lossy().into_owned(), place: None, message }))
}

/// `None` if something changed during the read.
fn read_once(dir: &Path) -> Result<Option<Archive>, Fault> {
    let before = marks(dir)?;
    if before.is_empty() {
        let message = "holds no seed; it must hold `providers/<id>.toml` and `models/<name>.toml`".to_owned();
        return Err(Fault { file: dir.to_string_lossy().into_owned(), place: None, message });
    }
    let files = before.iter().map(read_file).collect::<Result<Vec<_>, Fault>>()?;
    Ok((marks(dir)? == before).then_some(Archive(files)))
}

/// The state of every seed in a folder, in order of name.
pub(super) fn marks(dir: &Path) -> Result<Vec<Mark>, Fault> {
    let root = dir.canonicalize().map_err(|error| unreadable(&dir.to_string_lossy(), &error))?;
    let (mut marks, mut bytes) = (Vec::new(), 0);
    for folder in FOLDERS {
        let entries = match fs::read_dir(root.join(folder)) {
            Ok(entries) => entries,
            // The check reports models without a provider, and providers without a model.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&dir.join(folder).to_string_lossy(), &error)),
        };
        for entry in entries {
            let name = entry.map_err(|error| unreadable(folder, &error))?.file_name();
            let file = format!("{folder}/{}", name.to_string_lossy());
            if is_seed(&file) {
                let mark = mark(root.join(folder).join(&name), file)?;
                bytes += mark.bytes;
                marks.push(mark);
            }
            if marks.len() > MAX_FILES || bytes > MAX_BYTES {
                let message = format!("holds more than {MAX_FILES} seeds or {MAX_BYTES} bytes of them");
                return Err(Fault { file: dir.to_string_lossy().into_owned(), place: None, message });
            }
        }
    }
    marks.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(marks)
}

fn mark(path: PathBuf, file: String) -> Result<Mark, Fault> {
    let path = path.canonicalize().map_err(|error| unreadable(&file, &error))?;
    let data = fs::metadata(&path).map_err(|error| unreadable(&file, &error))?;
    if !data.is_file() {
        // Reading a pipe would wait for its writer, and a device has no end.
        return Err(Fault { file, place: None, message: "is no plain file; a seed must be one".to_owned() });
    }
    Ok(Mark {
        file,
        path,
        device: data.dev(),
        inode: data.ino(),
        bytes: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

fn read_file(mark: &Mark) -> Result<(String, String), Fault> {
    let Mark { file, path, bytes, .. } = mark;
    let mut content = Vec::with_capacity(usize::try_from(*bytes.min(&MAX_FILE)).unwrap_or(0));
    let read = fs::File::open(path).and_then(|open| open.take(MAX_FILE + 1).read_to_end(&mut content));
    read.map_err(|error| unreadable(file, &error))?;
    if content.len() as u64 > MAX_FILE {
        return Err(unreadable(file, &Error::new(ErrorKind::FileTooLarge, format!("it is larger than {MAX_FILE} bytes"))));
    }
    let bytes = content;
    String::from_utf8(bytes).map(|text| (file.clone(), text)).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Fault { file: file.clone(), place: None, message: format!("byte {} is not UTF-8; a seed must be UTF-8", at + 1) }
    })
}

fn unreadable(file: &str, error: &Error) -> Fault {
    Fault { file: file.to_owned(), place: None, message: format!("cannot be read: {error}") }
}
