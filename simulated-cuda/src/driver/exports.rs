//! The controls: calls for tests, which an application does not have. They are C functions, because
//! the test's own copy of this crate has a state of its own.

use std::sync::MutexGuard;

use super::code::{self, Code};
use super::fault::Fault;
use super::state::State;
use super::{context, lock};
use crate::ptx::Corruption;
use crate::wire::{Counters, DeviceWire, Direction, PageableReads, VERSION};

/// A slice with C's layout. Its creator keeps the memory until the call returns.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slice<T> {
    pub start: *const T,
    pub len: usize,
}

impl<T> Slice<T> {
    /// # Safety
    /// The slice was made of a slice of Rust that lives as long as the borrow.
    unsafe fn get(&self) -> &[T] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by the contract.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// Locks the state for a control.
///
/// Panics in a host function of a stream, which would otherwise wait for itself; the process ends
/// then.
fn control() -> MutexGuard<'static, State> {
    assert!(
        !context::in_callback(),
        "the driver's controls were used by a host function of a stream"
    );
    lock()
}

/// # Safety
/// As for [`Slice::get`].
unsafe fn name_of(slice: &Slice<u8>) -> String {
    // SAFETY: by the contract.
    let bytes = unsafe { slice.get() };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The version of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_version() -> u32 {
    VERSION
}

/// # Safety
/// The slice was made of a slice of Rust that lives through the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_set_devices(devices: Slice<DeviceWire>) -> Code {
    // SAFETY: by the contract.
    let devices = unsafe { devices.get() };
    control()
        .plan(devices.to_vec())
        .err()
        .unwrap_or(code::SUCCESS)
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_set_driver_version(version: i32) {
    control().driver_version = version;
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_set_pageable_reads(late: u32) {
    control().pageable_reads = if late == 0 {
        PageableReads::BeforeReturn
    } else {
        PageableReads::Late
    };
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_set_attribute(device: u32, attribute: u32, value: i32) {
    control()
        .attributes
        .insert((device as usize, attribute), value);
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_set_pointer_attribute(attribute: u32, value: u64) {
    control().pointer_attributes.insert(attribute, value);
}

/// Makes the `nth` call of a function from now on fail, or every call from that one on.
///
/// # Safety
/// The slice was made of a slice of Rust that lives through the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_fail(
    function: Slice<u8>,
    nth: u64,
    every: u32,
    code: Code,
    sticky: u32,
) {
    let fault = Fault {
        code,
        sticky: sticky != 0,
    };
    // SAFETY: by the contract.
    let function = unsafe { name_of(&function) };
    control().faults.order(function, nth, every != 0, fault);
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_pending_faults() -> usize {
    control().faults.pending()
}

/// Cancels every pending fault.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_clear_faults() {
    control().faults.clear();
}

/// Loses the context of a device with this error, immediately.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_lose_context(device: u32, code: Code) {
    control().lose(device as usize, code);
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_flip_copy(direction: u32, nth: u64, bit: u64) {
    control().faults.flip(direction_of(direction), nth, bit);
}

/// Flips bits of the byte at `address` after the `nth` copy from now on.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_flip_behind(direction: u32, nth: u64, address: u64, mask: u8) {
    let direction = direction_of(direction);
    control().faults.flip_behind(direction, nth, address, mask);
}

fn direction_of(number: u32) -> Direction {
    match number {
        0 => Direction::HostToDevice,
        1 => Direction::DeviceToHost,
        2 => Direction::DeviceToDevice,
        _ => Direction::Memset,
    }
}

/// Flips bits of a byte in memory at rest, whatever its protection. Returns `NOT_FOUND` if the
/// address is not mapped.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_flip_memory(address: u64, mask: u8) -> Code {
    if control().memory.flip(address, mask) {
        code::SUCCESS
    } else {
        code::NOT_FOUND
    }
}

/// Reads memory as it is now, whatever its protection, without executing queued work.
///
/// # Safety
/// `into` has room for `len` bytes in host memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_peek(address: u64, into: *mut u8, len: usize) -> Code {
    let state = control();
    let mut done = 0;
    while done < len {
        let at = address + done as u64;
        let Some((start, mapping)) = state.memory.find(at) else {
            return code::NOT_FOUND;
        };
        let offset = at - start;
        let piece = (len - done).min((mapping.len - offset) as usize);
        let from = mapping.bytes.wrapping_add(offset as usize);
        // SAFETY: inside the mapping; by the contract there is room for `len` bytes, which do not
        // overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, into.wrapping_add(done), piece) };
        done += piece;
    }
    code::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_corrupt(nth: u64, count: u64, thread: u64, store: u64, bit: u32) {
    control()
        .faults
        .corrupt(nth, count, Corruption { thread, store, bit });
}

#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_counters() -> Counters {
    control().counters()
}

/// Returns the number of calls of a function, failed ones included.
///
/// # Safety
/// The slice was made of a slice of Rust that lives through the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_calls(function: Slice<u8>) -> u64 {
    // SAFETY: by the contract.
    let function = unsafe { name_of(&function) };
    control().calls.get(function.as_str()).copied().unwrap_or(0)
}

/// Returns the number of calls of all functions.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_all_calls() -> u64 {
    control().calls.values().sum()
}

/// Executes all queued work of all devices, as if time passed.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_run_all() {
    let mut state = control();
    for device in 0..state.devices.len() {
        state.run_all(device);
    }
}
