//! The address space that devices and the host share: mapped addresses, their bytes, and the
//! allowed access.
//!
//! Physical memory is separate from mappings, and is never fresh. It holds the data of its last
//! owner, most recently freed memory first, or else garbage. This module does not know time: every
//! operation here completes immediately.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ptx::{Access, Memory as KernelMemory, Window};

use super::block::Block;
use super::code::{self, Code};

/// The first device address. No host address is that high, so the host faults on device addresses.
pub const FIRST_ADDRESS: u64 = 1 << 62;

/// The granularity of mappings, reservations and physical allocations.
pub const GRANULARITY: u64 = 2 << 20;

/// The alignment of `cuMemAlloc`.
const ALLOCATION_ALIGN: u64 = 512;

/// The flag without any access.
pub const NO_ACCESS: u32 = 0;
pub const READ_ONLY: u32 = 1;
pub const READ_WRITE: u32 = 3;

/// The origin of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `cuMemAlloc`.
    Allocated,
    /// `cuMemAllocManaged`: at a host address, and also accessible to the host.
    Managed,
    /// A module's variable.
    Module { constant: bool },
    /// `cuMemHostAlloc`: pinned host memory.
    Pinned,
    /// `cuMemAllocAsync`, from the device's memory pool.
    Pooled,
    /// `cuMemHostRegister`: the application's own memory, pinned.
    Registered,
    /// `cuMemMap`, of the physical allocation with this handle.
    Virtual(u64),
}

/// A range of addresses, and the bytes behind them.
#[derive(Debug)]
pub struct Mapping {
    pub len: u64,
    pub origin: Origin,
    pub device: usize,
    /// The allowed access of each device.
    pub access: Vec<u32>,
    /// The first byte on the host.
    pub bytes: *mut u8,
    /// The owner of the bytes, unless that is the application.
    pub block: Option<Arc<Block>>,
}

// SAFETY: the pointer is to bytes that `block` or the application owns; access to them is ordered
// by the driver's lock, and by CUDA's rules for memory that the host shares.
unsafe impl Send for Mapping {}

/// Physical memory from `cuMemCreate`.
#[derive(Debug)]
pub struct Physical {
    pub device: usize,
    pub block: Arc<Block>,
    /// The number of releases that the handle needs, and the number of mappings.
    pub references: u32,
    pub mappings: u32,
}

/// The physical memory of one device.
#[derive(Debug, Default)]
pub struct Pool {
    pub total: u64,
    pub used: u64,
    /// Freed blocks, the most recent last.
    recycled: Vec<Arc<Block>>,
    garbage: u8,
}

#[derive(Debug)]
pub struct Memory {
    pub maps: BTreeMap<u64, Mapping>,
    pub physical: BTreeMap<u64, Physical>,
    /// The start and length of each reservation of `cuMemAddressReserve`.
    pub reservations: BTreeMap<u64, u64>,
    /// Freed reservations, the most recent of which is reused first.
    pub freed_reservations: Vec<(u64, u64)>,
    pub pools: Vec<Pool>,
    pub next_address: u64,
    pub peak: u64,
}

/// A forbidden access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress {
    pub address: u64,
    pub access: Access,
}

impl Memory {
    pub const fn new() -> Self {
        Self {
            maps: BTreeMap::new(),
            physical: BTreeMap::new(),
            reservations: BTreeMap::new(),
            freed_reservations: Vec::new(),
            pools: Vec::new(),
            next_address: FIRST_ADDRESS,
            peak: 0,
        }
    }

    /// Returns the mapping at an address, and its start.
    pub fn find(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.maps.range(..=address).next_back()?;
        (address - start < mapping.len).then_some((*start, mapping))
    }

    /// Flips bits of the byte at an address, whatever its protection. Returns false if the address
    /// is not mapped.
    pub fn flip(&self, address: u64, mask: u8) -> bool {
        let Some((start, mapping)) = self.find(address) else {
            return false;
        };
        let byte = mapping.bytes.wrapping_add((address - start) as usize);
        // SAFETY: inside the mapping, whose bytes live as long as it does (`find`).
        let value = unsafe { byte.read() };
        // SAFETY: the same byte; no other code accesses device memory while the state is locked.
        unsafe { byte.write(value ^ mask) };
        true
    }

    /// Returns whether the whole range is mapped.
    pub fn is_mapped(&self, address: u64, len: u64) -> bool {
        self.pieces(address, len, |_| true).is_ok()
    }

    /// Returns the host addresses and lengths of the pieces of a range, if the device has this
    /// access to all of them.
    pub fn accessible(
        &self,
        device: usize,
        address: u64,
        len: u64,
        access: Access,
    ) -> Result<Vec<(*mut u8, usize)>, BadAddress> {
        self.pieces(address, len, |mapping| mapping.allows(device, access))
            .map_err(|address| BadAddress { address, access })
    }

    fn pieces(
        &self,
        mut address: u64,
        mut len: u64,
        allowed: impl Fn(&Mapping) -> bool,
    ) -> Result<Vec<(*mut u8, usize)>, u64> {
        let mut pieces = Vec::new();
        while len > 0 {
            let (start, mapping) = self
                .find(address)
                .filter(|(_, m)| allowed(m))
                .ok_or(address)?;
            let offset = address - start;
            let piece = (mapping.len - offset).min(len);
            pieces.push((mapping.bytes.wrapping_add(offset as usize), piece as usize));
            address += piece;
            len -= piece;
        }
        Ok(pieces)
    }

    /// Returns whether the host address is in pinned or registered memory, which devices access
    /// directly.
    pub fn is_pinned(&self, address: u64) -> bool {
        let kind = self.find(address).map(|(_, mapping)| mapping.origin);
        matches!(
            kind,
            Some(Origin::Pinned | Origin::Registered | Origin::Managed)
        )
    }

    /// Allocates physical memory of a device, with the data of its last owner.
    pub fn take(&mut self, device: usize, len: u64) -> Result<Arc<Block>, Code> {
        let pool = self.pools.get_mut(device).ok_or(code::INVALID_DEVICE)?;
        if len > pool.total - pool.used {
            return Err(code::OUT_OF_MEMORY);
        }
        let block = Block::new(len as usize).ok_or(code::OUT_OF_MEMORY)?;
        pool.recall(&block);
        pool.used += len;
        let used = self.pools.iter().map(|pool| pool.used).sum();
        self.peak = self.peak.max(used);
        Ok(Arc::new(block))
    }

    /// Frees physical memory.
    pub fn give(&mut self, device: usize, block: Arc<Block>) {
        let pool = &mut self.pools[device];
        pool.used -= block.len() as u64;
        pool.recycled.push(block);
    }

    /// Returns unused addresses, with a gap after them.
    pub fn fresh_addresses(&mut self, len: u64, align: u64) -> Result<u64, Code> {
        let start = self
            .next_address
            .checked_next_multiple_of(align)
            .ok_or(code::OUT_OF_MEMORY)?;
        let end = start
            .checked_add(len)
            .filter(|end| *end < 1 << 63)
            .ok_or(code::OUT_OF_MEMORY)?;
        self.next_address = end + GRANULARITY;
        Ok(start)
    }

    /// Allocates memory and addresses together, as `cuMemAlloc` does.
    pub fn allocate(&mut self, device: usize, len: u64, origin: Origin) -> Result<u64, Code> {
        let block = self.take(device, len)?;
        let (start, access) = match origin {
            Origin::Managed => (block.start() as u64, vec![READ_WRITE; self.pools.len()]),
            Origin::Module { constant: true } => (0, self.only(device, READ_ONLY)),
            _ => (0, self.only(device, READ_WRITE)),
        };
        let start = if start == 0 {
            self.fresh_addresses(len, ALLOCATION_ALIGN)?
        } else {
            start
        };
        let mapping = Mapping {
            len,
            origin,
            device,
            access,
            bytes: block.start(),
            block: Some(block),
        };
        self.maps.insert(start, mapping);
        Ok(start)
    }

    fn only(&self, device: usize, access: u32) -> Vec<u32> {
        (0..self.pools.len())
            .map(|other| if other == device { access } else { NO_ACCESS })
            .collect()
    }

    /// Frees memory from `allocate`; `start` must be its first address.
    pub fn free(&mut self, start: u64) -> Result<(), Code> {
        let origin = self.maps.get(&start).map(|mapping| mapping.origin);
        if !matches!(
            origin,
            Some(Origin::Allocated | Origin::Managed | Origin::Module { .. } | Origin::Pooled)
        ) {
            return Err(code::INVALID_VALUE);
        }
        if let Some(mapping) = self.maps.remove(&start)
            && let Some(block) = mapping.block
        {
            self.give(mapping.device, block);
        }
        Ok(())
    }

    /// Drops the mappings of a context that ends. Pinned memory, reservations and physical
    /// allocations belong to the process.
    pub fn clear(&mut self, device: usize) {
        let starts: Vec<u64> = self
            .maps
            .iter()
            .filter(|(_, mapping)| mapping.device == device)
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            let _ = self.free(start); // refuses memory of the process
        }
    }

    /// Allocates host memory that devices access directly, as `cuMemHostAlloc` does.
    pub fn pin(&mut self, len: u64) -> Result<u64, Code> {
        let block = usize::try_from(len)
            .ok()
            .and_then(Block::new)
            .ok_or(code::OUT_OF_MEMORY)?;
        let start = block.start() as u64;
        self.share_host(start, len, Origin::Pinned, Some(Arc::new(block)));
        Ok(start)
    }

    /// Makes host memory accessible to all devices.
    pub fn share_host(&mut self, start: u64, len: u64, origin: Origin, block: Option<Arc<Block>>) {
        let access = vec![READ_WRITE; self.pools.len()];
        let bytes = start as *mut u8;
        self.maps.insert(
            start,
            Mapping {
                len,
                origin,
                device: 0,
                access,
                bytes,
                block,
            },
        );
    }

    /// Reverts `pin` or `share_host`.
    pub fn unpin(&mut self, start: u64, origin: Origin) -> Option<()> {
        let mapping = self.maps.get(&start)?;
        (mapping.origin == origin)
            .then(|| self.maps.remove(&start))
            .flatten()
            .map(drop)
    }
}

impl Mapping {
    /// Returns whether `cuMemMap` made the mapping.
    pub fn is_virtual(&self) -> bool {
        matches!(self.origin, Origin::Virtual(_))
    }

    /// Returns whether a device has this access.
    pub fn allows(&self, device: usize, access: Access) -> bool {
        let allowed = self.access.get(device).copied().unwrap_or(NO_ACCESS);
        match access {
            Access::Read => allowed & READ_ONLY != 0,
            Access::Write => allowed == READ_WRITE,
        }
    }
}

impl Pool {
    pub fn new(total: u64) -> Self {
        Self {
            total,
            used: 0,
            recycled: Vec::new(),
            garbage: 0,
        }
    }

    /// Fills a new block with the most recently freed data, and the rest with garbage.
    fn recall(&mut self, block: &Block) {
        let mut at = 0;
        while at < block.len() {
            let Some(old) = self.recycled.pop() else {
                break;
            };
            let len = old.len().min(block.len() - at);
            block.copy_from(at, &old, 0, len);
            at += len;
            // The unused rest is reused next.
            if len < old.len()
                && let Some(rest) = Block::new(old.len() - len)
            {
                rest.copy_from(0, &old, len, old.len() - len);
                self.recycled.push(Arc::new(rest));
            }
        }
        self.garbage = self.garbage.wrapping_mul(5).wrapping_add(0x6b) | 1;
        block.fill(at, block.len() - at, self.garbage);
    }
}

/// The memory from the perspective of a kernel on one device.
pub struct DeviceMemory<'a> {
    pub memory: &'a Memory,
    pub device: usize,
}

// SAFETY: a mapping's bytes live as long as the mapping (`block`), or are the application's, which CUDA
// forbids to free before it unregisters them; no references to them are ever made.
unsafe impl KernelMemory for DeviceMemory<'_> {
    fn window(&self, address: u64, access: Access) -> Option<Window> {
        let (start, mapping) = self.memory.find(address)?;
        mapping.allows(self.device, access).then_some(Window {
            start,
            len: mapping.len,
            bytes: mapping.bytes,
        })
    }
}
