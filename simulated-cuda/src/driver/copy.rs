//! Copies and memsets as calls: which of them wait, and which read the host's memory now or later,
//! following "API synchronization behavior" in CUDA's manual.

use std::sync::Arc;

use crate::wire::PageableReads;

use super::code::{self, Code};
use super::execute::{HostSource, Work};
use super::memory::{FIRST_ADDRESS, Mapping};
use super::state::State;
use super::stream::Place;

/// A copy as it was called.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The key of the stream.
    pub key: u64,
    pub to: u64,
    pub from: u64,
    pub len: u64,
    pub manner: Manner,
}

/// Whether the function's name contains `Async`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Asynchronous,
    Synchronous,
}

impl State {
    /// Refuses addresses of no device, which the driver notices immediately.
    fn check_device_range(&self, address: u64, len: u64) -> Result<(), Code> {
        if self.memory.is_mapped(address, len) {
            Ok(())
        } else {
            Err(code::INVALID_VALUE)
        }
    }

    /// Refuses addresses that are not the host's, and ranges that begin in pinned memory and end
    /// after it.
    fn check_host_range(&self, address: u64, len: u64) -> Result<(), Code> {
        let beyond = |(start, mapping): (u64, &Mapping)| len > mapping.len - (address - start);
        if address == 0
            || address.saturating_add(len) > FIRST_ADDRESS
            || self.memory.find(address).is_some_and(beyond)
        {
            return Err(code::INVALID_VALUE);
        }
        Ok(())
    }

    /// Checks the requirements of a synchronous call.
    fn enter(&mut self, manner: Manner) -> Result<(), Code> {
        match manner {
            Manner::Asynchronous => Ok(()),
            Manner::Synchronous => self.check_unsafe_call(),
        }
    }

    pub fn copy_to_device(&mut self, copy: Copy) -> Result<(), Code> {
        self.enter(copy.manner)?;
        if copy.len == 0 {
            return Ok(());
        }
        self.check_device_range(copy.to, copy.len)?;
        self.check_host_range(copy.from, copy.len)?;
        self.check_legacy(copy.key)?;
        let waits = copy.manner == Manner::Synchronous;
        let direct = self.streams[&copy.key].capture.is_some() || self.memory.is_pinned(copy.from);
        let from = if direct {
            HostSource::Direct(copy.from)
        } else {
            if waits {
                // The call waits for the stream and stages the bytes; the copy itself may still be
                // in flight on return.
                self.run_stream(copy.key)?;
            }
            let start = copy.from as *const u8;
            // SAFETY: the caller of the copy promises that `copy.len` bytes can be read there.
            let bytes = unsafe { std::slice::from_raw_parts(start, copy.len as usize) };
            HostSource::Staged(Arc::from(bytes))
        };
        let (to, len) = (copy.to, copy.len);
        let place = self.enqueue(copy.key, Work::HostToDevice { to, from, len })?;
        self.wait_if(waits && direct, place)
    }

    pub fn copy_to_host(&mut self, copy: Copy) -> Result<(), Code> {
        self.enter(copy.manner)?;
        if copy.len == 0 {
            return Ok(());
        }
        self.check_device_range(copy.from, copy.len)?;
        self.check_host_range(copy.to, copy.len)?;
        let captured = self.streams[&copy.key].capture.is_some();
        let early =
            self.pageable_reads == PageableReads::BeforeReturn && !self.memory.is_pinned(copy.to);
        let (to, from, len) = (copy.to, copy.from, copy.len);
        let place = self.enqueue(copy.key, Work::DeviceToHost { to, from, len })?;
        self.wait_if(
            copy.manner == Manner::Synchronous || early && !captured,
            place,
        )
    }

    /// Copies between devices, or inside one. Not even the synchronous form waits.
    pub fn copy_on_device(&mut self, copy: Copy) -> Result<(), Code> {
        self.enter(copy.manner)?;
        if copy.len == 0 {
            return Ok(());
        }
        self.check_device_range(copy.from, copy.len)?;
        self.check_device_range(copy.to, copy.len)?;
        let (to, from, len) = (copy.to, copy.from, copy.len);
        self.enqueue(copy.key, Work::DeviceToDevice { to, from, len })
            .map(|_| ())
    }

    /// Copies in the direction that the addresses imply.
    pub fn copy_any(&mut self, copy: Copy) -> Result<(), Code> {
        match (copy.to >= FIRST_ADDRESS, copy.from >= FIRST_ADDRESS) {
            (true, true) => self.copy_on_device(copy),
            (true, false) => self.copy_to_device(copy),
            (false, true) => self.copy_to_host(copy),
            (false, false) => {
                self.enter(copy.manner)?;
                self.check_host_range(copy.to, copy.len)?;
                self.check_host_range(copy.from, copy.len)?;
                // Fully synchronous, whatever the function's name.
                self.run_stream(copy.key)?;
                let (from, to) = (copy.from as *const u8, copy.to as *mut u8);
                // SAFETY: the caller of the copy promises that both ranges have `copy.len` bytes.
                unsafe { std::ptr::copy(from, to, copy.len as usize) };
                Ok(())
            }
        }
    }

    fn wait_if(&mut self, waits: bool, place: Place) -> Result<(), Code> {
        if waits { self.run_to(place) } else { Ok(()) }
    }

    /// Sets `count` elements. The synchronous form waits only on host memory.
    pub fn set_memory(
        &mut self,
        key: u64,
        to: u64,
        (pattern, width): (u32, u64),
        count: u64,
        manner: Manner,
    ) -> Result<(), Code> {
        self.enter(manner)?;
        let len = width.checked_mul(count).ok_or(code::INVALID_VALUE)?;
        if len == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(width) {
            return Err(code::INVALID_VALUE);
        }
        self.check_device_range(to, len)?;
        let place = self.enqueue(
            key,
            Work::Set {
                to,
                pattern,
                width,
                count,
            },
        )?;
        self.wait_if(
            manner == Manner::Synchronous && self.memory.is_pinned(to),
            place,
        )
    }
}
