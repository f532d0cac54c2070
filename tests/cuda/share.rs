//! A share of a GPU: a part of its multiprocessors where the driver has parts, else of its threads.

use simulated_cuda::{After, Counters, Device, Driver, When, in_child, in_child_without};
use vram_residency::Digest;
use vram_residency::device::{Cuda, CudaError, Share};

use crate::gpu::{nothing_is_left, worker};
use crate::shards::pattern;

/// As many multiprocessors as an H100 has.
fn h100(driver: Driver) {
    let mut device = Device::numbered(0);
    device.multiprocessors = 132;
    driver.set_devices(&[device]);
}

fn with(percent: u8) -> Cuda {
    let share = Share::percent(percent).unwrap();
    Cuda::builder(0).share(share).open().unwrap()
}

/// Verifies a shard of six windows, rightly; what the driver counted meanwhile, and before.
fn check(driver: Driver, percent: u8) -> (Counters, Counters) {
    let share = Share::percent(percent).unwrap();
    let small = worker(|builder| builder.share(share).spot_checks(0));
    let shard = small.sealed("s", &pattern(3_000_000));
    let before = driver.counters();
    let shard = shard.verify().unwrap();
    let after = driver.counters();
    let expected = Digest::of_reader(&pattern(3_000_000)[..]).unwrap();
    assert_eq!(shard.digest(), expected);
    (before, after)
}

#[test]
fn checks_are_held_to_at_most_a_share_of_the_multiprocessors() {
    in_child(|driver: Driver| {
        h100(driver);
        // In steps of two, and at least two.
        for (percent, multiprocessors) in [(10, 12), (1, 2), (50, 66), (99, 130)] {
            assert_eq!(with(percent).multiprocessors(), Some(multiprocessors));
            let (before, after) = check(driver, percent);
            assert_eq!(after.launches - before.launches, 3);
            assert_eq!(after.held_launches - before.held_launches, 3, "all of them");
            assert_eq!(after.held_to, u64::from(multiprocessors));
            assert_eq!(after.urgent_launches, 0, "a model's own go first");
            // Of 128 threads for 733 blocks, 6 nodes and a root: the part has room for all.
            assert_eq!(after.blocks - before.blocks, 6 + 1 + 1);
        }
        let before = driver.counters().held_launches;
        assert_eq!(with(100).multiprocessors(), None);
        assert_eq!(driver.counters().held_launches, before);
        nothing_is_left(driver);
    });
}

/// A driver from before CUDA 12.5.
#[test]
fn a_driver_without_parts_spreads_a_share_of_the_threads() {
    in_child_without(&["cuGreenCtxStreamCreate"], |driver: Driver| {
        let (before, after) = check(driver, 1);
        // 8 multiprocessors with 16 blocks each: one block at a time, in each of three launches.
        assert_eq!(after.launches - before.launches, 3);
        assert_eq!(after.blocks - before.blocks, 3);
        assert_eq!(after.held_launches, 0);
        assert_eq!(with(10).multiprocessors(), None);
        nothing_is_left(driver);
    });
}

#[test]
fn what_a_driver_cannot_do_about_parts_is_no_reason_not_to_check() {
    in_child(|driver: Driver| {
        for call in [
            "cuDeviceGetDevResource",
            "cuDevSmResourceSplitByCount",
            "cuDevResourceGenerateDesc",
            "cuGreenCtxCreate",
            "cuGreenCtxStreamCreate",
            // The first launch tries whether the kernel runs on such a stream.
            "cuLaunchKernel",
            "cuEventRecord",
        ] {
            for code in [1, 201, 400, 801, 915, 4711] {
                driver.fail(call, When::Nth(1), code, After::Goes);
                let gpu = with(10);
                assert_eq!(gpu.multiprocessors(), None, "{call}, {code}");
                assert_eq!(driver.pending_faults(), 0, "{call}");
                drop(gpu);
                nothing_is_left(driver);
            }
        }
        // A second part that cannot be had, a second stream.
        for call in ["cuDevSmResourceSplitByCount", "cuGreenCtxStreamCreate"] {
            driver.fail(call, When::Nth(2), 2, After::Goes);
            assert_eq!(with(10).multiprocessors(), None, "{call}");
        }
        driver.fail("cuLaunchKernel", When::Nth(1), 400, After::Goes);
        let (before, after) = check(driver, 1);
        assert_eq!(after.blocks - before.blocks, 3, "one at a time, spread");
        assert_eq!(after.held_launches, before.held_launches);
        nothing_is_left(driver);
    });
}

/// What the trial has begun may be under way then, in memory that is to be used again.
#[test]
fn a_trial_that_cannot_be_waited_for_ends_the_opening() {
    in_child(|driver: Driver| {
        for call in ["cuEventRecord", "cuStreamSynchronize", "cuCtxSynchronize"] {
            driver.fail(call, When::Nth(1), 900, After::Goes);
        }
        let share = Share::percent(10).unwrap();
        let error = Cuda::builder(0).share(share).open().unwrap_err();
        assert!(matches!(error, CudaError::Device { .. }), "{error:?}");
        driver.clear_faults();
        assert_eq!(with(10).multiprocessors(), Some(2));
    });
}

#[test]
fn a_gpu_that_is_lost_while_that_is_tried_is_not_opened() {
    in_child(|driver: Driver| {
        driver.fail("execute:kernel", When::Nth(1), 700, After::Stays);
        let share = Share::percent(10).unwrap();
        let error = Cuda::builder(0).share(share).open().unwrap_err();
        assert!(matches!(error, CudaError::Device { .. }), "{error:?}");
    });
}
