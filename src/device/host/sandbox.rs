//! A probe for optional system calls on host memory that a sandbox refuses.

use std::ptr;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vram_trail::process::note_refused;

/// Tries each call once on a private page, so that `TrailOpened` lists the refused ones before the
/// first shard is allocated.
pub(crate) fn try_calls() {
    let note = |call, outcome: rustix::io::Result<()>| {
        if let Err(Errno::ACCESS | Errno::NOSYS | Errno::PERM) = outcome {
            note_refused(call);
        }
    };
    let cores = rustix::thread::sched_getaffinity(None);
    note("sched_getaffinity", cores.map(drop));
    let len = rustix::param::page_size();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    };
    let Ok(page) = page else {
        return;
    };
    for (call, advice) in [
        ("madvise(MADV_DONTDUMP)", Advice::LinuxDontDump),
        ("madvise(MADV_DONTNEED)", Advice::LinuxDontNeed),
        ("madvise(MADV_HUGEPAGE)", Advice::LinuxHugepage),
    ] {
        // SAFETY: the range is the mapping made above, which nothing else uses.
        note(call, unsafe { rustix::mm::madvise(page, len, advice) });
    }
    // SAFETY: as above.
    note("mlock", unsafe { rustix::mm::mlock(page, len) });
    // SAFETY: as above.
    note("munlock", unsafe { rustix::mm::munlock(page, len) });
    // SAFETY: as above; nothing uses it from here on.
    let _unmapped = unsafe { rustix::mm::munmap(page, len) };
}
