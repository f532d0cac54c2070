//! Memory in a GPU: who can write to it, who can read it, and what is left of it.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cudarc::driver::{DevicePtr as _, DeviceSlice as _};
use simulated_cuda::{After, Direction, Driver, When, in_child};
use vram_residency::error::{AllocateError, ReleaseError};
use vram_residency::shard::Verified;
use vram_residency::{Provenance, Shard, Stream};

use crate::backend::{self, Device};
use crate::gpu::{
    WRITES, a_check_beside_a_capture, a_replayed_graph_faults, a_write_into_a_sealed_shard,
    no_address_twice, nothing_is_left, worker,
};
use crate::kernels::{address, user};
use crate::shards::{id, model, pattern};

const ILLEGAL_ADDRESS: u32 = 700;

#[test]
fn a_kernel_that_writes_into_a_sealed_shard_is_refused() {
    in_child(|_| assert_eq!(a_write_into_a_sealed_shard(WRITES[0].1), ILLEGAL_ADDRESS));
}

#[test]
fn a_copy_into_a_sealed_shard_is_refused() {
    in_child(|_| assert_ne!(a_write_into_a_sealed_shard(WRITES[1].1), 0));
}

#[test]
fn a_memset_in_a_sealed_shard_is_refused() {
    in_child(|_| assert_ne!(a_write_into_a_sealed_shard(WRITES[2].1), 0));
}

#[test]
fn a_shard_that_is_being_filled_can_be_written_to() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let mut shard = worker.written("s", &pattern(5000));
        shard.write_at(17, b"other").unwrap();
        let mut expected = pattern(5000);
        expected[17..22].copy_from_slice(b"other");
        let shard = shard
            .seal(Provenance::UnpinnedFirstUse)
            .unwrap()
            .verify()
            .unwrap();
        assert_eq!(backend::bytes(shard.view()), expected);
        assert_eq!(driver.peek(address(shard.view()), 5000), expected);
    });
}

#[test]
fn a_view_is_aligned_and_has_its_length() {
    in_child(|_| {
        let worker = worker(|builder| builder);
        let shard: Shard<Verified, Device> = worker.verified("s", &pattern(4099));
        let view = shard.view();
        assert_eq!((view.len(), view.num_bytes()), (4099, 4099));
        assert_eq!(view.as_cudarc().len(), 4099);
        let stream = user();
        assert_eq!(view.device_ptr(&stream).0 % 256, 0);
        assert!(!format!("{view:?}").contains(&format!("{:x}", address(view))));
    });
}

#[test]
fn what_was_in_a_shard_is_not_in_the_next_allocation_of_anybody() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let data = pattern(2 << 20);
        let secret = &data[1000..1064];
        let next = || {
            let stream = user();
            // SAFETY: whatever is there is what is to be seen.
            let memory = unsafe { stream.alloc::<u8>(2 << 20) }.unwrap();
            let found = stream.clone_dtoh(&memory).unwrap();
            stream.synchronize().unwrap();
            found
        };
        // Whoever frees without wiping leaves it.
        let stream = user();
        let there = stream.clone_htod(&data).unwrap();
        stream.synchronize().unwrap();
        drop(there);
        stream.synchronize().unwrap();
        let holds = |bytes: &[u8]| bytes.windows(64).any(|part| part == secret);
        assert!(
            holds(&next()),
            "the simulated driver hands on what was freed"
        );

        let shard = worker.verified("s", &data);
        assert!(holds(&driver.peek(address(shard.view()), data.len())));
        shard.release().unwrap();
        assert!(!holds(&next()));

        // After a panic too, and from every state.
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _dropped = worker.verified("s", &data);
            let _too = worker.written("t", &data);
            panic!("somewhere else");
        }));
        assert!(panicked.is_err());
        assert!(!holds(&next()) && !holds(&next()));
        let freed = worker.recorded("VramDeallocated");
        assert_eq!(freed.len(), 3);
        assert!(freed.iter().all(|record| record["wiped"] == true));
    });
}

#[test]
fn a_replayed_graph_over_a_dropped_shard_faults_instead_of_reading_another() {
    in_child(|_| assert_eq!(a_replayed_graph_faults(), ILLEGAL_ADDRESS));
}

#[test]
fn no_address_is_used_twice() {
    in_child(|_| no_address_twice());
}

#[test]
fn dropping_waits_for_work_that_may_still_read() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &pattern(5000));
        let stream = user();
        let mut copy = stream.alloc_zeros::<u8>(5000).unwrap();
        stream.memcpy_dtod(&shard.view(), &mut copy).unwrap();
        assert!(driver.counters().queued > 0, "the copy is not done yet");
        shard.release().unwrap();
        let read = stream.clone_dtoh(&copy).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(read, pattern(5000));
    });
}

#[test]
fn a_check_beside_a_capture_does_not_disturb_it() {
    in_child(|_| a_check_beside_a_capture());
}

#[test]
fn everything_that_was_taken_from_the_driver_is_given_back() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shared = worker.verified("s", &pattern(3_000_000)).share();
        let lease = shared.lease().unwrap();
        let crate::shards::Worker { manager, trail, .. } = worker;
        drop(manager);
        drop(shared);
        assert_eq!(
            lease.view().len(),
            3_000_000,
            "a lease keeps all that it needs"
        );
        drop(lease);
        trail.close().unwrap();
        nothing_is_left(driver);
        assert!(driver.counters().reservations > 0, "addresses are kept");
    });
}

/// At the beginning, behind the shard's own bytes, and at the end of what is mapped for it.
#[test]
fn memory_that_does_not_keep_the_zeros_is_never_given_to_anybody() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        for byte in [0, 5000, (2 << 20) - 1] {
            let shard = worker.verified("s", &pattern(5000));
            let before = driver.counters().mappings;
            // Wiping is tried twice.
            driver.flip_copy(Direction::Memset, 1, byte * 8);
            driver.flip_copy(Direction::Memset, 1, byte * 8);
            let error = shard.release().unwrap_err();
            assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
            assert_eq!(driver.pending_faults(), 0);
            assert_eq!(driver.counters().mappings, before, "byte {byte}");
        }
        let failed = worker.recorded("DeviceFailed");
        let causes = failed
            .iter()
            .map(|record| record["cause"].as_str().unwrap());
        assert_eq!(causes.filter(|cause| cause.contains("not zero")).count(), 6);
        for gone in worker.recorded("VramDeallocated") {
            let outcome = (&gone["wiped"], &gone["freed"], &gone["freed_bytes"]);
            assert_eq!(outcome, (&false.into(), &false.into(), &0.into()));
        }
        // Once is nothing: what is tried again may hold.
        let shard = worker.verified("s", &pattern(5000));
        driver.flip_copy(Direction::Memset, 1, 7);
        shard.release().unwrap();
    });
}

#[test]
fn what_could_not_be_wiped_is_not_in_the_next_allocation_of_anybody() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let data = pattern(2 << 20);
        let secret = &data[1000..1064];
        for is_dropped in [false, true] {
            let shard = worker.verified("s", &data);
            driver.fail("cuMemsetD8Async", When::Always, 2, After::Goes);
            if is_dropped {
                drop(shard);
            } else {
                assert!(shard.release().is_err());
            }
            driver.clear_faults();
            let stream = user();
            // SAFETY: whatever is in the memory is what this is about.
            let memory = unsafe { stream.alloc::<u8>(4 << 20) }.unwrap();
            let found = stream.clone_dtoh(&memory).unwrap();
            stream.synchronize().unwrap();
            assert!(!found.windows(64).any(|part| part == secret));
        }
    });
}

/// The wait for a window that was copied back fails, so the copy may come at any time; what is written next
/// goes through the same pinned memory.
#[test]
fn a_copy_that_was_not_waited_for_spoils_nothing_that_is_written_later() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let first = worker.verified("first", &vec![0xee; 300_000]);
        let data = pattern(4 << 20);
        let mut second = worker.allocated("second", data.len() as u64);
        driver.fail("cuStreamSynchronize", When::Nth(2), 900, After::Goes);
        assert!(first.reverify().unwrap_err().incident().is_none());
        assert_eq!(driver.pending_faults(), 0);
        second.write_at(0, &data).unwrap();
        let second = second.seal(Provenance::UnpinnedFirstUse).unwrap();
        assert!(backend::bytes(second.verify().unwrap().view()) == data);
    });
}

/// Copies are under way while the next bytes are read and hashed; nobody waits for each.
#[test]
fn loading_does_not_wait_for_its_copies() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let data = pattern(9_000_000);
        for is_stream in [true, false] {
            let mut shard = worker.allocated("s", data.len() as u64);
            let (waits, mut under_way) = (driver.calls("cuStreamSynchronize"), 0);
            let look = |_| {
                under_way = under_way.max(driver.counters().queued);
                ControlFlow::Continue(())
            };
            let loaded = match is_stream {
                true => shard.load_from_with_progress(&data[..], Stream::TreeOnly, look),
                false => shard.load_slice_with_progress(&data, Stream::TreeOnly, look),
            };
            loaded.unwrap();
            assert!(under_way > 0, "each copy was waited for");
            assert_eq!(driver.calls("cuStreamSynchronize"), waits);
            shard.release().unwrap();
        }
    });
}

/// The destructor does not take it back behind the record's back.
#[test]
fn what_could_not_be_freed_is_kept_counted_and_on_record() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        for (count, (call, nth)) in [("cuMemUnmap", 1), ("cuCtxSynchronize", 2)]
            .into_iter()
            .enumerate()
        {
            let shard = worker.verified("s", &pattern(5000));
            let before = driver.counters();
            driver.fail(call, When::Nth(nth), 900, After::Goes);
            let error = shard.release().unwrap_err();
            assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
            assert_eq!(driver.pending_faults(), 0);
            let after = driver.counters();
            assert_eq!(
                (after.mappings, after.device_bytes),
                (before.mappings, before.device_bytes)
            );
            let kept = 5000 * (count as u64 + 1);
            let record = worker.recorded("VramDeallocated").pop().unwrap();
            assert_eq!(record["freed"], false);
            assert_eq!(record["used_bytes"], kept);
            let capacity = worker.manager.capacity();
            let counted = (capacity.used, capacity.leaked, capacity.live);
            assert_eq!(counted, (kept, kept, 0));
        }
    });
}

#[test]
fn managed_memory_is_no_place_for_a_shard() {
    const IS_MANAGED: u32 = 8;
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        driver.set_pointer_attribute(IS_MANAGED, 1);
        let refused = worker.manager.allocate(id("s"), model(), 10);
        assert!(matches!(refused, Err(AllocateError::Device(_))));
        let violation = &worker.on_disk("PolicyViolation")[0];
        assert_eq!(violation["action"], "refused");
        let details = violation["details"].as_str().unwrap();
        assert!(details.contains("managed 1"), "{details}");
        assert_eq!(worker.recorded("VramAllocated").len(), 0);
        assert_eq!(worker.manager.capacity().used, 0);
    });
}
