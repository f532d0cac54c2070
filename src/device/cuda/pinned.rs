//! Pinned host memory, which a GPU reads and writes by itself while the process continues.
//!
//! Each value knows which of its bytes a copy may still use, and lends no others. So there is never
//! a reference to bytes that the GPU writes, nor a write to bytes that it reads. This module does
//! not know how a copy is waited for.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use vram_trail::process;

use super::code::NOT_READY;
use super::context::Context;
use super::driver::{Called, Failed, Live, kind};
use crate::device::DeviceError;

pub(super) struct Pinned {
    context: Arc<Context>,
    start: NonNull<u8>,
    len: usize,
    /// The bytes that the GPU may be reading, and the gaps between: the process must not write
    /// them.
    uploading: Range<usize>,
    /// The bytes that the GPU may be writing, and the gaps between: the process must not read them.
    downloading: Range<usize>,
}

// SAFETY: the memory belongs to the process; the value is its only user, besides the device.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates `len` zeroed bytes.
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Self, DeviceError> {
        let start = context.within("pin host memory", |driver| driver.allocate_host(len))?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| DeviceError::Busy {
            operation: "pin host memory",
            cause: "the driver gave none".into(),
        })?;
        // SAFETY: the driver gave `len` writable bytes at `start`, which nothing else uses.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Ok(Self {
            context: Arc::clone(context),
            start,
            len,
            uploading: 0..0,
            downloading: 0..0,
        })
    }

    /// Writes bytes from `at` on. Fails if a copy may be using the range.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) -> Called<()> {
        let part = at..at.saturating_add(bytes.len());
        let to = self.part(&part, &[&self.uploading, &self.downloading])?;
        // SAFETY: `part` is inside the memory, and no copy uses it; `self` is borrowed mutably, so
        // no other code does, and `bytes` lie elsewhere.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Returns some of the bytes. Fails if the GPU may be writing them.
    pub(super) fn bytes(&self, part: Range<usize>) -> Called<&[u8]> {
        let start = self.part(&part, &[&self.downloading])?;
        // SAFETY: `part` is inside the memory, initialised by `new`, and no copy writes to it; the process
        // writes to it through `&mut self` alone.
        Ok(unsafe { slice::from_raw_parts(start, part.len()) })
    }

    /// Begins a copy of some bytes to a device address.
    pub(super) fn upload(
        &mut self,
        bytes: Range<usize>,
        to: u64,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        let from = self.part(&bytes, &[&self.downloading])?;
        let len = bytes.len();
        self.uploading = hull(&self.uploading, bytes);
        // SAFETY: `part` is inside the memory, which is freed only after the context was waited
        // for, and is not written to before `settled`. `to` is a device address, as is every
        // address that callers have.
        unsafe {
            self.context
                .driver()
                .copy_to_device(to, from.cast(), len, stream)
        }
    }

    /// Begins a copy from a device address into some of the bytes.
    pub(super) fn download(
        &mut self,
        bytes: Range<usize>,
        from: u64,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        let to = self.part(&bytes, &[&self.uploading, &self.downloading])?;
        let len = bytes.len();
        self.downloading = hull(&self.downloading, bytes);
        // SAFETY: as in `upload`; the written bytes are not read before `settled`.
        unsafe {
            self.context
                .driver()
                .copy_to_host(to.cast(), from, len, stream)
        }
    }

    /// Marks all bytes as free.
    ///
    /// # Safety
    /// Every copy that was begun has been waited for, without an error.
    pub(super) unsafe fn settled(&mut self) {
        self.uploading = 0..0;
        self.downloading = 0..0;
    }

    /// Returns the start of a range. Fails if the range is out of bounds or overlaps one of the
    /// given copies.
    fn part(&self, part: &Range<usize>, used: &[&Range<usize>]) -> Called<*mut u8> {
        // An inconclusive code: our own mistake says nothing about the bytes.
        let refused = |call| Failed {
            call,
            code: NOT_READY,
        };
        if part.start > part.end || part.end > self.len {
            return Err(refused("a copy beyond pinned memory"));
        }
        if used.iter().any(|used| overlap(part, used)) {
            return Err(refused("a use of pinned memory while it is copied"));
        }
        Ok(self.start.as_ptr().wrapping_add(part.start))
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Returns the smallest range that contains both.
fn hull(one: &Range<usize>, other: Range<usize>) -> Range<usize> {
    if one.is_empty() {
        return other;
    }
    one.start.min(other.start)..one.end.max(other.end)
}

impl Drop for Pinned {
    /// Wipes the memory, because the bytes may be weights, and frees it unless the device may still
    /// be copying.
    ///
    /// A forked child has neither the driver nor, possibly, the memory.
    fn drop(&mut self) {
        if process::check().is_err() {
            return;
        }
        let waited = self.context.synchronize();
        for at in 0..self.len {
            let byte = self.start.as_ptr().wrapping_add(at);
            // SAFETY: inside the memory, of which `self` is the only user besides the device. If
            // the wait failed, the device may be reading or writing, and there is no reference for
            // which that would be unsound.
            unsafe { byte.write_volatile(0) };
        }
        compiler_fence(Ordering::SeqCst);
        if waited.is_err() {
            return;
        }
        let start = self.start.as_ptr().cast();
        let _nobody_to_tell = self.context.within("free pinned memory", |driver| {
            // SAFETY: it came from `allocate_host`; the context was waited for; `self` is being
            // dropped.
            unsafe { driver.free_host(start) }
        });
    }
}

impl fmt::Debug for Pinned {
    /// Writes the fields without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
