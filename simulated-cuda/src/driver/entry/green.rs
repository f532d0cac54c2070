//! Green contexts.

use std::ffi::c_int;

use super::{In, Out, entry};
use crate::driver::code;

const MULTIPROCESSORS: u32 = 1;

/// `CUdevResource`, for multiprocessors.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Resource {
    kind: u32,
    internal: [u8; 92],
    multiprocessors: u32,
    rest: [u32; 11],
}

impl Resource {
    fn new(multiprocessors: u32) -> Self {
        Self {
            kind: MULTIPROCESSORS,
            internal: [0x5a; 92],
            multiprocessors,
            rest: [0; 11],
        }
    }

    /// Returns whether this driver made the resource, which its internal bytes show.
    fn is_ours(&self) -> bool {
        self.kind == MULTIPROCESSORS && self.internal == [0x5a; 92]
    }
}

entry! {
    Init fn cuDeviceGetDevResource(device: c_int, resource: Out<Resource>, kind: u32) |state, _| {
        let (_, device) = state.device(device)?;
        if !resource.is_aligned() {
            return Err(code::INVALID_VALUE);
        }
        if kind != MULTIPROCESSORS {
            return Err(code::INVALID_RESOURCE_TYPE);
        }
        resource.set(Resource::new(device.multiprocessors))
    }
}

entry! {
    Init fn cuDevSmResourceSplitByCount(
        result: Out<Resource>, parts: Out<u32>, all: In<Resource>, rest: Out<Resource>, flags: u32, least: u32,
    ) |state, _| {
        if !(result.is_aligned() && all.is_aligned() && rest.is_aligned()) {
            return Err(code::INVALID_VALUE);
        }
        let all = all.get()?;
        if !all.is_ours() {
            return Err(code::INVALID_RESOURCE_TYPE);
        }
        let wanted = parts.get()?;
        let (sizes, left) = state.split(all.multiprocessors, wanted, least, flags)?;
        for (index, size) in sizes.iter().enumerate() {
            result.at(index).set(Resource::new(*size))?;
        }
        rest.set_if_wanted(Resource::new(left));
        parts.set(sizes.len() as u32)
    }
}

entry! {
    Init fn cuDevResourceGenerateDesc(description: Out<u64>, resources: In<Resource>, count: u32) |state, _| {
        let resource = resources.get()?;
        if count != 1 || !resource.is_ours() || resource.multiprocessors == 0 {
            return Err(code::INVALID_RESOURCE_CONFIGURATION);
        }
        let handle = state.handle();
        state.descriptions.insert(handle, resource.multiprocessors);
        description.set(handle)
    }
}

entry! {
    Init fn cuGreenCtxCreate(green: Out<u64>, description: u64, device: c_int, flags: u32) |state, _| {
        let (device, _) = state.device(device)?;
        green.set(state.create_green(device, description, flags)?)
    }
}

entry! {
    Init fn cuGreenCtxDestroy(green: u64) |state, _| state.destroy_green(green)
}

entry! {
    Init fn cuGreenCtxStreamCreate(stream: Out<u64>, green: u64, flags: u32, priority: c_int) |state, _| {
        stream.set(state.create_green_stream(green, flags, priority)?)
    }
}
