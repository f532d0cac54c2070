//! Host memory that a GPU copies from and to by itself, while the process goes on.
//!
//! Each value knows which of its bytes a copy may still be using, and lends no others: there is never a
//! reference to bytes that the GPU writes, nor a write to bytes that it reads. This module does not know how
//! a copy is waited for.

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
    /// What the GPU may be reading, and what lies between: nobody writes to it.
    uploading: Range<usize>,
    /// What the GPU may be writing, and what lies between: nobody looks at it.
    downloading: Range<usize>,
}

// SAFETY: the memory belongs to the process; whoever has the value has it alone, besides the device.
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many bytes, zero.
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

    /// Writes bytes from `at` on, unless a copy may be using what is there.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) -> Called<()> {
        let part = at..at.saturating_add(bytes.len());
        let to = self.part(&part, &[&self.uploading, &self.downloading])?;
        // SAFETY: `part` is inside the memory, and no copy uses it; `self` is borrowed mutably, so nobody else
        // does, and `bytes` lie elsewhere.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Some of the bytes, unless the GPU may be writing to them.
    pub(super) fn bytes(&self, part: Range<usize>) -> Called<&[u8]> {
        let start = self.part(&part, &[&self.downloading])?;
        // SAFETY: `part` is inside the memory, initialised by `new`, and no copy writes to it; the process
        // writes to it through `&mut self` alone.
        Ok(unsafe { slice::from_raw_parts(start, part.len()) })
    }

    /// Has the device copy some of the bytes to an address of its own.
    pub(super) fn upload(
        &mut self,
        bytes: Range<usize>,
        to: u64,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        let from = self.part(&bytes, &[&self.downloading])?;
        let len = bytes.len();
        self.uploading = hull(&self.uploading, bytes);
        // SAFETY: `part` is inside the memory, which is freed only after the context was waited for, and is
        // not written to before `settled`. `to` is the device's, as every address is that callers have.
        unsafe {
            self.context
                .driver()
                .copy_to_device(to, from.cast(), len, stream)
        }
    }

    /// Has the device copy from an address of its own into some of the bytes.
    pub(super) fn download(
        &mut self,
        bytes: Range<usize>,
        from: u64,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        let to = self.part(&bytes, &[&self.uploading, &self.downloading])?;
        let len = bytes.len();
        self.downloading = hull(&self.downloading, bytes);
        // SAFETY: as in `upload`; what is written is not looked at before `settled`.
        unsafe {
            self.context
                .driver()
                .copy_to_host(to.cast(), from, len, stream)
        }
    }

    /// Makes all bytes free for use.
    ///
    /// # Safety
    /// Every copy that was begun has been waited for, without an error.
    pub(super) unsafe fn settled(&mut self) {
        self.uploading = 0..0;
        self.downloading = 0..0;
    }

    /// Where a part begins that is inside the memory and that none of those copies uses.
    fn part(&self, part: &Range<usize>, used: &[&Range<usize>]) -> Called<*mut u8> {
        // Our own mistake says nothing about the bytes.
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

/// The least range that has both.
fn hull(one: &Range<usize>, other: Range<usize>) -> Range<usize> {
    if one.is_empty() {
        return other;
    }
    one.start.min(other.start)..one.end.max(other.end)
}

impl Drop for Pinned {
    /// What the device may still be copying is not freed. The bytes may be weights: they are wiped. A forked
    /// child has neither the driver nor, maybe, the memory.
    fn drop(&mut self) {
        if process::check().is_err() {
            return;
        }
        let waited = self.context.synchronize();
        for at in 0..self.len {
            let byte = self.start.as_ptr().wrapping_add(at);
            // SAFETY: inside the memory, of which `self` has the only use besides the device. If that could
            // not be waited for, it may be reading or writing, and there is no reference that this breaks.
            unsafe { byte.write_volatile(0) };
        }
        compiler_fence(Ordering::SeqCst);
        if waited.is_err() {
            return;
        }
        let start = self.start.as_ptr().cast();
        let _nobody_to_tell = self.context.within("free pinned memory", |driver| {
            // SAFETY: it came from `allocate_host`; the context was waited for; `self` goes.
            unsafe { driver.free_host(start) }
        });
    }
}

impl fmt::Debug for Pinned {
    /// Without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
