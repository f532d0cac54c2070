//! Bit flips in read-only memory, as from a failing cell, on demand.
//!
//! This module knows one mapping and its protection. It does not know what a verification makes of
//! the flip.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::mm::MprotectFlags;

use super::super::DeviceError;
use super::{HostMemory, os};

impl HostMemory {
    /// Flips one bit in place, as a failing cell would. A read-only page is writable for a few
    /// microseconds.
    ///
    /// Views may be read meanwhile. As with real hardware, the memory model does not define such a
    /// change.
    pub(super) fn flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        /// Serializes flips: the end of one must not make the page of another read-only.
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
