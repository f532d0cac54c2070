//! Many shards verified or checked in one call: each has its own outcome and its own record.

use vram_residency::audit::Reason;
use vram_residency::device::{Culpability, Operation};
use vram_residency::error::{CheckError, VerifyError};
use vram_residency::{Shard, Shared};

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
    use vram_residency::seal::Tamper;

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
