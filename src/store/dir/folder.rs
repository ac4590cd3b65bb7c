//! A folder as an open descriptor, and the operations by name inside it.

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
use super::trust::{Report, Wanted, protect_new, secure};
use crate::store::error::StoreError;

/// One entry of a folder.
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
    /// The path as an operator knows it; for messages, and for sled.
    path: PathBuf,
    seam: Seam,
    /// The folder is only read, whoever owns it: permissions stay as they are.
    is_guest: bool,
}

/// More levels than any tree that is removed or inspected as a whole has.
const MAX_DEPTH: usize = 8;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Opening a fifo must not block, and a terminal must not become our controlling terminal.
const CAREFULLY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

impl Folder {
    /// Opens a data directory, which is made if it does not exist. Links in the path to it are
    /// followed.
    pub(super) fn root(path: &Path, seam: Seam) -> Result<Self, StoreError> {
        let opening = || -> io::Result<OwnedFd> {
            seam.pass(Act::MakeFolder)?;
            // Prompts and answers must not be readable by other users.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            seam.pass(Act::Open)?;
            let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            secure(&fd, Wanted::Root, path, Report::Loud)?;
            Ok(fd)
        };
        let fd = opening().map_err(|error| StoreError::io("opening", path, &error))?;
        Ok(Self(Arc::new(Opened { fd, path: path.to_owned(), seam, is_guest: false })))
    }

    /// Opens an existing data directory for reading only: it may belong to any user, and nothing is
    /// repaired.
    pub(super) fn guest(path: &Path) -> Result<Self, StoreError> {
        let opened = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = opened.map_err(|errno| StoreError::io("opening", path, &errno.into()))?;
        Ok(Self(Arc::new(Opened { fd, path: path.to_owned(), seam: Seam::default(), is_guest: true })))
    }

    /// The folder's path, as an operator knows it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the folder belongs to the user that runs batchd.
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

    /// The path of an entry in the folder.
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

    /// The kind of the entry with that name, if there is one; links are not followed.
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

    /// Opens an entry that must be of the wanted kind; an error says what is there instead.
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

    /// Opens a folder inside this one, which is made if it does not exist.
    ///
    /// # Errors
    /// When the name belongs to something else, the folder belongs to another user, or it cannot be
    /// made.
    pub fn folder(&self, name: impl AsRef<OsStr>) -> Result<Self, StoreError> {
        let name = name.as_ref();
        self.at(Act::MakeFolder, "creating", name, || match mkdirat(&self.0.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        })?;
        self.open_folder(name)
    }

    /// Opens a folder inside this one; `None` if there is nothing of that name.
    ///
    /// # Errors
    /// When the name belongs to something else, the folder belongs to another user, or it cannot be
    /// opened.
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
    /// When the file does not exist (the error says that it is missing), is no regular file,
    /// belongs to another user, or cannot be opened.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let fd = self.at(Act::Open, "opening", name, || self.enter(name, OFlags::RDONLY, Wanted::File, Report::Loud))?;
        Ok(self.file(fd))
    }

    /// Opens a file to read and write it in place, and makes it if it does not exist.
    ///
    /// # Errors
    /// As [`Self::open`], and when the file cannot be made.
    pub fn open_or_create(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let open = || {
            match openat(&self.0.fd, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | CAREFULLY, FILE_MODE) {
                Ok(fd) => protect_new(&fd).map(|()| fd),
                // Whatever is there, `enter` checks it.
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
    /// When something already has that name, even a link, or the disk is full or fails.
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<DataFile, StoreError> {
        let name = name.as_ref();
        let fd = self.at(Act::Create, "creating", name, || {
            let fd = openat(&self.0.fd, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | CAREFULLY, FILE_MODE)?;
            protect_new(&fd)?;
            Ok(fd)
        })?;
        Ok(self.file(fd))
    }

    /// Writes a small file as a whole, durably: after this and after any crash the file has its old
    /// content or the new one. `NAME.new` is used on the way.
    ///
    /// # Errors
    /// When the disk is full or fails, or one of the names belongs to something that is no file.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let new = format!("{name}.new");
        for name in [name, new.as_str()] {
            if let Some(kind) = self.kind_of(name)? {
                let wrong = |error| StoreError::io("writing", &self.path_of(name), &error);
                Wanted::File.check_kind(kind).map_err(wrong)?;
            }
        }
        // Left by a process that died. It is never overwritten: a hard link may make it the same
        // file as another.
        if self.kind_of(&new)?.is_some() {
            self.remove(&new)?;
        }
        let mut file = self.create(&new)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| StoreError::io("writing", &self.path_of(&new), &error))?;
        self.rename(&new, self, name)?;
        self.sync()
    }

    /// Moves an entry to a name in this or another folder, where it replaces a file. The move is
    /// not durable until the folders are synced.
    ///
    /// # Errors
    /// When the entry does not exist, or the disk is full or fails.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Self, to_name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let (name, to_name) = (name.as_ref(), to_name.as_ref());
        to.at(Act::Rename, "renaming to", to_name, || {
            check_name(name)?;
            Ok(renameat(&self.0.fd, name, &to.0.fd, to_name)?)
        })
    }

    /// Removes an entry that is not a directory; of a link, the link itself. The removal is not
    /// durable until the folder is synced.
    ///
    /// # Errors
    /// When the entry does not exist, or the disk fails.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let name = name.as_ref();
        self.at(Act::Remove, "removing", name, || Ok(unlinkat(&self.0.fd, name, AtFlags::empty())?))
    }

    /// Removes an entry with everything in it, if it exists; never the targets of links.
    ///
    /// # Errors
    /// When the disk fails, or something in the tree belongs to another user.
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

    /// All entries of the folder, in no particular order.
    ///
    /// # Errors
    /// When the folder cannot be read.
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
                    // Not every file system gives the kind with the listing.
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

    /// Inspects a folder whose files are opened by their paths: it may hold only regular files and
    /// folders of them, all ours. Repairs permissions.
    ///
    /// # Errors
    /// When the folder holds a link or anything else, or something that belongs to another user.
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

    /// Makes creations, renames and removals in the folder durable.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        let synced = self.0.seam.pass(Act::Sync).and_then(|()| Ok(fsync(&self.0.fd)?));
        synced.map_err(|error| StoreError::io("flushing", self.path(), &error))
    }

    /// Bytes left on the folder's disk for an unprivileged writer.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = self.0.seam.pass(Act::Look).and_then(|()| Ok(rustix::fs::fstatvfs(&self.0.fd)?));
        let stat = stat.map_err(|error| StoreError::io("asking for free space of", self.path(), &error))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Checks that a name has one part, so that it cannot lead out of its folder.
fn check_name(name: &OsStr) -> io::Result<()> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a name")),
    }
}
