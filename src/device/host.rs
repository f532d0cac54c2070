//! Shards in host memory: the default device, used by tests as well.
//!
//! Each allocation is a private anonymous mapping, so a forked child has a copy (copy-on-write). A
//! borrow that the child inherits stays mapped, and no write, wipe or unmap of the parent changes
//! it. Two alternatives are unsound:
//!
//! - Memory that the child does not have (`MADV_DONTFORK`) leaves its borrows over a hole, in which
//!   the child's heap may grow.
//! - Shared memory changes under the child's borrows when the parent wipes it.
//!
//! All `unsafe` of memory is in this file, in `flip` and in `sandbox`. Its premises are few: a [`HostMemory`] is
//! the only owner of its mapping, the mapping lives as long as the value, it is readable all that
//! time, and writable unless `read_only` says otherwise. All of them hold in a forked child, too.

#![allow(unsafe_code, reason = "mappings are made, protected and removed here")]

use std::ffi::c_void;
use std::fmt;
use std::hint::black_box;
use std::ops::{ControlFlow, Range};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use vram_digest::{Node, Progress, Tree, nodes_of_windows};
use vram_trail::process;
use zeroize::Zeroize;

#[cfg(feature = "fault-injection")]
use super::Faults;
use super::available::{self, Promise};
use super::backend::{AllOrNone, Backend, DigestFailure, Facts, Permit, Reading};
use super::{Available, Device, DeviceError, Residency};

mod fill;
#[cfg(feature = "fault-injection")]
mod flip;
mod sandbox;
// Miri cannot map memory.
#[cfg(all(test, not(miri)))]
mod tests;

use fill::HostFiller;
pub(crate) use sandbox::try_calls;

/// The number of words that are wiped before their pages are returned: 16 MiB, a multiple of every
/// page size.
///
/// Wiping memory that a living child shares copies it first. Without this limit, all memory would
/// be copied at once.
const PIECE_WORDS: usize = 2 << 20;

/// The host memory of this machine, as a device.
#[derive(Debug)]
pub struct Host {
    name: Arc<str>,
    #[cfg(feature = "fault-injection")]
    faults: Option<Faults>,
}

impl Host {
    /// Creates the device, named `host` in records and seals.
    #[allow(clippy::new_without_default, reason = "one way to make it")]
    pub fn new() -> Self {
        Self {
            name: "host".into(),
            #[cfg(feature = "fault-injection")]
            faults: None,
        }
    }

    /// Creates the device with injected faults.
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
            return Err(DeviceError::Empty {});
        }
        let (promise, left) = Promise::of(len);
        if len > left.bytes {
            return Err(out_of_memory(len, left));
        }
        HostMemory::of(len, promise, left)
    }

    fn allocate_all<T>(&self, wanted: Vec<(u64, T)>, _permit: Permit) -> AllOrNone<HostMemory, T> {
        let total = wanted.iter().map(|(len, _)| *len);
        let total = total.fold(0, u64::saturating_add);
        let (promise, left) = Promise::of(total);
        let mut taken = 0u64;
        let allocate = |(len, tag): (u64, T)| {
            taken = taken.saturating_add(len);
            let given = match len {
                0 => Err(DeviceError::Empty {}),
                _ if taken > left.bytes => Err(out_of_memory(total, left)),
                _ => HostMemory::of(len, promise.part(len), left),
            };
            match given {
                Ok(memory) => Ok((memory, tag)),
                Err(error) => Err((tag, error)),
            }
        };
        wanted.into_iter().map(allocate).collect()
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
        let (place, marks) = memory.bytes_mut()?;
        let place = range(offset, end).and_then(|range| place.get_mut(range));
        let place = place.ok_or(DeviceError::OutOfRange { offset, end, len })?;
        marks.written(bytes.len());
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn filler<'a>(&self, memory: &'a mut HostMemory) -> Result<HostFiller<'a>, DeviceError> {
        process::check()?;
        let (bytes, marks) = memory.bytes_mut()?;
        Ok(HostFiller::new(bytes, marks))
    }

    fn fill(&self, filler: &HostFiller<'_>, offset: u64, chunk: &[u8]) -> Result<(), DeviceError> {
        process::check()?;
        filler.fill(offset, chunk)
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
        let window = vram_digest::WINDOW_BYTES as u64;
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

/// The state that a write changes besides the bytes.
#[derive(Debug)]
struct Marks {
    /// Whether the memory is wiped, or was never written.
    wiped: AtomicBool,
    /// The promise for bytes that were not touched yet.
    promise: Promise,
}

/// One mapping, wiped and unmapped on drop unless that happened before.
pub struct HostMemory {
    /// The start of the mapping, aligned for `u64`. Dangling after the memory was unmapped.
    base: NonNull<u8>,
    /// The requested bytes: at most `mapped`, and 0 only if `mapped` is 0.
    len: usize,
    /// The mapped bytes: a multiple of the page size, at most `isize::MAX`, and 0 after the memory
    /// was unmapped.
    mapped: usize,
    locked: bool,
    read_only: bool,
    /// Whether the kernel refused to keep the memory out of core dumps.
    dumpable: bool,
    /// The number of forks before this memory was mapped.
    forks: u64,
    marks: Marks,
}

// SAFETY: the mapping belongs to the process and not to a thread; the value is the only owner of
// its mapping.
unsafe impl Send for HostMemory {}

// SAFETY: through `&HostMemory` the memory is only read.
unsafe impl Sync for HostMemory {}

impl Marks {
    /// Marks `bytes` bytes as about to be written.
    fn written(&self, bytes: usize) {
        self.wiped.store(false, Ordering::Relaxed);
        self.promise.touched(bytes as u64);
    }
}

impl HostMemory {
    /// Maps `len` bytes, which are promised and fit into the memory that is `left`.
    fn of(len: u64, promise: Promise, left: Available) -> Result<Self, DeviceError> {
        // `left` is at most `isize::MAX`, so a length that overflows here exceeds it by less than a
        // page.
        let refused = || out_of_memory(len, left);
        let size = usize::try_from(len).map_err(|_| refused())?;
        let mapped = size
            .checked_next_multiple_of(rustix::param::page_size())
            .filter(|mapped| isize::try_from(*mapped).is_ok())
            .ok_or_else(refused)?;
        Self::map(size, mapped, promise)
    }

    /// Maps `mapped` bytes, a multiple of the page size, of which `len` are requested.
    fn map(len: usize, mapped: usize, promise: Promise) -> Result<Self, DeviceError> {
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
        // From here on, an error drops the memory, which unmaps it.
        let mut memory = Self {
            base,
            len,
            mapped,
            locked: false,
            read_only: false,
            dumpable: false,
            forks: process::forks(),
            marks: Marks {
                wiped: true.into(),
                promise,
            },
        };
        let kept_out = Advice::LinuxDontDump;
        // SAFETY: the range is exactly our mapping; the advice does not change what it holds.
        memory.dumpable =
            unsafe { rustix::mm::madvise(memory.address(), mapped, kept_out) }.is_err();
        // Best effort: a kernel without huge pages refuses, and pages are small.
        // SAFETY: the range is exactly our mapping; the advice does not change what it holds.
        let _advised =
            unsafe { rustix::mm::madvise(memory.address(), mapped, Advice::LinuxHugepage) };
        // SAFETY: the range is exactly our mapping; locking changes nothing in it.
        memory.locked = unsafe { rustix::mm::mlock(memory.address(), mapped) }.is_ok();
        if memory.locked {
            // Locking has touched all pages.
            memory.marks.promise.touched(u64::MAX);
        }
        Ok(memory)
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `base` is aligned and, unless `len` is 0, points to at least `len` bytes (at most
        // `isize::MAX`) of one mapping. The bytes are initialised (the kernel zeroes pages) and
        // readable. Only methods on `&mut self` unmap or write the mapping, so neither happens
        // while `self` is borrowed. In a forked child the mapping is a private copy, which is
        // neither written nor unmapped.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Returns the bytes, and the state that a write changes. Fails while the memory is read-only.
    fn bytes_mut(&mut self) -> Result<(&mut [u8], &Marks), DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly {});
        }
        // SAFETY: as in `bytes`; also writable (not `read_only`), and not borrowed otherwise, as
        // `self` is borrowed mutably.
        let bytes = unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.len) };
        Ok((bytes, &self.marks))
    }

    /// Returns all mapped memory as words, which are wiped faster. Fails while the memory is
    /// read-only.
    fn words_mut(&mut self) -> Result<&mut [u64], DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly {});
        }
        let words = self.base.as_ptr().cast();
        // SAFETY: `base` is aligned to a page and points to `mapped` bytes (a multiple of 8, at
        // most `isize::MAX`) of one mapping. The bytes are initialised, readable, writable (not
        // `read_only`), and mapped as long as `self` lives. They are not borrowed otherwise, as
        // `self` is borrowed mutably.
        Ok(unsafe { slice::from_raw_parts_mut(words, self.mapped / 8) })
    }

    fn protect(&mut self) -> Result<(), DeviceError> {
        // SAFETY: the range is exactly our mapping, which is not borrowed otherwise (`&mut self`).
        unsafe { rustix::mm::mprotect(self.address(), self.mapped, MprotectFlags::READ) }
            .map_err(os("mprotect"))?;
        self.read_only = true;
        Ok(())
    }

    fn unprotect(&mut self) -> Result<(), DeviceError> {
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is exactly our mapping; more access breaks no assumption of other code.
        unsafe { rustix::mm::mprotect(self.address(), self.mapped, access) }
            .map_err(os("mprotect"))?;
        self.read_only = false;
        Ok(())
    }

    /// Wipes all mapped memory.
    ///
    /// Memory that was never written is zero already. Touching it here would make the kernel
    /// provide a page for each address first.
    fn wipe(&mut self) -> Result<(), DeviceError> {
        if *self.marks.wiped.get_mut() {
            return Ok(());
        }
        if self.read_only {
            self.unprotect()?;
        }
        let locked = self.locked;
        for piece in self.words_mut()?.chunks_mut(PIECE_WORDS) {
            piece.zeroize();
            // The check must read the memory, and not derive the answer from the write.
            let piece: &mut [u64] = black_box(piece);
            let is_zero = |chunk: &[u64]| chunk.iter().fold(0, |all, word| all | word) == 0;
            if !piece.chunks(512).all(is_zero) {
                return Err(DeviceError::WipeFailed {});
            }
            give_back(piece, locked);
        }
        *self.marks.wiped.get_mut() = true;
        Ok(())
    }

    /// Unmaps the memory, once. Afterwards the value has no bytes.
    fn unmap(&mut self) -> Result<(), DeviceError> {
        if self.mapped == 0 {
            return Ok(());
        }
        let address = self.address();
        let mapped = std::mem::take(&mut self.mapped);
        self.len = 0;
        self.base = NonNull::<u64>::dangling().cast();
        // SAFETY: the range was exactly our mapping until now; `self` has forgotten it, so it is
        // not accessed or unmapped again. `self` is borrowed mutably, so no borrow of the bytes is
        // left.
        unsafe { rustix::mm::munmap(address, mapped) }.map_err(os("munmap"))
    }
}

impl Drop for HostMemory {
    /// Leaves the copy of a forked child mapped and unwiped, until the child ends or calls `exec`.
    fn drop(&mut self) {
        if self.mapped > 0 && process::check().is_ok() {
            let _nobody_to_tell = (self.wipe(), self.unmap());
        }
    }
}

impl fmt::Debug for HostMemory {
    /// Writes the fields without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory")
            .field("len", &self.len)
            .field("locked", &self.locked)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// Returns the pages of zeroed words to the kernel, which zeroes them again on the next touch.
///
/// Best effort: pages that the kernel refuses are returned when the mapping is unmapped.
fn give_back(zeros: &mut [u64], locked: bool) {
    let len = size_of_val(zeros);
    let address: *mut c_void = zeros.as_mut_ptr().cast();
    if locked {
        // SAFETY: the range is a slice that is borrowed mutably; unlocking changes nothing in it.
        let _unlocked = unsafe { rustix::mm::munlock(address, len) };
    }
    // SAFETY: the range is whole pages of one private anonymous mapping, borrowed mutably and zero,
    // and zero is what they hold afterwards.
    let _given = unsafe { rustix::mm::madvise(address, len, Advice::LinuxDontNeed) };
}

fn out_of_memory(needed: u64, left: Available) -> DeviceError {
    DeviceError::OutOfMemory {
        needed,
        available: left.bytes,
        bound: left.bound,
    }
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
