//! Many shards verified or checked in one call: each has its own outcome and its own record.

use std::time::{Duration, Instant};

use vram_residency::audit::{Incident, NotDurable, Reason};
use vram_residency::device::{Culpability, Operation};
use vram_residency::digest::Stream;
use vram_residency::error::{CheckError, SealAllError, VerifyError};
use vram_residency::manager::NewShard;
use vram_residency::seal::Tamper;
use vram_residency::shard::Batch;
use vram_residency::{Provenance, Shard, Shared};

use crate::shards::{WINDOW, Worker, pattern};
use crate::support::of_event;

/// Of less than a block to more than a window, so that their trees have different heights.
const LENGTHS: [usize; 7] = [
    1,
    100,
    4096,
    4097,
    50_000,
    WINDOW as usize,
    WINDOW as usize + 1,
];

#[test]
fn good_shards_are_verified_together_and_each_is_on_record() {
    let worker = Worker::new();
    assert!(Shard::verify_all(Vec::<Shard<_, crate::backend::Device>>::new()).is_empty());
    let sealed = LENGTHS
        .iter()
        .map(|len| worker.sealed(&format!("s-{len}"), &pattern(*len)))
        .collect();
    let verified = Shard::verify_all(sealed);
    assert_eq!(verified.len(), LENGTHS.len());
    for (verified, len) in verified.into_iter().zip(LENGTHS) {
        let shard = verified.unwrap();
        assert_eq!(shard.len(), len as u64);
        assert_eq!(crate::backend::bytes(shard.view()), pattern(len));
    }
    let names: Vec<_> = worker
        .recorded("SealVerified")
        .iter()
        .map(|record| record["shard"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, LENGTHS.map(|len| format!("s-{len}")));
}

#[test]
fn one_bad_shard_among_good_ones_is_the_only_incident() {
    for bad in 0..LENGTHS.len() {
        let worker = Worker::new();
        let sealed: Vec<_> = LENGTHS
            .iter()
            .map(|len| worker.sealed(&format!("s-{len}"), &pattern(*len)))
            .collect();
        let place = LENGTHS[bad] as u64 - 1;
        sealed[bad].dangerous_flip_bit(place, 7).unwrap();
        for (index, outcome) in Shard::verify_all(sealed).into_iter().enumerate() {
            match outcome {
                Ok(_) => assert_ne!(index, bad, "missed"),
                Err(VerifyError::Broken(broken)) => {
                    let incident = broken.incident();
                    assert_eq!(index, bad);
                    assert_eq!(incident.reason(), Reason::DigestMismatch);
                    let window = place / WINDOW;
                    assert_eq!(incident.damaged_windows(), [window..window + 1]);
                    assert!(incident.record().is_ok());
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(of_event(&worker.close(), "SealVerificationFailed").len(), 1);
    }
}

#[test]
fn a_wrong_seal_among_good_ones_shifts_nobodys_answer() {
    let worker = Worker::new();
    let mut sealed: Vec<_> = LENGTHS
        .iter()
        .map(|len| worker.sealed(&format!("s-{len}"), &pattern(*len)))
        .collect();
    sealed[2].dangerous_tamper(Tamper::Tag(0));
    for (index, outcome) in Shard::verify_all(sealed).into_iter().enumerate() {
        match outcome {
            Ok(_) => assert_ne!(index, 2),
            Err(error) => {
                assert_eq!(index, 2);
                assert_eq!(error.incident().unwrap().reason(), Reason::SignatureInvalid);
            }
        }
    }
}

#[test]
fn a_shard_that_the_device_does_not_answer_for_comes_back_alone() {
    let worker = Worker::new();
    let sealed = (0..3)
        .map(|index| worker.sealed(&format!("s-{index}"), &pattern(100)))
        .collect();
    worker
        .faults
        .fail(Operation::Digest, 1, Culpability::Inconclusive);
    let outcomes = Shard::verify_all(sealed);
    let is_ok: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(is_ok, [true, false, true]);
    let error = outcomes.into_iter().nth(1).unwrap().unwrap_err();
    assert!(
        matches!(error, VerifyError::Inconclusive { .. }),
        "{error:?}"
    );
    let shard = error.into_shard().unwrap().verify().unwrap();
    shard.release().unwrap();
}

#[test]
fn shared_shards_are_checked_together_beside_their_leases() {
    let worker = Worker::new();
    let shared: Vec<Shared<_>> = LENGTHS
        .iter()
        .map(|len| worker.verified(&format!("s-{len}"), &pattern(*len)).share())
        .collect();
    let leases: Vec<_> = shared.iter().map(|one| one.lease().unwrap()).collect();
    let all: Vec<&Shared<_>> = shared.iter().collect();
    assert!(Shared::check_all(&all).iter().all(Result::is_ok));
    shared[4].dangerous_flip_bit(0, 0).unwrap();
    for (index, outcome) in Shared::check_all(&all).into_iter().enumerate() {
        assert_eq!(outcome.is_err(), index == 4);
        assert_eq!(leases[index].is_current(), index != 4);
    }
    let again = Shared::check_all(&all);
    assert!(matches!(again[4], Err(CheckError::AlreadyFailed)));
    assert_eq!(again.iter().filter(|outcome| outcome.is_ok()).count(), 6);
}

const LIMIT: Duration = Duration::from_millis(500);

/// Far more than can wait for the disk one after the other.
const MANY: usize = 12;

/// A worker whose disk hangs, and the time since it does. To be called with all shards at hand.
fn hang(worker: &Worker) -> Instant {
    worker.trail.flush().unwrap();
    worker.disk.hang();
    Instant::now()
}

/// Each incident was queued before one of them was waited for.
fn have_waited_together(worker: &Worker, since: Instant, incidents: &[&Incident]) {
    let waited = since.elapsed();
    assert!(waited < LIMIT * (MANY as u32 / 2), "{waited:?}");
    assert_eq!(incidents.len(), MANY);
    for incident in incidents {
        let error = incident.record().unwrap_err();
        assert!(
            matches!(error, NotDurable::DeadlineExceeded { .. }),
            "{error}"
        );
    }
    worker.disk.heal();
    assert_eq!(worker.recorded("SealVerificationFailed").len(), MANY);
    assert!(incidents.iter().all(|incident| incident.record().is_ok()));
}

fn worker_with_a_limit() -> Worker {
    Worker::with_trail(|trail| trail.critical_deadline(LIMIT), |manager| manager)
}

fn sealed_wrongly(
    worker: &Worker,
) -> Vec<Shard<vram_residency::shard::Sealed, crate::backend::Device>> {
    let seal = |index| {
        let mut shard = worker.sealed(&format!("s-{index}"), &pattern(100));
        // Found before anything is read, and after.
        if index % 2 == 0 {
            shard.dangerous_tamper(Tamper::Tag(0));
        } else {
            shard.dangerous_flip_bit(0, 0).unwrap();
        }
        shard
    };
    (0..MANY).map(seal).collect()
}

fn many_shared(worker: &Worker) -> Vec<Shared<crate::backend::Device>> {
    let share = |index| {
        let shard = worker.verified(&format!("s-{index}"), &pattern(100));
        shard.share()
    };
    (0..MANY).map(share).collect()
}

#[test]
fn many_that_fail_wait_for_a_disk_that_hangs_no_longer_than_one() {
    let worker = worker_with_a_limit();
    let sealed = sealed_wrongly(&worker);
    let since = hang(&worker);
    let outcomes = Shard::verify_all(sealed);
    let errors: Vec<_> = outcomes.into_iter().map(Result::unwrap_err).collect();
    let incidents: Vec<_> = errors.iter().filter_map(VerifyError::incident).collect();
    have_waited_together(&worker, since, &incidents);
}

#[test]
fn leases_of_many_that_fail_end_together_although_the_disk_hangs() {
    let worker = worker_with_a_limit();
    let shared = many_shared(&worker);
    for shared in &shared {
        shared.dangerous_flip_bit(0, 0).unwrap();
    }
    let leases: Vec<_> = shared.iter().map(|one| one.lease().unwrap()).collect();
    let since = hang(&worker);
    let outcomes = Shared::check_all(&shared.iter().collect::<Vec<_>>());
    assert!(!leases.iter().any(|lease| lease.is_current()));
    let incidents: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Err(CheckError::Broken { incident, .. }) => &**incident,
            other => panic!("{other:?}"),
        })
        .collect();
    have_waited_together(&worker, since, &incidents);
}

fn loaded(worker: &Worker) -> Batch<crate::backend::Device> {
    let wanted = (0..MANY).map(|index| {
        let id = format!("s-{index}").parse().unwrap();
        NewShard::new(id, crate::support::model(), 100)
    });
    let mut batch = worker.manager.allocate_all(wanted).unwrap();
    for mut member in batch.iter_mut() {
        member.load_slice(&pattern(100), Stream::TreeOnly).unwrap();
    }
    batch
}

#[test]
fn a_batch_of_which_many_fail_waits_for_a_disk_that_hangs_no_longer_than_for_one() {
    let worker = worker_with_a_limit();
    let batch = loaded(&worker);
    let since = hang(&worker);
    let digest = vram_residency::Digest::of_reader(&b"another"[..]).unwrap();
    let Err(SealAllError::Broken { broken, .. }) = batch.seal(|_| Provenance::FsVerity(digest))
    else {
        panic!("sealed, or given back");
    };
    let incidents: Vec<_> = broken.iter().map(|broken| broken.incident()).collect();
    have_waited_together(&worker, since, &incidents);
}

/// A panic of the device while many are read leaves all of them, and waits no longer than for one.
fn are_left_together(worker: &Worker, read: impl FnOnce()) {
    worker.faults.panic(Operation::Digest, 0);
    let since = hang(worker);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_err());
    let waited = since.elapsed();
    assert!(waited < LIMIT * (MANY as u32 / 2), "{waited:?}");
    worker.disk.heal();
    let failed = worker.recorded("SealVerificationFailed");
    assert_eq!(failed.len(), MANY, "once each");
    assert!(
        failed
            .iter()
            .all(|failed| failed["reason"] == "interrupted")
    );
}

#[test]
fn leases_end_together_after_a_panic_although_the_disk_hangs() {
    let worker = worker_with_a_limit();
    let shared = many_shared(&worker);
    let leases: Vec<_> = shared.iter().map(|one| one.lease().unwrap()).collect();
    are_left_together(&worker, || {
        let _outcomes = Shared::check_all(&shared.iter().collect::<Vec<_>>());
    });
    assert!(!leases.iter().any(|lease| lease.is_current()));
}

#[test]
fn many_that_are_verified_are_left_together_after_a_panic_although_the_disk_hangs() {
    let worker = worker_with_a_limit();
    let seal = |index| worker.sealed(&format!("s-{index}"), &pattern(100));
    let sealed: Vec<_> = (0..MANY).map(seal).collect();
    are_left_together(&worker, || drop(Shard::verify_all(sealed)));
}

#[test]
fn a_batch_is_left_together_after_a_panic_although_the_disk_hangs() {
    let worker = worker_with_a_limit();
    let batch = loaded(&worker);
    are_left_together(&worker, || {
        drop(batch.seal(|_| Provenance::UnpinnedFirstUse));
    });
}
