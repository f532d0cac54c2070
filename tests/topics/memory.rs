//! The memory of shards and the limits of a manager: who gets it, who gives it back, and what is on
//! record; leaks, full disks and forks included.

use std::error::Error;
use std::io;
use std::time::Duration;

use crate::backend::FREES_UNWIPED;
use crate::shards::{Worker, id, model, pattern};
use crate::support::of_event;
use serde_json::json;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::device::{Bound, Culpability, Operation};
use vram_residency::error::{AllocateError, ReleaseError, SealError, VerifyError, WriteError};
use vram_residency::{Assurance, Provenance};

#[test]
fn an_id_is_taken_while_its_shard_lives_in_whatever_state() {
    let worker = Worker::new();
    let again = || worker.manager.allocate(id("s"), model(), 10);
    let refused = || matches!(again(), Err(AllocateError::DuplicateId { .. }));
    let shard = worker.written("s", &[1; 10]);
    assert!(refused());
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    shard.dangerous_flip_bit(0, 0).unwrap();
    let shard = shard.verify().unwrap_err().into_shard().unwrap_err();
    assert!(refused());
    let first = shard.allocation();
    shard.release().unwrap();
    assert!(again().unwrap().allocation() > first);
    let failed = worker.recorded("VramAllocationFailed");
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[0]["shard"], "s");
    assert_eq!(failed[0]["requested_bytes"], 10);
    assert_eq!(failed[0]["severity"], "WARN");
    assert!(
        failed[0]["reason"]
            .as_str()
            .unwrap()
            .contains("release it first")
    );
}

#[test]
fn limits_hold_and_every_refusal_is_on_record() {
    let worker = Worker::with(|builder| builder.shard_limit(1000).limit(1500));
    let allocate = |name: &str, len| worker.manager.allocate(id(name), model(), len);
    assert!(matches!(allocate("a", 0), Err(AllocateError::ZeroLength)));
    assert!(matches!(
        allocate("a", 1001),
        Err(AllocateError::TooLarge {
            requested: 1001,
            limit: 1000,
            available: 1500,
            ..
        })
    ));
    let a = allocate("a", 1000).unwrap();
    assert!(matches!(
        allocate("b", 501),
        Err(AllocateError::NoRoom {
            needed: 501,
            available: 500,
            bound: Bound::ManagerLimit,
            ..
        })
    ));
    let b = allocate("b", 500).unwrap();
    let capacity = worker.manager.capacity();
    assert_eq!(
        (capacity.limit, capacity.used, capacity.available),
        (Some(1500), 1500, 0)
    );
    assert_eq!((capacity.shard_limit, capacity.live), (1000, 2));
    drop(a);
    assert_eq!(worker.manager.capacity().available, 1000);
    worker
        .faults
        .fail(Operation::Allocate, 0, Culpability::Inconclusive);
    assert!(matches!(allocate("a", 10), Err(AllocateError::Device(_))));
    let capacity = worker.manager.capacity();
    assert_eq!((capacity.used, capacity.live), (500, 1));
    drop(b);
    let records = worker.close();
    let failed = of_event(&records, "VramAllocationFailed");
    let requested: Vec<_> = failed
        .iter()
        .map(|record| &record["requested_bytes"])
        .collect();
    assert_eq!(requested, [0, 1001, 501, 10]);
    assert_eq!(failed[1]["available_bytes"], 1500);
    let reason = failed[1]["reason"].as_str().unwrap();
    assert!(reason.contains("1500 can be had"), "{reason}");
    assert_eq!(failed[2]["available_bytes"], 500);
}

#[test]
fn more_than_the_machine_has_is_refused_with_numbers() {
    let worker = Worker::with(|builder| builder.shard_limit(u64::MAX));
    for len in [1 << 50, u64::MAX] {
        let refused = worker.manager.allocate(id("s"), model(), len);
        let Err(AllocateError::NoRoom {
            needed, available, ..
        }) = refused
        else {
            panic!("{refused:?}")
        };
        assert!(needed == len && available > 0 && available < len);
    }
    assert_eq!(worker.manager.capacity().used, 0);
}

/// A limit above what the machine has is not what is available.
#[test]
fn at_the_managers_limit_the_least_of_all_limits_is_told() {
    let worker = Worker::with(|builder| builder.shard_limit(u64::MAX).limit(1 << 60));
    let refused = worker.manager.allocate(id("s"), model(), (1 << 60) + 1);
    let Err(AllocateError::NoRoom {
        needed,
        available,
        bound,
        ..
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(needed, (1 << 60) + 1);
    assert!(matches!(
        bound,
        Bound::Cgroup | Bound::DeviceMemory | Bound::MemAvailable
    ));
    // As good as the same: other processes come and go meanwhile.
    let capacity = worker.manager.capacity().available;
    assert!(
        available / 2 < capacity && capacity / 2 < available,
        "{available}, {capacity}"
    );
    let record = &worker.recorded("VramAllocationFailed")[0];
    assert_eq!(record["available_bytes"], available);
}

#[test]
fn threads_that_race_for_memory_never_get_more_than_the_limit() {
    let worker = Worker::with(|builder| builder.limit(10 * 4096));
    let got = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let manager = &worker.manager;
                scope.spawn(move || {
                    (0..10)
                        .filter_map(|i| {
                            let name = id(&format!("s-{thread}-{i}"));
                            manager.allocate(name, model(), 4096).ok()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(got.len(), 10);
    assert_eq!(worker.manager.capacity().used, 10 * 4096);
}

#[test]
fn a_shard_can_be_released_in_every_state() {
    let worker = Worker::new();
    let data = pattern(5000);
    worker.allocated("a", 5000).release().unwrap();
    worker.written("b", &data).release().unwrap();
    worker.sealed("c", &data).release().unwrap();
    worker.verified("d", &data).release().unwrap();
    let shard = worker.sealed("e", &data);
    shard.dangerous_flip_bit(0, 0).unwrap();
    let error = shard.verify().unwrap_err();
    error.into_shard().unwrap_err().release().unwrap();
    assert_eq!(worker.manager.capacity().live, 0);
    let freed = of_event(&worker.close(), "VramDeallocated");
    assert_eq!(freed.len(), 5);
    assert!(
        freed
            .iter()
            .all(|record| record["wiped"] == true && record["severity"] == "INFO")
    );
}

#[test]
fn memory_that_is_not_wiped_or_not_freed_is_reported_and_on_record() {
    let worker = Worker::new();
    let shard = worker.verified("s", &pattern(5000));
    for _ in 0..2 {
        worker
            .faults
            .fail(Operation::Wipe, 0, Culpability::Inconclusive);
    }
    let error = shard.release().unwrap_err();
    let kept = if FREES_UNWIPED {
        assert!(matches!(error, ReleaseError::NotWiped { .. }), "{error:?}");
        0
    } else {
        assert!(matches!(error, ReleaseError::NotFreed { .. }), "{error:?}");
        5000
    };
    assert_eq!(worker.manager.capacity().used, kept);
    let shard = worker.verified("s", &pattern(5000));
    worker
        .faults
        .fail(Operation::Free, 0, Culpability::Inconclusive);
    assert!(matches!(
        shard.release(),
        Err(ReleaseError::NotFreed { .. })
    ));
    assert_eq!(
        worker.manager.capacity().used,
        kept + 5000,
        "it stays accounted for"
    );
    let records = worker.close();
    let failed = of_event(&records, "DeviceFailed");
    let operations: Vec<_> = failed.iter().map(|record| &record["operation"]).collect();
    let expected: &[&str] = match FREES_UNWIPED {
        true => &["wipe", "wipe", "free"],
        false => &["wipe", "wipe", "free", "free"],
    };
    assert_eq!(operations, expected);
    let freed = of_event(&records, "VramDeallocated");
    assert_eq!(
        (&freed[0]["wiped"], &freed[0]["freed"]),
        (&json!(false), &json!(FREES_UNWIPED))
    );
    assert_eq!(
        (&freed[1]["wiped"], &freed[1]["freed"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(freed[1]["freed_bytes"], 0);
    assert!(freed.iter().all(|record| record["severity"] == "WARN"));
}

#[test]
fn a_wipe_that_fails_once_is_tried_again_and_what_is_told_is_what_was_done() {
    for operation in [Operation::Wipe, Operation::Synchronize] {
        let worker = Worker::new();
        let shard = worker.verified("s", &pattern(5000));
        worker.faults.fail(operation, 0, Culpability::Inconclusive);
        shard.release().unwrap();
        let records = worker.close();
        assert_eq!(of_event(&records, "DeviceFailed")[0]["operation"], "wipe");
        let gone = &of_event(&records, "VramDeallocated")[0];
        assert_eq!(
            (&gone["wiped"], &gone["freed"], &gone["severity"]),
            (&json!(true), &json!(true), &json!("INFO"))
        );
    }
}

fn durable() -> Worker {
    Worker::with_trail(
        |trail| trail.critical_deadline(Duration::from_millis(200)),
        |manager| manager.assurance(Assurance::Durable),
    )
}

#[test]
fn under_durable_assurance_nothing_succeeds_without_its_record() {
    let worker = durable();
    let shard = worker.verified("s", &pattern(100)).release();
    shard.unwrap();
    assert_eq!(
        worker.on_disk("SealVerified").len(),
        1,
        "on disk when it returns"
    );

    let shard = worker.written("s", &pattern(100));
    let full = || {
        worker
            .disk
            .fail(Step::Write, StorageError::NoSpace, 100_000)
    };
    full();
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(error, SealError::Unrecorded { .. }), "{error:?}");
    let refused = worker.manager.allocate(id("t"), model(), 10).unwrap_err();
    assert!(matches!(refused, AllocateError::Unrecorded(_)));
    worker.disk.heal();
    let mut shard = error.into_shard().unwrap();
    shard.write_at(0, &[7]).unwrap();
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    full();
    let error = shard.verify().unwrap_err();
    assert!(matches!(error, VerifyError::Unrecorded { .. }));
    worker.disk.heal();
    drop(error.into_shard().unwrap().verify().unwrap());
    assert_eq!(worker.manager.capacity().live, 0);
}

/// The record of a sealing that its caller was refused is written once there is room. It must not
/// stand as the last word on a shard that nobody sealed.
#[test]
fn a_sealing_that_was_given_up_is_taken_back_on_record() {
    let worker = durable();
    let shard = worker.written("s", &pattern(100));
    worker.disk.fail(Step::Sync, StorageError::Io, 1);
    worker.disk.fail(Step::Create, StorageError::Io, 1);
    let error = shard.seal(Provenance::UnpinnedFirstUse).unwrap_err();
    assert!(matches!(error, SealError::Unrecorded { .. }), "{error:?}");
    error.into_shard().unwrap().release().unwrap();
    worker.disk.heal();
    let records = worker.close();
    let about: Vec<_> = records
        .iter()
        .filter(|record| record["shard"] == "s")
        .map(|record| record["event"].as_str().unwrap())
        .collect();
    // A segment that was given up may have some of them a second time, void.
    let last = about.len() - 3;
    assert_eq!(
        about[last..],
        ["VramSealed", "VerificationInconclusive", "VramDeallocated"],
        "{about:?}"
    );
    let back = &of_event(&records, "VerificationInconclusive")[0];
    assert_eq!(back["operation"], "seal");
    assert!(back["cause"].as_str().unwrap().contains("given up"));
}

#[test]
fn under_queued_assurance_a_full_disk_stops_nothing_but_an_incident_says_so() {
    let worker = Worker::with_trail(
        |trail| trail.critical_deadline(Duration::from_millis(200)),
        |manager| manager,
    );
    worker
        .disk
        .fail(Step::Write, StorageError::NoSpace, 100_000);
    let shard = worker.verified("s", &pattern(100));
    shard.dangerous_flip_bit(0, 0).unwrap();
    let error = shard.reverify().unwrap_err();
    let incident = error.incident().unwrap();
    assert!(incident.record().is_err());
    assert!(incident.to_string().contains("NOT durable"), "{incident}");
    worker.disk.heal();
}

#[test]
fn errors_pass_through_the_question_mark_and_name_no_address() {
    fn all(worker: &Worker) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let shard = worker.sealed("s", &[1; 10]);
        shard.dangerous_flip_bit(0, 0)?;
        let shard = shard.verify()?;
        shard.release()?;
        Ok(())
    }
    let worker = Worker::new();
    let error = all(&worker).unwrap_err();
    let texts = format!("{error} {error:?} {:?}", worker.manager);
    assert!(error.to_string().contains("quarantined"), "{error}");
    // A verifier key may have these two letters; an address has digits behind them, and many.
    let addresses = texts.split("0x").skip(1).filter(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit);
        digits.count() >= 8
    });
    assert_eq!(addresses.count(), 0, "{texts}");
}

#[test]
#[allow(clippy::mem_forget, reason = "that is what is tried")]
fn what_is_forgotten_stays_allocated_once_and_in_the_list_of_live_shards() {
    let worker = Worker::new();
    let data = pattern(100);
    std::mem::forget(worker.allocated("allocated", 100));
    std::mem::forget(worker.sealed("sealed", &data));
    std::mem::forget(worker.verified("verified", &data));
    let shard = worker.sealed("quarantined", &data);
    shard.dangerous_flip_bit(0, 0).unwrap();
    // The error, with incident and shard: its record is durable all the same.
    std::mem::forget(shard.verify().unwrap_err());
    assert_eq!(worker.on_disk("SealVerificationFailed").len(), 1);
    let open = worker.sealed("open", &data).dangerous_open_verification();
    std::mem::forget(open);
    assert_eq!(worker.manager.capacity().used, 400);
    for name in ["allocated", "sealed", "verified", "quarantined"] {
        let second = worker.manager.allocate(id(name), model(), 1);
        assert!(
            matches!(second, Err(AllocateError::DuplicateId { .. })),
            "{name}"
        );
    }
    let Worker {
        place,
        trail,
        manager,
        ..
    } = worker;
    std::mem::forget(manager);
    trail.close().unwrap();
    let closed = of_event(&place.records(), "TrailClosed");
    assert_eq!(closed[0]["live_shards"], 4);
    assert_eq!(closed[0]["live"][3]["shard"], "quarantined");
}

#[test]
fn in_a_forked_child_every_call_is_an_error_and_nothing_is_freed_or_recorded() {
    use std::os::unix::process::CommandExt;
    use vram_residency::error::Revoked;

    let worker = Worker::new();
    let data = pattern(5000);
    let mut allocated = Some(worker.written("a", &data));
    let mut sealed = Some(worker.sealed("b", &data));
    let mut released = Some(worker.sealed("c", &data));
    let shared = worker.verified("d", &data).share();
    let lease = shared.lease().unwrap();
    let Worker {
        place,
        trail,
        manager,
        ..
    } = worker;
    let mut inside = move || {
        let mut writable = allocated.take().unwrap();
        matches!(writable.write_at(0, &[0]), Err(WriteError::Forked(_)))
            && matches!(
                writable.seal(Provenance::UnpinnedFirstUse),
                Err(SealError::Forked { .. })
            )
            && matches!(
                sealed.take().unwrap().verify(),
                Err(VerifyError::Forked { .. })
            )
            && matches!(
                released.take().unwrap().release(),
                Err(ReleaseError::Forked(_))
            )
            && matches!(
                manager.allocate(id("x"), model(), 1),
                Err(AllocateError::Forked(_))
            )
            && matches!(shared.lease(), Err(Revoked::Forked(_)))
            && shared.check().is_err()
            && !lease.is_current()
    };
    let mut command = std::process::Command::new("true");
    // SAFETY: the child runs code that may allocate, which glibc supports after a fork; it takes no
    // lock of the library's, since every call is refused before one.
    unsafe {
        command.pre_exec(move || match inside() {
            true => Ok(()),
            false => Err(io::ErrorKind::Other.into()),
        })
    };
    assert!(
        command
            .status()
            .expect("every call in the child is refused")
            .success()
    );
    drop(command);
    trail.close().unwrap();
    let freed = of_event(&place.records(), "VramDeallocated");
    assert_eq!(freed.len(), 4, "by this process only");
}
