//! The digest in the GPU: against the vectors, at every tail, in slices, and how many bytes come back.

use simulated_cuda::{Direction, Driver, in_child};
use vram_residency::audit::Reason;
use vram_residency::error::{CheckError, SealError};
use vram_residency::{Provenance, Stream};

use crate::gpu::{every_tail_is_as_on_the_host, the_vectors_come_out, worker};
use crate::kernels::address;
use crate::shards::{Numbers, WINDOW, pattern};

#[test]
fn the_vectors_of_fsverity_utils_come_out() {
    in_child(|_| the_vectors_come_out());
}

#[test]
fn every_tail_is_hashed_as_on_the_host() {
    in_child(|_| every_tail_is_as_on_the_host());
}

/// Of more windows than are checked.
#[test]
fn sixteen_windows_are_spot_checked_unless_configured() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.sealed("s", &pattern(20 * WINDOW as usize));
        let before = driver.counters().device_to_host;
        let _shard = shard.verify().unwrap();
        let back = driver.counters().device_to_host - before;
        assert_eq!(back, 32 + 16 * WINDOW);
    });
}

/// Whatever is hashed: it is taken when the GPU is opened, and nothing besides.
#[test]
fn all_that_a_gpu_takes_for_itself_is_16_mib() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        assert_eq!(driver.counters().device_bytes, 16 << 20);
        let shard = worker.sealed("s", &pattern(9 << 20));
        let before = driver.counters();
        let shard = shard.verify().unwrap();
        let after = driver.counters();
        assert_eq!(after.device_bytes, (16 << 20) + (10 << 20));
        assert_eq!(after.peak_device_bytes, before.peak_device_bytes);
        shard.release().unwrap();
        assert_eq!(driver.counters().device_bytes, 16 << 20);
    });
}

#[test]
fn for_a_digest_32_bytes_come_back() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(0));
        let back = || driver.counters().device_to_host;
        for windows in [1, 2, 6] {
            let len = windows * WINDOW - 1000;
            let shard = worker.written("s", &pattern(len as usize));
            let before = back();
            let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
            assert_eq!(back() - before, 32 * windows, "the kept level, at sealing");
            let before = back();
            let shard = shard.verify().unwrap();
            assert_eq!(back() - before, 32, "a verification");
            let before = back();
            let shard = shard.verify_window(0..1).unwrap();
            assert_eq!(back() - before, 32, "a window");
            let shared = shard.share();
            let before = back();
            shared.check().unwrap();
            assert_eq!(back() - before, 32, "a check");
            shared.dangerous_flip_bit(5, 5).unwrap();
            let before = back();
            assert!(matches!(shared.check(), Err(CheckError::Broken { .. })));
            assert_eq!(back() - before, 32 + 32 * windows, "a mismatch, and where");
        }
    });
}

#[test]
fn spot_checks_copy_their_windows_back_and_no_more() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder.spot_checks(2));
        let shard = worker.sealed("s", &pattern(5 * WINDOW as usize));
        let before = driver.counters().device_to_host;
        let _shard = shard.verify().unwrap();
        assert_eq!(driver.counters().device_to_host - before, 32 + 2 * WINDOW);
    });
}

#[test]
fn bits_that_flip_at_rest_are_found_in_their_window() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let len = 3 * WINDOW + 17;
        let data = pattern(len as usize);
        let mut numbers = Numbers(77);
        for round in 0..40 {
            let shard = worker.verified("s", &data);
            let offset = match round {
                0 => 0,
                1 => len - 1,
                _ => numbers.below(len),
            };
            let mask = 1 << numbers.below(8);
            driver.flip_memory(address(shard.view()) + offset, mask);
            let error = shard.reverify().unwrap_err();
            let incident = error.incident().unwrap();
            assert_eq!(incident.reason(), Reason::DigestMismatch);
            let window = offset / WINDOW;
            assert_eq!(incident.damaged_windows(), [window..window + 1]);
            assert!(!incident.is_injected(), "the library knows nothing of it");
        }
    });
}

#[test]
fn a_copy_that_goes_wrong_on_its_way_in_is_found_at_sealing() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let data = pattern(3_000_000);
        for piece in [1, 2, 3] {
            let mut shard = worker.allocated("s", data.len() as u64);
            driver.flip_copy(Direction::HostToDevice, piece, 12_345);
            shard.load_from(&data[..], Stream::TreeOnly).unwrap();
            let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
            let SealError::Broken(broken) = error else {
                panic!("{error:?}")
            };
            let incident = broken.incident();
            assert_eq!(incident.reason(), Reason::ProvenanceMismatch);
            assert!(incident.detail().unwrap().contains("bad copy"));
        }
    });
}

/// The nodes come back first, then the window.
#[test]
fn windows_that_are_checked_alone_are_spot_checked_too() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &pattern(3 * WINDOW as usize));
        driver.flip_copy(Direction::DeviceToHost, 2, 77);
        let error = shard.verify_window(1..2).unwrap_err();
        assert_eq!(driver.pending_faults(), 0);
        let incident = error.incident().unwrap();
        assert_eq!(incident.reason(), Reason::SpotCheckMismatch);
        assert_eq!(incident.damaged_windows(), [1..2]);
    });
}

/// Damage that comes after the digest stands for a kernel that calls damaged bytes good. The docs of
/// `CudaBuilder::spot_checks` give the probability of missing it.
#[test]
fn a_digest_that_is_wrong_is_caught_at_the_rate_that_the_docs_state() {
    in_child(|driver: Driver| {
        const ROUNDS: u32 = 120;
        const WINDOWS: u64 = 4;
        // One window of four is bad, one of four is looked at.
        let worker = worker(|builder| builder.spot_checks(1));
        let data = pattern((WINDOWS * WINDOW) as usize);
        let mut caught = 0;
        for _ in 0..ROUNDS {
            let shard = worker.verified("s", &data);
            let at = address(shard.view()) + 5;
            // The first copy is that of the digest.
            driver.flip_behind(Direction::DeviceToHost, 1, at, 1);
            let outcome = shard.reverify();
            assert_eq!(driver.pending_faults(), 0);
            if let Err(error) = outcome {
                let incident = error.incident().unwrap();
                assert_eq!(incident.reason(), Reason::SpotCheckMismatch);
                assert_eq!(incident.damaged_windows(), [0..1]);
                caught += 1;
            }
        }
        // A binomial of 120 at 1/4: five standard deviations to each side.
        assert!((7..=53).contains(&caught), "{caught} of {ROUNDS}");
    });
}
