//! Detects a forked child of the process that opened the trail.
//!
//! A child has a copy of the parent's memory but none of its threads. A lock may be held for ever,
//! no check of the parent reaches the copy, and a record written there would be written twice. So
//! every call in a child that would take a lock is refused before that. The check is on the path of
//! every record, and of frequent calls of dependent crates. A `getpid` system call would be half
//! the cost there.
//!
//! One number, the mark, answers the check with a load. The kernel zeroes its page in children
//! (`MADV_WIPEONFORK`, Linux 4.14), and so does a handler that the C library calls there. Where the
//! kernel does not support this (gVisor), only the handler does it. Weakness: a child made without
//! the C library is then noticed by its process id, but not by ordinary records nor by a
//! `ForkMark`. The trail records which of them guards.

#![allow(unsafe_code, reason = "memory is mapped once here and nowhere freed")]

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Pid, getpid};
use serde::Serialize;

mod own;

pub(crate) use own::OwnFd;

/// This process was forked from the one that opened the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this process was forked from the one that owns the trail: record there, or use exec before opening a trail of its own"
)]
pub struct Forked(());

/// The mechanism that tells a child from its parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The C library's handler, and process ids.
    AtFork,
    /// The kernel as well, for every child.
    WipedOnFork,
}

/// The mark of this process, and its process id.
struct Mark {
    /// 1, and 0 in a forked child.
    at: &'static AtomicU64,
    guard: Guard,
    pid: Pid,
}

static MARK: OnceLock<Mark> = OnceLock::new();

/// Held by tests that fork.
#[cfg(test)]
pub(crate) static FORKING: Mutex<()> = Mutex::new(());

/// Prepares the check. Called when a trail is opened, before anything is recorded.
///
/// # Errors
///
/// The C library's error if it refuses to register the handler.
pub fn watch_for_forks() -> std::io::Result<Guard> {
    own::watch()?;
    let mark = MARK.get_or_init(|| {
        static PLAIN: AtomicU64 = AtomicU64::new(1);
        let (at, guard) = map_mark().map_or((&PLAIN, Guard::AtFork), |at| (at, Guard::WipedOnFork));
        Mark {
            at,
            guard,
            pid: getpid(),
        }
    });
    Ok(mark.guard)
}

/// Returns the mechanism in use. `None` before a trail is opened.
pub(crate) fn guard() -> Option<Guard> {
    MARK.get().map(|mark| mark.guard)
}

/// The system calls that were refused, and that the process does without.
static REFUSED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// Tries each optional system call of the trail once, on empty names, and notes the calls that a sandbox refuses.
/// `TrailOpened` lists them.
pub(crate) fn try_calls() {
    let note = |call, outcome: rustix::io::Result<()>| {
        if let Err(Errno::ACCESS | Errno::NOSYS | Errno::PERM) = outcome {
            note_refused(call);
        }
    };
    let cwd = rustix::fs::CWD;
    // No file has an empty name, so these two find none.
    let renamed = rustix::fs::renameat_with(cwd, "", cwd, "", RenameFlags::NOREPLACE);
    note("renameat2", renamed);
    let found = rustix::fs::statx(cwd, "", AtFlags::empty(), StatxFlags::MNT_ID);
    note("statx", found.map(drop));
}

/// Notes that this call was refused.
#[doc(hidden)]
pub fn note_refused(call: &'static str) {
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    if !refused.contains(&call) {
        refused.push(call);
        refused.sort_unstable();
    }
}

pub(crate) fn refused_calls() -> Vec<&'static str> {
    REFUSED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Runs in a forked child, before `fork` returns there. Takes no lock and allocates nothing.
fn wipe_mark() {
    if let Some(mark) = MARK.get() {
        mark.at.store(0, Ordering::SeqCst);
    }
}

/// Returns the number of forks of this process through the C library, so that two results can be
/// compared.
pub fn forks() -> u64 {
    own::forks()
}

/// Fails in a forked child. Costs one load of the mark and one of its address. Where the kernel
/// does not guard, it costs a system call, too.
///
/// # Errors
///
/// [`Forked`] in a forked child: record in the parent, or call `exec` before opening a trail.
pub fn check() -> Result<(), Forked> {
    ForkMark::find().check()?;
    match MARK.get() {
        Some(mark) if mark.guard == Guard::AtFork && mark.pid != getpid() => Err(Forked(())),
        _ => Ok(()),
    }
}

/// The address of the mark, for frequent callers: each check costs one load.
#[derive(Clone, Copy, Debug)]
pub struct ForkMark(&'static AtomicU64);

impl ForkMark {
    /// Finds the mark. A process that has a trail is watched for forks.
    pub fn find() -> Self {
        static UNWATCHED: AtomicU64 = AtomicU64::new(1);
        Self(MARK.get().map_or(&UNWATCHED, |mark| mark.at))
    }

    /// Checks as [`check`] does, but does not detect a child that neither the kernel nor the C
    /// library has marked.
    ///
    /// # Errors
    ///
    /// [`Forked`] in a child that is marked.
    pub fn check(self) -> Result<(), Forked> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(Forked(())),
            _ => Ok(()),
        }
    }
}

/// Maps a mark in a page of its own, which the kernel zeroes in every child. `None` if the kernel
/// cannot do that.
fn map_mark() -> Option<&'static AtomicU64> {
    let (memory, len) = map_page()?;
    // SAFETY: the range is the mapping made above, which nothing else uses yet.
    let wiped = unsafe { rustix::mm::madvise(memory, len, Advice::LinuxWipeOnFork) };
    if wiped.is_err() {
        // SAFETY: the range is the mapping made above, which nothing uses.
        let _unmapped = unsafe { rustix::mm::munmap(memory, len) };
        return None;
    }
    // SAFETY: the mapping is readable and writable, aligned to a page, larger than a number, zeroed (a
    // valid `AtomicU64`), and never unmapped from here on, so the reference is good for `'static`.
    let mark = unsafe { &*memory.cast::<AtomicU64>() };
    mark.store(1, Ordering::Relaxed);
    Some(mark)
}

/// Maps a new page. Returns it with its length.
fn map_page() -> Option<(*mut c_void, usize)> {
    let len = rustix::param::page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let memory = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    Some((memory.ok()?, len))
}
