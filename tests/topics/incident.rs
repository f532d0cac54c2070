//! Verifications that fail, that have no answer, and that are left without one: what is found, what is
//! on disk by the time the error exists, and what never passes.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::backend::{self, Device};
use crate::shards::{HandleJson, WINDOW, Worker, broken, broken_seal, pattern, places, stop};
use crate::support::of_event;
use serde_json::json;
use vram_residency::audit::Reason;
use vram_residency::device::{Culpability, Operation};
use vram_residency::digest::{Digest, Progress};
use vram_residency::error::{CheckError, NoAnswer, VerifyError};
use vram_residency::seal::Tamper;
use vram_residency::shard::{Sealed, dangerous_swap_seals};
use vram_residency::{Provenance, Shard};

#[test]
fn a_thousand_flipped_bits_are_a_thousand_incidents_in_the_right_window() {
    let worker = Worker::new();
    let data = pattern(backend::WINDOWS * WINDOW as usize + 4096 + 13);
    for (offset, bit) in places(data.len() as u64, 1000) {
        let shard = worker.verified("s", &data);
        shard.dangerous_flip_bit(offset, bit).unwrap();
        let error = shard.reverify().unwrap_err();
        assert!(
            matches!(&error, VerifyError::Broken { .. }),
            "missed: bit {bit} of byte {offset}"
        );
        let incident = error.incident().unwrap();
        assert_eq!(incident.reason(), Reason::DigestMismatch);
        let window = offset / WINDOW;
        assert_eq!(
            incident.damaged_windows(),
            [window..window + 1],
            "byte {offset}"
        );
        assert!(incident.is_injected());
        assert!(incident.record().is_ok());
        error.into_shard().unwrap_err().release().unwrap();
    }
    let records = of_event(&worker.close(), "SealVerificationFailed");
    assert_eq!(records.len(), 1000);
    assert!(records.iter().all(|record| record["injected"] == true
        && record["last_verified_time"].is_string()
        && record["last_verified_seq"].is_u64()
        && record["sealed_time"].is_string()
        && record["sealed_seq"].is_u64()));
}

#[test]
fn a_thousand_verifications_without_a_flip_pass() {
    let worker = Worker::new();
    let mut shard = worker.verified("s", &pattern(WINDOW as usize + 1));
    for _ in 0..1000 {
        shard = shard.reverify().unwrap();
    }
    assert!(of_event(&worker.close(), "SealVerificationFailed").is_empty());
}

#[test]
fn a_flip_between_sealing_and_verifying_is_an_incident() {
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(5000));
    shard.dangerous_flip_bit(4999, 3).unwrap();
    let (record, shard) = broken(&worker, shard.verify().unwrap_err());
    assert_eq!(record["reason"], "digest_mismatch");
    assert_eq!(record["operation"], "verify");
    assert_eq!(shard.handle_json()["digest"], record["expected"]);
}

#[test]
fn a_window_check_finds_what_is_in_its_windows() {
    let worker = Worker::new();
    let data = pattern(4 * WINDOW as usize);
    let shard = worker.verified("s", &data);
    shard.dangerous_flip_bit(2 * WINDOW + 5, 0).unwrap();
    let shard = shard.verify_window(0..2).unwrap();
    let (record, _shard) = broken(&worker, shard.verify_window(1..4).unwrap_err());
    assert_eq!(record["reason"], "digest_mismatch");
    assert_eq!(record["operation"], "verify_window");
    assert_eq!(record["damaged"], json!([[2, 3]]));
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
fn windows_that_do_not_exist_give_the_shard_back() {
    let worker = Worker::new();
    let mut shard = worker.verified("s", &pattern(WINDOW as usize + 1));
    for windows in [0..3, 2..3, 1..1, 2..1, 0..u64::MAX] {
        let error = shard.verify_window(windows).unwrap_err();
        assert!(matches!(error, VerifyError::NoSuchWindow { count: 2, .. }));
        shard = error.into_shard().unwrap().verify().unwrap();
    }
}

/// A window is damaged, and then each kept byte in turn: the check must not be talked out of it.
#[test]
fn a_damaged_tree_never_makes_damaged_bytes_pass() {
    let worker = Worker::new();
    let data = pattern(3 * WINDOW as usize);
    let kept = worker.sealed("s", &data).dangerous_tree_bytes();
    assert_eq!(kept, 4 * 32, "three windows and the root");
    for byte in 0..kept {
        let mut shard = worker.verified("s", &data);
        shard.dangerous_flip_tree_bit(byte, (byte % 8) as u8);
        shard.dangerous_flip_bit(WINDOW + 1, 0).unwrap();
        let error = shard.verify_window(1..2).unwrap_err();
        let quarantined = error.into_shard().expect_err("a false pass or a retry");
        quarantined.release().unwrap();

        let mut shard = worker.verified("s", &data);
        shard.dangerous_flip_tree_bit(byte, (byte % 8) as u8);
        let shard = shard
            .reverify()
            .expect("the bytes are right, and a whole check needs no tree");
        let shard = shard.verify_window(1..2);
        drop(shard.expect("a whole check puts the tree right"));
    }
}

#[test]
fn every_field_that_the_seal_covers_is_checked() {
    let worker = Worker::new();
    for tamper in [
        Tamper::Allocation,
        Tamper::Device,
        Tamper::Digest,
        Tamper::Epoch,
        Tamper::Format,
        Tamper::Key,
        Tamper::KeyId,
        Tamper::Len,
        Tamper::ModelIndex,
        Tamper::ModelName,
        Tamper::ModelTotal,
        Tamper::Provenance,
        Tamper::ProvenanceDigest,
        Tamper::SealedTime,
        Tamper::Shard,
        Tamper::Tag(0),
        Tamper::Tag(255),
        Tamper::Worker,
    ] {
        let mut shard = worker.sealed("s", &pattern(100));
        shard.dangerous_tamper(tamper);
        let (record, shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "signature_invalid", "{tamper:?}");
        assert_eq!(record["injected"], true);
        shard.release().unwrap();
    }
}

#[test]
fn another_shards_seal_is_an_incident_for_both() {
    let worker = Worker::new();
    let mut a = worker.sealed("a", &pattern(100));
    let mut b = worker.sealed("b", &pattern(100));
    assert_eq!(a.digest(), b.digest());
    dangerous_swap_seals(&mut a, &mut b);
    for shard in [a, b] {
        let (record, _shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "signature_invalid");
    }
}

#[test]
fn a_device_that_breaks_is_an_incident_and_one_that_is_busy_is_not() {
    let worker = Worker::new();
    for operation in [Operation::Digest, Operation::Synchronize] {
        let shard = worker.sealed("s", &pattern(100));
        worker.faults.fail(operation, 0, Culpability::Inconclusive);
        let error = shard.verify().unwrap_err();
        assert!(matches!(
            &error,
            VerifyError::Inconclusive {
                source: NoAnswer::Device { .. },
                ..
            }
        ));
        let shard = error.into_shard().unwrap();
        worker.faults.fail(operation, 0, Culpability::Broken);
        let (record, shard) = broken(&worker, shard.verify().unwrap_err());
        assert_eq!(record["reason"], "device_error");
        assert!(record["detail"].as_str().unwrap().contains("injected"));
        shard.release().unwrap();
    }
    let shard = worker.verified("s", &pattern(100));
    worker
        .faults
        .fail(Operation::Windows, 0, Culpability::Broken);
    let (record, _shard) = broken(&worker, shard.verify_window(0..1).unwrap_err());
    assert_eq!(record["reason"], "device_error");
    let inconclusive = worker.recorded("VerificationInconclusive");
    assert_eq!(inconclusive.len(), 2);
    assert!(
        inconclusive
            .iter()
            .all(|record| record["operation"] == "verify"
                && record["cause"].as_str().unwrap().contains("injected"))
    );
}

#[test]
fn stopping_gives_the_shard_back() {
    let worker = Worker::new();
    let data = pattern(3 << 20);
    let shard = worker.sealed("s", &data);
    let error = shard.verify_with_progress(stop).unwrap_err();
    assert!(matches!(
        &error,
        VerifyError::Inconclusive {
            source: NoAnswer::Stopped { .. },
            ..
        }
    ));
    let mut calls = 0;
    let shard = error
        .into_shard()
        .unwrap()
        .verify_with_progress(|progress| {
            calls += 1;
            assert!(progress.done <= progress.total && progress.total == 3 << 20);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(calls > 0);
    let error = shard.reverify_with_progress(stop).unwrap_err();
    drop(error.into_shard().unwrap().verify().unwrap());
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 2);
}

/// Stops, or panics, once all has been read.
fn at_the_end(panics: bool) -> impl FnMut(Progress) -> ControlFlow<()> {
    move |now| match now.done == now.total {
        false => ControlFlow::Continue(()),
        true if panics => panic!("on purpose"),
        true => ControlFlow::Break(()),
    }
}

#[test]
fn no_answer_of_the_last_call_hides_what_was_found() {
    let worker = Worker::new();
    let data = pattern(WINDOW as usize + 1);
    for panics in [false, true] {
        let shard = worker.sealed("s", &data);
        shard.dangerous_flip_bit(3, 0).unwrap();
        let error = shard.verify_with_progress(at_the_end(panics)).unwrap_err();
        assert_eq!(broken(&worker, error).0["reason"], "digest_mismatch");

        let shard = worker.verified("s", &data);
        shard.dangerous_flip_bit(3, 0).unwrap();
        let error = shard
            .reverify_with_progress(at_the_end(panics))
            .unwrap_err();
        assert_eq!(broken(&worker, error).0["reason"], "digest_mismatch");

        let shard = worker.written("s", &data);
        let wrong = Provenance::FsVerity(Digest::from_bytes([7; 32]));
        let sealed = shard.seal_with_progress(wrong, at_the_end(panics));
        let (record, _) = broken_seal(&worker, sealed.unwrap_err());
        assert_eq!(record["reason"], "provenance_mismatch");

        let shared = worker.verified("s", &data).share();
        let lease = shared.lease().unwrap();
        shared.dangerous_flip_bit(3, 0).unwrap();
        let checked = shared.check_with_progress(at_the_end(panics));
        assert!(matches!(checked, Err(CheckError::Broken { .. })));
        assert!(!lease.is_current());
    }
    assert!(worker.recorded("VerificationInconclusive").is_empty());

    // What is good can still be stopped then.
    let error = worker
        .sealed("s", &data)
        .verify_with_progress(at_the_end(false));
    let shard = error.unwrap_err().into_shard().unwrap();
    shard.verify().unwrap().release().unwrap();
    let sealed = worker
        .written("s", &data)
        .seal_with_progress(Provenance::UnpinnedFirstUse, at_the_end(false));
    let mut shard = sealed.unwrap_err().into_shard().unwrap();
    shard.write_at(0, &data).unwrap();
    assert_eq!(worker.recorded("VerificationInconclusive").len(), 2);
}

fn interrupted(worker: &Worker) -> usize {
    let records = worker.on_disk("SealVerificationFailed");
    assert!(
        records
            .iter()
            .all(|record| record["reason"] == "interrupted")
    );
    records.len()
}

#[test]
fn a_panic_in_the_middle_of_a_verification_is_on_record_and_the_memory_is_freed() {
    let worker = Worker::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for round in 1..=200 {
        let shard = worker.sealed("s", &pattern(100));
        let verify = || shard.verify_with_progress(|_| panic!("on purpose"));
        assert!(catch_unwind(AssertUnwindSafe(verify)).is_err());
        assert_eq!(interrupted(&worker), round);
    }
    let shard = worker.written("s", &pattern(100));
    let seal = || shard.seal_with_progress(Provenance::UnpinnedFirstUse, |_| panic!("on purpose"));
    assert!(catch_unwind(AssertUnwindSafe(seal)).is_err());
    std::panic::set_hook(hook);
    assert_eq!(interrupted(&worker), 201);
    assert_eq!(worker.manager.capacity().live, 0);
}

#[test]
fn an_early_return_in_the_middle_of_a_verification_is_on_record() {
    fn leaves(worker: &Worker, shard: &Shard<Sealed, Device>) -> io::Result<()> {
        let _open = shard.dangerous_open_verification();
        Err(io::Error::other(worker.manager.key_id().to_string()))
    }
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(100));
    for round in 1..=200 {
        leaves(&worker, &shard).unwrap_err();
        assert_eq!(interrupted(&worker), round);
    }
}

#[test]
fn a_dropped_future_in_the_middle_of_a_verification_is_on_record() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(100));
    runtime.block_on(async {
        for round in 1..=200 {
            let open = shard.dangerous_open_verification();
            let task = tokio::spawn(async move {
                let _open = open;
                std::future::pending::<()>().await;
            });
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            assert_eq!(interrupted(&worker), round);
        }
    });
}

/// A device that has given its digest alone is asked once more for the damaged windows.
#[test]
fn what_happens_while_damaged_windows_are_looked_for_hides_no_mismatch() {
    if backend::NAME == "host" {
        return eprintln!("skipped: host memory is read once, and its tree kept");
    }
    let worker = Worker::new();
    let shard = worker.sealed("s", &pattern(3 * WINDOW as usize));
    shard.dangerous_flip_bit(WINDOW, 0).unwrap();
    worker.faults.panic(Operation::Digest, 1);
    let Err(VerifyError::Broken(broken)) = shard.verify() else {
        panic!("verified, or given back");
    };
    let incident = broken.incident();
    assert_eq!(incident.reason(), Reason::DigestMismatch);
    assert!(incident.actual().is_some());
    let recorded = worker.recorded("SealVerificationFailed");
    assert_eq!(recorded.len(), 1);
    assert_eq!(recorded[0]["reason"], "digest_mismatch");
}
