//! Shards larger than a slice, on a simulated GPU and in slices of 64 MiB.
//!
//! Whole devices and shards are tested in `tests/cuda` with slices of the real size, which would be
//! too slow to fill in a simulation.

use std::ops::ControlFlow;

use simulated_cuda::{After, Driver, When, in_child, in_child_without};
use vram_digest::{Digest, window_node};

use super::{BLOCK, SLICE_BYTES, WINDOW};
use crate::device::backend::{Backend as _, DigestFailure, Permit};
use crate::device::cuda::memory::CudaMemory;
use crate::device::{Cuda, Culpability, Share};

fn gpu() -> Cuda {
    Cuda::builder(0).open().unwrap()
}

/// Returns bytes that differ from block to block.
fn data(len: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    for (number, block) in bytes.chunks_mut(BLOCK as usize).enumerate() {
        for (byte, mark) in block.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= mark;
        }
    }
    bytes
}

fn filled(gpu: &Cuda, bytes: &[u8]) -> CudaMemory {
    let mut memory = gpu.allocate(bytes.len() as u64, Permit::mint()).unwrap();
    gpu.write(&mut memory, 0, bytes).unwrap();
    gpu.synchronize(&memory).unwrap();
    memory
}

/// Returns the digest, and the progress values that the callback got.
fn digest(gpu: &Cuda, memory: &CudaMemory) -> (Digest, Vec<u64>) {
    let mut told = Vec::new();
    let reading = gpu.digest(memory, &mut |progress| {
        told.push(progress.done);
        ControlFlow::Continue(())
    });
    (reading.unwrap().digest(), told)
}

#[test]
fn slices_make_one_tree() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(2 * SLICE_BYTES + WINDOW + 5000);
        for len in [
            SLICE_BYTES,
            SLICE_BYTES + 1,
            2 * SLICE_BYTES,
            data.len() as u64,
        ] {
            let bytes = &data[..len as usize];
            let memory = filled(&gpu, bytes);
            let expected = Digest::of_reader(bytes).unwrap();
            let (actual, told) = digest(&gpu, &memory);
            assert_eq!(actual, expected, "{len} bytes");
            let ends = (1..).map(|slice| (slice * SLICE_BYTES).min(len));
            let slices = len.div_ceil(SLICE_BYTES) as usize;
            assert_eq!(told, ends.take(slices).collect::<Vec<_>>());
        }
    });
}

#[test]
fn nodes_on_both_sides_of_a_slice_are_those_of_their_windows() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(SLICE_BYTES + WINDOW + 5000);
        let memory = filled(&gpu, &data);
        let nodes = |first: usize, bytes: &[u8]| {
            let windows = bytes.chunks(WINDOW as usize).enumerate();
            windows
                .map(|(index, bytes)| window_node((first + index) as u64, bytes))
                .collect::<Vec<_>>()
        };
        let tree = gpu.tree(&memory, &mut |_| ControlFlow::Continue(()));
        assert_eq!(
            tree.unwrap().digest(),
            Digest::of_reader(&data[..]).unwrap()
        );
        let windows = SLICE_BYTES / WINDOW;
        let start = ((windows - 2) * WINDOW) as usize;
        let found = gpu.windows(&memory, windows - 2..windows + 2).unwrap();
        assert_eq!(found, nodes(windows as usize - 2, &data[start..]));
    });
}

#[test]
fn small_and_large_ones_in_one_call_keep_their_places() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(SLICE_BYTES + 1);
        let lengths = [1, data.len(), 5000, WINDOW as usize + 1];
        let all = lengths.map(|len| filled(&gpu, &data[..len]));
        let readings = gpu.digests(&all.each_ref()).unwrap();
        assert_eq!(readings.len(), lengths.len());
        for (reading, len) in readings.iter().zip(lengths) {
            let expected = Digest::of_reader(&data[..len]).unwrap();
            assert_eq!(reading.digest(), expected, "{len} bytes");
        }
    });
}

#[test]
fn who_stops_after_a_slice_can_begin_again() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(2 * SLICE_BYTES);
        let memory = filled(&gpu, &data);
        let stopped = gpu.digest(&memory, &mut |_| ControlFlow::Break(()));
        assert!(
            matches!(stopped, Err(DigestFailure::Stopped)),
            "{stopped:?}"
        );
        assert_eq!(
            digest(&gpu, &memory).0,
            Digest::of_reader(&data[..]).unwrap()
        );
    });
}

/// A release in the callback wipes, and a wipe computes a digest, too.
#[test]
fn a_callback_between_slices_may_wait_for_others_that_use_the_gpu() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(2 * SLICE_BYTES);
        let memory = filled(&gpu, &data);
        let other = filled(&gpu, &data[..5000]);
        let mut calls = 0;
        let reading = gpu.digest(&memory, &mut |_| {
            calls += 1;
            let ask = || digest(&gpu, &other).0;
            let expected = Digest::of_reader(&data[..5000]).unwrap();
            assert_eq!(ask(), expected);
            std::thread::scope(|scope| assert_eq!(scope.spawn(ask).join().unwrap(), expected));
            let mut spare = filled(&gpu, &data[..100]);
            gpu.wipe(&mut spare).unwrap();
            gpu.free(&mut spare).unwrap();
            ControlFlow::Continue(())
        });
        assert_eq!(calls, 2);
        let expected = Digest::of_reader(&data[..]).unwrap();
        assert_eq!(reading.unwrap().digest(), expected);
    });
}

#[test]
fn what_the_device_said_counts_more_than_a_callback_that_stops() {
    in_child(|driver: Driver| {
        let gpu = gpu();
        let data = data(3 * SLICE_BYTES);
        let memory = filled(&gpu, &data);
        // Uncorrectable ECC, during the wait for the second slice.
        let waited = driver.calls("cuEventSynchronize");
        driver.fail("cuEventSynchronize", When::Nth(2), 214, After::Goes);
        let stopped = gpu.digest(&memory, &mut |_| {
            while driver.calls("cuEventSynchronize") < waited + 2 {
                std::thread::yield_now();
            }
            ControlFlow::Break(())
        });
        let Err(DigestFailure::Device(error)) = stopped else {
            panic!("{stopped:?}")
        };
        assert_eq!(error.culpability(), Culpability::Broken, "{error}");
    });
}

#[test]
fn a_callback_that_panics_between_slices_leaves_the_gpu_to_others() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(2 * SLICE_BYTES);
        let memory = filled(&gpu, &data);
        let ask = || gpu.digest(&memory, &mut |_| panic!("on purpose"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask));
        assert_eq!(
            *panicked.unwrap_err().downcast::<&str>().unwrap(),
            "on purpose"
        );
        assert_eq!(
            digest(&gpu, &memory).0,
            Digest::of_reader(&data[..]).unwrap()
        );
    });
}

#[test]
fn trees_of_many_are_those_of_each_whatever_their_size() {
    in_child(|_| {
        let gpu = gpu();
        let data = data(SLICE_BYTES + WINDOW + 5000);
        let lens = [
            5,
            SLICE_BYTES + 1,
            4096,
            WINDOW + 1,
            data.len() as u64,
            9000,
        ];
        let memories = lens.map(|len| filled(&gpu, &data[..len as usize]));
        let trees = gpu.trees(&memories.each_ref()).unwrap();
        assert_eq!(trees.len(), lens.len());
        for (tree, len) in trees.iter().zip(lens) {
            let expected = Digest::of_reader(&data[..len as usize]).unwrap();
            assert_eq!(tree.digest(), expected, "{len}");
        }
        assert!(gpu.trees(&[]).unwrap().is_empty());
    });
}

/// Returns which lanes have ever launched work.
fn used_lanes(gpu: &Cuda) -> [bool; 2] {
    let memory = filled(gpu, &data(2 * SLICE_BYTES));
    digest(gpu, &memory);
    let mut turn = gpu.hasher.lanes.turn().unwrap();
    turn.lanes().each_mut().map(|lane| {
        let table = lane.pinned.bytes(0..super::RANGE_BYTES).unwrap();
        table.iter().any(|byte| *byte != 0)
    })
}

fn a_tenth() -> Cuda {
    let share = Share::percent(10).unwrap();
    Cuda::builder(0).share(share).open().unwrap()
}

/// Both lanes at a time would have twice the threads.
#[test]
fn of_a_share_of_the_threads_one_lane_alone_makes_use() {
    in_child_without(&["cuGreenCtxCreate"], |_| {
        assert_eq!(used_lanes(&gpu()), [true, true]);
        assert_eq!(used_lanes(&a_tenth()), [true, false]);
    });
}

/// Both lanes work if they are restricted to the same multiprocessors.
#[test]
fn of_a_part_of_the_multiprocessors_both_lanes_make_use() {
    in_child(|_| assert_eq!(used_lanes(&a_tenth()), [true, true]));
}

/// More failed waits than there are tables for launches.
#[test]
fn launches_that_could_not_be_waited_for_are_waited_for_by_whoever_comes_next() {
    in_child(|driver: Driver| {
        let gpu = gpu();
        let data = data(3 * WINDOW);
        let memory = filled(&gpu, &data);
        let ask = || gpu.digest(&memory, &mut |_| ControlFlow::Continue(()));
        for _ in 0..6 {
            driver.fail("cuEventSynchronize", When::Nth(1), 900, After::Goes);
            driver.fail("cuStreamSynchronize", When::Always, 900, After::Goes);
            for _ in 0..2 {
                let Err(DigestFailure::Device(error)) = ask() else {
                    panic!("nothing could be waited for")
                };
                assert_eq!(error.culpability(), Culpability::Inconclusive, "{error}");
            }
            driver.clear_faults();
        }
        let expected = Digest::of_reader(&data[..]).unwrap();
        assert_eq!(ask().unwrap().digest(), expected);
    });
}
