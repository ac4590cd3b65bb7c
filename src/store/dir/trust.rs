//! What a data directory may contain: of which owner, of which kind and with which permissions.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, Stat, fchmod, fstat};

/// What is expected in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    File,
    Folder,
    /// The data directory itself, which another user may have made for us.
    Root,
}

impl Wanted {
    fn mode(self) -> Mode {
        match self {
            Self::File => Mode::RUSR | Mode::WUSR,
            Self::Folder | Self::Root => Mode::RWXU,
        }
    }

    pub fn kind(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Folder | Self::Root => FileType::Directory,
        }
    }

    /// Returns an error that says what is wrong if the entry is of another kind.
    pub fn check_kind(self, found: FileType) -> io::Result<()> {
        if found == self.kind() {
            return Ok(());
        }
        let wanted = if self == Self::File { "a file" } else { "a directory" };
        let found = match found {
            FileType::Symlink => {
                let advice = "links inside the data directory are not followed; put in its place what it leads to, or remove it";
                return Err(io::Error::other(format!("it is a link where {wanted} should be; {advice}")));
            }
            FileType::RegularFile => "a file",
            FileType::Directory => "a directory",
            FileType::Fifo => "a fifo",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            FileType::Unknown => "of an unknown kind",
        };
        Err(io::Error::other(format!("it is {found} where {wanted} should be; move it away")))
    }
}

/// Whether repaired permissions are worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    Loud,
    /// The permissions were expected to be too wide: another part of the program has just made the
    /// file.
    Quiet,
}

/// What must be done about the owner and the permissions of an entry.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Good,
    /// The entry is ours, but other users have access.
    Open,
    /// The root user made the directory for us, and we cannot change its permissions.
    Lent,
    Refused(String),
}

fn examine(wanted: Wanted, stat: &Stat, me: u32, path: &Path) -> Finding {
    const OTHERS: u32 = 0o077;
    const OTHERS_WRITE: u32 = 0o002;
    let mode = stat.st_mode;
    if stat.st_uid == me {
        return if mode & OTHERS == 0 { Finding::Good } else { Finding::Open };
    }
    let path = path.display();
    // For example a volume that a container was given: the root user can read everything in any
    // case.
    if wanted == Wanted::Root && stat.st_uid == 0 {
        if mode & OTHERS_WRITE == 0 {
            return Finding::Lent;
        }
        let mode = mode & 0o7777;
        let advice = format!("`chown {me} {path}`, or name a directory inside it, such as {path}/batchd, which is then made");
        return Finding::Refused(format!("it belongs to the root user and everybody may write to it (mode {mode:04o}): {advice}"));
    }
    let owner = stat.st_uid;
    let advice = format!("start batchd as that user, or `chown -R {me} {path}`");
    Finding::Refused(format!("it belongs to the user {owner}, and batchd runs as the user {me}: {advice}"))
}

/// Makes sure that an open entry is of the wanted kind, ours and unreadable to others; repairs
/// permissions.
pub(super) fn secure(fd: impl AsFd, wanted: Wanted, path: &Path, report: Report) -> io::Result<()> {
    let stat = fstat(&fd)?;
    wanted.check_kind(FileType::from_raw_mode(stat.st_mode))?;
    let me = rustix::process::geteuid().as_raw();
    match examine(wanted, &stat, me, path) {
        Finding::Good => Ok(()),
        Finding::Refused(reason) => Err(io::Error::other(reason)),
        Finding::Lent => {
            let mode = format!("{:04o}", stat.st_mode & 0o7777);
            tracing::warn!(path = %path.display(), mode, "the data directory is the root user's; what batchd makes in it is for itself alone");
            Ok(())
        }
        Finding::Open => repair(fd, wanted, path, report, stat.st_mode & 0o7777),
    }
}

fn repair(fd: impl AsFd, wanted: Wanted, path: &Path, report: Report, mode: u32) -> io::Result<()> {
    let advice = "chmod it, or use a directory on a file system that keeps permissions";
    let refuse =
        |why: String| io::Error::other(format!("others are let in (mode {mode:04o}), and that cannot be changed: {why}; {advice}"));
    fchmod(&fd, wanted.mode()).map_err(|errno| refuse(io::Error::from(errno).to_string()))?;
    // Some file systems have no permissions, and do not report an error.
    if fstat(&fd)?.st_mode & 0o077 != 0 {
        return Err(refuse("the file system does not keep it".to_owned()));
    }
    if report == Report::Loud {
        let (mode, now) = (format!("{mode:04o}"), format!("{:04o}", wanted.mode().as_raw_mode()));
        tracing::warn!(path = %path.display(), mode, now, "others were let in; the permissions are repaired");
    }
    Ok(())
}

/// Gives a new file the permissions it must have, whatever the umask took away.
pub(super) fn protect_new(fd: impl AsFd) -> io::Result<()> {
    let mode = Wanted::File.mode();
    if fstat(&fd)?.st_mode & 0o777 != mode.as_raw_mode() {
        fchmod(&fd, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the finding for each running user, owner and mode.
    #[test]
    fn who_may_own_a_data_directory_and_what_is_in_it() {
        let look = |wanted, uid, mode, me| {
            let mut stat = fstat(std::fs::File::open("/").unwrap()).unwrap();
            (stat.st_uid, stat.st_mode) = (uid, mode);
            match examine(wanted, &stat, me, Path::new("/data")) {
                Finding::Refused(reason) => reason,
                other => format!("{other:?}"),
            }
        };
        use Wanted::{File, Folder, Root};
        for wanted in [Root, Folder, File] {
            assert_eq!(look(wanted, 7, 0o700, 7), "Good");
            assert_eq!(look(wanted, 7, 0o2770, 7), "Open");
            assert_eq!(look(wanted, 0, 0o755, 0), "Open");
            assert!(look(wanted, 8, 0o700, 7).contains("belongs to the user 8, and batchd runs as the user 7: "));
            assert!(look(wanted, 8, 0o700, 0).contains("chown -R 0 /data"), "root is no exception");
        }
        // As Kubernetes hands out a volume with `fsGroup`.
        assert_eq!(look(Root, 0, 0o2775, 7), "Lent");
        assert!(look(Root, 0, 0o777, 7).contains("/data/batchd"));
        assert!(look(Root, 0, 0o1777, 7).contains("(mode 1777)"));
        for inside in [Folder, File] {
            assert!(look(inside, 0, 0o700, 7).contains("belongs to the user 0"));
        }
    }
}
