//! Shards in the memory of this machine: the embedded default, and what tests run on.
//!
//! Each allocation is a private anonymous mapping, so a forked child has a copy (copy-on-write): a
//! borrow that the child inherits stays mapped, and nothing that the parent writes, wipes or unmaps
//! changes it. Two other ways are unsound. Memory that the child does not have (`MADV_DONTFORK`)
//! leaves its borrows over a hole, in which its heap may grow. Shared memory changes under them when
//! the parent wipes it. The price: a wipe does not reach the copy of a child that lives (`inherited`
//! in the record), and `/proc/self/mem` writes past the read-only protection.
//!
//! Mappings stay out of core dumps, use huge pages where the kernel has them (a fork then copies one
//! entry for 2 MiB and not 512), are locked into memory where the limit allows it, and are
//! overwritten before they are given back.
//!
//! All `unsafe` of memory is in this file. Its premises are few: a [`HostMemory`] is the only owner
//! of its mapping, the mapping lives as long as the value, it is readable all that time, and
//! writable unless `read_only` says otherwise. All of them hold in a forked child, too.

#![allow(unsafe_code, reason = "mappings are made, protected and removed here")]

use std::ffi::c_void;
use std::fmt;
use std::hint::black_box;
use std::ops::{ControlFlow, Range};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use zeroize::Zeroize;

#[cfg(feature = "fault-injection")]
use super::Faults;
use super::backend::{Backend, DigestFailure, Facts, Permit, Reading};
use super::{Available, Device, DeviceError, Residency, available};
use crate::digest::{CHUNK_BYTES, Node, Progress, Tree, nodes_of_windows};
use crate::process;

#[cfg(test)]
mod tests;

/// How many words are wiped before they are given back, 16 MiB. A multiple of every page size.
///
/// Wiping what a living child shares makes a copy of it first; without this, of everything at once.
const PIECE_WORDS: usize = 2 << 20;

/// The memory of this machine.
#[derive(Debug)]
pub struct Host {
    name: Arc<str>,
    #[cfg(feature = "fault-injection")]
    faults: Option<Faults>,
}

impl Host {
    /// The memory of this machine; records and seals call it `host`.
    #[allow(clippy::new_without_default, reason = "one way to make it")]
    pub fn new() -> Self {
        Self {
            name: "host".into(),
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// The memory of this machine, with faults on demand.
    #[cfg(feature = "fault-injection")]
    pub fn dangerous_with_faults(faults: Faults) -> Self {
        Self {
            faults: Some(faults),
            ..Self::new()
        }
    }
}

impl Device for Host {
    type View<'a> = &'a [u8];
}

impl Backend for Host {
    type Memory = HostMemory;
    type Filler<'a> = HostFiller<'a>;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn identity(&self) -> &Arc<str> {
        &self.name
    }

    fn residency(&self) -> Option<Residency> {
        None
    }

    fn lost(&self) -> Option<Arc<str>> {
        None
    }

    fn available(&self) -> Available {
        available::available()
    }

    fn allocate(&self, len: u64, _permit: Permit) -> Result<HostMemory, DeviceError> {
        if len == 0 {
            return Err(DeviceError::Empty);
        }
        let Available { bytes, bound } = self.available();
        let refused = || DeviceError::OutOfMemory {
            needed: len,
            available: bytes,
            bound,
        };
        if len > bytes {
            return Err(refused());
        }
        // `available` is at most `isize::MAX`, so what does not fit here is a page size off it.
        let size = usize::try_from(len).map_err(|_| refused())?;
        let mapped = size
            .checked_next_multiple_of(rustix::param::page_size())
            .filter(|mapped| isize::try_from(*mapped).is_ok())
            .ok_or_else(refused)?;
        HostMemory::map(size, mapped)
    }

    fn facts(&self, memory: &HostMemory) -> Facts {
        Facts {
            allocated: memory.len as u64,
            locked: memory.locked,
            read_only: memory.read_only,
            dumpable: memory.dumpable,
            inherited: memory.forks != process::forks(),
        }
    }

    fn write(&self, memory: &mut HostMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        process::check()?;
        let len = memory.len as u64;
        let end = offset.saturating_add(bytes.len() as u64);
        let (place, wiped) = memory.bytes_mut()?;
        let place = range(offset, end).and_then(|range| place.get_mut(range));
        let place = place.ok_or(DeviceError::OutOfRange { offset, end, len })?;
        wiped.store(false, Ordering::Relaxed);
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn filler<'a>(&self, memory: &'a mut HostMemory) -> Result<HostFiller<'a>, DeviceError> {
        process::check()?;
        let len = memory.len as u64;
        let (bytes, wiped) = memory.bytes_mut()?;
        Ok(HostFiller {
            len,
            chunks: bytes.chunks_mut(CHUNK_BYTES).map(Mutex::new).collect(),
            wiped,
        })
    }

    fn fill(&self, filler: &HostFiller<'_>, offset: u64, chunk: &[u8]) -> Result<(), DeviceError> {
        const CHUNK: u64 = CHUNK_BYTES as u64;
        process::check()?;
        let end = offset.saturating_add(chunk.len() as u64);
        let outside = || DeviceError::OutOfRange {
            offset,
            end,
            len: filler.len,
        };
        let index = usize::try_from(offset / CHUNK).map_err(|_| outside())?;
        let place = filler.chunks.get(index).ok_or_else(outside)?;
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset % CHUNK;
        let part = range(start, start.saturating_add(chunk.len() as u64));
        let part = part.and_then(|part| place.get_mut(part));
        let part = part.ok_or_else(outside)?;
        filler.wiped.store(false, Ordering::Relaxed);
        part.copy_from_slice(chunk);
        Ok(())
    }

    fn synchronize(&self, _memory: &HostMemory) -> Result<(), DeviceError> {
        Ok(())
    }

    fn protect(&self, memory: &mut HostMemory) -> Result<(), DeviceError> {
        process::check()?;
        memory.protect()
    }

    fn unprotect(&self, memory: &mut HostMemory) -> Result<(), DeviceError> {
        process::check()?;
        memory.unprotect()
    }

    fn digest(
        &self,
        memory: &HostMemory,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Reading, DigestFailure> {
        self.tree(memory, progress).map(Reading::Tree)
    }

    fn tree(
        &self,
        memory: &HostMemory,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tree, DigestFailure> {
        process::check().map_err(|forked| DigestFailure::Device(forked.into()))?;
        Tree::of_slice(memory.bytes(), progress).map_err(|_stopped| DigestFailure::Stopped)
    }

    fn windows(&self, memory: &HostMemory, windows: Range<u64>) -> Result<Vec<Node>, DeviceError> {
        process::check()?;
        let window = crate::digest::WINDOW_BYTES as u64;
        nodes_of_windows(memory.bytes(), windows.clone()).ok_or(DeviceError::OutOfRange {
            offset: windows.start.saturating_mul(window),
            end: windows.end.saturating_mul(window),
            len: memory.len as u64,
        })
    }

    fn spot_checks(&self) -> usize {
        0
    }

    fn window_hashed_here(&self, memory: &HostMemory, window: u64) -> Result<Node, DeviceError> {
        let nodes = self.windows(memory, window..window.saturating_add(1))?;
        nodes.first().copied().ok_or(DeviceError::OutOfRange {
            offset: window,
            end: window,
            len: memory.len as u64,
        })
    }

    fn wipe(&self, memory: &mut HostMemory) -> Result<(), DeviceError> {
        process::check()?;
        memory.wipe()
    }

    fn free(&self, memory: &mut HostMemory) -> Result<(), DeviceError> {
        process::check()?;
        memory.unmap()
    }

    fn view<'a>(&self, memory: &'a HostMemory) -> &'a [u8] {
        memory.bytes()
    }

    #[cfg(feature = "fault-injection")]
    fn faults(&self) -> Option<&Faults> {
        self.faults.as_ref()
    }

    #[cfg(feature = "fault-injection")]
    fn flip_bit(&self, memory: &HostMemory, offset: u64, bit: u8) -> Result<(), DeviceError> {
        process::check()?;
        memory.flip_bit(offset, bit)
    }
}

/// The bytes of a mapping that is being filled: each chunk can be had by one thread at a time.
#[derive(Debug)]
pub struct HostFiller<'a> {
    len: u64,
    chunks: Vec<Mutex<&'a mut [u8]>>,
    wiped: &'a AtomicBool,
}

/// One mapping. Wiped and unmapped when dropped, unless that was done before.
pub struct HostMemory {
    /// Aligned for `u64`. Dangling when the memory has been unmapped.
    base: NonNull<u8>,
    /// What was asked for, in bytes: at most `mapped`, and 0 only when that is.
    len: usize,
    /// What is mapped, in bytes: a multiple of the page size, at most `isize::MAX`; 0 when it has
    /// been unmapped.
    mapped: usize,
    locked: bool,
    read_only: bool,
    /// The kernel has refused to keep it out of core dumps.
    dumpable: bool,
    /// The number of forks before this memory was mapped.
    forks: u64,
    /// Also if nothing was ever written.
    wiped: AtomicBool,
}

// SAFETY: the mapping belongs to the process and not to a thread; whoever has the value has it alone.
unsafe impl Send for HostMemory {}

// SAFETY: through `&HostMemory` the memory is only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Maps `mapped` bytes, a multiple of the page size of which `len` are wanted.
    fn map(len: usize, mapped: usize) -> Result<Self, DeviceError> {
        process::watch_for_forks().map_err(|error| DeviceError::Os {
            operation: "watching for forks",
            code: error.raw_os_error().unwrap_or_default(),
        })?;
        let flags = MapFlags::PRIVATE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), mapped, access, flags) }
            .map_err(os("mmap"))?;
        let base = NonNull::new(base.cast()).ok_or(DeviceError::Os {
            operation: "mmap",
            code: rustix::io::Errno::NOMEM.raw_os_error(),
        })?;
        // From here on an error drops the memory, which unmaps it.
        let mut memory = Self {
            base,
            len,
            mapped,
            locked: false,
            read_only: false,
            dumpable: false,
            forks: process::forks(),
            wiped: true.into(),
        };
        let kept_out = Advice::LinuxDontDump;
        // SAFETY: the range is exactly our mapping; the advice does not change what it holds.
        memory.dumpable =
            unsafe { rustix::mm::madvise(memory.address(), mapped, kept_out) }.is_err();
        // Refused by a kernel that was built without huge pages; then pages are small.
        // SAFETY: the range is exactly our mapping; the advice does not change what it holds.
        let _advised =
            unsafe { rustix::mm::madvise(memory.address(), mapped, Advice::LinuxHugepage) };
        // SAFETY: the range is exactly our mapping; locking changes nothing in it.
        memory.locked = unsafe { rustix::mm::mlock(memory.address(), mapped) }.is_ok();
        Ok(memory)
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `base` is aligned and, unless `len` is 0, points to at least `len` bytes (at most
        // `isize::MAX`) of one mapping, initialised (the kernel zeroes pages) and readable. It is
        // unmapped, and nobody writes to it, only through `&mut self`, not while `self` is borrowed.
        // In a forked child the mapping is a private copy, which is neither written nor unmapped.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, and whether they are wiped, which they are no longer once one is written. Refused while
    /// the memory is read-only.
    fn bytes_mut(&mut self) -> Result<(&mut [u8], &AtomicBool), DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        // SAFETY: as in `bytes`; also writable (not `read_only`), and borrowed by nobody else, as
        // `self` is borrowed mutably.
        let bytes = unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) };
        Ok((bytes, &self.wiped))
    }

    /// All that is mapped, in words, which are wiped faster. Refused while the memory is read-only.
    fn words_mut(&mut self) -> Result<&mut [u64], DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        let words = self.base.as_ptr().cast();
        // SAFETY: `base` is aligned to a page and points to `mapped` bytes (a multiple of 8, at most
        // `isize::MAX`) of one mapping, initialised, readable, writable (not `read_only`), mapped
        // as long as `self` lives, and borrowed by nobody else, as `self` is borrowed mutably.
        Ok(unsafe { slice::from_raw_parts_mut(words, self.mapped / 8) })
    }

    fn protect(&mut self) -> Result<(), DeviceError> {
        // SAFETY: the range is exactly our mapping, which nobody borrows (`&mut self`).
        unsafe { rustix::mm::mprotect(self.address(), self.mapped, MprotectFlags::READ) }
            .map_err(os("mprotect"))?;
        self.read_only = true;
        Ok(())
    }

    fn unprotect(&mut self) -> Result<(), DeviceError> {
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is exactly our mapping; more access breaks nobody's assumptions.
        unsafe { rustix::mm::mprotect(self.address(), self.mapped, access) }
            .map_err(os("mprotect"))?;
        self.read_only = false;
        Ok(())
    }

    /// Overwrites all that is mapped. Memory that was never written is zero already; touching it
    /// here would make the kernel find a page for each address first.
    fn wipe(&mut self) -> Result<(), DeviceError> {
        if *self.wiped.get_mut() {
            return Ok(());
        }
        if self.read_only {
            self.unprotect()?;
        }
        let locked = self.locked;
        for piece in self.words_mut()?.chunks_mut(PIECE_WORDS) {
            piece.zeroize();
            // What was written has to be read back, not to be concluded.
            let piece: &mut [u64] = black_box(piece);
            let is_zero = |chunk: &[u64]| chunk.iter().fold(0, |all, word| all | word) == 0;
            if !piece.chunks(512).all(is_zero) {
                return Err(DeviceError::WipeFailed);
            }
            give_back(piece, locked);
        }
        *self.wiped.get_mut() = true;
        Ok(())
    }

    /// Unmaps, once. What is left has no bytes.
    fn unmap(&mut self) -> Result<(), DeviceError> {
        if self.mapped == 0 {
            return Ok(());
        }
        let address = self.address();
        let mapped = std::mem::take(&mut self.mapped);
        self.len = 0;
        self.base = NonNull::<u64>::dangling().cast();
        // SAFETY: the range was exactly our mapping until now; `self` has forgotten it, so it is not
        // reached or unmapped again, and `self` is borrowed mutably, so no borrow of the bytes is left.
        unsafe { rustix::mm::munmap(address, mapped) }.map_err(os("munmap"))
    }
}

impl Drop for HostMemory {
    /// A forked child leaves its copy mapped and unwiped until it ends or calls `exec`.
    fn drop(&mut self) {
        if self.mapped > 0 && process::check().is_ok() {
            let _nobody_to_tell = (self.wipe(), self.unmap());
        }
    }
}

impl fmt::Debug for HostMemory {
    /// Without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory")
            .field("len", &self.len)
            .field("locked", &self.locked)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "fault-injection")]
impl HostMemory {
    /// Flips one bit in place, as a failing cell would. A page that is read-only is writable meanwhile,
    /// for a few microseconds.
    ///
    /// Views may be read meanwhile. As with real hardware, the language has no word for that.
    fn flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        use std::sync::atomic::AtomicU8;

        /// One thread's end of a flip must not make the page of another's read-only.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

        let outside = || DeviceError::OutOfRange {
            offset,
            end: offset.saturating_add(1),
            len: self.len as u64,
        };
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        if offset >= self.len {
            return Err(outside());
        }
        let inside = offset
            .checked_rem(rustix::param::page_size())
            .ok_or_else(outside)?;
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset.saturating_sub(inside);
        if self.read_only {
            self.protect_page(start, MprotectFlags::READ | MprotectFlags::WRITE)?;
        }
        // SAFETY: `offset` is below `len`, so the byte is inside the mapping.
        let byte = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: the byte is mapped, readable and writable; an `AtomicU8` has the layout of a byte; only
        // atomic accesses go through this address.
        let byte = unsafe { AtomicU8::from_ptr(byte) };
        byte.fetch_xor(1u8.wrapping_shl(bit.into()), Ordering::SeqCst);
        if self.read_only {
            self.protect_page(start, MprotectFlags::READ)?;
        }
        Ok(())
    }

    /// Changes the access to the page at `start`, a multiple of the page size below `len`.
    fn protect_page(&self, start: usize, access: MprotectFlags) -> Result<(), DeviceError> {
        // SAFETY: `start` is below `len`, so the page is inside the mapping.
        let page = unsafe { self.base.as_ptr().add(start) }.cast();
        // SAFETY: the range is one page of our mapping, which stays readable.
        unsafe { rustix::mm::mprotect(page, rustix::param::page_size(), access) }
            .map_err(os("mprotect"))
    }
}

/// Gives back the pages of words that are zero, and that the kernel makes zero again when they are
/// touched. Best effort: what it refuses is given back when all is unmapped.
fn give_back(zeros: &mut [u64], locked: bool) {
    let len = size_of_val(zeros);
    let address: *mut c_void = zeros.as_mut_ptr().cast();
    if locked {
        // SAFETY: the range is a slice that is borrowed mutably; unlocking changes nothing in it.
        let _unlocked = unsafe { rustix::mm::munlock(address, len) };
    }
    // SAFETY: the range is whole pages of one private anonymous mapping, borrowed mutably and zero, and
    // zero is what they hold afterwards.
    let _given = unsafe { rustix::mm::madvise(address, len, Advice::LinuxDontNeed) };
}

fn os(operation: &'static str) -> impl Fn(rustix::io::Errno) -> DeviceError {
    move |error| DeviceError::Os {
        operation,
        code: error.raw_os_error(),
    }
}

fn range(start: u64, end: u64) -> Option<Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
