//! What a simulated GPU cannot vouch for: protection, wiping, graphs and captures by the real driver, its
//! attributes, sizes that take several slices, several GPUs. What costs the context has a process of its
//! own.

use std::ops::ControlFlow;
use std::process::Command;

use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{CudaContext, CudaStream, result};
use vram_residency::audit::Reason;
use vram_residency::device::{Cuda, Share};
use vram_residency::digest::Tree;
use vram_residency::error::VerifyError;
use vram_residency::{Digest, Provenance, Shard, Stream, VramManager, WorkerToken};

use crate::gpu::{self, WRITES, Write, worker};
use crate::kernels::{holds_word, user};
use crate::present::{is_simulated, load_driver};
use crate::shards::{Numbers, WINDOW, id, model, pattern};
use crate::support::fields::one;
use crate::support::{Place, alone, child, of_event, say};

#[test]
fn the_vectors_of_fsverity_utils_come_out() {
    alone(|_| {
        load_driver();
        gpu::the_vectors_come_out();
    });
}

#[test]
fn every_tail_is_hashed_as_by_the_cpu() {
    alone(|_| {
        load_driver();
        gpu::every_tail_is_as_on_the_host();
    });
}

#[test]
fn no_address_is_used_twice() {
    alone(|_| {
        load_driver();
        gpu::no_address_twice();
    });
}

/// In a process of its own, in which the context is lost.
fn is_refused(what: &str, write: Write) {
    load_driver();
    let code = gpu::a_write_into_a_sealed_shard(write);
    say(&format!(
        "a {what} into a sealed shard: refused with code {code}"
    ));
}

/// What lives in this process is as well as before: a GPU isolates processes from each other.
fn others_stay_well(elsewhere: impl FnOnce()) {
    if child().is_some() {
        return elsewhere();
    }
    load_driver();
    let worker = worker(|builder| builder);
    let shared = worker.verified("here", &pattern(5000)).share();
    let lease = shared.lease().unwrap();
    elsewhere();
    shared.check().unwrap();
    assert!(lease.is_current());
}

#[test]
fn a_kernel_that_writes_into_a_sealed_shard_is_refused() {
    others_stay_well(|| alone(|_| is_refused(WRITES[0].0, WRITES[0].1)));
}

#[test]
fn a_copy_into_a_sealed_shard_is_refused() {
    others_stay_well(|| alone(|_| is_refused(WRITES[1].0, WRITES[1].1)));
}

#[test]
fn a_memset_in_a_sealed_shard_is_refused() {
    others_stay_well(|| alone(|_| is_refused(WRITES[2].0, WRITES[2].1)));
}

#[test]
fn a_replayed_graph_over_a_dropped_shard_faults_instead_of_reading_another() {
    alone(|_| {
        load_driver();
        let code = gpu::a_replayed_graph_faults();
        say(&format!("a replay over a dropped shard: code {code}"));
    });
}

/// Its own bytes, and those of the next one, which it shares physical memory with.
#[test]
fn a_kernel_that_writes_into_a_shard_of_a_batch_is_refused() {
    alone(|_| {
        load_driver();
        let code = gpu::a_member_is_not_written_to(0);
        say(&format!("a kernel into a shard of a batch: code {code}"));
    });
}

#[test]
fn a_kernel_that_writes_beyond_a_shard_of_a_batch_is_refused() {
    alone(|_| {
        load_driver();
        let code = gpu::a_member_is_not_written_to(5120);
        say(&format!("a kernel beyond a shard of a batch: code {code}"));
    });
}

#[test]
fn a_replayed_graph_over_a_released_shard_of_a_batch_faults() {
    alone(|_| {
        load_driver();
        let code = gpu::a_graph_over_a_released_member_faults();
        say(&format!("a replay over a shard of a batch: code {code}"));
    });
}

#[test]
fn a_share_of_the_gpu_is_held_to_some_multiprocessors_or_said_not_to_be() {
    load_driver();
    let share = Share::percent(10).unwrap();
    let worker = worker(|builder| builder.share(share));
    worker.verified("s", &pattern(5 << 20)).release().unwrap();
    let context = CudaContext::new(0).unwrap();
    let all = context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .unwrap();
    say(&match worker.manager.device().multiprocessors() {
        Some(count) => {
            // 8 are the most that a GPU has in its smallest part.
            assert!(count <= 8.max(all as u32 / 10), "{count} of {all}");
            format!("a tenth of the GPU: held to {count} of {all} multiprocessors")
        }
        None => "a tenth of the GPU: the driver does not hold checks to multiprocessors".into(),
    });
}

#[test]
fn a_check_beside_a_capture_does_not_disturb_it() {
    alone(|_| {
        load_driver();
        gpu::a_check_beside_a_capture();
    });
}

/// The driver hands physical memory on. Whether it does so here is tried first with memory that was not
/// wiped; where it does not come back, the test says that it has shown less.
#[test]
fn what_was_in_a_shard_is_not_in_the_memory_that_is_allocated_next() {
    alone(|_| {
        const WORD: u32 = 0xfeed_c0de;
        load_driver();
        let stream = user();
        let bytes: usize = if is_simulated() { 2 << 20 } else { 256 << 20 };
        let data = WORD.to_le_bytes().repeat(bytes / 4);

        let plain = Plain::new(&stream, bytes);
        // SAFETY: there is room for the data, and it outlives the wait.
        unsafe { result::memcpy_htod_sync(plain.address, &data) }.unwrap();
        stream.context().synchronize().unwrap(); // the call may return while the copy is on its way
        assert!(holds_word(&stream, plain.address, bytes as u64, WORD));
        drop(plain);
        if !is_found_in_what_is_free(&stream, WORD) {
            assert!(
                !is_simulated(),
                "the simulated driver hands on what was freed"
            );
            say("what was freed without a wipe did not come back either: this shows little here");
        }
        // Those words must be gone before the next search.
        overwrite_what_is_free(&stream);
        assert!(!is_found_in_what_is_free(&stream, WORD));

        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &data);
        assert!(holds_word(
            &stream,
            crate::kernels::address(shard.view()),
            bytes as u64,
            WORD
        ));
        shard.release().unwrap();
        assert!(!is_found_in_what_is_free(&stream, WORD));
        let _unread = worker.written("t", &data);
        drop(_unread);
        assert!(!is_found_in_what_is_free(&stream, WORD));
        let freed = worker.recorded("VramDeallocated");
        assert!(freed.len() == 2 && freed.iter().all(|record| record["wiped"] == true));
    });
}

/// Memory of the driver's, whatever is in it.
struct Plain {
    stream: std::sync::Arc<CudaStream>,
    address: u64,
    bytes: usize,
}

impl Plain {
    fn new(stream: &std::sync::Arc<CudaStream>, bytes: usize) -> Self {
        stream.context().bind_to_thread().unwrap();
        // SAFETY: it is given back in `drop`.
        let address = unsafe { result::malloc_sync(bytes) }.unwrap();
        Self {
            stream: stream.clone(),
            address,
            bytes,
        }
    }

    /// Much of what is free, so that what was freed last is among it. Tests beside this one need some.
    fn of_what_is_free(stream: &std::sync::Arc<CudaStream>) -> Self {
        let (free, _) = stream.context().mem_get_info().unwrap();
        let most = if is_simulated() { 4 << 20 } else { 16 << 30 };
        Self::new(stream, (free / 2).min(most) >> 21 << 21)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stream.synchronize().unwrap();
        // SAFETY: it was allocated in `new`, and what used it has been waited for.
        unsafe { result::free_sync(self.address) }.unwrap();
    }
}

fn is_found_in_what_is_free(stream: &std::sync::Arc<CudaStream>, word: u32) -> bool {
    let memory = Plain::of_what_is_free(stream);
    holds_word(stream, memory.address, memory.bytes as u64, word)
}

fn overwrite_what_is_free(stream: &std::sync::Arc<CudaStream>) {
    let memory = Plain::of_what_is_free(stream);
    // SAFETY: so many bytes are there, and dropping it waits.
    unsafe { result::memset_d8_async(memory.address, 0, memory.bytes, stream.cu_stream()) }
        .unwrap();
}

#[test]
fn a_kernel_of_a_model_reads_a_view() {
    load_driver();
    let worker = worker(|builder| builder);
    let shard = worker.verified("s", &0x1234_5678_u32.to_le_bytes().repeat(1000));
    let address = crate::kernels::address(shard.view());
    let stream = user();
    assert!(holds_word(&stream, address, 4000, 0x1234_5678));
    assert!(!holds_word(&stream, address, 4000, 0x1234_5679));
}

/// More than one slice of the kernel's scratch memory (960 MiB), with a tail.
#[test]
fn a_shard_of_several_slices_has_the_cpus_digest_and_a_flipped_bit_is_found_in_its_window() {
    load_driver();
    let worker = worker(|builder| builder);
    let len: usize = if is_simulated() { 5 << 19 } else { 2 << 30 } + 4097;
    let available = worker.manager.capacity().available;
    assert!(available > len as u64, "only {available} bytes are free");
    let mut data = vec![0_u8; len];
    let mut numbers = Numbers(11);
    for word in data.chunks_mut(8) {
        let random = numbers.below(u64::MAX).to_le_bytes();
        word.copy_from_slice(&random[..word.len()]);
    }
    let expected = Tree::of_slice(&data, |_| ControlFlow::Continue(()))
        .unwrap()
        .digest();
    let mut shard = worker.allocated("s", len as u64);
    shard.load_from(&data[..], Stream::TreeOnly).unwrap();
    let shard = shard.seal(Provenance::FsVerity(expected)).unwrap();
    let mut shard = shard.verify().unwrap();
    assert_eq!(shard.digest(), expected);
    for offset in [0, 960 << 20, len as u64 - 1, numbers.below(len as u64)] {
        let (offset, bit) = (offset.min(len as u64 - 2), numbers.below(8) as u8);
        let window = offset / WINDOW;
        shard.dangerous_flip_bit(offset, bit).unwrap();
        let VerifyError::Broken(broken) = shard.reverify().unwrap_err() else {
            panic!("a flipped bit at {offset} is an incident")
        };
        let incident = broken.incident();
        assert_eq!(incident.reason(), Reason::DigestMismatch);
        assert_eq!(incident.damaged_windows(), [window..window + 1]);
        drop(broken);
        let mut again = worker.allocated("s", len as u64);
        again.load_from(&data[..], Stream::TreeOnly).unwrap();
        let sealed = again.seal(Provenance::FsVerity(expected)).unwrap();
        shard = sealed.verify().unwrap();
    }
    shard.release().unwrap();
}

/// More shards than one launch takes.
#[test]
fn thousands_of_shards_are_verified_together_and_the_bad_one_is_found() {
    load_driver();
    let count = if is_simulated() { 20 } else { 2500 };
    let worker = worker(|builder| builder.spot_checks(0));
    let data = pattern(40_000);
    let len = |index: usize| 1 + index * 37 % 40_000;
    let sealed: Vec<_> = (0..count)
        .map(|index| worker.sealed(&format!("s-{index}"), &data[..len(index)]))
        .collect();
    let bad = count - 3;
    sealed[bad].dangerous_flip_bit(0, 0).unwrap();
    for (index, outcome) in Shard::verify_all(sealed).into_iter().enumerate() {
        match outcome {
            Ok(shard) => {
                assert_ne!(index, bad, "missed");
                let expected = Digest::of_reader(&data[..len(index)]).unwrap();
                assert_eq!(shard.digest(), expected);
            }
            Err(error) => {
                assert_eq!(index, bad, "{error:?}");
                let incident = error.incident().unwrap();
                assert_eq!(incident.reason(), Reason::DigestMismatch);
                assert_eq!(incident.damaged_windows(), [0..1]);
            }
        }
    }
}

#[test]
fn the_records_name_the_gpu_as_its_driver_and_nvidia_smi_do() {
    load_driver();
    let worker = worker(|builder| builder);
    let identity = worker.manager.device().identity().to_owned();
    worker.verified("s", &pattern(5000)).release().unwrap();
    let records = worker.close();
    let fields = "device identity proven unproven";
    let opened = &one(&records, "DeviceOpened", "INFO success", &[fields]);
    assert_eq!(opened["identity"], identity);
    assert!(opened["proven"].as_str().unwrap().contains("read back"));
    let context = CudaContext::new(0).unwrap();
    let (major, minor) = context.compute_capability().unwrap();
    let capability = format!("compute capability {major}.{minor}");
    for part in [
        &context.name().unwrap(),
        &capability,
        "ECC o",
        ", driver",
        " for CUDA ",
    ] {
        assert!(identity.contains(part), "{part} in {identity}");
    }
    assert!(identity.starts_with("GPU-"), "{identity}");
    assert_eq!(of_event(&records, "VramSealed")[0]["read_only"], true);
    say(&identity);
    if is_simulated() {
        return;
    }
    let query = [
        "--query-gpu=uuid,ecc.mode.current,driver_version",
        "--format=csv,noheader",
    ];
    match Command::new("nvidia-smi").args(query).output() {
        Ok(output) if output.status.success() => {
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_it = |line: &&str| {
                let fields: Vec<&str> = line.split(',').map(str::trim).collect();
                let [uuid, ecc, driver] = fields[..] else {
                    panic!("{line}")
                };
                let ecc = match ecc {
                    "Enabled" => "ECC on",
                    _ => "ECC off",
                };
                let driver = format!("driver {driver} for CUDA");
                let parts = [uuid, ecc, &driver];
                parts.iter().all(|part| identity.contains(part))
            };
            assert!(told.lines().any(|line| is_it(&line)), "{identity}, {told}");
        }
        _ => say("SKIPPED: nvidia-smi does not run, so nobody else was asked for the GPU's name"),
    }
}

#[test]
fn every_gpu_holds_shards_under_its_own_name() {
    load_driver();
    let place = Place::new();
    let trail = place.open();
    let token = WorkerToken::generate().unwrap();
    let count = CudaContext::device_count().unwrap() as u32;
    let mut identities = std::collections::BTreeSet::new();
    for ordinal in 0..count {
        let gpu = Cuda::builder(ordinal).open().unwrap();
        assert!(identities.insert(gpu.identity().to_owned()), "twice");
        let manager = VramManager::builder(gpu, &token, &trail).build().unwrap();
        let mut shard = manager.allocate(id("s"), model(), 5000).unwrap();
        shard.write_at(0, &pattern(5000)).unwrap();
        let sealed = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
        sealed.verify().unwrap().release().unwrap();
    }
    trail.close().unwrap();
    let opened = of_event(&place.records(), "DeviceOpened");
    let names: Vec<_> = opened
        .iter()
        .map(|record| record["device"].clone())
        .collect();
    let expected: Vec<_> = (0..count)
        .map(|ordinal| format!("cuda:{ordinal}"))
        .collect();
    assert_eq!(names, expected);
    say(&format!("{count} GPUs"));
}
