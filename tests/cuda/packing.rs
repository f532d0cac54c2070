//! Small shards of a batch share physical memory in a GPU, and nothing else.

use std::collections::BTreeSet;

use simulated_cuda::{After, Counters, Device, Driver, When, in_child};
use vram_residency::Shard;
use vram_residency::device::Protection;
use vram_residency::error::{AllocateError, ReleaseError};
use vram_residency::manager::NewShard;
use vram_residency::shard::Verified;

use crate::backend;
use crate::gpu::{
    a_graph_over_a_released_member_faults, a_member_is_not_written_to, nothing_is_left, packed,
    worker,
};
use crate::kernels::{address, increment, user};
use crate::shards::{Worker, id, model, pattern};

const PIECE: u64 = 2 << 20;

const ILLEGAL_ADDRESS: u32 = 700;

/// What is in the device's memory now, from the beginning of the piece that a shard lies in.
fn piece(driver: Driver, shard: &Shard<Verified, backend::Device>, offset: u64) -> Vec<u8> {
    driver.peek(address(shard.view()) - offset, PIECE as usize)
}

#[test]
fn many_small_shards_take_few_pieces_and_are_aligned_at_addresses_of_their_own() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        let before = driver.counters();
        // 256 of 8 KiB are 2 MiB.
        let lens: Vec<usize> = (0..300).map(|index| 8000 + index % 100).collect();
        let shards = packed(&worker, &lens);
        let after = driver.counters();
        assert_eq!(after.handles - before.handles, 2);
        assert_eq!(after.device_bytes - before.device_bytes, 2 * PIECE);
        assert_eq!(
            after.mappings - before.mappings,
            300 + 2,
            "one is for wiping"
        );
        let mut pages = BTreeSet::new();
        for (shard, len) in shards.iter().zip(&lens) {
            assert_eq!(address(shard.view()) % 256, 0);
            assert!(
                pages.insert(address(shard.view()) / PIECE),
                "an address twice"
            );
            assert_eq!(backend::bytes(shard.view()), pattern(*len));
        }
        let taken: u64 = worker
            .recorded("VramAllocated")
            .iter()
            .map(|record| record["allocated_bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(taken, 2 * PIECE, "every byte is somebody's");
        drop(shards);
        assert_eq!(driver.counters().device_bytes, before.device_bytes);
    });
}

#[test]
fn shards_that_are_not_small_have_pieces_of_their_own() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let handles = || driver.counters().device_bytes / PIECE;
        let before = handles();
        let half = PIECE as usize / 2;
        let shards = packed(&worker, &[half, half + 1, half - 1, 3 << 20]);
        assert_eq!(handles() - before, 1 + 1 + 2);
        drop(shards);
        // Nor does one that is small and alone share anything.
        let shards = packed(&worker, &[100]);
        assert_eq!(handles() - before, 1);
        drop(shards);
    });
}

#[test]
fn a_kernel_that_writes_into_a_member_or_beyond_it_is_refused() {
    in_child(|_| assert_eq!(a_member_is_not_written_to(0), ILLEGAL_ADDRESS));
}

/// The bytes of another, through a mapping that is not its own.
#[test]
fn a_kernel_that_writes_beyond_a_member_into_the_next_is_refused() {
    in_child(|_| assert_eq!(a_member_is_not_written_to(5120), ILLEGAL_ADDRESS));
}

#[test]
fn a_member_that_is_released_is_wiped_and_the_others_stay() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let mut shards = packed(&worker, &[5000, 6000, 7000]).into_iter();
        let (first, second, third) = (
            shards.next().unwrap(),
            shards.next().unwrap(),
            shards.next().unwrap(),
        );
        let (second_at, third_at) = (5120, 5120 + 6144);
        assert_eq!(piece(driver, &third, third_at)[..5000], pattern(5000));
        let before = driver.counters();
        let access_set = driver.calls("cuMemSetAccess");
        first.release().unwrap();
        // The slab's own mapping is made writable, and is closed again.
        assert_eq!(driver.calls("cuMemSetAccess") - access_set, 2);
        let bytes = piece(driver, &third, third_at);
        assert!(bytes[..5120].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[second_at as usize..][..6000], pattern(6000));
        let after = driver.counters();
        assert_eq!(after.set - before.set, 5120, "its own bytes, and no others");
        assert_eq!(
            (after.mappings, after.reservations),
            (before.mappings - 1, before.reservations),
            "its addresses are kept, those for wiping are not"
        );
        assert_eq!(after.device_bytes, before.device_bytes);
        let second = second.reverify().unwrap();
        assert_eq!(backend::bytes(second.view()), pattern(6000));
        drop(second);
        let third = third.reverify().unwrap();
        third.release().unwrap();
        assert_eq!(driver.counters().device_bytes, before.device_bytes - PIECE);
        let gone = worker.recorded("VramDeallocated");
        assert!(
            gone.iter()
                .all(|one| one["wiped"] == true && one["freed"] == true)
        );
        let Worker { manager, trail, .. } = worker;
        drop((manager, trail));
        nothing_is_left(driver);
    });
}

/// Not even for wiping: what cannot be wiped stays, and stays as it was.
#[test]
fn no_address_of_a_sealed_member_is_ever_writable_again() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let mut shards = packed(&worker, &[5000, 6000]).into_iter();
        let (first, second) = (shards.next().unwrap(), shards.next().unwrap());
        let at = address(first.view());
        driver.fail("cuMemsetD8Async", When::Always, 2, After::Goes);
        assert!(matches!(
            first.release(),
            Err(ReleaseError::NotFreed { .. })
        ));
        driver.clear_faults();
        assert_eq!(driver.peek(at, 5000), pattern(5000));
        let stream = user();
        increment(&stream, at);
        assert_eq!(stream.synchronize().unwrap_err().0 as u32, ILLEGAL_ADDRESS);
        assert!(second.reverify().is_err(), "the context is lost");
    });
}

#[test]
fn a_replayed_graph_over_a_released_member_faults_instead_of_reading_another() {
    in_child(|_| assert_eq!(a_graph_over_a_released_member_faults(), ILLEGAL_ADDRESS));
}

#[test]
fn what_was_in_a_piece_is_not_in_the_next_allocation_of_anybody() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let next = || {
            let stream = user();
            // SAFETY: whatever is there is what is to be seen.
            let memory = unsafe { stream.alloc::<u8>(PIECE as usize) }.unwrap();
            let found = stream.clone_dtoh(&memory).unwrap();
            stream.synchronize().unwrap();
            found
        };
        let shards = packed(&worker, &[5000, 6000]);
        // What lies behind the last one's bytes, where nobody is to write, goes too.
        driver.flip_memory(address(shards[1].view()) + PIECE - 5120 - 1, 0xff);
        drop(shards);
        assert!(next().iter().all(|byte| *byte == 0));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _dropped = packed(&worker, &[7000, 8000]);
            panic!("somewhere else");
        }));
        assert!(panicked.is_err());
        assert!(next().iter().all(|byte| *byte == 0));
    });
}

/// Without virtual memory there is nothing to share: nothing is protected, and it is asked for by name.
#[test]
fn without_virtual_memory_each_is_memory_of_the_drivers() {
    in_child(|driver: Driver| {
        let mut plain = Device::numbered(0);
        plain.virtual_memory = false;
        driver.set_devices(&[plain]);
        let worker = worker(|builder| builder.protection(Protection::WhereAvailable));
        let before = driver.counters();
        let shards = packed(&worker, &[100, 200]);
        let after = driver.counters();
        assert_eq!(after.allocations - before.allocations, 2);
        assert_eq!(after.mappings, before.mappings);
        drop(shards);
        assert_eq!(driver.counters().device_bytes, before.device_bytes);
    });
}

fn taken(counters: Counters) -> [u64; 4] {
    let Counters {
        handles,
        mappings,
        allocations,
        device_bytes,
        ..
    } = counters;
    [handles, mappings, allocations, device_bytes]
}

#[test]
fn whatever_call_fails_all_are_allocated_or_none() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let wanted = || {
            let lens = [100_u64, 3 << 20, 200, 300];
            lens.map(|len| NewShard::new(id(&format!("t-{len}")), model(), len))
        };
        let before = taken(driver.counters());
        for (call, count) in [
            ("cuMemCreate", 2),
            ("cuMemAddressReserve", 5),
            ("cuMemMap", 5),
            ("cuMemSetAccess", 4),
            ("cuPointerGetAttribute", 12),
            ("cuMemsetD8Async", 4),
            ("cuStreamSynchronize", 4),
        ] {
            for nth in 1..=count {
                for code in [2, 304, 4711] {
                    driver.fail(call, When::Nth(nth), code, After::Goes);
                    let error = worker.manager.allocate_all(wanted()).unwrap_err();
                    assert_eq!(driver.pending_faults(), 0, "{call}, {nth}");
                    assert!(matches!(
                        error.source,
                        AllocateError::Device(_) | AllocateError::NoRoom { .. }
                    ));
                    assert_eq!(taken(driver.counters()), before, "{call}, {nth}, {code}");
                    let capacity = worker.manager.capacity();
                    assert_eq!((capacity.used, capacity.live), (0, 0));
                }
            }
        }
        assert_eq!(worker.recorded("VramAllocated").len(), 0);
        drop(worker.manager.allocate_all(wanted()).unwrap());
        assert_eq!(taken(driver.counters()), before);
    });
}

/// Once is nothing, whatever it is: it is tried again. Twice, and that one is kept for ever. The others are
/// well in any case.
#[test]
fn what_fails_while_a_member_is_wiped_is_said_and_costs_nobody_else() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let bystander = worker.verified("bystander", &pattern(5000)).share();
        let lease = bystander.lease().unwrap();
        for (call, count) in [
            ("cuMemSetAccess", 2),
            ("cuMemsetD8Async", 1),
            // Before wiping; while the zeros may be on their way.
            ("cuStreamSynchronize", 2),
            ("cuCtxSynchronize", 1),
        ] {
            let once = (1..=count).map(When::Nth);
            for when in once.chain([When::Always]) {
                let mut shards = packed(&worker, &[5000, 6000, 7000]).into_iter();
                let first = shards.next().unwrap();
                let leaked = worker.manager.capacity().leaked;
                driver.fail(call, when, 900, After::Goes);
                let outcome = first.release();
                assert_eq!(driver.pending_faults(), usize::from(when == When::Always));
                driver.clear_faults();
                let leaked = worker.manager.capacity().leaked - leaked;
                match outcome {
                    Ok(()) => assert!(when != When::Always && leaked == 0, "{call}, {when:?}"),
                    Err(ReleaseError::NotFreed { .. }) => {
                        assert!(when == When::Always && leaked == 5000, "{call}, {when:?}");
                    }
                    Err(error) => panic!("{call}, {when:?}: {error:?}"),
                }
                for other in shards {
                    other.reverify().unwrap().release().unwrap();
                }
                bystander.check().unwrap();
                assert!(lease.is_current());
            }
        }
    });
}

/// What is not given back is kept, and that is what is on record.
#[test]
fn what_the_driver_does_not_take_back_is_said() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        for (call, nth) in [
            ("cuMemUnmap", 1),
            ("cuMemUnmap", 2),
            ("cuMemAddressFree", 1),
            ("cuMemRelease", 1),
        ] {
            let before = taken(driver.counters());
            let mut shards = packed(&worker, &[5000, 6000]).into_iter();
            shards.next().unwrap().release().unwrap();
            driver.fail(call, When::Nth(nth), 304, After::Goes);
            let error = shards.next().unwrap().release().unwrap_err();
            assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
            assert_eq!(driver.pending_faults(), 0);
            let record = worker.recorded("VramDeallocated").pop().unwrap();
            let outcome = (&record["wiped"], &record["freed"]);
            assert_eq!(outcome, (&true.into(), &false.into()), "{call}, {nth}");
            assert!(taken(driver.counters()) > before, "{call}, {nth}");
        }
        assert_eq!(worker.manager.capacity().leaked, 4 * 6000);
    });
}

/// Members that go on several threads at once, in any order: the piece goes once.
#[test]
fn members_are_released_from_many_threads() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        let before = taken(driver.counters());
        for _ in 0..20 {
            let shards = packed(&worker, &[100; 8]);
            std::thread::scope(|scope| {
                for shard in shards {
                    scope.spawn(move || shard.release().unwrap());
                }
            });
            assert_eq!(taken(driver.counters()), before);
        }
    });
}
