//! Initialisation, devices and their primary contexts.

use std::ffi::{c_char, c_int};

use super::{Out, entry};
use crate::driver::context;
use crate::driver::stream::PRIORITIES;
use crate::driver::{self, code};
use crate::wire::DeviceWire;

entry! {
    Nothing fn cuInit(flags: u32) |state, _| {
        if flags != 0 {
            return Err(code::INVALID_VALUE);
        }
        driver::own()?;
        state.initialise()
    }
}

entry! {
    Nothing fn cuDriverGetVersion(version: Out<c_int>) |state, _| version.set(state.driver_version)
}

entry! {
    Init fn cuDeviceGetCount(count: Out<c_int>) |state, _| count.set(state.devices.len() as c_int)
}

entry! {
    Init fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) |state, _| {
        state.device(ordinal)?;
        device.set(ordinal)
    }
}

entry! {
    Init fn cuDeviceGetName(name: Out<c_char>, len: c_int, device: c_int) |state, _| {
        let (_, device) = state.device(device)?;
        let len = usize::try_from(len).ok().filter(|len| *len > 0).ok_or(code::INVALID_VALUE)?;
        let text = device.name.iter().take_while(|byte| **byte != 0).take(len - 1);
        for (index, byte) in text.chain(&[0]).enumerate() {
            name.at(index).set(*byte as c_char)?;
        }
        Ok(())
    }
}

entry! {
    Init fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) |state, _| {
        uuid.set(state.device(device)?.1.uuid)
    }
}

entry! {
    Init fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) |state, _| {
        uuid.set(state.device(device)?.1.instance_uuid)
    }
}

entry! {
    Init fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) |state, _| {
        bytes.set(state.device(device)?.1.total_memory as usize)
    }
}

entry! {
    Init fn cuDeviceGetAttribute(value: Out<c_int>, attribute: u32, device: c_int) |state, _| {
        let (index, device) = state.device(device)?;
        let told = state.attributes.get(&(index, attribute)).copied();
        let answer = told.or_else(|| attribute_of(device, index, attribute));
        value.set(answer.ok_or(code::INVALID_VALUE)?)
    }
}

/// Returns the attribute with this number, if this crate's users need it.
fn attribute_of(device: &DeviceWire, index: usize, attribute: u32) -> Option<c_int> {
    Some(match attribute {
        1..=3 => 1024, // threads of a block, and its sides
        4 => 64,
        5 => c_int::MAX, // sides of a grid
        6 | 7 => 65_535,
        8 => 48 << 10,     // shared memory of a block
        9 => 64 << 10,     // constant memory
        10 => 32,          // threads of a warp
        12 | 82 => 65_536, // registers of a block, of a multiprocessor
        13 => 1_755_000,   // kHz
        14 => 512,
        15 | 19 | 31 | 41 | 78 | 79 | 80 => 1, // overlap, mapped host memory, concurrent kernels, ...
        16 => device.multiprocessors as c_int,
        17 | 20 | 35 => 0, // time limit, compute mode, TCC
        18 => device.integrated as c_int,
        32 => device.ecc as c_int,
        33 => index as c_int + 1, // PCI bus, device, domain
        34 | 50 => 0,
        36 => 2_619_000,
        37 => 5120,
        38 => 50 << 20, // L2 cache
        39 => 2048,     // threads of a multiprocessor
        40 => 3,        // copy engines
        75 => device.major as c_int,
        76 => device.minor as c_int,
        81 | 97 => 227 << 10,
        83 | 89 => device.managed as c_int,
        84 | 85 | 86 | 88 | 91 | 100 => 0,
        90 | 95 => 1,
        102 => device.virtual_memory as c_int,
        103 => device.virtual_memory as c_int, // handles as file descriptors
        104 | 105 | 116 => 0,
        106 => 32, // blocks of a multiprocessor
        115 => device.memory_pools as c_int,
        117..=150 => 0,
        _ => return None,
    })
}

entry! {
    Init fn cuDevicePrimaryCtxRetain(handle: Out<u64>, device: c_int) |state, _| {
        let (device, _) = state.device(device)?;
        handle.set(state.retain(device)?)
    }
}

entry! {
    Init fn cuDevicePrimaryCtxRelease_v2(device: c_int) |state, _| {
        let (device, _) = state.device(device)?;
        state.release(device)
    }
}

entry! {
    Init fn cuDevicePrimaryCtxReset_v2(device: c_int) |state, _| {
        let (device, _) = state.device(device)?;
        state.clear(device);
        state.check(device)
    }
}

entry! {
    Init fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<u32>, active: Out<c_int>) |state, _| {
        let (device, _) = state.device(device)?;
        let context = &state.contexts[device];
        flags.set(context.flags)?;
        active.set((context.retained > 0).into())
    }
}

entry! {
    Init fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) |state, _| {
        let (device, _) = state.device(device)?;
        state.contexts[device].flags = flags;
        Ok(())
    }
}

entry! {
    Init fn cuCtxSetCurrent(handle: u64) |state, _| {
        if handle != 0 && context::device_of(state, handle).is_none() {
            return Err(code::INVALID_CONTEXT);
        }
        context::set_current(handle);
        Ok(())
    }
}

entry! {
    Init fn cuCtxGetCurrent(handle: Out<u64>) |_, _| {
        handle.set(context::current_handle().unwrap_or(0))
    }
}

entry! {
    Init fn cuCtxPushCurrent_v2(handle: u64) |state, _| {
        context::device_of(state, handle).ok_or(code::INVALID_CONTEXT)?;
        context::push(handle);
        Ok(())
    }
}

entry! {
    Init fn cuCtxPopCurrent_v2(handle: Out<u64>) |_, _| {
        let popped = context::pop().ok_or(code::INVALID_CONTEXT)?;
        handle.set_if_wanted(popped);
        Ok(())
    }
}

entry! {
    Init fn cuCtxGetDevice(device: Out<c_int>) |state, _| {
        device.set(context::current(state).ok_or(code::INVALID_CONTEXT)? as c_int)
    }
}

entry! {
    Context fn cuCtxSynchronize() |state, device| {
        state.check_no_capture(device)?;
        state.check_unsafe_call()?;
        state.run_all(device);
        state.check(device)
    }
}

entry! {
    Context fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |_, _| {
        least.set_if_wanted(PRIORITIES.0);
        greatest.set_if_wanted(PRIORITIES.1);
        Ok(())
    }
}

entry! {
    Init fn cuCtxGetApiVersion(handle: u64, version: Out<u32>) |state, _| {
        if handle != 0 && context::device_of(state, handle).is_none() {
            return Err(code::INVALID_CONTEXT);
        }
        version.set(3020)
    }
}

entry! {
    Context fn cuCtxGetFlags(flags: Out<u32>) |state, device| flags.set(state.contexts[device].flags)
}

entry! {
    Context fn cuCtxSetFlags(flags: u32) |state, device| {
        state.contexts[device].flags = flags;
        Ok(())
    }
}

/// The last known limit.
const LAST_LIMIT: u32 = 10;

entry! {
    Context fn cuCtxGetLimit(value: Out<usize>, limit: u32) |state, device| {
        if limit > LAST_LIMIT {
            return Err(code::UNSUPPORTED_LIMIT);
        }
        value.set(state.contexts[device].limits.get(&limit).copied().unwrap_or(1024))
    }
}

entry! {
    Context fn cuCtxSetLimit(limit: u32, value: usize) |state, device| {
        if limit > LAST_LIMIT {
            return Err(code::UNSUPPORTED_LIMIT);
        }
        state.contexts[device].limits.insert(limit, value);
        Ok(())
    }
}

entry! {
    Context fn cuCtxGetCacheConfig(config: Out<u32>) |_, _| config.set(0)
}

entry! {
    Context fn cuCtxSetCacheConfig(config: u32) |_, _| {
        if config > 3 { Err(code::INVALID_VALUE) } else { Ok(()) }
    }
}
