//! Pinned host memory.

use std::ffi::c_void;

use super::{Out, entry};
use crate::driver::code::{self, Code};
use crate::driver::memory::{FIRST_ADDRESS, Origin};
use crate::driver::state::State;

fn allocate(state: &mut State, bytes: usize, address: &Out<*mut c_void>) -> Result<(), Code> {
    state.check_unsafe_call()?;
    if bytes == 0 {
        return Err(code::INVALID_VALUE);
    }
    address.set(state.memory.pin(bytes as u64)? as *mut c_void)
}

entry! {
    Context fn cuMemHostAlloc(address: Out<*mut c_void>, bytes: usize, flags: u32) |state, _| {
        if flags & !7 != 0 {
            return Err(code::INVALID_VALUE);
        }
        allocate(state, bytes, &address)
    }
}

entry! {
    Context fn cuMemAllocHost_v2(address: Out<*mut c_void>, bytes: usize) |state, _| {
        allocate(state, bytes, &address)
    }
}

entry! {
    /// Waits for all work first, so that none of it writes to memory that the host reuses.
    Context fn cuMemFreeHost(address: u64) |state, device| {
        state.check_unsafe_call()?;
        for other in 0..state.devices.len() {
            state.run_all(other);
        }
        state.memory.unpin(address, Origin::Pinned).ok_or(code::INVALID_VALUE)?;
        state.check(device)
    }
}

entry! {
    Context fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) |state, _| {
        state.check_unsafe_call()?;
        let end = address.checked_add(bytes as u64).ok_or(code::INVALID_VALUE)?;
        if address == 0 || bytes == 0 || end > FIRST_ADDRESS || flags & !15 != 0 {
            return Err(code::INVALID_VALUE);
        }
        let inside = state.memory.maps.range(address..end).next().is_some();
        if inside || state.memory.find(address).is_some() {
            return Err(code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        state.memory.share_host(address, bytes as u64, Origin::Registered, None);
        Ok(())
    }
}

entry! {
    Context fn cuMemHostUnregister(address: u64) |state, device| {
        state.check_unsafe_call()?;
        for other in 0..state.devices.len() {
            state.run_all(other);
        }
        let unpinned = state.memory.unpin(address, Origin::Registered);
        unpinned.ok_or(code::HOST_MEMORY_NOT_REGISTERED)?;
        state.check(device)
    }
}

entry! {
    Context fn cuMemHostGetDevicePointer_v2(device_address: Out<u64>, address: u64, flags: u32) |state, _| {
        if flags != 0 || !state.memory.is_pinned(address) {
            return Err(code::INVALID_VALUE);
        }
        device_address.set(address)
    }
}

entry! {
    Context fn cuMemHostGetFlags(flags: Out<u32>, address: u64) |state, _| {
        if !state.memory.is_pinned(address) {
            return Err(code::INVALID_VALUE);
        }
        flags.set(0)
    }
}
