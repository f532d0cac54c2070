//! Whether this process is a forked child of the one that opened the trail.
//!
//! A child has a copy of the parent's memory but none of its threads: a lock may be held for ever, no
//! check of the parent reaches the copy, and a record written there would be written twice. So every
//! call in a child, but reading a view, is refused before it touches a lock. The question is asked on the path of
//! every record and every lease, where a `getpid` system call would be half the cost. Numbers in
//! memory that the kernel zeroes in children (`MADV_WIPEONFORK`, Linux 4.14) answer it with a load:
//! one number is the mark of this process, and others carry, in the same load, something that is
//! never true in a child.

#![allow(unsafe_code, reason = "memory is mapped once here and nowhere freed")]

use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};

mod own;

pub(crate) use own::OwnFd;

/// This process was forked from the one that opened the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this process was forked from the one that owns the trail: record there, or use exec before opening a trail of its own"
)]
pub struct Forked(());

/// How many numbers there are. The kernel gives memory only for the pages that are used.
const NUMBERS: usize = 1 << 20;

static NUMBERS_AT: OnceLock<rustix::io::Result<&'static [AtomicU64]>> = OnceLock::new();

/// Which numbers are in use, besides the first, the mark.
static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    fresh: 1,
});

struct Pool {
    /// Used before and given back.
    free: Vec<usize>,
    /// From here on none was ever used.
    fresh: usize,
}

/// Held by tests that fork, and by those that look at memory of which no child may have a copy.
#[cfg(test)]
pub(crate) static FORKING: Mutex<()> = Mutex::new(());

/// Prepares the answer; called when a trail is opened, before anything is recorded.
pub(crate) fn watch_for_forks() -> std::io::Result<()> {
    own::watch()?;
    NUMBERS_AT
        .get_or_init(map_numbers)
        .map(drop)
        .map_err(Into::into)
}

/// The number of forks of this process through the C library, so that two answers can be compared.
pub(crate) fn forks() -> u64 {
    own::forks()
}

/// Fails in a forked child. Costs one load, and that of where to look.
pub(crate) fn check() -> Result<(), Forked> {
    ForkMark::find().check()
}

/// Where the mark is, for those who ask often: the question costs one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkMark(&'static AtomicU64);

impl ForkMark {
    /// What has a trail is watched for forks.
    pub(crate) fn find() -> Self {
        static UNWATCHED: AtomicU64 = AtomicU64::new(1);
        Self(numbers().first().unwrap_or(&UNWATCHED))
    }

    /// As [`check`].
    pub(crate) fn check(self) -> Result<(), Forked> {
        match self.0.load(Ordering::Relaxed) {
            0 => Err(Forked(())),
            _ => Ok(()),
        }
    }
}

/// None before a trail is opened.
fn numbers() -> &'static [AtomicU64] {
    match NUMBERS_AT.get() {
        Some(Ok(numbers)) => numbers,
        _ => &[],
    }
}

/// A number that is 0 in a forked child, also one that is made there, and in the parent whatever was
/// stored.
#[derive(Debug)]
pub(crate) struct WipedNumber {
    at: &'static AtomicU64,
    /// None: this is a child, or all are in use, and this one is 0 for ever.
    index: Option<usize>,
}

impl WipedNumber {
    pub(crate) fn new(value: u64) -> Self {
        static NEVER: AtomicU64 = AtomicU64::new(0);
        let never = Self {
            at: &NEVER,
            index: None,
        };
        // In a child the lock may be held for ever.
        if check().is_err() {
            return never;
        }
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let index = pool.free.pop().unwrap_or(pool.fresh);
        let Some(at) = numbers().get(index) else {
            return never;
        };
        pool.fresh = pool.fresh.max(index.saturating_add(1));
        drop(pool);
        at.store(value, Ordering::Release);
        Self {
            at,
            index: Some(index),
        }
    }

    pub(crate) fn load(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }

    /// Sets it to 0, for good.
    pub(crate) fn wipe(&self) {
        self.at.store(0, Ordering::Release);
    }

    /// Sets it, unless it is 0.
    pub(crate) fn set(&self, value: u64) {
        // Refused where it is 0: the answer is the old value, which nobody needs.
        let _before = self
            .at
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (old != 0).then_some(value)
            });
    }
}

impl Drop for WipedNumber {
    fn drop(&mut self) {
        // In a child the lock may be held for ever.
        if let Some(index) = self.index
            && check().is_ok()
        {
            self.wipe();
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            pool.free.push(index);
        }
    }
}

fn map_numbers() -> rustix::io::Result<&'static [AtomicU64]> {
    let len = NUMBERS.saturating_mul(size_of::<AtomicU64>());
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let memory = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    // SAFETY: the range is the mapping made above, which nothing else uses yet.
    unsafe { rustix::mm::madvise(memory, len, Advice::LinuxWipeOnFork) }?;
    // SAFETY: the mapping is readable and writable, aligned to a page, as long as so many numbers,
    // zeroed (valid `AtomicU64`s), and never unmapped, so the reference is good for `'static`.
    let numbers = unsafe { slice::from_raw_parts(memory.cast::<AtomicU64>(), NUMBERS) };
    if let Some(mark) = numbers.first() {
        mark.store(1, Ordering::Relaxed);
    }
    Ok(numbers)
}
