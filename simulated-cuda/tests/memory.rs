//! Device memory: who may access what, and what is in it.

mod support;

use simulated_cuda::in_child;
use support::*;

fn attribute(number: u32, address: u64) -> Result<u64, u32> {
    let mut value = 0_u64;
    match cu!(cuPointerGetAttribute, &raw mut value, number, address) {
        0 => Ok(value),
        code => Err(code),
    }
}

#[test]
fn device_addresses_are_none_of_the_hosts() {
    in_child(|_| {
        open(0);
        for address in [allocate(1), reserve(MIB2)] {
            assert_eq!(address >> 62, 1);
        }
    });
}

#[test]
fn what_was_freed_last_is_seen_again_unless_it_was_wiped() {
    in_child(|driver| {
        open(0);
        let first = allocate(5000);
        assert_ne!(
            driver.peek(first, 5000),
            vec![0; 5000],
            "fresh memory is not zero"
        );
        write(first, &random(5000, 1));
        assert_eq!(cu!(cuMemFree_v2, first), 0);
        let second = allocate(5000);
        assert_eq!(driver.peek(second, 5000), random(5000, 1));
        assert_eq!(cu!(cuMemsetD8_v2, second, 0_u8, 5000_usize), 0);
        assert_eq!(cu!(cuMemFree_v2, second), 0);
        let third = create(MIB2);
        let address = reserve(MIB2);
        assert_eq!(map(address, MIB2, third), 0);
        assert_eq!(driver.peek(address, 5000), vec![0; 5000]);
    });
}

#[test]
fn physical_memory_outlives_its_mappings() {
    in_child(|driver| {
        open(0);
        let handle = create(MIB2);
        let (first, second) = (reserve(MIB2), reserve(MIB2));
        for address in [first, second] {
            assert_eq!(map(address, MIB2, handle), 0);
            assert_eq!(set_access(address, MIB2, 3), 0);
        }
        write(first, &[1, 2, 3]);
        assert_eq!(read(second, 3), [1, 2, 3], "two mappings of the same bytes");
        assert_eq!(cu!(cuMemUnmap, first, MIB2), 0);
        assert_eq!(cu!(cuMemUnmap, second, MIB2), 0);
        let third = reserve(MIB2);
        assert_eq!(map(third, MIB2, handle), 0);
        assert_eq!(set_access(third, MIB2, 1), 0);
        assert_eq!(read(third, 3), [1, 2, 3]);
        assert_eq!(cu!(cuMemRelease, handle), 0);
        assert_eq!(driver.counters().handles, 1, "still mapped");
        let mut again = 0_u64;
        assert_eq!(cu!(cuMemRetainAllocationHandle, &raw mut again, third), 0);
        assert_eq!(again, handle);
        assert_eq!(cu!(cuMemUnmap, third, MIB2), 0);
        assert_eq!(cu!(cuMemRelease, handle), 0);
        assert_eq!(cu!(cuMemRelease, handle), 1, "released once too often");
        for address in [first, second, third] {
            assert_eq!(cu!(cuMemAddressFree, address, MIB2), 0);
        }
        let counters = driver.counters();
        assert_eq!(
            (counters.handles, counters.mappings, counters.reservations),
            (0, 0, 0)
        );
        assert_eq!(
            (counters.device_bytes, counters.peak_device_bytes),
            (0, MIB2 as u64)
        );
    });
}

#[test]
fn reservations_never_overlap_and_come_back_when_freed() {
    in_child(|_| {
        open(0);
        let reserved: Vec<u64> = (1..20).map(|blocks| reserve(blocks * MIB2)).collect();
        for (index, pair) in reserved.windows(2).enumerate() {
            assert!(pair[0] + ((index + 1) * MIB2) as u64 <= pair[1]);
        }
        assert_eq!(
            cu!(cuMemAddressFree, reserved[4], 4 * MIB2),
            1,
            "not the whole of it"
        );
        assert_eq!(cu!(cuMemAddressFree, reserved[4], 5 * MIB2), 0);
        assert_eq!(
            reserve(5 * MIB2),
            reserved[4],
            "who frees an address sees it again"
        );
        let mut address = 0_u64;
        assert_eq!(
            cu!(
                cuMemAddressReserve,
                &raw mut address,
                1 << 30,
                1_usize << 30,
                0_u64,
                0_u64
            ),
            0
        );
        assert_eq!(address % (1 << 30), 0);
    });
}

#[test]
fn mappings_must_be_whole_and_inside_reservations() {
    in_child(|_| {
        open(0);
        let (handle, address) = (create(2 * MIB2), reserve(4 * MIB2));
        assert_eq!(
            map(address + 4096, MIB2, handle),
            1,
            "not at a multiple of 2 MiB"
        );
        assert_eq!(map(address, 4096, handle), 1, "no multiple of 2 MiB");
        assert_eq!(
            map(address + 3 * MIB2 as u64, 2 * MIB2, handle),
            1,
            "behind the reservation"
        );
        assert_eq!(map(address, 4 * MIB2, handle), 1, "more than there is");
        assert_eq!(map(address, 2 * MIB2, handle + 1), 1, "no such handle");
        assert_eq!(map(address, 2 * MIB2, handle), 0);
        assert_eq!(
            map(address + MIB2 as u64, MIB2, handle),
            1,
            "mapped already"
        );
        assert_eq!(cu!(cuMemUnmap, address, MIB2), 1, "a part of a mapping");
        assert_eq!(set_access(address, 3 * MIB2, 3), 1, "more than is mapped");
        assert_eq!(set_access(address, 2 * MIB2, 2), 1, "no such access");
        assert_eq!(cu!(cuMemAddressFree, address, 4 * MIB2), 1, "still mapped");
        let wanted = properties(0);
        let mut handle = 0_u64;
        assert_eq!(
            cu!(
                cuMemCreate,
                &raw mut handle,
                4096_usize,
                &raw const wanted,
                0_u64
            ),
            1
        );
        let mut granularity = 0_usize;
        assert_eq!(
            cu!(
                cuMemGetAllocationGranularity,
                &raw mut granularity,
                &raw const wanted,
                0_u32
            ),
            0
        );
        assert_eq!(granularity, MIB2);
    });
}

#[test]
fn a_copy_into_read_only_memory_loses_the_context() {
    in_child(|_| {
        open(0);
        let address = mapped(MIB2);
        write(address, &[5; 16]);
        assert_eq!(set_access(address, MIB2, 1), 0);
        assert_eq!(read(address, 16), [5; 16]);
        let (mut flags, location) = (9_u64, [1_i32, 0]);
        assert_eq!(
            cu!(cuMemGetAccess, &raw mut flags, location.as_ptr(), address),
            0
        );
        assert_eq!(flags, 1);
        assert_eq!(attribute(16, address), Ok(1));
        // The copy is queued, and fails when it is done.
        assert_eq!(
            cu!(cuMemcpyHtoD_v2, address, [6_u8; 16].as_ptr(), 16_usize),
            0
        );
        assert_eq!(cu!(cuCtxSynchronize), 700);
        let mut byte = 0_u8;
        assert_eq!(cu!(cuMemcpyDtoH_v2, &raw mut byte, address, 1_usize), 700);
    });
}

#[test]
fn a_kernel_that_writes_into_read_only_memory_loses_the_context() {
    in_child(|driver| {
        open(0);
        let (address, function) = (mapped(MIB2), kernel(ADD, "access"));
        write(address, &[5, 0, 0, 0]);
        assert_eq!(launch(function, 0, &[address, 1]), 0);
        assert_eq!(read(address, 4), [6, 0, 0, 0]);
        assert_eq!(set_access(address, MIB2, 1), 0);
        assert_eq!(
            launch(function, 0, &[address, 1]),
            0,
            "nobody has looked yet"
        );
        assert_eq!(cu!(cuStreamSynchronize, 0_u64), 700);
        assert_eq!(driver.peek(address, 4), [6, 0, 0, 0]);
        assert_eq!(cu!(cuMemUnmap, address, MIB2), 700);
    });
}

#[test]
fn memory_without_access_can_not_even_be_read() {
    in_child(|_| {
        open(0);
        let address = mapped(MIB2);
        assert_eq!(set_access(address, MIB2, 0), 0);
        let mut byte = 0_u8;
        assert_eq!(cu!(cuMemcpyDtoH_v2, &raw mut byte, address, 1_usize), 700);
    });
}

#[test]
fn a_copy_may_span_mappings_that_meet() {
    in_child(|_| {
        open(0);
        let address = reserve(2 * MIB2);
        for at in [address, address + MIB2 as u64] {
            assert_eq!(map(at, MIB2, create(MIB2)), 0);
        }
        assert_eq!(set_access(address, 2 * MIB2, 3), 0);
        let bytes = random(MIB2, 3);
        write(address + 1_000_000, &bytes);
        assert_eq!(read(address + 1_000_000, MIB2), bytes);
        let mut byte = 0_u8;
        let end = address + 2 * MIB2 as u64;
        assert_eq!(
            cu!(cuMemcpyDtoH_v2, &raw mut byte, end, 1_usize),
            1,
            "the driver knows its addresses"
        );
    });
}

#[test]
fn kernels_are_held_to_bounds_and_alignment() {
    in_child(|_| {
        open(0);
        let (address, function) = (allocate(12), kernel(ADD, "access"));
        assert_eq!(launch(function, 0, &[address + 8, 1]), 0);
        assert_eq!(cu!(cuCtxSynchronize), 0);
        assert_eq!(launch(function, 0, &[address + 12, 1]), 0);
        assert_eq!(cu!(cuCtxSynchronize), 700);
    });
}

#[test]
fn a_misaligned_access_has_a_code_of_its_own() {
    in_child(|_| {
        open(0);
        let (address, function) = (allocate(16), kernel(ADD, "access"));
        assert_eq!(launch(function, 0, &[address + 2, 1]), 0);
        assert_eq!(cu!(cuCtxSynchronize), 716);
    });
}

#[test]
fn attributes_say_what_memory_is() {
    in_child(|_| {
        let context = open(0);
        let (plain, virtual_, handle) = (allocate(1000), reserve(MIB2), create(MIB2));
        assert_eq!(attribute(13, virtual_), Ok(0), "not mapped");
        assert_eq!(attribute(2, virtual_), Err(1));
        assert_eq!(map(virtual_, MIB2, handle), 0);
        assert_eq!(attribute(16, virtual_), Ok(0));
        for address in [plain, virtual_ + 5] {
            assert_eq!(attribute(2, address), Ok(2), "on the device");
            assert_eq!(attribute(8, address), Ok(0), "not managed");
            assert_eq!(attribute(9, address), Ok(0), "ordinal");
        }
        assert_eq!(attribute(1, plain), Ok(context));
        assert_eq!(attribute(12, plain), Ok(1000));
        let mut managed = 0_u64;
        assert_eq!(cu!(cuMemAllocManaged, &raw mut managed, 64_usize, 1_u32), 0);
        assert_eq!(attribute(8, managed), Ok(1));
        assert_eq!(attribute(2, 0x1000), Err(1), "the host's own");
        // The plural form does not fail for unknown addresses.
        let (mut kind, mut managed) = (7_u32, 7_u8);
        let mut data = [(&raw mut kind).cast::<u8>(), &raw mut managed];
        let wanted = [2_u32, 8];
        assert_eq!(
            cu!(
                cuPointerGetAttributes,
                2_u32,
                wanted.as_ptr(),
                data.as_mut_ptr(),
                0x1000_u64
            ),
            0
        );
        assert_eq!((kind, managed), (0, 0));
    });
}

#[test]
fn a_full_device_says_how_much_is_free() {
    in_child(|driver| {
        let mut device = simulated_cuda::Device::numbered(0);
        device.total_memory = 8 << 20;
        driver.set_devices(&[device]);
        open(0);
        let _kept = mapped(3 * MIB2);
        let (mut free, mut total) = (0_usize, 0_usize);
        assert_eq!(cu!(cuMemGetInfo_v2, &raw mut free, &raw mut total), 0);
        assert_eq!((free, total), (MIB2, 4 * MIB2));
        let (mut handle, wanted) = (0_u64, properties(0));
        assert_eq!(
            cu!(
                cuMemCreate,
                &raw mut handle,
                2 * MIB2,
                &raw const wanted,
                0_u64
            ),
            2
        );
        let mut address = 0_u64;
        assert_eq!(cu!(cuMemAlloc_v2, &raw mut address, MIB2 + 1), 2);
    });
}

#[test]
fn a_device_may_lack_virtual_memory() {
    in_child(|driver| {
        let mut device = simulated_cuda::Device::numbered(0);
        device.virtual_memory = false;
        driver.set_devices(&[device]);
        open(0);
        let mut value = 7_i32;
        assert_eq!(cu!(cuDeviceGetAttribute, &raw mut value, 102_u32, 0_i32), 0);
        assert_eq!(value, 0);
        let (mut handle, wanted) = (0_u64, properties(0));
        assert_eq!(
            cu!(cuMemCreate, &raw mut handle, MIB2, &raw const wanted, 0_u64),
            801
        );
    });
}

#[test]
fn memory_of_one_device_is_not_accessible_from_another() {
    in_child(|driver| {
        driver.set_devices(&[0, 1].map(simulated_cuda::Device::numbered));
        open(0);
        let address = allocate(64);
        write(address, &[3; 64]);
        open(1);
        let function = kernel(ADD, "access");
        assert_eq!(launch(function, 0, &[address, 1]), 0);
        assert_eq!(cu!(cuCtxSynchronize), 700);
        open(0);
        assert_eq!(
            read(address, 64),
            [3; 64],
            "the first device is not concerned"
        );
    });
}

#[test]
fn a_released_context_takes_its_memory_along() {
    in_child(|driver| {
        open(0);
        allocate(100);
        mapped(MIB2);
        kernel(ADD, "access");
        stream();
        assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2, 0_i32), 0);
        let counters = driver.counters();
        assert_eq!(
            (counters.allocations, counters.modules, counters.streams),
            (0, 0, 0)
        );
        assert_eq!(counters.mappings, 1, "mappings are the process's");
        assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2, 0_i32), 201);
    });
}

#[test]
fn addresses_say_the_direction_of_a_copy() {
    in_child(|driver| {
        open(0);
        let (device, other, stream) = (allocate(64), allocate(64), stream());
        let (from, mut to) = (random(64, 1), vec![0_u8; 64]);
        let copy = |to: u64, from: u64| cu!(cuMemcpyAsync, to, from, 64_usize, stream);
        assert_eq!(copy(device, from.as_ptr() as u64), 0);
        assert_eq!(copy(other, device), 0);
        assert_eq!(copy(to.as_mut_ptr() as u64, other), 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(to, from);
        let counters = driver.counters();
        assert_eq!((counters.host_to_device, counters.device_to_host), (64, 64));
        assert_eq!(counters.device_to_device, 64);
        let (words, start) = ([7_u32; 2], device + 2);
        assert_eq!(
            cu!(cuMemsetD32Async, start, words[0], 1_usize, stream),
            1,
            "not aligned"
        );
        assert_eq!(
            cu!(cuMemsetD32Async, device + 4, words[0], 2_usize, stream),
            0
        );
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(driver.peek(device + 4, 8), [7, 0, 0, 0, 7, 0, 0, 0]);
    });
}

#[test]
fn bytes_go_from_device_to_device() {
    in_child(|driver| {
        driver.set_devices(&[0, 1].map(simulated_cuda::Device::numbered));
        let first = open(0);
        let from = allocate(64);
        write(from, &[9; 64]);
        let second = open(1);
        let (to, stream) = (allocate(64), stream());
        let code = cu!(cuMemcpyPeerAsync, to, second, from, first, 64_usize, stream);
        assert_eq!(code, 0);
        assert_eq!(cu!(cuStreamSynchronize, stream), 0);
        assert_eq!(read(to, 64), [9; 64]);
    });
}

#[test]
fn access_is_known_of_mappings_only() {
    in_child(|_| {
        open(0);
        let (mut flags, location) = (9_u64, [1_i32, 0]);
        let code = cu!(
            cuMemGetAccess,
            &raw mut flags,
            location.as_ptr(),
            allocate(64)
        );
        assert_eq!((code, flags), (1, 9), "of no use for `cuMemAlloc`'s memory");
        assert_eq!(set_access(allocate(MIB2), MIB2, 1), 1);
    });
}

#[test]
fn a_copy_does_not_leave_the_pinned_memory_that_it_begins_in() {
    in_child(|_| {
        open(0);
        let (address, mut host) = (allocate(128), std::ptr::null_mut::<u8>());
        assert_eq!(cu!(cuMemHostAlloc, &raw mut host, 64_usize, 0_u32), 0);
        assert_eq!(cu!(cuMemcpyHtoD_v2, address, host, 64_usize), 0);
        assert_eq!(cu!(cuMemcpyHtoD_v2, address, host, 65_usize), 1);
        assert_eq!(cu!(cuMemcpyDtoH_v2, host, address, 65_usize), 1);
    });
}
