//! Work is done as late as CUDA allows: what a call waits for, and what it does not.

mod support;

use std::ffi::c_void;

use simulated_cuda::{PageableReads, in_child};
use support::*;

/// Pinned host memory.
fn pinned(bytes: usize) -> *mut u8 {
    let mut address = std::ptr::null_mut::<u8>();
    assert_eq!(cu!(cuMemHostAlloc, &raw mut address, bytes, 0_u32), 0);
    address
}

fn event() -> u64 {
    let mut event = 0_u64;
    assert_eq!(cu!(cuEventCreate, &raw mut event, 0_u32), 0);
    event
}

/// Queues the copy of a byte to the host.
fn copy_back(to: *mut u8, address: u64, stream: u64) {
    let code = cu!(cuMemcpyDtoHAsync_v2, to, address, 1_usize, stream);
    assert_eq!(code, 0);
}

/// Queues the setting of a byte.
fn set(address: u64, value: u8, stream: u64) {
    assert_eq!(cu!(cuMemsetD8Async, address, value, 1_usize, stream), 0);
}

#[test]
fn nothing_is_done_before_somebody_waits() {
    in_child(|driver| {
        open(0);
        let (address, stream) = (allocate(1), stream());
        let before = driver.peek(address, 1)[0];
        set(address, before ^ 1, stream);
        assert_eq!(driver.peek(address, 1), [before]);
        assert_eq!(driver.counters().queued, 1);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(driver.peek(address, 1), [before ^ 1]);
    });
}

#[test]
fn one_stream_does_not_wait_for_another() {
    in_child(|driver| {
        open(0);
        let (address, first, second) = (allocate(2), stream(), stream());
        set(address, 1, first);
        set(address + 1, 2, second);
        let before = driver.peek(address, 1);
        assert_eq!(cu!(cuStreamSynchronize, second), 0);
        assert_eq!(driver.peek(address, 2), [before[0], 2]);
        assert_eq!(cu!(cuCtxSynchronize), 0);
        assert_eq!(driver.peek(address, 2), [1, 2]);
    });
}

#[test]
fn a_synchronous_copy_waits_for_the_default_stream_only() {
    in_child(|_| {
        open(0);
        let (address, other) = (allocate(1), stream());
        write(address, &[9]);
        set(address, 1, other);
        assert_eq!(
            read(address, 1),
            [9],
            "a stream that does not block is not waited for"
        );
        assert_eq!(cu!(cuStreamSynchronize, other), 0);
        assert_eq!(read(address, 1), [1]);
    });
}

#[test]
fn the_default_stream_and_blocking_streams_wait_for_each_other() {
    in_child(|_| {
        open(0);
        let (address, mut blocking) = (allocate(1), 0_u64);
        assert_eq!(cu!(cuStreamCreate, &raw mut blocking, 0_u32), 0);
        set(address, 1, blocking);
        assert_eq!(read(address, 1), [1], "the default stream waits");
        set(address, 2, 0);
        let mut byte = 0_u8;
        copy_back(&raw mut byte, address, blocking);
        assert_eq!(cu!(cuStreamSynchronize, blocking), 0);
        assert_eq!(byte, 2, "and is waited for");
        set(address, 3, 2);
        assert_eq!(
            read(address, 1),
            [3],
            "the per-thread stream is a blocking one"
        );
    });
}

#[test]
fn a_synchronous_copy_from_pageable_memory_may_arrive_after_it_returned() {
    in_child(|_| {
        open(0);
        let (address, other) = (allocate(1), stream());
        write(address, &[1]);
        assert_eq!(cu!(cuMemcpyHtoD_v2, address, [2_u8].as_ptr(), 1_usize), 0);
        let mut byte = 0_u8;
        copy_back(&raw mut byte, address, other);
        assert_eq!(cu!(cuStreamSynchronize, other), 0);
        assert_eq!(byte, 1, "the other stream did not wait for it");
        assert_eq!(read(address, 1), [2]);
        // From pinned memory it is there on return.
        let host = pinned(1);
        // SAFETY: `host` is one byte of pinned memory.
        unsafe { host.write(3) };
        assert_eq!(cu!(cuMemcpyHtoD_v2, address, host, 1_usize), 0);
        copy_back(&raw mut byte, address, other);
        assert_eq!(cu!(cuStreamSynchronize, other), 0);
        assert_eq!(byte, 3);
    });
}

#[test]
fn pageable_memory_is_staged_and_pinned_memory_is_read_late() {
    in_child(|_| {
        open(0);
        let (address, stream, host) = (allocate(2), stream(), pinned(1));
        let mut pageable = [1_u8];
        // SAFETY: `host` is one byte of pinned memory.
        unsafe { host.write(1) };
        assert_eq!(
            cu!(
                cuMemcpyHtoDAsync_v2,
                address,
                pageable.as_ptr(),
                1_usize,
                stream
            ),
            0
        );
        assert_eq!(
            cu!(cuMemcpyHtoDAsync_v2, address + 1, host, 1_usize, stream),
            0
        );
        pageable[0] = 2;
        // SAFETY: `host` is one byte of pinned memory.
        unsafe { host.write(2) };
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(read(address, 2), [1, 2]);
        assert_eq!(pageable, [2]);
    });
}

#[test]
fn what_is_read_back_is_there_once_it_was_waited_for() {
    in_child(|driver| {
        open(0);
        let (address, stream) = (allocate(1), stream());
        write(address, &[7]);
        let mut byte = 0_u8;
        copy_back(&raw mut byte, address, stream);
        // SAFETY: a local variable.
        let early = unsafe { (&raw const byte).read_volatile() };
        assert_eq!(early, 0, "CUDA promises no more");
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(byte, 7);
        driver.set_pageable_reads(PageableReads::BeforeReturn);
        let mut byte = 0_u8;
        copy_back(&raw mut byte, address, stream);
        assert_eq!(byte, 7);
    });
}

#[test]
fn events_order_streams_and_can_be_waited_for() {
    in_child(|driver| {
        open(0);
        let (address, first, second, mark) = (allocate(1), stream(), stream(), event());
        assert_eq!(cu!(cuEventQuery, mark), 0, "never recorded counts as done");
        set(address, 1, first);
        assert_eq!(cu!(cuEventRecord, mark, first), 0);
        set(address, 2, first);
        assert_eq!(cu!(cuStreamWaitEvent, second, mark, 0_u32), 0);
        let mut byte = 0_u8;
        copy_back(&raw mut byte, address, second);
        assert_eq!(cu!(cuStreamSynchronize, second), 0);
        assert_eq!(byte, 1, "up to the event, and no further");
        assert_eq!(cu!(cuEventSynchronize, mark), 0);
        assert_eq!(driver.peek(address, 1), [1]);
        // A later recording does not change what a stream waits for already.
        set(address, 3, first);
        assert_eq!(cu!(cuEventRecord, mark, first), 0);
        assert_eq!(cu!(cuEventQuery, mark), 600);
        assert_eq!(cu!(cuEventSynchronize, mark), 0);
        assert_eq!(driver.peek(address, 1), [3]);
    });
}

#[test]
fn time_passes_between_events() {
    in_child(|_| {
        open(0);
        let (stream, start, end) = (stream(), event(), event());
        let mut elapsed = -1_f32;
        assert_eq!(
            cu!(cuEventElapsedTime, &raw mut elapsed, start, end),
            400,
            "not recorded"
        );
        assert_eq!(cu!(cuEventRecord, start, stream), 0);
        assert_eq!(cu!(cuEventRecord, end, stream), 0);
        assert_eq!(
            cu!(cuEventElapsedTime, &raw mut elapsed, start, end),
            600,
            "not done"
        );
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(cu!(cuEventElapsedTime, &raw mut elapsed, start, end), 0);
        assert!(elapsed >= 0.0);
    });
}

#[test]
fn whoever_keeps_asking_gets_there() {
    in_child(|_| {
        open(0);
        let (address, stream) = (allocate(1), stream());
        for value in 0..3 {
            set(address, value, stream);
        }
        let answers: Vec<u32> = (0..4).map(|_| cu!(cuStreamQuery, stream)).collect();
        assert_eq!(answers, [600, 600, 600, 0]);
        assert_eq!(read(address, 1), [2]);
    });
}

#[test]
fn freeing_waits_for_everything() {
    in_child(|driver| {
        open(0);
        let (kept, freed, stream) = (allocate(1), allocate(1), stream());
        set(kept, 5, stream);
        assert_eq!(cu!(cuMemFree_v2, freed), 0);
        assert_eq!(driver.peek(kept, 1), [5]);
        assert_eq!(cu!(cuMemFree_v2, freed), 1);
        // Freed in a stream, memory is there until the stream gets to it.
        assert_eq!(cu!(cuMemFreeAsync, kept, stream), 0);
        assert_eq!(driver.counters().allocations, 1);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(driver.counters().allocations, 0);
    });
}

#[test]
fn freeing_memory_of_a_pool_waits_for_nothing() {
    in_child(|_| {
        open(0);
        let (mut address, stream) = (0_u64, stream());
        assert_eq!(cu!(cuMemAllocAsync, &raw mut address, 64_usize, stream), 0);
        set(address, 1, stream);
        assert_eq!(cu!(cuMemFree_v2, address), 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 700);
    });
}

#[test]
fn unmapping_waits_for_nothing() {
    in_child(|_| {
        open(0);
        let (address, stream) = (mapped(MIB2), stream());
        set(address, 1, stream);
        assert_eq!(cu!(cuMemUnmap, address, MIB2), 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 700);
    });
}

#[test]
fn a_destroyed_stream_still_does_its_work() {
    in_child(|driver| {
        open(0);
        let (address, stream) = (allocate(1), stream());
        set(address, 4, stream);
        assert_eq!(cu!(cuStreamDestroy_v2, stream), 0);
        assert_eq!(driver.counters().streams, 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 400, "its handle is gone");
        assert_eq!(cu!(cuCtxSynchronize), 0);
        assert_eq!(driver.peek(address, 1), [4]);
        assert_eq!(driver.counters().queued, 0);
    });
}

#[test]
fn priorities_are_kept() {
    in_child(|_| {
        open(0);
        let (mut least, mut greatest, mut stream, mut priority) = (9, 9, 0_u64, 9);
        assert_eq!(
            cu!(
                cuCtxGetStreamPriorityRange,
                &raw mut least,
                &raw mut greatest
            ),
            0
        );
        assert!(greatest < least);
        assert_eq!(
            cu!(
                cuStreamCreateWithPriority,
                &raw mut stream,
                1_u32,
                greatest - 9
            ),
            0
        );
        assert_eq!(cu!(cuStreamGetPriority, stream, &raw mut priority), 0);
        assert_eq!(priority, greatest);
    });
}

#[test]
fn chains_of_streams_that_wait_for_each_other_end() {
    in_child(|driver| {
        open(0);
        let (address, streams) = (allocate(1), [stream(), stream()]);
        for round in 0..20_000_usize {
            let mark = event();
            set(address, round as u8, streams[round % 2]);
            assert_eq!(cu!(cuEventRecord, mark, streams[round % 2]), 0);
            assert_eq!(
                cu!(cuStreamWaitEvent, streams[(round + 1) % 2], mark, 0_u32),
                0
            );
            assert_eq!(cu!(cuEventDestroy_v2, mark), 0);
        }
        assert_eq!(cu!(cuStreamSynchronize, streams[0]), 0);
        assert_eq!(driver.peek(address, 1), [19_999_usize as u8]);
    });
}

unsafe extern "C" fn note_the_code(data: *mut c_void) {
    let code = cu!(cuCtxSynchronize);
    // SAFETY: the only user gives the address of a `u32`, and waits.
    unsafe { data.cast::<u32>().write(code) };
}

#[test]
fn host_functions_run_in_their_stream_and_may_not_call_the_driver() {
    in_child(|_| {
        open(0);
        let (stream, mut code) = (stream(), 0_u32);
        let function: unsafe extern "C" fn(*mut c_void) = note_the_code;
        assert_eq!(cu!(cuLaunchHostFunc, stream, function, &raw mut code), 0);
        // SAFETY: a local variable.
        let early = unsafe { (&raw const code).read_volatile() };
        assert_eq!(early, 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(code, 800);
    });
}

#[test]
fn calls_may_come_from_many_threads() {
    in_child(|driver| {
        let context = open(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                scope.spawn(move || {
                    assert_eq!(
                        cu!(cuMemFree_v2, 1_u64),
                        201,
                        "contexts are current in one thread"
                    );
                    assert_eq!(cu!(cuCtxSetCurrent, context), 0);
                    let (address, stream) = (allocate(64), stream());
                    for round in 0..200 {
                        let value = thread ^ round;
                        assert_eq!(cu!(cuMemsetD8Async, address, value, 64_usize, stream), 0);
                        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
                        assert_eq!(read(address, 64), [value; 64]);
                    }
                    assert_eq!(cu!(cuMemFree_v2, address), 0);
                    assert_eq!(cu!(cuStreamDestroy_v2, stream), 0);
                });
            }
        });
        assert_eq!(driver.counters().device_bytes, 0);
    });
}
