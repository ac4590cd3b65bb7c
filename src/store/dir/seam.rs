//! Lets tests make an operation on the data directory fail. Outside tests it does nothing.

use std::io;

/// A kind of operation on the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    Open,
    Create,
    MakeFolder,
    /// Asks for the kind, the owner or the size of an entry, or for free space.
    Look,
    List,
    Lock,
    Read,
    /// A write; one that fails has written half of its bytes, as on a full disk.
    Write,
    Sync,
    Rename,
    Remove,
    /// A read by sled.
    ReadStore,
}

/// The seam that every folder and file carries.
#[derive(Debug, Clone, Default)]
pub struct Seam {
    #[cfg(test)]
    faults: Option<Faults>,
}

impl Seam {
    /// Returns an error if this operation should fail.
    #[cfg(not(test))]
    #[inline]
    pub fn pass(&self, _: Act) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub fn pass(&self, act: Act) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.meet(act))
    }
}

#[cfg(test)]
pub use faults::Faults;

#[cfg(test)]
mod faults {
    use std::io;
    use std::sync::{Arc, Mutex, MutexGuard};

    use rustix::io::Errno;

    use super::{Act, Seam};

    /// Which operations fail. Clones share one plan; it can be changed while a store is open.
    #[derive(Debug, Clone, Default)]
    pub struct Faults(Arc<Mutex<Plan>>);

    #[derive(Debug, Default)]
    struct Plan {
        /// Every operation that was done or tried, in order.
        seen: Vec<Act>,
        fault: Option<Fault>,
    }

    #[derive(Debug)]
    struct Fault {
        /// Only operations of this kind fail; `None` for any kind.
        act: Option<Act>,
        /// How many operations pass before the failure.
        spared: usize,
        /// Whether all later operations fail, too, and not just one.
        lasting: bool,
        errno: Errno,
    }

    impl From<&Faults> for Seam {
        fn from(faults: &Faults) -> Self {
            Self { faults: Some(faults.clone()) }
        }
    }

    impl Faults {
        /// Lets one operation fail, the `n`th from now (counted from 0) of that kind, or of any.
        pub fn fail(&self, act: Option<Act>, n: usize, errno: Errno) {
            self.plan().fault = Some(Fault { act, spared: n, lasting: false, errno });
        }

        /// Lets all operations of that kind, or of any, fail after the next `n`.
        pub fn fail_from(&self, act: Option<Act>, n: usize, errno: Errno) {
            self.plan().fault = Some(Fault { act, spared: n, lasting: true, errno });
        }

        /// Lets nothing fail from now on.
        pub fn heal(&self) {
            self.plan().fault = None;
        }

        /// The operations that were done or tried so far.
        pub fn seen(&self) -> Vec<Act> {
            self.plan().seen.clone()
        }

        fn plan(&self) -> MutexGuard<'_, Plan> {
            self.0.lock().unwrap()
        }

        pub(super) fn meet(&self, act: Act) -> io::Result<()> {
            let mut plan = self.plan();
            plan.seen.push(act);
            let Some(fault) = plan.fault.as_mut().filter(|fault| fault.act.is_none_or(|kind| kind == act)) else { return Ok(()) };
            if fault.spared > 0 {
                fault.spared -= 1;
                return Ok(());
            }
            let errno = fault.errno;
            if !fault.lasting {
                plan.fault = None;
            }
            Err(errno.into())
        }
    }
}
