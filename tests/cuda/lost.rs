//! A context that is lost, whoever notices it first: every shard in it is lost, and that is on record before
//! anybody can see it.

use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use simulated_cuda::{After, Device, Driver, When, in_child};
use vram_residency::device::Cuda;
use vram_residency::error::{AllocateError, CheckError, Revoked, SealAllError};
use vram_residency::manager::NewShard;
use vram_residency::{AuditTrail, Provenance, Shared, VramManager, WorkerToken};

use crate::backend::manager;
use crate::gpu::worker;
use crate::shards::{Worker, id, model, pattern};
use crate::support::{Place, of_event};

fn shared(worker: &Worker, name: &str) -> Shared<Cuda> {
    worker.verified(name, &pattern(5000)).share()
}

/// An incident is on disk without anybody asking for it.
fn is_lost(worker: &Worker, shard: &Shared<Cuda>) {
    let incidents = worker.on_disk("SealVerificationFailed");
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    assert_eq!(incidents[0]["reason"], "device_error");
    assert_eq!(shard.lease().unwrap_err(), Revoked::Failed);
    let again = shard.check();
    assert!(matches!(again, Err(CheckError::AlreadyFailed)));
}

#[test]
fn an_allocation_notices_it() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = shared(&worker, "s");
        let lease = shard.lease().unwrap();
        driver.lose_context(0, 700);
        let refused = worker.manager.allocate(id("new"), model(), 10);
        assert!(matches!(refused, Err(AllocateError::Device(_))));
        assert!(!lease.is_current());
        is_lost(&worker, &shard);
        assert_eq!(worker.recorded("DeviceFailed").len(), 1);
    });
}

/// Another GPU is as well as before.
#[test]
fn a_loss_stays_on_its_gpu() {
    in_child(|driver: Driver| {
        driver.set_devices(&[Device::numbered(0), Device::numbered(1)]);
        let place = Place::new();
        let trail = place.open();
        let on = |ordinal| {
            let gpu = Cuda::builder(ordinal).open().unwrap();
            let token = WorkerToken::generate().unwrap();
            let builder = VramManager::builder(gpu, &token, &trail);
            builder.build().unwrap()
        };
        let managers = [on(0), on(1)];
        let shards = [served(&managers[0], "a"), served(&managers[1], "b")];
        let leases = shards.each_ref().map(|shard| shard.lease().unwrap());
        driver.lose_context(1, 700);
        assert_eq!(managers[1].capacity().available, 0);
        assert!(leases[0].is_current() && !leases[1].is_current());
        shards[0].check().unwrap();
        let incidents = of_event(&place.records(), "SealVerificationFailed");
        assert_eq!(incidents.len(), 1);
        assert_eq!(incidents[0]["shard"], "b");
    });
}

/// Those that were to be allocated never were, so none of them is lost.
#[test]
fn an_allocation_of_many_notices_it() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = shared(&worker, "s");
        driver.lose_context(0, 700);
        let wanted = ["one", "two", "three"].map(|name| NewShard::new(id(name), model(), 10));
        let refused = worker.manager.allocate_all(wanted).unwrap_err();
        assert!(matches!(refused.source, AllocateError::Device(_)));
        is_lost(&worker, &shard);
        let failed = worker.recorded("DeviceFailed");
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0]["shard"], "s");
        assert_eq!(worker.recorded("VramAllocationFailed").len(), 1);
        assert_eq!(worker.manager.capacity().live, 1);
    });
}

/// In the middle of it: the GPU has answered for all, and is lost while the second is copied back to be checked
/// here.
#[test]
fn a_batch_that_is_being_sealed_is_lost_as_a_whole() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let lens = [5000_u64, 6000, 7000];
        let wanted = lens.map(|len| NewShard::new(id(&format!("t-{len}")), model(), len));
        let mut batch = worker.manager.allocate_all(wanted).unwrap();
        for mut member in batch.iter_mut() {
            let data = pattern(member.len() as usize);
            member.write_at(0, &data).unwrap();
        }
        // A table for each of two levels, the nodes, then a window of each.
        driver.fail("execute:copy", When::Nth(5), 700, After::Stays);
        let error = batch.seal(|_| Provenance::UnpinnedFirstUse).unwrap_err();
        let SealAllError::Broken { broken, sealed, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((broken.len(), sealed.len()), (3, 0));
        assert_eq!(worker.on_disk("SealVerificationFailed").len(), 3);
        assert_eq!(worker.recorded("VramSealed").len(), 0);
        drop(broken);
        let gone = worker.recorded("VramDeallocated");
        assert!(gone.len() == 3 && gone.iter().all(|one| one["freed"] == false));
    });
}

#[test]
fn asking_for_the_capacity_notices_it() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = shared(&worker, "s");
        driver.lose_context(0, 700);
        assert_eq!(worker.manager.capacity().available, 0);
        is_lost(&worker, &shard);
    });
}

#[test]
fn a_shard_that_is_shared_afterwards_has_its_incident() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &pattern(5000));
        driver.lose_context(0, 700);
        assert_eq!(worker.manager.capacity().available, 0);
        is_lost(&worker, &shard.share());
    });
}

#[test]
fn a_check_that_is_stopped_meanwhile_leaves_an_incident() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = shared(&worker, "s");
        let stopped = shard.check_with_progress(|_| {
            driver.lose_context(0, 700);
            let _noticed = worker.manager.capacity();
            ControlFlow::Break(())
        });
        assert!(matches!(stopped, Err(CheckError::Inconclusive { .. })));
        is_lost(&worker, &shard);
    });
}

/// A disk that does not answer is waited for once, not once for each shard.
#[test]
fn the_incidents_are_on_disk_before_leases_end() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shards = ["a", "b", "c"].map(|name| shared(&worker, name));
        let leases = shards.each_ref().map(|shard| shard.lease().unwrap());
        let current = || leases.iter().filter(|lease| lease.is_current()).count();
        worker.trail.flush().unwrap();
        driver.lose_context(0, 700);
        worker.disk.hang();
        thread::scope(|scope| {
            let notice = scope.spawn(|| worker.manager.capacity());
            thread::sleep(Duration::from_millis(200));
            assert_eq!(current(), 3);
            worker.disk.heal();
            notice.join().unwrap();
        });
        assert_eq!(current(), 0);
        assert_eq!(worker.on_disk("SealVerificationFailed").len(), 3);
    });
}

fn served(manager: &VramManager<Cuda>, name: &str) -> Shared<Cuda> {
    let mut shard = manager.allocate(id(name), model(), 5000).unwrap();
    shard.write_at(0, &pattern(5000)).unwrap();
    let sealed = shard.seal(Provenance::UnpinnedFirstUse);
    sealed.unwrap().verify().unwrap().share()
}

/// Of one trail, and of two.
#[test]
fn what_one_manager_notices_ends_the_leases_of_another() {
    in_child(|driver: Driver| {
        let (here, there) = (Place::new(), Place::new());
        let trails: [AuditTrail; 2] = [here.open(), there.open()];
        let managers = [&trails[0], &trails[0], &trails[1]].map(manager);
        let a = served(&managers[0], "a");
        let others = [served(&managers[1], "b"), served(&managers[2], "c")];
        let leases = others.each_ref().map(|shard| shard.lease().unwrap());
        driver.lose_context(0, 700);
        assert!(matches!(a.check(), Err(CheckError::Broken { .. })));
        for (lease, shard) in leases.iter().zip(&others) {
            assert!(!lease.is_current());
            assert_eq!(shard.lease().unwrap_err(), Revoked::Failed);
        }
        let incidents = |place: &Place| of_event(&place.records(), "SealVerificationFailed").len();
        assert_eq!((incidents(&here), incidents(&there)), (2, 1));
        // And what begins now begins lost.
        let late = managers[2].allocate(id("d"), model(), 10);
        assert!(matches!(late, Err(AllocateError::Device(_))));
        assert!(Cuda::builder(0).open().is_err());
    });
}

/// It may answer with a code that cudarc has no name for, which its enum must not hold.
#[test]
fn of_a_lost_gpu_cudarc_asks_nothing_when_everything_goes() {
    in_child(|driver: Driver| {
        let worker = worker(|builder| builder);
        let shard = worker.verified("s", &pattern(5000));
        driver.lose_context(0, 4711);
        let error = shard.reverify().unwrap_err();
        assert!(error.incident().is_some());
        let asked =
            || ["cuCtxSetCurrent", "cuDevicePrimaryCtxRelease_v2"].map(|call| driver.calls(call));
        let before = asked();
        drop(error);
        drop(worker);
        assert_eq!(asked(), before);
    });
}
