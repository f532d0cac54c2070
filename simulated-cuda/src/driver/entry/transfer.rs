//! Copies and memsets.

use super::entry;
use crate::driver::code;
use crate::driver::context;
use crate::driver::copy::Manner::{Asynchronous, Synchronous};

entry! {
    Context fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.copy_to_device(key, to, from, bytes as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.copy_to_device(key, to, from, bytes as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.copy_to_host(key, to, from, bytes as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.copy_to_host(key, to, from, bytes as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.copy_on_device(key, to, from, bytes as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.copy_on_device(key, to, from, bytes as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemcpy(to: u64, from: u64, bytes: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.copy_any(key, to, from, bytes as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.copy_any(key, to, from, bytes as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemcpyPeerAsync(
        to: u64,
        to_context: u64,
        from: u64,
        from_context: u64,
        bytes: usize,
        stream: u64,
    ) |state, device| {
        for context in [to_context, from_context] {
            let peer = context::device_of(state, context).ok_or(code::INVALID_CONTEXT)?;
            state.check(peer)?;
        }
        let key = state.stream_key(stream, device)?;
        state.copy_on_device(key, to, from, bytes as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemsetD8_v2(to: u64, value: u8, count: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.set_memory(key, to, (value.into(), 1), count as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.set_memory(key, to, (value.into(), 1), count as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemsetD16_v2(to: u64, value: u16, count: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.set_memory(key, to, (value.into(), 2), count as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.set_memory(key, to, (value.into(), 2), count as u64, Asynchronous)
    }
}

entry! {
    Context fn cuMemsetD32_v2(to: u64, value: u32, count: usize) |state, device| {
        let key = state.legacy_stream(device)?;
        state.set_memory(key, to, (value, 4), count as u64, Synchronous)
    }
}

entry! {
    Context fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: u64) |state, device| {
        let key = state.stream_key(stream, device)?;
        state.set_memory(key, to, (value, 4), count as u64, Asynchronous)
    }
}
