//! Slabs: physical memory that several allocations share, and the wipe of one of them beside the
//! others.
//!
//! Each allocation maps the whole slab, read-only once protected. So an allocation that ends is
//! wiped through the slab's private mapping. Its addresses are never given out, and guard pages
//! without memory lie on both sides: an overrun of other memory does not reach it. The mapping is
//! writable only during a wipe.

use std::sync::{Arc, Mutex, PoisonError};

use vram_trail::process;

use super::context::Context;
use super::driver::{Called, Driver, Location, Physical, Properties};
use super::memory::READ_WRITE;
use crate::device::DeviceError;

const NO_ACCESS: u32 = 0;

#[derive(Debug)]
pub(super) struct Slab {
    context: Arc<Context>,
    device: i32,
    memory: Physical,
    /// In bytes.
    size: usize,
    /// The start of the private mapping. The lock admits one wipe at a time.
    wiping: Mutex<u64>,
    is_released: bool,
}

impl Slab {
    pub(super) fn new(
        context: &Arc<Context>,
        device: i32,
        size: usize,
    ) -> Result<Self, DeviceError> {
        let (memory, start) = context.allocating(size as u64, |driver| {
            let mut memory = driver.create(size, &Properties::pinned_on(device))?;
            let mapped = map_apart(driver, size, &memory);
            let mapped = mapped.inspect_err(|_| {
                let _nothing_else_to_do = driver.release(&mut memory);
            });
            let start = mapped?;
            Ok((memory, start))
        })?;
        Ok(Self {
            context: Arc::clone(context),
            device,
            memory,
            size,
            wiping: Mutex::new(start),
            is_released: false,
        })
    }

    pub(super) fn memory(&self) -> &Physical {
        &self.memory
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Overwrites a range with zeros. No work may read or write the range any more.
    pub(super) fn overwrite(&self, offset: u64, len: usize) -> Result<(), DeviceError> {
        // In a forked child the lock may be held for ever.
        process::check()?;
        let start = self.wiping.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, stream) = (self.size, self.context.copies());
        let location = Location::device(self.device);
        let access = |flags| {
            self.context.within("wipe", |driver| {
                driver.set_access(*start, size, location, flags)
            })
        };
        access(READ_WRITE)?;
        let to = start.saturating_add(offset);
        let queued = self.context.within("wipe", |driver| {
            // SAFETY: the range is inside the slab's private mapping, memory of the GPU.
            unsafe { driver.set(to, 0, len, stream) }
        });
        // If this wait fails, zeros may still be on their way: the mapping stays writable, and the
        // next wipe waits for them.
        self.context
            .within("wipe", |driver| driver.synchronize_stream(stream))?;
        queued.and(access(NO_ACCESS))
    }

    /// Frees the slab. The caller has waited for the context.
    pub(super) fn release(mut self) -> Result<(), DeviceError> {
        self.is_released = true;
        self.give_back()
    }

    fn give_back(&mut self) -> Result<(), DeviceError> {
        let start = *self.wiping.lock().unwrap_or_else(PoisonError::into_inner);
        let (reserved_at, reserved) = apart(start, self.size);
        self.context.within("free", |driver| {
            driver.unmap(start, self.size)?;
            // These addresses were never given out and are unused, so they may be reused.
            driver.unreserve(reserved_at, reserved)?;
            driver.release(&mut self.memory)
        })
    }
}

impl Drop for Slab {
    /// Frees the slab without [`release`](Self::release): it has no allocation, or the last one was
    /// leaked. A leaked allocation has its own mapping, which keeps the memory.
    fn drop(&mut self) {
        if !self.is_released && self.context.synchronize().is_ok() {
            let _nobody_to_tell = self.give_back();
        }
    }
}

/// Maps the slab without access, with as many unmapped guard addresses before and after it.
fn map_apart(driver: &Driver, size: usize, memory: &Physical) -> Called<u64> {
    let (_, reserved) = apart(0, size);
    let reserved_at = driver.reserve(reserved)?;
    let start = reserved_at.saturating_add(size as u64);
    let mapped = driver.map(start, size, memory);
    mapped.inspect_err(|_| {
        let _nothing_else_to_do = driver.unreserve(reserved_at, reserved);
    })?;
    Ok(start)
}

/// Returns the start and the size of the reservation around a mapping.
fn apart(start: u64, size: usize) -> (u64, usize) {
    (start.saturating_sub(size as u64), size.saturating_mul(3))
}
