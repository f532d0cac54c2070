//! The virtual-memory API.

use std::ffi::c_int;

use super::{In, Out, entry};
use crate::driver::code::{self, Code};
use crate::driver::memory::GRANULARITY;
use crate::driver::pointer;
use crate::driver::state::State;

const PINNED: u32 = 1;
const ON_DEVICE: u32 = 1;

/// `CUmemLocation`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Location {
    kind: u32,
    id: c_int,
}

/// `CUmemAllocationProp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location: Location,
    win32: u64,
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AccessOf {
    location: Location,
    flags: u32,
}

/// Returns the device of a location, if it has the virtual-memory API.
fn located(state: &State, location: Location) -> Result<usize, Code> {
    if location.kind != ON_DEVICE {
        return Err(code::INVALID_VALUE);
    }
    let (index, device) = state.device(location.id)?;
    if device.virtual_memory == 0 {
        return Err(code::NOT_SUPPORTED);
    }
    state.check(index)?;
    Ok(index)
}

fn check_support(state: &State) -> Result<(), Code> {
    if state
        .devices
        .iter()
        .all(|device| device.virtual_memory == 0)
    {
        return Err(code::NOT_SUPPORTED);
    }
    Ok(())
}

/// Refuses calls on addresses of a lost device.
fn check_owner(state: &State, address: u64) -> Result<(), Code> {
    state
        .memory
        .find(address)
        .map_or(Ok(()), |(_, mapping)| state.check(mapping.device))
}

entry! {
    Init fn cuMemGetAllocationGranularity(
        granularity: Out<usize>,
        properties: In<Properties>,
        option: u32,
    ) |state, _| {
        let properties = properties.get()?;
        located(state, properties.location)?;
        if properties.kind != PINNED || option > 1 {
            return Err(code::INVALID_VALUE);
        }
        granularity.set(GRANULARITY as usize)
    }
}

entry! {
    Init fn cuMemAddressReserve(
        address: Out<u64>,
        bytes: usize,
        align: usize,
        _wish: u64,
        flags: u64,
    ) |state, _| {
        check_support(state)?;
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        address.set(state.memory.reserve(bytes as u64, align as u64)?)
    }
}

entry! {
    Init fn cuMemAddressFree(address: u64, bytes: usize) |state, _| {
        check_support(state)?;
        state.memory.unreserve(address, bytes as u64)
    }
}

entry! {
    Init fn cuMemCreate(
        handle: Out<u64>,
        bytes: usize,
        properties: In<Properties>,
        flags: u64,
    ) |state, _| {
        let properties = properties.get()?;
        let device = located(state, properties.location)?;
        state.check_unsafe_call()?;
        if properties.kind != PINNED || flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        let number = state.handle();
        state.memory.create(number, device, bytes as u64)?;
        handle.set(number)
    }
}

entry! {
    Init fn cuMemRelease(handle: u64) |state, _| {
        check_support(state)?;
        state.check_unsafe_call()?;
        let device = state.memory.physical.get(&handle).map(|physical| physical.device);
        device.map_or(Ok(()), |device| state.check(device))?;
        state.memory.release(handle)
    }
}

entry! {
    Init fn cuMemRetainAllocationHandle(handle: Out<u64>, address: u64) |state, _| {
        check_owner(state, address)?;
        handle.set(state.memory.retain(address)?)
    }
}

entry! {
    Init fn cuMemGetAllocationPropertiesFromHandle(properties: Out<Properties>, handle: u64) |state, _| {
        let physical = state.memory.physical.get(&handle).ok_or(code::INVALID_VALUE)?;
        let location = Location { kind: ON_DEVICE, id: physical.device as c_int };
        properties.set(Properties { kind: PINNED, handle_types: 0, location, win32: 0, flags: [0; 8] })
    }
}

entry! {
    Init fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) |state, _| {
        check_support(state)?;
        state.check_unsafe_call()?;
        let device = state.memory.physical.get(&handle).map(|physical| physical.device);
        device.map_or(Ok(()), |device| state.check(device))?;
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        state.memory.map(address, bytes as u64, offset as u64, handle)
    }
}

entry! {
    /// Waits for nothing: work in progress on these addresses faults.
    Init fn cuMemUnmap(address: u64, bytes: usize) |state, _| {
        check_owner(state, address)?;
        state.check_unsafe_call()?;
        state.memory.unmap(address, bytes as u64)
    }
}

entry! {
    Init fn cuMemSetAccess(
        address: u64,
        bytes: usize,
        descriptions: In<AccessOf>,
        count: usize,
    ) |state, _| {
        check_owner(state, address)?;
        state.check_unsafe_call()?;
        for index in 0..count {
            let AccessOf { location, flags } = descriptions.at(index).get()?;
            let device = located(state, location)?;
            state.memory.set_access(address, bytes as u64, device, flags)?;
        }
        Ok(())
    }
}

entry! {
    Init fn cuMemGetAccess(flags: Out<u64>, location: In<Location>, address: u64) |state, _| {
        check_owner(state, address)?;
        let device = located(state, location.get()?)?;
        let found = state.memory.find(address).filter(|(_, mapping)| mapping.is_virtual());
        let (_, mapping) = found.ok_or(code::INVALID_VALUE)?;
        let told = state.pointer_attributes.get(&pointer::ACCESS_FLAGS).copied();
        flags.set(told.unwrap_or(mapping.access[device].into()))
    }
}
