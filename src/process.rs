//! Whether this process is a forked child of the one that opened the trail.
//!
//! A child has the parent's memory but none of its threads: a lock may be held for ever, sealed
//! memory is not mapped (`MADV_DONTFORK`), and a record written there would be written twice. So
//! every call in a child is refused before it touches a lock. The question is asked on the path of
//! every record, where a `getpid` system call would be half the cost; one page that the kernel
//! zeroes in children (`MADV_WIPEONFORK`, Linux 4.14) answers it with a load.

#![allow(unsafe_code, reason = "one page is mapped here and nowhere freed")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// This process was forked from the one that opened the trail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this process was forked from the one that owns the trail: record there, or use exec before opening a trail of its own"
)]
pub struct Forked(());

static MARK: OnceLock<rustix::io::Result<&'static AtomicU8>> = OnceLock::new();

/// Prepares the answer; called when a trail is opened, before anything is recorded.
pub(crate) fn watch_for_forks() -> std::io::Result<()> {
    MARK.get_or_init(map_mark).map(drop).map_err(Into::into)
}

/// Fails in a forked child. Costs one load.
pub(crate) fn check() -> Result<(), Forked> {
    match MARK.get() {
        Some(Ok(mark)) if mark.load(Ordering::Relaxed) == 0 => Err(Forked(())),
        _ => Ok(()),
    }
}

fn map_mark() -> rustix::io::Result<&'static AtomicU8> {
    let len = rustix::param::page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: the range is the mapping made above, which nothing else uses yet.
    unsafe { rustix::mm::madvise(page, len, Advice::LinuxWipeOnFork) }?;
    // SAFETY: the page is mapped readable and writable, aligned to a page, zeroed (a valid
    // `AtomicU8`), and never unmapped, so the reference is good for `'static`.
    let mark = unsafe { AtomicU8::from_ptr(page.cast::<u8>()) };
    mark.store(1, Ordering::Relaxed);
    Ok(mark)
}
