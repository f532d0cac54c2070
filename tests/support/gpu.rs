//! What the tests of GPUs share: a worker on one, and what must hold on a simulated and on a real one alike.
//! Some of it loses the context: each is called by a test that runs in a process of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use cudarc::driver::sys::{CUdeviceptr, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, DeviceSlice as _, DriverError};
use serde_json::Value;
use simulated_cuda::Driver;
use vram_residency::device::{Cuda, CudaBuilder, CudaView};
use vram_residency::error::{CheckError, Revoked, VerifyError};
use vram_residency::manager::NewShard;
use vram_residency::shard::Verified;
use vram_residency::{Digest, Provenance, Shard, Stream};

use crate::kernels::{address, copy_to, increment, set_at, user};
use crate::shards::{WINDOW, Worker, id, model, pattern};
use crate::support::of_event;

/// A driver that was loaded before the test's device is opened has counted that.
pub fn worker(options: impl FnOnce(CudaBuilder) -> CudaBuilder) -> Worker {
    let gpu = options(Cuda::builder(0)).open().unwrap();
    Worker::on(gpu, |builder| builder)
}

/// Of fsverity-utils, for the first bytes of `pattern`.
const VECTORS: [(usize, &str); 6] = [
    (
        1,
        "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
    ),
    (
        4096,
        "6ac39979016e3ddf3d39fff6cb984f7c118acdf1852919f5c100c4b142c1818e",
    ),
    (
        100_000,
        "f2096a36c5cdca4fa33ee8852833150bb324992e5417a9d571f1bffff73b9efc",
    ),
    (
        524_288,
        "318d7f64c1db10a983346f0c101c5b0fd2cb0e0c3d4e88df0320edf9990bdda4",
    ),
    (
        524_289,
        "e21e7d7f576f210094c3a6ea78b021f036633f2a06119fee987f79ac6dd30cf1",
    ),
    (
        1_000_000,
        "48df0c462329cd879661bd05b39aa81b05cc16afd27a7196a559da83531d39d9",
    ),
];

fn seal_and_verify(worker: &Worker, bytes: &[u8]) -> Digest {
    let shard = worker.sealed("s", bytes);
    let digest = shard.digest();
    let shard = shard.verify().unwrap();
    assert_eq!(shard.digest(), digest);
    shard.release().unwrap();
    digest
}

pub fn the_vectors_come_out() {
    let worker = worker(|builder| builder);
    for (len, expected) in VECTORS {
        assert_eq!(
            seal_and_verify(&worker, &pattern(len)).to_string(),
            expected
        );
    }
}

/// The other side is this crate's host digest, which `tests/digest/main.rs` compares with `fsverity`.
pub fn every_tail_is_as_on_the_host() {
    let worker = worker(|builder| builder);
    let window = WINDOW as usize;
    let mut lengths: Vec<usize> = (1..=129).chain(4096 - 65..=4096 + 129).collect();
    lengths.extend([
        window - 1,
        window,
        window + 1,
        2 * window - 4096,
        128 * window + 1,
    ]);
    let data = pattern(128 * window + 1);
    for len in lengths {
        let expected = Digest::of_reader(&data[..len]).unwrap();
        assert_eq!(
            seal_and_verify(&worker, &data[..len]),
            expected,
            "{len} bytes"
        );
    }
}

/// Ways to write into a shard past the library. What the call says, and then the next wait.
pub const WRITES: [(&str, Write); 3] = [
    ("kernel", |stream, address| {
        increment(stream, address);
        Ok(())
    }),
    ("copy", copy_to),
    ("memset", set_at),
];

pub type Write = fn(&Arc<CudaStream>, CUdeviceptr) -> Result<(), DriverError>;

/// Returns the code with which it was refused.
pub fn a_write_into_a_sealed_shard(write: Write) -> u32 {
    let worker = worker(|builder| builder);
    let shard = worker.verified("s", &pattern(5000));
    let beside = worker.verified("beside", &pattern(5000)).share();
    let lease = beside.lease().unwrap();
    let stream = user();
    let written = write(&stream, address(shard.view())).and_then(|()| stream.synchronize());
    let refused = written.expect_err("it was written into a sealed shard");
    // That has cost the context: what lay in it is not vouched for any more, and that is on record.
    let error = shard.reverify().unwrap_err();
    assert!(matches!(error, VerifyError::Broken { .. }), "{error:?}");
    assert!(!lease.is_current());
    assert_eq!(beside.lease().unwrap_err(), Revoked::Failed);
    assert!(matches!(beside.check(), Err(CheckError::AlreadyFailed)));
    let of = |event, name: &str| {
        let records: Vec<Value> = worker.recorded(event);
        records.iter().filter(|one| one["shard"] == name).count()
    };
    assert_eq!(of("SealVerificationFailed", "s"), 1);
    assert_eq!(of("DeviceFailed", "beside"), 1);
    drop((error, beside, lease));
    let sealed = of_event(&worker.close(), "VramSealed");
    assert!(sealed.iter().all(|record| record["read_only"] == true));
    refused.0 as u32
}

/// Returns the code with which the replay failed.
pub fn a_replayed_graph_faults() -> u32 {
    let worker = worker(|builder| builder);
    let shard = worker.verified("s", &pattern(5000));
    let stream = user();
    let mut copy = stream.alloc_zeros::<u8>(5000).unwrap();
    let graph = captured_copy(&stream, shard.view(), &mut copy);
    shard.release().unwrap();
    // Of the same size, so that it would lie where the other was.
    let _another = worker.verified("another", &pattern(5000));
    let replayed = graph.launch().and_then(|()| stream.synchronize());
    let failed = replayed.expect_err("it has read what lies there now, or what was there");
    failed.0 as u32
}

/// A batch, verified. Each has the pattern of its length.
pub fn packed(worker: &Worker, lens: &[usize]) -> Vec<Shard<Verified, Cuda>> {
    let wanted = lens.iter().enumerate();
    let wanted =
        wanted.map(|(index, len)| NewShard::new(id(&format!("t-{index}")), model(), *len as u64));
    let mut batch = worker.manager.allocate_all(wanted).unwrap();
    for mut member in batch.iter_mut() {
        let data = pattern(member.len() as usize);
        member.load_slice(&data, Stream::TreeOnly).unwrap();
    }
    let sealed = batch.seal(|_| Provenance::UnpinnedFirstUse).unwrap();
    let verified = Shard::verify_all(sealed).into_iter();
    verified.map(Result::unwrap).collect()
}

/// Writes so many bytes behind the beginning of one. Returns the code with which it was refused.
pub fn a_member_is_not_written_to(offset: u64) -> u32 {
    let worker = worker(|builder| builder);
    let mut shards = packed(&worker, &[5000, 6000, 7000]).into_iter();
    // That another one was wiped changes nothing.
    shards.next_back().unwrap().release().unwrap();
    let stream = user();
    let first = shards.next().unwrap();
    increment(&stream, address(first.view()) + offset);
    let written = stream.synchronize();
    written.expect_err("it was written into a sealed shard").0 as u32
}

/// Returns the code with which the replay failed.
pub fn a_graph_over_a_released_member_faults() -> u32 {
    let worker = worker(|builder| builder);
    let mut shards = packed(&worker, &[5000, 6000]).into_iter();
    let (first, second) = (shards.next().unwrap(), shards.next().unwrap());
    let stream = user();
    let mut copy = stream.alloc_zeros::<u8>(5000).unwrap();
    let graph = captured_copy(&stream, first.view(), &mut copy);
    first.release().unwrap();
    let failed = graph.launch().and_then(|()| stream.synchronize());
    let failed = failed.expect_err("it has read what lies there now");
    drop(second);
    failed.0 as u32
}

/// A graph that copies what a shard holds, launched once.
fn captured_copy(
    stream: &Arc<CudaStream>,
    view: CudaView<'_>,
    copy: &mut CudaSlice<u8>,
) -> CudaGraph {
    stream.synchronize().unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
        .unwrap();
    stream.memcpy_dtod(&view, copy).unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    graph.launch().unwrap();
    let read = stream.clone_dtoh(copy).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(read, pattern(view.len()));
    graph
}

pub fn no_address_twice() {
    let worker = worker(|builder| builder);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let shard = worker.verified("s", &pattern(100));
        assert!(seen.insert(address(shard.view())), "twice");
    }
}

pub fn a_check_beside_a_capture() {
    let worker = worker(|builder| builder);
    let shared = worker.verified("s", &pattern(5000)).share();
    let lease = shared.lease().unwrap();
    let stream = user();
    let mut copy = stream.alloc_zeros::<u8>(5000).unwrap();
    stream.synchronize().unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
        .unwrap();
    stream.memcpy_dtod(&lease.view(), &mut copy).unwrap();
    shared.check().unwrap();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    graph.launch().unwrap();
    let read = stream.clone_dtoh(&copy).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(read, pattern(5000));
}

/// Nothing that was taken from the driver is left.
#[allow(dead_code, reason = "a real driver has no such counters")]
#[track_caller]
pub fn nothing_is_left(driver: Driver) {
    let left = driver.counters();
    assert_eq!(
        (
            left.allocations,
            left.mappings,
            left.handles,
            left.pinned_bytes
        ),
        (0, 0, 0, 0),
        "memory"
    );
    assert_eq!(
        (left.streams, left.events, left.modules, left.contexts),
        (0, 0, 0, 0),
        "streams, events, modules, contexts"
    );
    assert_eq!(left.green_contexts, 0);
}
