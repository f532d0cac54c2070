//! Physical memory that several allocations share, and how the bytes of one of them are wiped beside the others.
//!
//! Each allocation maps all of it, read-only once they are protected. So what goes is wiped through a mapping
//! of the slab's own, at addresses that are given to nobody, between others that are nothing's: what runs over
//! the end of some memory does not get there. It is writable only while somebody wipes.

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
    /// Where its own mapping begins. One wipes at a time.
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

    /// Overwrites some of its bytes with zeros. Nobody can be reading or writing these any more.
    pub(super) fn overwrite(&self, offset: u64, len: usize) -> Result<(), DeviceError> {
        // In a child the lock may be held for ever.
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
            // SAFETY: it is inside the slab's own mapping, memory of the GPU.
            unsafe { driver.set(to, 0, len, stream) }
        });
        // Zeros may be on their way: then the mapping stays as it is, and whoever wipes next waits for them.
        self.context
            .within("wipe", |driver| driver.synchronize_stream(stream))?;
        queued.and(access(NO_ACCESS))
    }

    /// Gives it back. The context was waited for.
    pub(super) fn release(mut self) -> Result<(), DeviceError> {
        self.is_released = true;
        self.give_back()
    }

    fn give_back(&mut self) -> Result<(), DeviceError> {
        let start = *self.wiping.lock().unwrap_or_else(PoisonError::into_inner);
        let (reserved_at, reserved) = apart(start, self.size);
        self.context.within("free", |driver| {
            driver.unmap(start, self.size)?;
            // Nobody was given these addresses, and nothing uses them: they may be used again.
            driver.unreserve(reserved_at, reserved)?;
            driver.release(&mut self.memory)
        })
    }
}

impl Drop for Slab {
    /// Without [`release`](Self::release): no allocation came to be in it, or the last was leaked. That one
    /// has its own mapping, which keeps the memory.
    fn drop(&mut self) {
        if !self.is_released && self.context.synchronize().is_ok() {
            let _nobody_to_tell = self.give_back();
        }
    }
}

/// Maps it where nobody may access it, with as many addresses before and behind it where nothing is.
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

/// Where the addresses begin that are reserved for a mapping, and how many they are.
fn apart(start: u64, size: usize) -> (u64, usize) {
    (start.saturating_sub(size as u64), size.saturating_mul(3))
}
