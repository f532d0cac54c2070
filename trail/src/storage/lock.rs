//! The locks that keep a second writer out of a trail's directory.
//!
//! Two `flock`s are held for as long as the trail is open. One is on the directory itself, which
//! cannot be removed while its descriptor is open. The other is on the file `lock` in it, the only
//! one that version 0.1 checks. Readers request them briefly and without waiting. So a refused
//! writer retries for a while before it reports that the trail is open already. A forked child
//! keeps neither lock (`process::own`).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::medium::{Locked, Medium};
use crate::open::OpenError;
use crate::process::{self, OwnFd};

/// The name of the lock file in a trail's directory.
pub(crate) const LOCK: &str = "lock";

/// How long a writer retries. A reader holds a lock for some microseconds.
const PATIENCE: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_millis(5);

/// The directory and its lock file, locked for this process.
#[derive(Debug)]
pub(super) struct Locks {
    file: OwnFd,
    directory: OwnFd,
}

impl Locks {
    /// Locks the directory `dir`, which `path` names in errors. Some file systems cannot lock a
    /// directory: there only the lock file is locked.
    pub(super) fn take(dir: &OwnedFd, path: &Path) -> Result<(Self, Locked), OpenError> {
        let io = |operation| move |errno: Errno| OpenError::io(path, operation, errno.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = OwnFd::open(|| rustix::fs::openat(dir, LOCK, flags, Mode::RUSR | Mode::WUSR))
            .map_err(io("open lock file"))?;
        // A separate open file: a copy of `dir` elsewhere would keep the lock.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = OwnFd::open(|| rustix::fs::openat(dir, ".", flags, Mode::empty()))
            .map_err(io("open directory"))?;
        let until = Instant::now().checked_add(PATIENCE);
        let take = |fd: &OwnFd| loop {
            match lock(fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if until.is_some_and(|until| Instant::now() < until) => {
                    std::thread::sleep(PAUSE);
                }
                taken => return taken,
            }
        };
        let path = || path.to_owned();
        let locked = match (take(&file), take(&directory)) {
            (Ok(()), Ok(())) => Locked::DirectoryAndFile,
            // Some file systems require a descriptor for writing, which a directory cannot have.
            (Ok(()), Err(errno)) if has_no_locks(errno) || errno == Errno::BADF => Locked::File,
            (Err(Errno::WOULDBLOCK), _) | (Ok(()), Err(Errno::WOULDBLOCK)) => {
                return Err(OpenError::Locked { path: path() });
            }
            (Err(errno), _) if has_no_locks(errno) => {
                return Err(OpenError::NoLocks {
                    file_system: Medium::name_at(&path()),
                    path: path(),
                });
            }
            (Err(errno), _) | (Ok(()), Err(errno)) => return Err(io("lock")(errno)),
        };
        Ok((Self { file, directory }, locked))
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        // Closing is not enough: another process may have a copy of the descriptor.
        if process::check().is_ok() {
            let _unlocked = lock(&self.directory, FlockOperation::Unlock);
            let _unlocked = lock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Returns whether the file system has no locks at all.
fn has_no_locks(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP
    )
}

fn lock(fd: impl AsFd, operation: FlockOperation) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, operation))
}

/// Returns whether a writer may have the trail in `dir` open: one of its locks is held, or cannot
/// be tested.
pub(crate) fn may_be_held(dir: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let is_held = |fd: OwnedFd| lock(&fd, FlockOperation::NonBlockingLockShared).is_err();
    let file = match rustix::fs::open(dir.join(LOCK), flags, Mode::empty()) {
        Ok(file) => is_held(file),
        Err(errno) => errno != Errno::NOENT,
    };
    // Without `NOFOLLOW`: a reader may use a link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    file || rustix::fs::open(dir, flags, Mode::empty()).map_or(true, is_held)
}
