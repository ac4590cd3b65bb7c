//! A folder as an open descriptor, and what is done by name inside it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::file::DataFile;
use super::seam::{Act, Seam};
use super::trust::{Wanted, protect_new, secure};
use crate::store::error::StoreError;

/// Whether repaired permissions are worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    Loud,
    /// They were expected to be too wide: another part of the program has just made the file.
    Quiet,
}

/// Something in a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: OsString,
    pub kind: FileType,
}

/// A folder of the data directory, or the directory itself. Clones share its descriptor.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    fd: OwnedFd,
    /// As an operator knows it; for messages, and for sled.
    path: PathBuf,
    seam: Seam,
    /// Only looked at, whoever it belongs to: permissions stay as they are.
    is_guest: bool,
}

/// Deeper than anything that is ever removed as a whole.
const MAX_DEPTH: usize = 8;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// A fifo must not block whoever opens it, and a terminal not become ours.
const CAREFULLY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

impl Folder {
    /// Opens a data directory, which is made if there is none. Links on the way there are followed.
    pub(super) fn root(path: &Path, seam: Seam) -> Result<Self, StoreError> {
        let opening = || -> io::Result<OwnedFd> {
            seam.pass(Act::MakeFolder)?;
            // Prompts and answers are nobody else's business.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            seam.pass(Act::Open)?;
            let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            secure(&fd, Wanted::Root, path, Report::Loud)?;
            Ok(fd)
        };
        let fd = opening().map_err(|error| StoreError::io("opening", path, &error))?;
        Ok(Self(Arc::new(Opened { fd, path: path.to_owned(), seam, is_guest: false })))
    }

    /// Opens a data directory that is there, only to look at it: whoever it belongs to, and nothing is repaired.
    pub(super) fn guest(path: &Path) -> Result<Self, StoreError> {
        let opened = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = opened.map_err(|errno| StoreError::io("opening", path, &errno.into()))?;
        Ok(Self(Arc::new(Opened { fd, path: path.to_owned(), seam: Seam::default(), is_guest: true })))
    }

    /// Its path, as an operator knows it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether it belongs to the user that runs.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn is_ours(&self) -> Result<bool, StoreError> {
        let stat = fstat(&self.0.fd).map_err(|errno| StoreError::io("looking at", self.path(), &errno.into()))?;
        Ok(stat.st_uid == rustix::process::geteuid().as_raw())
    }

    /// Where tests let operations fail.
    pub fn seam(&self) -> Seam {
        self.0.seam.clone()
    }

    /// The path of something in it.
    pub fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.path.join(name.as_ref())
    }

    /// Does one operation on a name.
    fn at<T>(&self, act: Act, doing: &'static str, name: &OsStr, work: impl FnOnce() -> io::Result<T>) -> Result<T, StoreError> {
        let work = || {
            check_name(name)?;
            self.0.seam.pass(act)?;
            work()
        };
        work().map_err(|error| StoreError::io(doing, &self.path_of(name), &error))
    }

    /// What stands there, if anything; a link is a link.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn kind_of(&self, name: impl AsRef<OsStr>) -> Result<Option<FileType>, StoreError> {
        let name = name.as_ref();
        self.at(Act::Look, "looking at", name, || match statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        })
    }

    /// Opens what must be of the wanted kind; an error says what is there instead.
    fn enter(&self, name: &OsStr, flags: OFlags, wanted: Wanted, report: Report) -> io::Result<OwnedFd> {
        let opened = openat(&self.0.fd, name, flags | CAREFULLY, FILE_MODE);
        let fd = opened.map_err(|errno| match statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => wanted.check_kind(FileType::from_raw_mode(stat.st_mode)).err().unwrap_or_else(|| errno.into()),
            Err(_) => errno.into(),
        })?;
        if self.0.is_guest {
            wanted.check_kind(FileType::from_raw_mode(fstat(&fd)?.st_mode))?;
        } else {
            secure(&fd, wanted, &self.path_of(name), report)?;
        }
        Ok(fd)
    }

    /// A folder inside it, which is made if there is none.
    ///
    /// # Errors
    /// When something else stands there, it belongs to somebody else, or it cannot be made.
    pub fn folder(&self, name: impl AsRef<OsStr>) -> Result<Self, StoreError> {
        let name = name.as_ref();
        self.at(Act::MakeFolder, "creating", name, || match mkdirat(&self.0.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        })?;
        self.open_folder(name)
    }

    /// A folder inside it; `None` if there is nothing of that name.
    ///
    /// # Errors
    /// When something else stands there, it belongs to somebody else, or it cannot be opened.
    pub fn existing_folder(&self, name: impl AsRef<OsStr>) -> Result<Option<Self>, StoreError> {
        match self.open_folder(name.as_ref()) {
            Ok(folder) => Ok(Some(folder)),
            Err(StoreError::Io { missing: true, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_folder(&self, name: &OsStr) -> Result<Self, StoreError> {
        let enter = || self.enter(name, OFlags::RDONLY | OFlags::DIRECTORY, Wanted::Folder, Report::Loud);
        let fd = self.at(Act::Open, "opening", name, enter)?;
        Ok(Self(Arc::new(Opened { fd, path: self.path_of(name), seam: self.0.seam.clone(), is_guest: self.0.is_guest })))
    }

    fn file(&self, fd: OwnedFd) -> DataFile {
        DataFile::new(File::from(fd), self.0.seam.clone())
    }

    /// Opens a file to read it.
    ///
    /// # Errors
    /// When there is none (the error says that it is missing), it is no regular file or somebody
    /// else's, or it cannot be opened.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let fd = self.at(Act::Open, "opening", name, || self.enter(name, OFlags::RDONLY, Wanted::File, Report::Loud))?;
        Ok(self.file(fd))
    }

    /// Opens a file to read and write it where it is, and makes it if there is none.
    ///
    /// # Errors
    /// As [`Self::open`], and when it cannot be made.
    pub fn open_or_create(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let open = || {
            match openat(&self.0.fd, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | CAREFULLY, FILE_MODE) {
                Ok(fd) => protect_new(&fd).map(|()| fd),
                // Whatever it is, it is looked at.
                Err(Errno::EXIST) => self.enter(name, OFlags::RDWR, Wanted::File, Report::Loud),
                Err(errno) => Err(errno.into()),
            }
        };
        let fd = self.at(Act::Open, "opening", name, open)?;
        Ok(self.file(fd))
    }

    /// Makes a file that does not exist yet, to write and read it.
    ///
    /// # Errors
    /// When something has that name, be it a link, or the disk is full or fails.
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let fd = self.at(Act::Create, "creating", name, || {
            let fd = openat(&self.0.fd, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | CAREFULLY, FILE_MODE)?;
            protect_new(&fd)?;
            Ok(fd)
        })?;
        Ok(self.file(fd))
    }

    /// Writes a small file as a whole, durably: afterwards and after any crash it has its old content or
    /// the new one. `NAME.new` is used on the way.
    ///
    /// # Errors
    /// When the disk is full or fails, or something that is no file has one of the names.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let new = format!("{name}.new");
        for name in [name, new.as_str()] {
            if let Some(kind) = self.kind_of(name)? {
                let wrong = |error| StoreError::io("writing", &self.path_of(name), &error);
                Wanted::File.check_kind(kind).map_err(wrong)?;
            }
        }
        // Of a process that died. Never written over: it may be one file with another, by a hard link.
        if self.kind_of(&new)?.is_some() {
            self.remove(&new)?;
        }
        let mut file = self.create(&new)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| StoreError::io("writing", &self.path_of(&new), &error))?;
        self.rename(&new, self, name)?;
        self.sync()
    }

    /// Moves something to a name in this or another folder, where it replaces a file. Not durable until
    /// the folders are synced.
    ///
    /// # Errors
    /// When it is not there, or the disk is full or fails.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Self, to_name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let (name, to_name) = (name.as_ref(), to_name.as_ref());
        to.at(Act::Rename, "renaming to", to_name, || {
            check_name(name)?;
            Ok(renameat(&self.0.fd, name, &to.0.fd, to_name)?)
        })
    }

    /// Removes what is not a directory; of a link, the link. Not durable until the folder is synced.
    ///
    /// # Errors
    /// When it is not there, or the disk fails.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        self.at(Act::Remove, "removing", name, || Ok(unlinkat(&self.0.fd, name, AtFlags::empty())?))
    }

    /// Removes something with all that is in it, if it is there; never what links lead to.
    ///
    /// # Errors
    /// When the disk fails, or what is there belongs to somebody else.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        self.remove_below(name.as_ref(), MAX_DEPTH)
    }

    fn remove_below(&self, name: &OsStr, depth: usize) -> Result<(), StoreError> {
        match self.kind_of(name)? {
            None => Ok(()),
            Some(FileType::Directory) if depth > 0 => {
                let folder = self.open_folder(name)?;
                for entry in folder.entries()? {
                    folder.remove_below(&entry.name, depth - 1)?;
                }
                self.at(Act::Remove, "removing", name, || Ok(unlinkat(&self.0.fd, name, AtFlags::REMOVEDIR)?))
            }
            // A directory that is too deep stays, with an error.
            Some(_) => self.remove(name),
        }
    }

    /// All that is in it, in no order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let list = || -> io::Result<Vec<Entry>> {
            self.0.seam.pass(Act::List)?;
            let mut entries = Vec::new();
            for entry in Dir::read_from(&self.0.fd)? {
                let entry = entry?;
                let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                if name == "." || name == ".." {
                    continue;
                }
                let kind = match entry.file_type() {
                    // Not every file system tells at once.
                    FileType::Unknown => match statat(&self.0.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(errno.into()),
                    },
                    kind => kind,
                };
                entries.push(Entry { name, kind });
            }
            Ok(entries)
        };
        list().map_err(|error| StoreError::io("listing", self.path(), &error))
    }

    /// Looks at all that is in a folder whose files somebody opens by their paths: only regular files and
    /// folders of them, all ours. Repairs permissions.
    ///
    /// # Errors
    /// When there is a link or anything else in it, or something belongs to somebody else.
    pub fn vet(&self, report: Report) -> Result<(), StoreError> {
        self.vet_below(report, MAX_DEPTH)
    }

    fn vet_below(&self, report: Report, depth: usize) -> Result<(), StoreError> {
        for Entry { name, kind } in self.entries()? {
            if kind == FileType::Directory && depth > 0 {
                self.open_folder(&name)?.vet_below(report, depth - 1)?;
            } else {
                self.at(Act::Open, "opening", &name, || self.enter(&name, OFlags::RDONLY, Wanted::File, report))?;
            }
        }
        Ok(())
    }

    /// Makes what was created, renamed and removed in it durable.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = self.0.seam.pass(Act::Sync).and_then(|()| Ok(fsync(&self.0.fd)?));
        synced.map_err(|error| StoreError::io("flushing", self.path(), &error))
    }

    /// Bytes left on its disk for an unprivileged writer.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = self.0.seam.pass(Act::Look).and_then(|()| Ok(rustix::fs::fstatvfs(&self.0.fd)?));
        let stat = stat.map_err(|error| StoreError::io("asking for free space of", self.path(), &error))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// A name has one part: it leads nowhere but into its folder.
fn check_name(name: &OsStr) -> io::Result<()> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a name")),
    }
}
