//! The descriptor limit of the process: reading and raising it, and recognising the kernel's
//! refusals.

use std::error::Error;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More descriptors are of no use to one process, and where "unlimited" is a number near 2³⁰,
/// tables grow with it.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Raises the soft limit as far as the hard limit allows. A shell's soft limit of 1,024 is meant
/// for programs that use `select`, and has nothing to do with what a server may use.
///
/// Returns the soft limit that is then in force.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if current.is_some_and(|current| current < wanted) {
        // A system that forbids the change keeps its limit: then the old limit is shared out.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    soft()
}

/// The soft limit.
pub(super) fn soft() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS)
}

/// The number of open descriptors; `None` where the system does not report it.
pub fn open() -> Option<usize> {
    // The descriptor that reads the list is itself in the list.
    std::fs::read_dir("/proc/self/fd").ok().map(|list| list.count().saturating_sub(1))
}

/// Whether the kernel has refused a descriptor, because of the limit of the process or of the
/// machine.
pub fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let refused = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    std::iter::successors(Some(error), |&cause| cause.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
        .any(|code| refused.contains(&code))
}
