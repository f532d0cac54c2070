//! Copies and memsets.

use super::entry;
use crate::driver::code;
use crate::driver::context;
use crate::driver::copy::Copy;
use crate::driver::copy::Manner::{Asynchronous, Synchronous};

/// Defines the two functions of a copy: one that waits, in the legacy default stream, and one that
/// does not.
macro_rules! copies {
    ($synchronous:ident, $asynchronous:ident: $method:ident) => {
        entry! {
            Context fn $synchronous(to: u64, from: u64, bytes: usize) |state, device| {
                let key = state.legacy_stream(device)?;
                state.$method(Copy { key, to, from, len: bytes as u64, manner: Synchronous })
            }
        }

        entry! {
            Context fn $asynchronous(to: u64, from: u64, bytes: usize, stream: u64) |state, device| {
                let key = state.stream_key(stream, device)?;
                state.$method(Copy { key, to, from, len: bytes as u64, manner: Asynchronous })
            }
        }
    };
}

copies!(cuMemcpyHtoD_v2, cuMemcpyHtoDAsync_v2: copy_to_device);
copies!(cuMemcpyDtoH_v2, cuMemcpyDtoHAsync_v2: copy_to_host);
copies!(cuMemcpyDtoD_v2, cuMemcpyDtoDAsync_v2: copy_on_device);
copies!(cuMemcpy, cuMemcpyAsync: copy_any);

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
        state.copy_on_device(Copy { key, to, from, len: bytes as u64, manner: Asynchronous })
    }
}

/// Defines the two functions of a memset, for elements of one width.
macro_rules! memsets {
    ($synchronous:ident, $asynchronous:ident: $element:ty) => {
        entry! {
            Context fn $synchronous(to: u64, value: $element, count: usize) |state, device| {
                let key = state.legacy_stream(device)?;
                let pattern = (value.into(), size_of::<$element>() as u64);
                state.set_memory(key, to, pattern, count as u64, Synchronous)
            }
        }

        entry! {
            Context fn $asynchronous(to: u64, value: $element, count: usize, stream: u64) |state, device| {
                let key = state.stream_key(stream, device)?;
                let pattern = (value.into(), size_of::<$element>() as u64);
                state.set_memory(key, to, pattern, count as u64, Asynchronous)
            }
        }
    };
}

memsets!(cuMemsetD8_v2, cuMemsetD8Async: u8);
memsets!(cuMemsetD16_v2, cuMemsetD16Async: u16);
memsets!(cuMemsetD32_v2, cuMemsetD32Async: u32);
