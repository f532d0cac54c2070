//! What a GPU, its driver or its memory do wrong, and what becomes of the shards.

use simulated_cuda::{After, Device, Driver, When, in_child, in_child_without};
use vram_residency::audit::Reason;
use vram_residency::device::{Bound, Cuda};
use vram_residency::error::{
    AllocateError, CheckError, ReclaimError, ReleaseError, Revoked, VerifyError,
};
use vram_residency::{VramManager, WorkerToken};

use crate::backend::manager;
use crate::gpu::{nothing_is_left, worker};
use crate::shards::{id, model, pattern};
use crate::support::{Place, of_event};

/// Uncorrectable ECC and NVLink errors, a contained error, illegal address, timeout, assertion, illegal
/// instruction, misaligned address, launch failure, unknown to CUDA, and never heard of.
const BROKEN: [u32; 11] = [214, 220, 226, 700, 702, 710, 715, 716, 719, 999, 4711];

/// Out of memory, not ready, out of resources for a launch, not supported, a capture.
const INCONCLUSIVE: [u32; 5] = [2, 600, 701, 801, 900];

const CALLS: [&str; 4] = [
    "cuLaunchKernel",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuEventSynchronize",
];

#[test]
fn an_error_that_says_something_about_the_bytes_is_an_incident() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        for call in CALLS {
            for code in BROKEN {
                let shard = worker.sealed("s", &pattern(5000));
                driver.fail(call, When::Nth(1), code, After::Goes);
                let error = shard.verify().unwrap_err();
                let VerifyError::Broken(broken) = &error else {
                    panic!("{call}, {code}: {error:?}")
                };
                let incident = broken.incident();
                assert_eq!(incident.reason(), Reason::DeviceError);
                let detail = incident.detail().unwrap();
                assert!(
                    detail.contains(call) && detail.contains(&code.to_string()),
                    "{detail}"
                );
                let record = worker.on_disk("SealVerificationFailed").pop().unwrap();
                assert_eq!(record["detail"], detail);
                error.into_shard().unwrap_err().release().unwrap();
            }
        }
    });
}

#[test]
fn an_error_that_says_nothing_about_the_bytes_gives_the_shard_back() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let mut shard = worker.sealed("s", &pattern(5000));
        for call in CALLS {
            for code in INCONCLUSIVE {
                driver.fail(call, When::Nth(1), code, After::Goes);
                let error = shard.verify().unwrap_err();
                assert!(
                    matches!(error, VerifyError::Inconclusive { .. }),
                    "{call}, {code}: {error:?}"
                );
                shard = error.into_shard().unwrap();
            }
        }
        shard.verify().unwrap().release().unwrap();
        let inconclusive = worker.recorded("VerificationInconclusive");
        assert_eq!(inconclusive.len(), CALLS.len() * INCONCLUSIVE.len());
    });
}

#[test]
fn a_failure_inside_queued_work_is_an_incident_too() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.sealed("s", &pattern(5000));
        driver.fail("execute:kernel", When::Nth(1), 214, After::Goes);
        let error = shard.verify().unwrap_err();
        let incident = error.incident().unwrap();
        assert_eq!(incident.reason(), Reason::DeviceError);
        assert!(incident.detail().unwrap().contains("ECC"), "{incident:?}");
    });
}

#[test]
fn a_lost_context_takes_every_shard_along_and_each_is_on_record() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let data = pattern(5000);
        let checked = worker.verified("checked", &data).share();
        let beside = worker.verified("beside", &data).share();
        let lease = beside.lease().unwrap();
        let sealed = worker.sealed("sealed", &data);
        let verified = worker.verified("verified", &data);
        assert!(lease.is_current());

        driver.lose_context(0, 700);
        let error = checked.check().unwrap_err();
        let CheckError::Broken { incident, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(incident.reason(), Reason::DeviceError);

        // Those beside it, at once and before anybody asks the device.
        assert!(!lease.is_current());
        assert_eq!(beside.lease().unwrap_err(), Revoked::Failed);
        assert!(matches!(beside.check(), Err(CheckError::AlreadyFailed)));
        let failed = worker.on_disk("SealVerificationFailed");
        let about = |name: &str| {
            failed
                .iter()
                .filter(|record| record["shard"] == name)
                .count()
        };
        assert_eq!((about("checked"), about("beside")), (1, 1), "{failed:?}");
        let lost = worker.recorded("DeviceFailed");
        let names: Vec<_> = lost
            .iter()
            .map(|record| record["shard"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["beside", "sealed", "verified"]);
        assert!(
            lost[0]["cause"]
                .as_str()
                .unwrap()
                .contains("context is lost")
        );

        // What is sealed fails; what is verified too, as soon as it is asked.
        assert!(matches!(sealed.verify(), Err(VerifyError::Broken { .. })));
        let shared = verified.share();
        assert_eq!(
            shared.lease().unwrap_err(),
            Revoked::Failed,
            "shared afterwards"
        );
        drop(lease);
        assert!(matches!(beside.reclaim(), Err(ReclaimError::Failed { .. })));
        assert!(matches!(
            worker.manager.allocate(id("new"), model(), 10),
            Err(AllocateError::Device(_))
        ));

        // Nothing can be wiped or freed any more; that is said, and nothing is pretended.
        drop((checked, shared));
        let freed = of_event(&worker.close(), "VramDeallocated");
        assert_eq!(freed.len(), 4);
        for record in freed {
            assert_eq!(
                (&record["wiped"], &record["freed"]),
                (&false.into(), &false.into())
            );
            assert_eq!(record["severity"], "WARN");
        }
    });
}

#[test]
fn a_full_gpu_says_what_is_needed_and_what_is_free() {
    in_child(|driver: Driver| {
        let mut small = Device::numbered(0);
        small.total_memory = 64 << 20;
        driver.set_devices(&[small]);
        let worker = worker(|builder| builder);
        let capacity = worker.manager.capacity();
        assert!(capacity.available < 64 << 20 && capacity.available > 16 << 20);
        let most = worker.allocated("most", capacity.available >> 21 << 21);
        // A mapping is a multiple of 2 MiB, so that much is needed for ten bytes.
        let (asked, needed_now) = (10, 2 << 20);
        let error = worker
            .manager
            .allocate(id("more"), model(), asked)
            .unwrap_err();
        let AllocateError::NoRoom {
            needed,
            available,
            bound,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((needed, bound), (needed_now, Bound::DeviceMemory));
        assert!(available < needed_now);
        most.release().unwrap();
        worker.allocated("more", asked).release().unwrap();
        let failed = of_event(&worker.close(), "VramAllocationFailed");
        assert!(
            failed[0]["reason"]
                .as_str()
                .unwrap()
                .contains("free memory of the GPU")
        );
        nothing_is_left(driver);
    });
}

#[test]
fn an_allocation_that_fails_half_way_leaves_nothing() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let before = driver.counters();
        for call in [
            "cuMemCreate",
            "cuMemAddressReserve",
            "cuMemMap",
            "cuMemSetAccess",
            "cuPointerGetAttribute",
            "cuMemsetD8Async",
            "cuStreamSynchronize",
        ] {
            driver.fail(call, When::Nth(1), 2, After::Goes);
            assert!(
                worker.manager.allocate(id("s"), model(), 10).is_err(),
                "{call}"
            );
            let after = driver.counters();
            assert_eq!(
                (after.mappings, after.handles, after.device_bytes),
                (before.mappings, before.handles, before.device_bytes),
                "{call}"
            );
        }
        worker.allocated("s", 10).release().unwrap();
        assert_eq!(worker.manager.capacity().used, 0);
    });
}

#[test]
fn memory_that_cannot_be_waited_for_is_leaked_and_said_to_be() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &pattern(5000));
        let before = driver.counters().mappings;
        driver.fail("cuCtxSynchronize", When::Always, 900, After::Goes);
        let error = shard.release().unwrap_err();
        assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
        assert_eq!(driver.counters().mappings, before, "it is still there");
        assert_eq!(worker.manager.capacity().used, 5000, "and accounted for");
        driver.clear_faults();
        let gone = &worker.recorded("VramDeallocated")[0];
        assert_eq!(
            (&gone["wiped"], &gone["freed"]),
            (&false.into(), &false.into())
        );
    });
}

#[test]
fn two_managers_share_a_gpu() {
    in_child(|driver: Driver| {
        let place = Place::new();
        let trail = place.open();
        let one = manager(&trail);
        let two = manager(&trail);
        let shard = |manager: &VramManager<Cuda>, name: &str| {
            let mut shard = manager.allocate(id(name), model(), 5000).unwrap();
            shard.write_at(0, &pattern(5000)).unwrap();
            let sealed = shard.seal(vram_residency::Provenance::UnpinnedFirstUse);
            sealed.unwrap().verify().unwrap()
        };
        let (a, b) = (shard(&one, "a"), shard(&two, "b"));
        drop(one);
        drop(a.reverify().unwrap());
        drop(b.reverify().unwrap());
        drop(two);
        trail.close().unwrap();
        nothing_is_left(driver);
    });
}

#[test]
fn a_manager_is_used_from_many_threads() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let worker = &worker;
                scope.spawn(move || {
                    for round in 0..5 {
                        let len = 1 + 100_000 * thread + round;
                        let shard = worker.verified(&format!("s-{thread}"), &pattern(len));
                        shard.reverify().unwrap().release().unwrap();
                    }
                });
            }
        });
        assert_eq!(of_event(&worker.close(), "VramDeallocated").len(), 40);
        nothing_is_left(driver);
    });
}

/// All host memory that checks and loads need was pinned when the GPU was opened.
#[test]
fn checks_on_more_threads_than_there_is_pinned_memory_wait_for_it() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shards: Vec<_> = (0..24)
            .map(|number| {
                worker
                    .verified(&format!("s-{number}"), &pattern(5000))
                    .share()
            })
            .collect();
        driver.fail("cuMemHostAlloc", When::Always, 304, After::Goes);
        std::thread::scope(|scope| {
            for shard in &shards {
                scope.spawn(|| shard.check().unwrap());
            }
        });
    });
}

#[test]
fn the_callers_own_context_stays_current() {
    in_child(|driver: Driver| {
        driver.set_devices(&[Device::numbered(0), Device::numbered(1)]);
        let other = cudarc::driver::CudaContext::new(1).unwrap();
        other.bind_to_thread().unwrap();
        let own = || cudarc::driver::result::ctx::get_current().unwrap();
        let before = own();
        let first = worker(|builder| builder);
        let shard = first.verified("s", &pattern(5000));
        assert_eq!(own(), before);
        drop(shard.reverify().unwrap());
        assert_eq!(own(), before);
        drop(first);
        assert_eq!(own(), before, "closing");

        // The last that is left of a device is a lease, and then a shard.
        let last = worker(|builder| builder);
        let shared = last.verified("s", &pattern(5000)).share();
        let (lease, shard) = (shared.lease().unwrap(), last.written("t", &pattern(10)));
        drop((last, shared));
        drop(lease);
        assert_eq!(own(), before, "a lease");
        drop(shard);
        assert_eq!(own(), before, "a shard");

        for call in [
            "cuDevicePrimaryCtxRelease_v2",
            "cuMemAlloc_v2",
            "cuMemHostAlloc",
        ] {
            driver.fail(call, When::Nth(1), 304, After::Goes);
            drop(Cuda::builder(0).open().unwrap_err());
            assert_eq!(own(), before, "{call} when a GPU is opened");
        }
    });
}

/// Everything that ends a shard, while somebody captures a stream: nothing can be waited for.
#[test]
fn what_goes_while_a_stream_is_captured_is_leaked_and_said_to_be() {
    use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let [released, dropped] = ["a", "b"].map(|name| worker.verified(name, &pattern(5000)));
        let shared = worker.verified("c", &pattern(5000)).share();
        let lease = shared.lease().unwrap();
        let before = driver.counters().mappings;
        let stream = crate::kernels::user();
        stream.begin_capture(CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        let error = released.release().unwrap_err();
        assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
        drop(dropped);
        drop(shared);
        drop(lease);
        assert_eq!(driver.counters().mappings, before, "all are still there");
        let gone = worker.recorded("VramDeallocated");
        assert_eq!(gone.len(), 3);
        for record in gone {
            assert_eq!(
                (&record["wiped"], &record["freed"]),
                (&false.into(), &false.into())
            );
        }
        assert_eq!(worker.manager.capacity().used, 15_000);
    });
}

/// Also on other threads: nothing is held while the callback runs.
#[test]
fn a_digests_callback_may_use_the_same_gpu() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let other = worker.verified("other", &pattern(100)).share();
        let mut spare = Some(worker.verified("spare", &pattern(100)));
        let shard = worker.written("s", &pattern(100_000));
        let sealed = shard.seal_with_progress(vram_residency::Provenance::UnpinnedFirstUse, |_| {
            other.check().unwrap();
            std::thread::scope(|scope| scope.spawn(|| other.check().unwrap()).join().unwrap());
            if let Some(spare) = spare.take() {
                spare.release().unwrap();
            }
            std::ops::ControlFlow::Continue(())
        });
        sealed.unwrap().verify().unwrap().release().unwrap();
        drop(other);
        worker.close();
        nothing_is_left(driver);
    });
}

#[test]
fn one_byte_and_one_byte_over_the_granularity() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        for (len, taken) in [(1, 2 << 20), (2 << 20, 2 << 20), ((2 << 20) + 1, 4 << 20)] {
            let before = driver.counters().device_bytes;
            let shard = worker.verified("s", &pattern(len));
            assert_eq!(driver.counters().device_bytes - before, taken);
            shard.release().unwrap();
            assert_eq!(driver.counters().device_bytes, before);
        }
        let bytes: Vec<_> = worker
            .recorded("VramAllocated")
            .iter()
            .map(|record| record["allocated_bytes"].as_u64().unwrap())
            .collect();
        assert_eq!(bytes, [2 << 20, 2 << 20, 4 << 20]);
    });
}

#[test]
fn a_seal_of_another_gpu_is_none_of_this_one() {
    in_child(|driver: Driver| {
        let mut twin = Device::numbered(0);
        twin.uuid[0] ^= 1;
        driver.set_devices(&[Device::numbered(0), twin]);
        let place = Place::new();
        let trail = place.open();
        let token = WorkerToken::generate().unwrap();
        let identity = |ordinal| {
            let gpu = Cuda::builder(ordinal).open().unwrap();
            let manager = VramManager::builder(gpu, &token, &trail).build().unwrap();
            manager.device().identity().to_owned()
        };
        assert_ne!(identity(0), identity(1));
    });
}

/// Both halves of a GPU that is divided (MIG) have its UUID, and one of their own.
#[test]
fn a_seal_of_another_part_of_the_same_gpu_is_none_of_this_one() {
    let identities = |driver: Driver| {
        let parts = [0xaa, 0xbb].map(|uuid| {
            let mut part = Device::numbered(0);
            part.instance_uuid = Some([uuid; 16]);
            part
        });
        driver.set_devices(&parts);
        [0, 1].map(|ordinal| {
            let gpu = Cuda::builder(ordinal).open().unwrap();
            gpu.identity().to_owned()
        })
    };
    in_child(move |driver: Driver| {
        let [one, other] = identities(driver);
        assert_ne!(one, other);
        assert!(
            one.starts_with("MIG-aaaaaaaa-") && one.contains(" of GPU-"),
            "{one}"
        );
    });
}

/// A driver before CUDA 11.4 cannot tell them apart.
#[test]
fn without_the_function_that_tells_parts_a_gpu_has_its_own_uuid() {
    in_child_without(&["cuDeviceGetUuid_v2"], |driver: Driver| {
        let mut part = Device::numbered(0);
        part.instance_uuid = Some([0xaa; 16]);
        driver.set_devices(&[part]);
        let gpu = Cuda::builder(0).open().unwrap();
        assert!(gpu.identity().starts_with("GPU-"), "{}", gpu.identity());
    });
}
