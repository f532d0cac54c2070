//! Faults that tests order, and what is counted.

mod support;

use simulated_cuda::{After, Direction, KernelFault, When, in_child};
use support::*;

#[test]
fn the_call_that_was_meant_fails_and_no_other() {
    in_child(|driver| {
        open(0);
        let mut address = 0_u64;
        driver.fail("cuMemAlloc_v2", When::Nth(3), 2, After::Goes);
        let codes: Vec<u32> = (0..5)
            .map(|_| cu!(cuMemAlloc_v2, &raw mut address, 16_usize))
            .collect();
        assert_eq!(codes, [0, 0, 2, 0, 0]);
        assert_eq!(driver.calls("cuMemAlloc_v2"), 5);
        driver.fail("cuMemAlloc_v2", When::Always, 46, After::Goes);
        let codes: Vec<u32> = (0..3)
            .map(|_| cu!(cuMemAlloc_v2, &raw mut address, 16_usize))
            .collect();
        assert_eq!(codes, [46, 46, 46]);
        driver.clear_faults();
        assert_eq!(cu!(cuMemAlloc_v2, &raw mut address, 16_usize), 0);
    });
}

#[test]
fn each_call_of_a_story_fails_in_turn() {
    in_child(|driver| {
        open(0);
        let story = || {
            let mut address = 0_u64;
            for code in [
                cu!(cuMemAlloc_v2, &raw mut address, 16_usize),
                cu!(cuMemsetD8Async, address, 1_u8, 16_usize, 0_u64),
                cu!(cuStreamSynchronize, 0_u64),
            ] {
                if code != 0 {
                    return code;
                }
            }
            0
        };
        for nth in 1..=3 {
            driver.fail("*", When::Nth(nth), 2, After::Goes);
            assert_eq!((story(), driver.pending_faults()), (2, 0), "call {nth}");
        }
        driver.fail("*", When::Nth(4), 2, After::Goes);
        driver.flip_copy(Direction::DeviceToHost, 1, 0);
        assert_eq!((story(), driver.pending_faults()), (0, 2));
        driver.clear_faults();
        assert_eq!(driver.pending_faults(), 0);
    });
}

#[test]
fn codes_may_be_unknown_and_may_stay() {
    in_child(|driver| {
        open(0);
        let mut address = 0_u64;
        driver.fail("cuMemAlloc_v2", When::Nth(1), 12_345, After::Goes);
        assert_eq!(cu!(cuMemAlloc_v2, &raw mut address, 16_usize), 12_345);
        assert_eq!(cu!(cuCtxSynchronize), 0);
        driver.fail("cuMemAlloc_v2", When::Nth(1), 214, After::Stays);
        for _ in 0..2 {
            assert_eq!(cu!(cuMemAlloc_v2, &raw mut address, 16_usize), 214);
            assert_eq!(cu!(cuCtxSynchronize), 214);
            assert_eq!(cu!(cuModuleUnload, 1_u64), 214);
        }
        // What needs no context still answers.
        let (mut count, mut context) = (0_i32, 0_u64);
        assert_eq!(cu!(cuDeviceGetCount, &raw mut count), 0);
        assert_eq!(cu!(cuCtxGetCurrent, &raw mut context), 0);
        // Nor does a new holder get a good context.
        assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2, 0_i32), 214);
        assert_eq!(cu!(cuDevicePrimaryCtxRetain, &raw mut context, 0_i32), 214);
    });
}

#[test]
fn a_lost_context_does_no_more_work_and_the_other_device_goes_on() {
    in_child(|driver| {
        driver.set_devices(&[0, 1].map(simulated_cuda::Device::numbered));
        open(0);
        let (address, stream) = (allocate(1), stream());
        write(address, &[1]);
        assert_eq!(cu!(cuMemsetD8Async, address, 2_u8, 1_usize, stream), 0);
        driver.lose_context(0, 719);
        assert_eq!(cu!(cuStreamSynchronize, stream), 719);
        driver.run_all();
        assert_eq!(driver.peek(address, 1), [1]);
        open(1);
        let address = allocate(1);
        write(address, &[3]);
        assert_eq!(read(address, 1), [3]);
    });
}

#[test]
fn work_can_fail_when_it_is_done() {
    in_child(|driver| {
        open(0);
        let (address, function) = (allocate(4), kernel(ADD, "access"));
        driver.fail("execute:kernel", When::Nth(2), 719, After::Stays);
        assert_eq!(launch(function, 0, &[address, 1]), 0);
        assert_eq!(launch(function, 0, &[address, 1]), 0);
        assert_eq!(cu!(cuStreamSynchronize, 0_u64), 719);
    });
}

#[test]
fn a_bit_can_flip_on_the_way() {
    in_child(|driver| {
        open(0);
        let address = allocate(64);
        driver.flip_copy(Direction::HostToDevice, 2, 9);
        write(address, &[0; 64]);
        assert_eq!(read(address, 64), [0; 64]);
        write(address, &[0; 64]);
        let mut flipped = [0; 64];
        flipped[1] = 2;
        assert_eq!(read(address, 64), flipped);
        driver.flip_copy(Direction::DeviceToHost, 1, 64 * 8 + 8); // modulo the copy's length
        flipped[1] ^= 1;
        assert_eq!(read(address, 64), flipped);
        flipped[1] ^= 1;
        assert_eq!(read(address, 64), flipped, "only on the way");
        driver.flip_copy(Direction::DeviceToDevice, 1, 0);
        let other = allocate(64);
        assert_eq!(cu!(cuMemcpyDtoD_v2, other, address, 64_usize), 0);
        flipped[0] = 1;
        assert_eq!(read(other, 64), flipped);
    });
}

#[test]
fn a_bit_can_flip_at_rest_even_in_protected_memory() {
    in_child(|driver| {
        open(0);
        let address = mapped(MIB2);
        write(address + 100, &[0b1000]);
        assert_eq!(set_access(address, MIB2, 1), 0);
        driver.flip_memory(address + 100, 0b1010);
        assert_eq!(read(address + 100, 1), [0b10]);
    });
}

#[test]
fn a_kernel_can_compute_wrongly() {
    in_child(|driver| {
        open(0);
        let (address, function) = (allocate(4), kernel(ADD, "access"));
        write(address, &[0; 4]);
        let fault = KernelFault {
            launch: 2,
            launches: 1,
            thread: Some(0),
            store: 0,
            bit: 8,
        };
        driver.corrupt_kernels(fault);
        let sums = [1, 2 + 256, 3 + 256].map(|sum: u32| sum.to_le_bytes());
        for sum in sums {
            assert_eq!(launch(function, 0, &[address, 1]), 0);
            assert_eq!(read(address, 4), sum);
        }
    });
}

#[test]
fn everything_is_counted() {
    in_child(|driver| {
        open(0);
        let (address, other) = (allocate(1000), allocate(1000));
        let (function, stream) = (kernel(ADD, "access"), stream());
        write(address, &[0; 1000]);
        assert_eq!(read(address, 32).len(), 32);
        assert_eq!(
            cu!(cuMemcpyDtoDAsync_v2, other, address, 300_usize, stream),
            0
        );
        assert_eq!(cu!(cuMemsetD32Async, other, 1_u32, 10_usize, stream), 0);
        assert_eq!(driver.counters().device_to_device, 0, "not done yet");
        assert_eq!(launch(function, stream, &[address, 1]), 0);
        let mut host = std::ptr::null_mut::<u8>();
        assert_eq!(cu!(cuMemAllocHost_v2, &raw mut host, 4096_usize), 0);
        let own = [0_u8; 100];
        assert_eq!(cu!(cuMemHostRegister_v2, own.as_ptr(), 100_usize, 0_u32), 0);
        assert_eq!(
            cu!(cuMemHostRegister_v2, own.as_ptr(), 100_usize, 0_u32),
            712
        );
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        let counters = driver.counters();
        assert_eq!(
            (counters.host_to_device, counters.device_to_host),
            (1000, 32)
        );
        assert_eq!((counters.device_to_device, counters.set), (300, 40));
        assert_eq!((counters.launches, counters.blocks), (1, 1));
        assert_eq!(
            (counters.device_bytes, counters.peak_device_bytes),
            (2000, 2000)
        );
        assert_eq!(
            (counters.allocations, counters.streams, counters.modules),
            (2, 1, 1)
        );
        assert_eq!(
            (counters.pinned_bytes, counters.contexts, counters.queued),
            (4196, 1, 0)
        );
        assert_eq!(cu!(cuMemHostUnregister, own.as_ptr()), 0);
        assert_eq!(cu!(cuMemHostUnregister, own.as_ptr()), 713);
        assert_eq!(cu!(cuMemFreeHost, host), 0);
        assert_eq!(driver.counters().pinned_bytes, 0);
        assert!(driver.all_calls() > driver.calls("cuInit"));
    });
}

#[test]
fn a_driver_may_say_what_is_not_so() {
    in_child(|driver| {
        driver.set_devices(&[0, 1].map(simulated_cuda::Device::numbered));
        open(0);
        let address = mapped(MIB2);
        driver.set_attribute(0, 18, 1); // integrated
        for (device, expected) in [(0, 1), (1, 0)] {
            let mut value = 7_i32;
            assert_eq!(cu!(cuDeviceGetAttribute, &raw mut value, 18_u32, device), 0);
            assert_eq!(value, expected);
        }
        driver.set_pointer_attribute(2, 1); // on the host
        let mut kind = 7_u32;
        assert_eq!(cu!(cuPointerGetAttribute, &raw mut kind, 2_u32, address), 0);
        assert_eq!(kind, 1);
        assert_eq!(
            cu!(cuPointerGetAttribute, &raw mut kind, 2_u32, 0x1000_u64),
            1
        );
        driver.set_pointer_attribute(16, 3);
        assert_eq!(set_access(address, MIB2, 1), 0);
        let (mut flags, location) = (9_u64, [1_i32, 0]);
        assert_eq!(
            cu!(cuMemGetAccess, &raw mut flags, location.as_ptr(), address),
            0
        );
        assert_eq!(flags, 3, "as a driver that ignores what it cannot do");
    });
}
