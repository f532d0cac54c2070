//! Descriptors that a forked child does not keep: their locks belong to this process alone.
//!
//! A `flock` lock belongs to an open file, and a forked child shares all open files. So the lock of
//! a killed process would live as long as the child. A record lock of `fcntl` dies with its
//! process, but any code in the process that closes another descriptor of the file releases it.
//!
//! So the lock is a `flock`, and the child closes the descriptor before it returns from `fork`: the
//! C library calls a handler there. A child made without the C library, with a bare `clone` and
//! without `exec`, keeps the descriptor. The lock is then held too long, never too short.

#![allow(
    unsafe_code,
    reason = "only the C library can tell a child that it was forked"
)]

use std::ffi::c_int;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The most descriptors that a child closes. Further ones are inherited.
const ROOM: usize = 1024;

/// No descriptor.
const NONE: RawFd = -1;

/// How often opening is retried because another thread forked meanwhile.
const TRIES: usize = 1000;

static OPEN: [AtomicI32; ROOM] = [const { AtomicI32::new(NONE) }; ROOM];

/// The forks that were begun (upper half), and those under way (lower half).
static FORKS: AtomicU64 = AtomicU64::new(0);

const BEGUN: u64 = 1 << 32;
const UNDER_WAY: u64 = 1;

static HANDLERS: OnceLock<c_int> = OnceLock::new();

unsafe extern "C" {
    /// POSIX: registers the functions that `fork` calls before it forks, and then in the parent and
    /// in the child. Returns 0 or an error number.
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> c_int;
}

extern "C" fn before_fork() {
    FORKS.fetch_add(BEGUN | UNDER_WAY, Ordering::SeqCst);
}

extern "C" fn after_fork_in_parent() {
    FORKS.fetch_sub(UNDER_WAY, Ordering::SeqCst);
}

/// Closes the descriptors. Takes no lock and allocates nothing, since other threads of the parent
/// may have been in the middle of either.
extern "C" fn after_fork_in_child() {
    super::wipe_mark();
    FORKS.store(0, Ordering::SeqCst);
    for slot in &OPEN {
        let fd = slot.swap(NONE, Ordering::SeqCst);
        if fd != NONE {
            // SAFETY: an `OwnFd` of the parent had this descriptor open when it forked, and was its
            // only owner. Its copy in this process never uses it: every call is refused in a child,
            // and its destructor leaves the descriptor alone. No slot holds it twice.
            unsafe { rustix::io::close(fd) };
        }
    }
}

/// Returns the number of forks that the C library has begun since the handlers were registered.
pub(super) fn forks() -> u64 {
    FORKS.load(Ordering::SeqCst) >> 32
}

/// Registers the handlers, once in each process.
pub(super) fn watch() -> io::Result<()> {
    let answer = HANDLERS.get_or_init(|| {
        // SAFETY: the signature is that of POSIX; the handlers live as long as the program and only
        // use atomics and `close`, which is async-signal-safe.
        unsafe {
            pthread_atfork(
                Some(before_fork),
                Some(after_fork_in_parent),
                Some(after_fork_in_child),
            )
        }
    });
    match *answer {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A descriptor that no forked child keeps.
#[derive(Debug)]
pub(crate) struct OwnFd {
    fd: ManuallyDrop<OwnedFd>,
    slot: Option<&'static AtomicI32>,
}

impl OwnFd {
    /// Takes the result of `open`, which must not be locked yet.
    pub(crate) fn open<E>(open: impl Fn() -> Result<OwnedFd, E>) -> Result<Self, E> {
        let mut tries = 0_usize;
        loop {
            let forks = FORKS.load(Ordering::SeqCst);
            let own = Self::register(open()?);
            let none_under_way = forks & (BEGUN.wrapping_sub(1)) == 0;
            // A child that was forked between opening and registering keeps the descriptor for
            // good.
            if none_under_way && FORKS.load(Ordering::SeqCst) == forks || tries >= TRIES {
                return Ok(own);
            }
            drop(own);
            tries = tries.saturating_add(1);
            std::thread::yield_now();
        }
    }

    fn register(fd: OwnedFd) -> Self {
        let number = fd.as_raw_fd();
        let slot = OPEN.iter().find(|slot| {
            slot.compare_exchange(NONE, number, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        });
        Self {
            fd: ManuallyDrop::new(fd),
            slot,
        }
    }
}

impl AsFd for OwnFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for OwnFd {
    fn drop(&mut self) {
        // In a child it is closed already, and its number may belong to another file.
        if super::check().is_err() {
            return;
        }
        if let Some(slot) = self.slot {
            slot.store(NONE, Ordering::SeqCst);
        }
        // SAFETY: the value is not used again: this is its owner's destructor, which runs once.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
    use std::cell::Cell;
    use std::fs::File;
    use std::time::{Duration, Instant};

    use super::*;

    fn fork() -> Pid {
        // SAFETY: the child calls nothing but `alarm` and `pause`, which are async-signal-safe.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: sets a timer, whose signal ends this process; nothing handles it.
            unsafe { libc::alarm(60) };
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        Pid::from_raw(pid).unwrap()
    }

    /// A lock that is never unlocked ends with the last descriptor of its open file.
    fn is_kept_by_a_child(forks_in: impl Fn(&Cell<Option<Pid>>), forks_after: bool) -> bool {
        let _alone = crate::process::FORKING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        crate::process::watch_for_forks().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let child = Cell::new(None);
        let own = OwnFd::open(|| {
            let opened = File::open(file.path()).map(OwnedFd::from);
            forks_in(&child);
            opened
        });
        let own = own.unwrap();
        flock(&own, FlockOperation::NonBlockingLockExclusive).unwrap();
        if forks_after {
            child.set(Some(fork()));
        }
        drop(own);
        let other = File::open(file.path()).unwrap();
        let is_locked = || flock(&other, FlockOperation::NonBlockingLockExclusive).is_err();
        // The child closes it when it is scheduled, which may be after `fork` has returned here.
        let patience = Instant::now() + Duration::from_secs(5);
        while is_locked() && Instant::now() < patience {
            std::thread::yield_now();
        }
        let is_kept = is_locked();
        let child = child.get().unwrap();
        kill_process(child, Signal::KILL).unwrap();
        waitpid(Some(child), WaitOptions::empty()).unwrap();
        is_kept
    }

    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_child_that_is_forked_while_it_is_open_does_not_keep_it() {
        assert!(!is_kept_by_a_child(|_| {}, true));
    }

    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_child_that_is_forked_before_it_is_registered_does_not_keep_it() {
        let forks_once = |child: &Cell<Option<Pid>>| {
            if child.get().is_none() {
                child.set(Some(fork()));
            }
        };
        assert!(!is_kept_by_a_child(forks_once, false));
    }
}
