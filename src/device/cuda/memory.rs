//! One allocation in a GPU: its mapping, protection and release.
//!
//! Where the driver has virtual memory, each allocation is a mapping of its own, read-only once it
//! is protected. On release the physical memory is freed, but its addresses stay reserved. No
//! address is used twice in a process. So a graph captured over the memory faults on replay, and
//! reads no other data. Without virtual memory, the allocation is plain memory of the driver, for
//! callers who chose that explicitly.
//!
//! Small allocations that will be protected together may share a piece of physical memory, a slab.
//! Each still has a mapping of its own: it covers the whole slab, and some bytes belong to the
//! allocation. While other allocations use the slab, protected memory is wiped through a private
//! mapping. No address that was given out becomes writable.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};
use vram_trail::{foreign, process};

use super::Protection;
use super::code;
use super::context::Context;
use super::driver::{Called, Driver, Location, Physical, Properties};
use super::packing::{self, Place};
use super::slab::Slab;
use crate::device::DeviceError;
use crate::device::backend::AllOrNone;

const READ_ONLY: u32 = 1;
pub(super) const READ_WRITE: u32 = 3;

/// One allocation, wiped and freed on drop unless that happened before.
pub struct CudaMemory {
    device: i32,
    address: u64,
    /// Requested bytes.
    len: u64,
    /// Allocated bytes.
    taken: u64,
    mapping: Mapping,
    /// Whether the driver was asked for protection.
    is_protected: bool,
    /// Whether the driver confirms the protection.
    pub(super) read_only: bool,
    /// Whether the memory holds only zeros.
    pub(super) wiped: bool,
    gone: bool,
    /// The source of views. It owns nothing and is never dropped: its drop would ask the driver to
    /// free memory that did not come from that allocator.
    lent: ManuallyDrop<CudaSlice<u8>>,
    /// The stream that users see for lent memory.
    stream: Arc<CudaStream>,
    /// Dropped last: the fields above hold cudarc's context, and must not be its last owners.
    context: Arc<Context>,
}

/// The addresses at which memory can be used.
#[derive(Debug)]
enum Mapping {
    /// Memory from the driver's allocator, which has no protection.
    Plain,
    /// A mapping for this allocation alone, a multiple of the granularity.
    Own,
    /// A mapping of a shared slab.
    Shared { start: u64, slab: Arc<Slab> },
}

/// The device's way of allocating memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Allocator {
    pub(super) device: i32,
    /// The granularity in bytes; `None` without virtual memory.
    pub(super) granularity: Option<usize>,
    /// Whether a trial could make memory read-only.
    pub(super) can_protect: bool,
    pub(super) protection: Protection,
}

impl CudaMemory {
    /// Allocates `len` bytes with arbitrary content.
    pub(super) fn allocate(
        context: &Arc<Context>,
        allocator: Allocator,
        len: u64,
    ) -> Result<Self, DeviceError> {
        let unit = allocator.granularity.unwrap_or(super::ALIGNMENT);
        let size = usize::try_from(len)
            .ok()
            .and_then(|len| len.checked_next_multiple_of(unit));
        let size = size.ok_or(DeviceError::OutOfMemory {
            needed: len,
            available: u64::MAX,
            bound: crate::device::Bound::AddressSpace,
        })?;
        let (mapping, address) =
            context.allocating(size as u64, |driver| match allocator.granularity {
                Some(_) => Ok((Mapping::Own, map_new(driver, allocator.device, size)?)),
                None => Ok((Mapping::Plain, driver.allocate(size)?)),
            })?;
        Self::new(context, allocator, len, address, size as u64, mapping)
    }

    /// Allocates memory for all requests or for none. The allocations will be protected together.
    /// Each has a tag of the caller's.
    pub(super) fn allocate_all<T>(
        context: &Arc<Context>,
        allocator: Allocator,
        wanted: Vec<(u64, T)>,
    ) -> AllOrNone<Self, T> {
        let lens: Vec<u64> = wanted.iter().map(|(len, _)| *len).collect();
        let places = match allocator.granularity {
            Some(size) => packing::places(&lens, size as u64),
            None => vec![None; lens.len()],
        };
        let mut slabs: BTreeMap<usize, Arc<Slab>> = BTreeMap::new();
        let mut allocate = |len, place| {
            let (Some(place), Some(size)) = (place, allocator.granularity) else {
                return Self::allocate(context, allocator, len);
            };
            let Place { slab: number, .. } = place;
            let slab = match slabs.get(&number) {
                Some(slab) => Arc::clone(slab),
                None => Arc::new(Slab::new(context, allocator.device, size)?),
            };
            slabs.insert(number, Arc::clone(&slab));
            Self::in_slab(context, allocator, len, place, slab)
        };
        wanted
            .into_iter()
            .zip(places)
            .map(|((len, tag), place)| match allocate(len, place) {
                Ok(memory) => Ok((memory, tag)),
                Err(error) => Err((tag, error)),
            })
            .collect()
    }

    fn in_slab(
        context: &Arc<Context>,
        allocator: Allocator,
        len: u64,
        place: Place,
        slab: Arc<Slab>,
    ) -> Result<Self, DeviceError> {
        let device = allocator.device;
        let start = context.allocating(len, |driver| {
            map(driver, device, slab.size(), slab.memory())
        })?;
        let address = start.saturating_add(place.offset);
        let mapping = Mapping::Shared { start, slab };
        Self::new(context, allocator, len, address, place.slot, mapping)
    }

    /// Takes over allocated memory.
    fn new(
        context: &Arc<Context>,
        allocator: Allocator,
        len: u64,
        address: u64,
        taken: u64,
        mapping: Mapping,
    ) -> Result<Self, DeviceError> {
        // SAFETY: `len` bytes are allocated at `address`, and any byte is a `u8`. The slice is
        // never dropped: `Drop` takes it apart instead.
        let lent = unsafe { context.lending().upgrade_device_ptr(address, len_of(len)) };
        let memory = Self {
            device: allocator.device,
            address,
            len,
            taken,
            mapping,
            is_protected: false,
            read_only: false,
            wiped: true,
            gone: false,
            lent: ManuallyDrop::new(lent),
            stream: context.seen(),
            context: Arc::clone(context),
        };
        memory.check_residency()?;
        Ok(memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the slice that a view reads.
    pub(super) fn lent(&self) -> &CudaSlice<u8> {
        &self.lent
    }

    /// Returns the stream that a view names.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Asks the driver where the memory lies.
    fn check_residency(&self) -> Result<(), DeviceError> {
        const MEMORY_TYPE: u32 = 2;
        const IS_MANAGED: u32 = 8;
        const DEVICE_ORDINAL: u32 = 9;
        const ON_DEVICE: u64 = 2;
        let address = self.address;
        let found = self.context.within("ask where memory is", |driver| {
            Ok([
                driver.pointer_attribute(MEMORY_TYPE, address)?,
                driver.pointer_attribute(IS_MANAGED, address)?,
                driver.pointer_attribute(DEVICE_ORDINAL, address)?,
            ])
        })?;
        let device = u64::try_from(self.device).unwrap_or(u64::MAX);
        // The second value is a C `bool` of one byte.
        match found.map(|value| value & 0xffff_ffff) {
            [ON_DEVICE, 0, ordinal] if ordinal == device => Ok(()),
            [kind, managed, ordinal] => Err(DeviceError::NotResident {
                cause: format!(
                    "memory type {kind}, managed {managed}, device {ordinal} where type {ON_DEVICE}, managed 0, device {device} are needed"
                )
                .into(),
            }),
        }
    }

    /// Makes the memory read-only, and asks the driver for confirmation.
    pub(super) fn protect(&mut self, allocator: Allocator) -> Result<(), DeviceError> {
        if !allocator.can_protect {
            // Only `WhereAvailable` opens a GPU without protection.
            return Ok(());
        }
        // Set before the call: a failed call may still have taken effect.
        self.is_protected = true;
        self.set_access(READ_ONLY)?;
        let (device, address) = (self.device, self.address);
        let access = self.context.within("read protection back", |driver| {
            driver.access(address, Location::device(device))
        })?;
        self.read_only = access == u64::from(READ_ONLY);
        if self.read_only || allocator.protection == Protection::WhereAvailable {
            return Ok(());
        }
        Err(DeviceError::NotProtected {})
    }

    pub(super) fn unprotect(&mut self) -> Result<(), DeviceError> {
        if self.is_protected {
            self.set_access(READ_WRITE)?;
        }
        self.is_protected = false;
        self.read_only = false;
        Ok(())
    }

    fn set_access(&self, flags: u32) -> Result<(), DeviceError> {
        let (start, size) = self.mapped();
        let location = Location::device(self.device);
        self.context.within("set protection", |driver| {
            driver.set_access(start, size, location, flags)
        })
    }

    /// Returns the start and the size of the mapping.
    fn mapped(&self) -> (u64, usize) {
        match &self.mapping {
            Mapping::Plain | Mapping::Own => (self.address, len_of(self.taken)),
            Mapping::Shared { start, slab } => (*start, slab.size()),
        }
    }

    /// Overwrites the memory with zeros, after all work that may read it.
    pub(super) fn zero(&mut self) -> Result<(), DeviceError> {
        if self.wiped {
            return Ok(());
        }
        self.context.synchronize()?;
        if let Mapping::Shared { start, slab } = &self.mapping
            && self.is_protected
        {
            let offset = self.address.saturating_sub(*start);
            return slab.overwrite(offset, len_of(self.taken));
        }
        self.unprotect()?;
        self.overwrite()
    }

    /// Overwrites memory that has no other users.
    pub(super) fn overwrite(&self) -> Result<(), DeviceError> {
        let (address, size, stream) = (self.address, len_of(self.taken), self.context.copies());
        self.context.within("wipe", |driver| {
            // SAFETY: `self` owns this memory of the GPU, of at least this size.
            unsafe { driver.set(address, 0, size, stream) }?;
            driver.synchronize_stream(stream)
        })
    }

    /// Leaks the memory, so that it never gets another owner.
    pub(super) fn leak(&mut self) {
        self.gone = true;
    }

    /// Frees the memory, after all work that may read it.
    pub(super) fn give_back(&mut self) -> Result<(), DeviceError> {
        if self.gone {
            return Ok(());
        }
        self.context.synchronize()?;
        let (start, size) = self.mapped();
        self.context.within("free", |driver| match self.mapping {
            Mapping::Own | Mapping::Shared { .. } => driver.unmap(start, size),
            Mapping::Plain => driver.free(start),
        })?;
        self.gone = true;
        // The last owner of a slab releases it.
        match std::mem::replace(&mut self.mapping, Mapping::Own) {
            Mapping::Shared { slab, .. } => Arc::into_inner(slab).map_or(Ok(()), Slab::release),
            Mapping::Own | Mapping::Plain => Ok(()),
        }
    }

    /// Runs `work` while the memory is writable, whether protected or not.
    #[cfg(feature = "fault-injection")]
    pub(super) fn while_writable(
        &self,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if !self.is_protected {
            return work();
        }
        self.set_access(READ_WRITE)?;
        let worked = work();
        self.set_access(READ_ONLY)?;
        worked
    }
}

impl Drop for CudaMemory {
    /// Leaks memory that cannot be waited for or wiped, so that it never gets another owner.
    fn drop(&mut self) {
        if process::check().is_err() {
            // The driver and its handles belong to the parent process.
            return;
        }
        if !self.gone
            && let Err(error) = self.zero().and_then(|()| self.give_back())
        {
            // A failure with a shard would be on record; this memory was not a shard yet.
            let bytes = self.taken;
            foreign::log(move || {
                tracing::error!(%error, bytes, "memory of a GPU could not be given back, and is kept");
            });
        }
        // SAFETY: only this line takes it, and `self` is gone afterwards.
        let slice = unsafe { ManuallyDrop::take(&mut self.lent) };
        let _freed_above = slice.leak();
    }
}

impl fmt::Debug for CudaMemory {
    /// Writes the fields without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaMemory")
            .field("len", &self.len)
            .field("taken", &self.taken)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// Maps new physical memory at addresses that were never used, readable and writable.
fn map_new(driver: &Driver, device: i32, size: usize) -> Called<u64> {
    let mut memory = driver.create(size, &Properties::pinned_on(device))?;
    let mapped = map(driver, device, size, &memory);
    // The mapping keeps the memory alive.
    let released = driver.release(&mut memory);
    let start = mapped?;
    if let Err(failed) = released {
        let _nothing_else_to_do = driver.unmap(start, size);
        return Err(failed);
    }
    Ok(start)
}

/// Maps physical memory at addresses that were never used, readable and writable.
fn map(driver: &Driver, device: i32, size: usize, memory: &Physical) -> Called<u64> {
    let start = driver.reserve(size)?;
    let mapped = driver.map(start, size, memory).and_then(|()| {
        let location = Location::device(device);
        let usable = driver.set_access(start, size, location, READ_WRITE);
        usable.inspect_err(|_| {
            let _nothing_else_to_do = driver.unmap(start, size);
        })
    });
    if let Err(failed) = mapped {
        // No other code has seen these addresses.
        let _nothing_else_to_do = driver.unreserve(start, size);
        return Err(failed);
    }
    Ok(start)
}

/// Tests whether memory can be made read-only, and reads the answer back. A driver that says it
/// cannot is believed.
pub(super) fn can_protect(driver: &Driver, device: i32, granularity: usize) -> Called<bool> {
    let address = map_new(driver, device, granularity)?;
    let location = Location::device(device);
    let access = driver
        .set_access(address, granularity, location, READ_ONLY)
        .and_then(|()| driver.access(address, location));
    driver.unmap(address, granularity)?;
    driver.unreserve(address, granularity)?;
    match access {
        Ok(access) => Ok(access == u64::from(READ_ONLY)),
        Err(failed) if code::is_about_protection(failed.code) => Ok(false),
        Err(failed) => Err(failed),
    }
}

/// Converts a length that was checked at allocation.
fn len_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
