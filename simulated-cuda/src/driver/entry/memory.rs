//! Device memory that the driver places by itself, and attributes of addresses.

use std::ffi::c_void;

use super::{In, Out, entry};
use crate::driver::code::{self, Code};
use crate::driver::execute::Work;
use crate::driver::memory::Origin;
use crate::driver::pointer::{self, Value};
use crate::driver::state::State;

entry! {
    Context fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) |state, device| {
        state.check_unsafe_call()?;
        if bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        address.set(state.memory.allocate(device, bytes as u64, Origin::Allocated)?)
    }
}

entry! {
    /// Waits for all work of the device, as the real driver does, except for memory of a pool.
    /// There CUDA assumes that its users are done.
    Context fn cuMemFree_v2(address: u64) |state, device| {
        state.check_unsafe_call()?;
        if address == 0 {
            return Ok(());
        }
        let origin = state.memory.maps.get(&address).map(|mapping| mapping.origin);
        if origin != Some(Origin::Pooled) {
            state.run_all(device);
            state.check(device)?;
        }
        state.memory.free(address)
    }
}

fn check_outside_graphs(state: &State, key: u64) -> Result<(), Code> {
    if state.streams[&key].capture.is_some() {
        eprintln!("simulated-cuda: graphs that allocate or free are not supported");
        return Err(code::NOT_SUPPORTED);
    }
    Ok(())
}

entry! {
    /// Allocates immediately. The streams decide only whether the memory is used in time.
    Context fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        check_outside_graphs(state, key)?;
        if state.devices[device].memory_pools == 0 {
            return Err(code::NOT_SUPPORTED);
        }
        if bytes == 0 {
            return address.set(0);
        }
        address.set(state.memory.allocate(device, bytes as u64, Origin::Pooled)?)
    }
}

entry! {
    Context fn cuMemFreeAsync(address: u64, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        check_outside_graphs(state, key)?;
        if address == 0 {
            return Ok(());
        }
        let origin = state.memory.maps.get(&address).map(|mapping| mapping.origin);
        if !matches!(origin, Some(Origin::Allocated | Origin::Pooled)) {
            return Err(code::INVALID_VALUE);
        }
        state.enqueue(key, Work::Free { address }).map(|_| ())
    }
}

entry! {
    Context fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) |state, device| {
        state.check_unsafe_call()?;
        if state.devices[device].managed == 0 {
            return Err(code::NOT_SUPPORTED);
        }
        if bytes == 0 || !matches!(flags, 1 | 2) {
            return Err(code::INVALID_VALUE);
        }
        address.set(state.memory.allocate(device, bytes as u64, Origin::Managed)?)
    }
}

entry! {
    Context fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |state, device| {
        let pool = &state.memory.pools[device];
        free.set((pool.total - pool.used) as usize)?;
        total.set(pool.total as usize)
    }
}

entry! {
    Context fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) |state, _| {
        let (start, mapping) = state.memory.find(address).ok_or(code::NOT_FOUND)?;
        base.set_if_wanted(start);
        size.set_if_wanted(mapping.len as usize);
        Ok(())
    }
}

/// Writes an attribute with its own width.
fn put(data: &Out<c_void>, value: Value) -> Result<(), Code> {
    match value {
        Value::Byte(value) => Out(data.0.cast::<u8>()).set(value),
        Value::Word(value) => Out(data.0.cast::<u32>()).set(value),
        Value::LongWord(value) => Out(data.0.cast::<u64>()).set(value),
    }
}

entry! {
    Context fn cuPointerGetAttribute(data: Out<c_void>, attribute: u32, address: u64) |state, device| {
        put(&data, pointer::attribute(state, attribute, address, device)?)
    }
}

entry! {
    /// Writes zeros for an unknown address, and succeeds.
    Context fn cuPointerGetAttributes(
        count: u32,
        attributes: In<u32>,
        data: In<*mut c_void>,
        address: u64,
    ) |state, device| {
        let known = state.memory.find(address).is_some();
        for index in 0..count as usize {
            let attribute = attributes.at(index).get()?;
            let value = match pointer::attribute(state, attribute, address, device) {
                Ok(value) => value,
                Err(_) if !known && attribute == 9 => Value::Word(-2_i32 as u32),
                Err(_) if !known => zero(attribute),
                Err(code) => return Err(code),
            };
            put(&Out(data.at(index).get()?), value)?;
        }
        Ok(())
    }
}

/// Returns a zero with the attribute's width.
fn zero(attribute: u32) -> Value {
    match attribute {
        2 | 9 | 16 => Value::Word(0),
        6 | 8 | 10 | 13 | 15 => Value::Byte(0),
        _ => Value::LongWord(0),
    }
}
