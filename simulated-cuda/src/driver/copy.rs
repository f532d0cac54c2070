//! Copies and memsets as they are called: which of them wait, which read the host's memory now and which
//! later, as "API synchronization behavior" in CUDA's manual says.

use std::sync::Arc;

use crate::wire::PageableReads;

use super::code::{self, Code};
use super::execute::{HostSource, Work};
use super::memory::{FIRST_ADDRESS, Mapping};
use super::state::State;

/// Whether the call has `Async` in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Asynchronous,
    Synchronous,
}

impl State {
    /// Refuses addresses that no device has: the driver sees that at once.
    fn check_device_range(&self, address: u64, len: u64) -> Result<(), Code> {
        if self.memory.is_mapped(address, len) {
            Ok(())
        } else {
            Err(code::INVALID_VALUE)
        }
    }

    /// Refuses what no host address is, and what begins in pinned memory and ends behind it.
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

    /// What a synchronous call has to get past before anything else.
    fn enter(&mut self, manner: Manner) -> Result<(), Code> {
        match manner {
            Manner::Asynchronous => Ok(()),
            Manner::Synchronous => self.check_unsafe_call(),
        }
    }

    pub fn copy_to_device(
        &mut self,
        key: u64,
        to: u64,
        from: u64,
        len: u64,
        manner: Manner,
    ) -> Result<(), Code> {
        self.enter(manner)?;
        if len == 0 {
            return Ok(());
        }
        self.check_device_range(to, len)?;
        self.check_host_range(from, len)?;
        self.check_legacy(key)?;
        let captured = self.streams[&key].capture.is_some();
        if captured || self.memory.is_pinned(from) {
            let work = Work::HostToDevice {
                to,
                from: HostSource::Direct(from),
                len,
            };
            let place = self.enqueue(key, work)?;
            return if manner == Manner::Synchronous {
                self.run_to(place)
            } else {
                Ok(())
            };
        }
        if manner == Manner::Synchronous {
            // The stream is waited for, the bytes are staged, and the copy itself may still be under way
            // when the call returns.
            self.run_stream(key)?;
        }
        // SAFETY: the caller of the copy promises that so many bytes can be read there.
        let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, len as usize) };
        let from = HostSource::Staged(Arc::from(bytes));
        self.enqueue(key, Work::HostToDevice { to, from, len })
            .map(|_| ())
    }

    pub fn copy_to_host(
        &mut self,
        key: u64,
        to: u64,
        from: u64,
        len: u64,
        manner: Manner,
    ) -> Result<(), Code> {
        self.enter(manner)?;
        if len == 0 {
            return Ok(());
        }
        self.check_device_range(from, len)?;
        self.check_host_range(to, len)?;
        let captured = self.streams[&key].capture.is_some();
        let place = self.enqueue(key, Work::DeviceToHost { to, from, len })?;
        let early =
            self.pageable_reads == PageableReads::BeforeReturn && !self.memory.is_pinned(to);
        if manner == Manner::Synchronous || early && !captured {
            self.run_to(place)
        } else {
            Ok(())
        }
    }

    /// Between devices, or inside one. Not even the synchronous form waits.
    pub fn copy_on_device(
        &mut self,
        key: u64,
        to: u64,
        from: u64,
        len: u64,
        manner: Manner,
    ) -> Result<(), Code> {
        self.enter(manner)?;
        if len == 0 {
            return Ok(());
        }
        self.check_device_range(from, len)?;
        self.check_device_range(to, len)?;
        self.enqueue(key, Work::DeviceToDevice { to, from, len })
            .map(|_| ())
    }

    /// A copy whose direction the addresses say.
    pub fn copy_any(
        &mut self,
        key: u64,
        to: u64,
        from: u64,
        len: u64,
        manner: Manner,
    ) -> Result<(), Code> {
        match (to >= FIRST_ADDRESS, from >= FIRST_ADDRESS) {
            (true, true) => self.copy_on_device(key, to, from, len, manner),
            (true, false) => self.copy_to_device(key, to, from, len, manner),
            (false, true) => self.copy_to_host(key, to, from, len, manner),
            (false, false) => {
                self.enter(manner)?;
                self.check_host_range(to, len)?;
                self.check_host_range(from, len)?;
                // Fully synchronous, whatever its name.
                self.run_stream(key)?;
                // SAFETY: the caller of the copy promises that both have so many bytes.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len as usize) };
                Ok(())
            }
        }
    }

    /// A memset of `count` elements. Only on host memory does the synchronous form wait.
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
        let waits = manner == Manner::Synchronous && self.memory.is_pinned(to);
        if waits { self.run_to(place) } else { Ok(()) }
    }
}
