//! A block of host memory that is only accessed through raw pointers, because devices, host code
//! and mappings each have their own.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

/// An allocation, aligned to 4096 bytes.
#[derive(Debug)]
pub struct Block {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a block is plain memory; callers decide who accesses it, and when.
unsafe impl Send for Block {}

// SAFETY: as above; the writing methods are named so, and run under the driver's lock.
unsafe impl Sync for Block {}

impl Block {
    /// Allocates a block with undefined content. Returns `None` if the host has no such memory.
    pub fn new(len: usize) -> Option<Self> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout's size is not zero (`layout`).
        let start = unsafe { alloc(layout) };
        let block = Self {
            start: NonNull::new(start)?,
            len,
        };
        block.fill(0, len, 0);
        Some(block)
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1), 4096).ok()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn fill(&self, at: usize, len: usize, value: u8) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range is inside the allocation, as asserted, which is this block's own.
        unsafe { self.start().wrapping_add(at).write_bytes(value, len) };
    }

    /// Copies from another block. Both ranges must be inside their blocks.
    pub fn copy_from(&self, at: usize, other: &Block, from: usize, len: usize) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len));
        assert!(from.checked_add(len).is_some_and(|end| end <= other.len));
        let (source, target) = (
            other.start().wrapping_add(from),
            self.start().wrapping_add(at),
        );
        // SAFETY: both ranges are inside their allocations, as asserted; they may overlap.
        unsafe { std::ptr::copy(source, target, len) };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `new` with this layout, and freed only here.
            unsafe { dealloc(self.start(), layout) };
        }
    }
}
