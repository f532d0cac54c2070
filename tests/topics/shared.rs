//! Shared shards: leases that are read for long, checks beside them, and their end.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{self, Device};
use crate::shards::{WINDOW, Worker, pattern, places};
use crate::support::of_event;
use serde_json::{Value, json};
use vram_residency::audit::Reason;
use vram_residency::device::{Culpability, Operation};
use vram_residency::error::{CheckError, NoAnswer, ReclaimError, Revoked};
use vram_residency::{Lease, Shared};

/// Long enough for what a test does before it waits, on a slow machine too.
const MAX_AGE: Duration = Duration::from_millis(1500);

fn shared(worker: &Worker, len: usize) -> Shared<Device> {
    worker.verified("s", &pattern(len)).share()
}

fn handle(shared: &Shared<Device>) -> Value {
    serde_json::to_value(shared.handle()).unwrap()
}

/// Gives everything up.
fn discard(shared: Shared<Device>) {
    match shared.reclaim() {
        Ok(shard) => shard.release().unwrap(),
        Err(error) => error.into_shared().unwrap_err().release().unwrap(),
    }
}

#[test]
fn leases_read_the_bytes_wherever_they_are_and_keep_them_alive() {
    fn lives_anywhere<T: Clone + Send + Sync + 'static>(_: &T) {}

    let worker = Worker::new();
    let shared = shared(&worker, 5000);
    let lease = shared.lease().unwrap();
    lives_anywhere(&lease);
    let elsewhere: Lease<Device> = lease.clone();
    let read = thread::spawn(move || {
        assert!(elsewhere.is_current());
        crate::backend::bytes(elsewhere.view())
    });
    assert_eq!(read.join().unwrap(), pattern(5000));
    assert_eq!(handle(&shared)["state"], "shared");
    drop(shared);
    assert_eq!(crate::backend::bytes(lease.view()), pattern(5000));
    assert_eq!(worker.manager.capacity().used, 5000);
    drop(lease);
    assert_eq!(worker.manager.capacity().used, 0);
}

#[test]
fn a_check_that_passes_is_on_record_and_changes_nothing_for_readers() {
    let worker = Worker::new();
    let shared = shared(&worker, WINDOW as usize + 1);
    let lease = shared.lease().unwrap();
    let before = shared.verified_at();
    shared.check().unwrap();
    assert!(shared.verified_at() > before);
    let after = shared.verified_at();
    shared.check_window(1..2).unwrap();
    assert_eq!(shared.verified_at(), after);
    assert!(lease.is_current());
    let verified = worker.recorded("SealVerified");
    let operations: Vec<_> = verified.iter().map(|record| &record["operation"]).collect();
    assert_eq!(operations, ["verify", "check", "check_window"]);
    assert_eq!(handle(&shared)["verified_time"], verified[1]["time"]);
}

#[test]
fn a_check_that_fails_revokes_leases_for_ever_and_is_on_disk_before_it_returns() {
    let worker = Worker::new();
    let shared = shared(&worker, 5000);
    let lease = shared.lease().unwrap();
    shared.dangerous_flip_bit(4999, 0).unwrap();
    let CheckError::Broken { incident, .. } = shared.check().unwrap_err() else {
        panic!("missed")
    };
    let on_disk = worker.on_disk("SealVerificationFailed");
    let seq = incident.record().unwrap().seq().value();
    assert_eq!(on_disk[0]["seq"], seq);
    assert_eq!(on_disk[0]["operation"], "check");
    assert_eq!(on_disk[0]["damaged"], json!([[0, 1]]));
    assert_eq!(
        on_disk[0]["last_verified_seq"],
        worker.on_disk("SealVerified")[0]["seq"]
    );

    assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    assert!(!lease.is_current());
    assert_eq!(
        crate::backend::bytes(lease.view()).len(),
        5000,
        "nobody's bytes are pulled away",
    );
    assert_eq!(handle(&shared)["state"], "revoked");

    // The bit flips back; that does not make up for it.
    shared.dangerous_flip_bit(4999, 0).unwrap();
    assert!(matches!(shared.check(), Err(CheckError::AlreadyFailed)));
    assert!(matches!(
        shared.check_window(0..1),
        Err(CheckError::AlreadyFailed)
    ));
    assert!(shared.lease().is_err());

    let error = shared.reclaim().unwrap_err();
    assert!(matches!(error, ReclaimError::Leased { .. }));
    let shared = error.into_shared().unwrap();
    drop(lease);
    let error = shared.reclaim().unwrap_err();
    assert!(matches!(error, ReclaimError::Failed { .. }));
    error.into_shared().unwrap_err().release().unwrap();
    assert_eq!(worker.manager.capacity().used, 0);
}

#[test]
fn a_thousand_flipped_bits_beside_live_leases_are_a_thousand_incidents() {
    let worker = Worker::new();
    let len = backend::WINDOWS as u64 * WINDOW + 4096 + 13;
    let data = pattern(len as usize);
    for (i, (offset, bit)) in places(len, 1000).into_iter().enumerate() {
        let shared = worker.verified("s", &data).share();
        let lease = shared.lease().unwrap();
        shared.dangerous_flip_bit(offset, bit).unwrap();
        let window = offset / WINDOW;
        let outcome = match i % 2 {
            0 => shared.check(),
            _ => shared.check_window(window..window + 1),
        };
        let Err(CheckError::Broken { incident, .. }) = outcome else {
            panic!("missed: bit {bit} of byte {offset}")
        };
        assert_eq!(incident.reason(), Reason::DigestMismatch);
        assert_eq!(incident.damaged_windows(), [window..window + 1]);
        assert!(incident.record().is_ok() && incident.is_injected());
        assert!(!lease.is_current() && shared.lease().is_err());
        drop(lease);
        discard(shared);
    }
    assert_eq!(
        of_event(&worker.close(), "SealVerificationFailed").len(),
        1000
    );
}

#[test]
fn a_thousand_checks_beside_readers_pass() {
    let worker = Worker::new();
    let shared = shared(&worker, WINDOW as usize + 1);
    let lease = shared.lease().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(
                    lease.is_current()
                        && crate::backend::bytes(lease.view())[10] == pattern(11)[10]
                );
            }
        });
        for _ in 0..1000 {
            shared.check().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(of_event(&worker.close(), "SealVerificationFailed").is_empty());
}

/// Until the record is durable nothing is known to have failed; once it is, nobody gets a lease. Whatever
/// fails, in whichever way.
#[test]
fn the_incident_is_durable_first_and_then_leases_are_refused() {
    type Check = fn(&[&Shared<Device>]);
    let checks: [(&str, Operation, Check); 3] = [
        ("check", Operation::Digest, |all| {
            all.iter().for_each(|one| drop(one.check()));
        }),
        ("check_window", Operation::Windows, |all| {
            all.iter().for_each(|one| drop(one.check_window(0..1)));
        }),
        ("check_all", Operation::Digest, |all| {
            drop(Shared::check_all(all))
        }),
    ];
    for (name, operation, check) in checks {
        for panics in [false, true] {
            let worker = Worker::new();
            let shards = ["a", "b"].map(|name| worker.verified(name, &pattern(5000)).share());
            let leases = shards.each_ref().map(|shared| shared.lease().unwrap());
            worker.trail.flush().unwrap();
            match panics {
                false => shards[0].dangerous_flip_bit(0, 0).unwrap(),
                true => worker.faults.panic(operation, 0),
            }
            worker.disk.hang();
            thread::scope(|scope| {
                let check = scope.spawn(|| {
                    let check = AssertUnwindSafe(|| check(&shards.each_ref()));
                    catch_unwind(check).is_err()
                });
                thread::sleep(Duration::from_millis(200));
                assert!(!check.is_finished());
                assert!(worker.on_disk("SealVerificationFailed").is_empty());
                for (shared, lease) in shards.iter().zip(&leases) {
                    let (lent, current) = (shared.lease().is_ok(), lease.is_current());
                    assert!(lent && current, "{name}, panics: {panics}");
                }
                worker.disk.heal();
                assert_eq!(check.join().unwrap(), panics);
            });
            let reason = ["digest_mismatch", "interrupted"][usize::from(panics)];
            let recorded = worker.on_disk("SealVerificationFailed");
            assert!(recorded.iter().all(|record| record["reason"] == reason));
            // A panic leaves all that were checked with the one without an outcome.
            let failed = if panics && name == "check_all" { 2 } else { 1 };
            assert_eq!(recorded.len(), failed, "{name}, panics: {panics}");
            let revoked = leases.iter().filter(|lease| !lease.is_current()).count();
            assert_eq!(revoked, failed, "{name}, panics: {panics}");
        }
    }
}

#[test]
fn a_check_that_panics_is_on_record_as_interrupted_and_revokes_leases() {
    let worker = Worker::new();
    let shared = shared(&worker, 5000);
    let lease = shared.lease().unwrap();
    let check = || shared.check_with_progress(|_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(check)).is_err());
    assert_eq!(
        worker.on_disk("SealVerificationFailed")[0]["reason"],
        "interrupted"
    );
    assert!(!lease.is_current());
    assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    worker.faults.panic(Operation::Windows, 0);
    let shared = worker.verified("t", &pattern(100)).share();
    let check = || shared.check_window(0..1);
    assert!(catch_unwind(AssertUnwindSafe(check)).is_err());
    assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
}

#[test]
fn a_check_without_an_answer_leaves_leases_as_they_were() {
    let worker = Worker::new();
    let shared = shared(&worker, 5000);
    let lease = shared.lease().unwrap();
    let stopped = shared.check_with_progress(|_| ControlFlow::Break(()));
    assert!(matches!(
        stopped,
        Err(CheckError::Inconclusive {
            source: NoAnswer::Stopped { .. },
            ..
        })
    ));
    for operation in [Operation::Digest, Operation::Synchronize] {
        worker.faults.fail(operation, 0, Culpability::Inconclusive);
        assert!(matches!(
            shared.check(),
            Err(CheckError::Inconclusive { .. })
        ));
    }
    worker
        .faults
        .fail(Operation::Windows, 0, Culpability::Inconclusive);
    assert!(matches!(
        shared.check_window(0..1),
        Err(CheckError::Inconclusive { .. })
    ));
    assert!(matches!(
        shared.check_window(0..2),
        Err(CheckError::NoSuchWindow { count: 1, .. })
    ));
    assert!(lease.is_current() && shared.lease().is_ok());
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 4);
    worker
        .faults
        .fail(Operation::Digest, 0, Culpability::Broken);
    assert!(matches!(shared.check(), Err(CheckError::Broken { .. })));
    assert!(!lease.is_current());
}

/// One check has read good bytes and is about to pass; meanwhile a bit flips and another one fails.
#[test]
fn a_check_that_passes_late_does_not_give_leases_back() {
    for max_age in [None, Some(Duration::from_secs(3600))] {
        // Spot checks would find the flip.
        let worker = Worker::on(
            backend::device_without_spot_checks(),
            |builder| match max_age {
                None => builder,
                Some(max_age) => builder.max_age(max_age),
            },
        );
        let shared = shared(&worker, 5000);
        let (reached, at_the_end) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let shared = &shared;
            let slow = scope.spawn(move || {
                shared.check_with_progress(|progress| {
                    if progress.done == progress.total {
                        reached.send(()).unwrap();
                        wait.recv().unwrap();
                    }
                    ControlFlow::Continue(())
                })
            });
            at_the_end.recv().unwrap();
            shared.dangerous_flip_bit(0, 0).unwrap();
            assert!(matches!(shared.check(), Err(CheckError::Broken { .. })));
            go_on.send(()).unwrap();
            slow.join().unwrap().expect("it read the bytes before");
        });
        assert_eq!(shared.lease().unwrap_err(), Revoked::Failed);
    }
}

#[test]
fn leases_run_out_and_each_time_is_recorded_once() {
    let worker = Worker::with(|builder| builder.max_age(MAX_AGE));
    let shared = shared(&worker, 100);
    let lease = shared.lease().unwrap();
    for period in 1..=2 {
        shared.check().unwrap();
        assert!(lease.is_current() && shared.lease().is_ok(), "renewed");
        thread::sleep(MAX_AGE + Duration::from_millis(50));
        assert!(!lease.is_current());
        assert_eq!(shared.lease().unwrap_err(), Revoked::Overdue);
        assert_eq!(shared.lease().unwrap_err(), Revoked::Overdue);
        shared.check_window(0..1).unwrap();
        assert!(!lease.is_current(), "some windows are not the whole");
        thread::sleep(Duration::from_millis(250));
        let overdue = worker.recorded("VerificationOverdue");
        assert_eq!(overdue.len(), period);
    }
    let records = worker.place.records();
    let overdue = of_event(&records, "VerificationOverdue");
    assert_eq!(overdue[0]["shard"], "s");
    assert_eq!(overdue[0]["max_age_ms"], 1500);
    assert_eq!(overdue[0]["severity"], "CRITICAL");
    let whole: Vec<_> = of_event(&records, "SealVerified")
        .into_iter()
        .filter(|record| record["operation"] == "check")
        .collect();
    for (overdue, check) in overdue.iter().zip(&whole) {
        assert_eq!(overdue["last_verified_seq"], check["seq"]);
    }
}

#[test]
fn a_lease_that_nobody_asks_about_is_recorded_as_overdue_all_the_same() {
    let worker = Worker::with(|builder| builder.max_age(Duration::from_millis(50)));
    let shared = shared(&worker, 100);
    let patience = Instant::now() + Duration::from_secs(5);
    while worker.on_disk("VerificationOverdue").is_empty() {
        assert!(Instant::now() < patience, "never recorded");
        thread::sleep(Duration::from_millis(20));
    }
    drop(shared);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(of_event(&worker.close(), "VerificationOverdue").len(), 1);
}

#[test]
fn without_leases_a_shard_is_reclaimed_as_verified_as_it_last_was() {
    let worker = Worker::with(|builder| builder.max_age(MAX_AGE));
    let shared = shared(&worker, 5000);
    let lease = shared.lease().unwrap();
    let error = shared.reclaim().unwrap_err();
    assert!(matches!(error, ReclaimError::Leased { .. }));
    let shared = error.into_shared().unwrap();
    shared.check().unwrap();
    let at = shared.verified_at();
    drop(lease);
    thread::sleep(MAX_AGE + Duration::from_millis(50));
    assert_eq!(shared.lease().unwrap_err(), Revoked::Overdue);
    let shard = shared.reclaim().unwrap();
    assert_eq!(shard.verified_at(), at);
    assert_eq!(crate::backend::bytes(shard.view()), pattern(5000));
    let shard = shard.reverify().unwrap();
    let again = shard.share();
    assert!(again.verified_at() > at);
    discard(again);
}

#[test]
#[allow(clippy::mem_forget, reason = "that is what is tried")]
fn forgotten_leases_keep_the_memory_and_still_end() {
    let worker = Worker::new();
    let shared = shared(&worker, 100);
    std::mem::forget(shared.lease().unwrap());
    let shared = shared.reclaim().unwrap_err().into_shared().unwrap();
    let lease = shared.lease().unwrap();
    shared.dangerous_flip_bit(0, 0).unwrap();
    std::mem::forget(shared.check().unwrap_err());
    assert_eq!(worker.on_disk("SealVerificationFailed").len(), 1);
    assert!(!lease.is_current());
    std::mem::forget(shared);
    drop(lease);
    assert_eq!(worker.manager.capacity().used, 100);
    let closed = of_event(&worker.close(), "TrailClosed");
    assert_eq!(closed[0]["live"][0]["shard"], "s");
}
