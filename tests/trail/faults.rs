//! The trail when something under it fails: a write, a sync, a name, a signer, all room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Place, VIOLATION, acknowledged, manager, of_event, records_in, segments};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    self, CloseError, NotDurable, OpenError, Outcome, RecordError, VerifierKey,
};
use vram_residency::{AuditTrail, TrailKey};

#[test]
fn a_failed_sync_poisons_the_segment_and_nothing_acknowledged_is_lost() {
    for step in [Step::Sync, Step::Write] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        trail.policy_violation(VIOLATION).unwrap();
        faults.fail(step, StorageError::Io, 1);
        let receipt = trail.policy_violation(VIOLATION).unwrap();
        let last = trail.close().unwrap();

        let second = records_in(&segments(&place.dir())[1]);
        let names: Vec<&str> = second
            .iter()
            .map(|r| r["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "SegmentOpened",
                "PolicyViolation",
                "SegmentPoisoned",
                "TrailClosed"
            ]
        );
        assert_eq!(second[1]["seq"], receipt.seq().value());
        assert_eq!(second[2]["severity"], "CRITICAL");
        assert_eq!(second[2]["segment"], 0);
        assert!(second[2]["cause"].as_str().unwrap().contains("os error 5"));
        let report = place.verify(&key, &[last.checkpoint().clone()]);
        assert_eq!(report.outcome, Outcome::Holds, "{report}");
        assert!(report.end_vouched_for && report.closed);
    }
}

#[test]
fn a_segment_that_is_given_up_while_closing_is_no_unclean_end() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.fail(Step::Sync, StorageError::Io, 1);
    let last = trail.close().unwrap();
    let records = place.records();
    assert_eq!(of_event(&records, "SegmentPoisoned").len(), 1);
    assert_eq!(records.last().unwrap()["event"], "TrailClosed");
    assert_eq!(records.last().unwrap()["seq"], last.seq().value());
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for, "{report}");
    place.open().close().unwrap();
    assert!(of_event(&place.records(), "TailRecovered").is_empty());
}

/// The open segment stays in use, and no record waits for the next one.
#[test]
fn a_segment_that_cannot_be_begun_keeps_no_record_waiting() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.segment_bytes(4096).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    let started = Instant::now();
    for _ in 0..40 {
        trail.policy_violation(VIOLATION).unwrap();
    }
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    assert_eq!(segments(&place.dir()).len(), 1);
    faults.heal();
    // It is begun behind the next record, and not for the closing alone.
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(segments(&place.dir()).len() > 1, "it is begun in the end");
}

/// Where every second sync fails, a segment that was begun is given up with its next record.
#[test]
fn a_disk_that_fails_again_and_again_gets_rest_and_the_trail_one_end() {
    for (queued, before) in [(0, 0), (0, 1), (200, 0), (200, 1)] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        for _ in 0..queued {
            trail.note("queued").unwrap();
        }
        faults.fail_every(Step::Sync, StorageError::Io, 2);
        for _ in 0..before {
            trail.policy_violation(VIOLATION).unwrap();
        }
        let last = trail.close().unwrap();
        let count = segments(&place.dir()).len();
        assert!(count <= 5, "{count} segments");
        let report = place.verify(&key, &[last.checkpoint().clone()]);
        assert_eq!(report.outcome, Outcome::Holds, "{report}");
        assert!(report.closed && report.end_vouched_for, "{report}");
        let records = acknowledged(&place.dir(), report.leaves);
        assert_eq!(of_event(&records, "TrailClosed").len(), 1);
        // A header is numbered before what is written again behind it.
        let mut numbers: Vec<u64> = records.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..report.leaves), "a hole");
    }
}

#[test]
fn while_a_disk_fails_again_and_again_callers_get_receipts_and_few_segments_are_begun() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.fail_every(Step::Sync, StorageError::Io, 2);
    let started = Instant::now();
    let mut given = 0;
    while started.elapsed() < Duration::from_secs(3) {
        trail.policy_violation(VIOLATION).unwrap();
        given += 1;
    }
    // Rests of at least 10, 20, 40, 80, ... ms lie between them.
    let count = segments(&place.dir()).len();
    assert!(
        (3..=12).contains(&count),
        "{count} segments, {given} receipts"
    );
    faults.heal();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}

#[test]
fn closing_in_vain_names_the_cause_and_how_often_it_was_tried() {
    for (step, operation, notes) in [
        (Step::Sync, "sync", 0),
        (Step::Sync, "sync", 3),
        (Step::Create, "create segment", 3),
        (Step::SyncNames, "sync directory", 3),
    ] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder
            .critical_deadline(Duration::from_millis(2400))
            .durable_within(Duration::from_secs(60))
            .open_or_create()
            .unwrap();
        for _ in 0..notes {
            trail.note("queued").unwrap();
        }
        faults.fail(Step::Sync, StorageError::Io, 1);
        faults.fail(step, StorageError::Io, u32::MAX);
        let error = trail.close().unwrap_err();
        let CloseError::NotWritten {
            records,
            operation: failed,
            cause,
            failures,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*records, *failed), (notes, operation), "{error}");
        assert!(cause.contains("os error 5"), "{error}");
        assert!((3..=20).contains(failures), "{error}");
        assert!(error.to_string().contains(&failures.to_string()), "{error}");
        let closing = of_event(&place.records(), "TrailClosed").len();
        assert!(closing <= 2, "{closing} ends were written");
        // At most one name was given, over and over.
        assert!(segments(&place.dir()).len() <= 2);
    }
}

/// The writer rests between attempts, and its callers wait for one of them.
#[test]
fn who_comes_while_the_disk_is_left_alone_gets_the_answer_of_an_attempt() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let deadline = Duration::from_secs(2);
    let trail = builder
        .critical_deadline(deadline)
        .open_or_create()
        .unwrap();
    faults.fail(Step::Sync, StorageError::Io, 1);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    for _ in 0..8 {
        let started = Instant::now();
        let error = trail.policy_violation(VIOLATION).unwrap_err();
        assert!(
            matches!(
                error,
                RecordError::NotDurable(NotDurable::WriteFailed { .. })
            ),
            "{error}"
        );
        assert!(started.elapsed() < deadline, "{:?}", started.elapsed());
    }
    faults.heal();
    let started = Instant::now();
    trail.policy_violation(VIOLATION).unwrap();
    assert!(started.elapsed() < deadline, "{:?}", started.elapsed());
    trail.close().unwrap();
}

#[test]
fn every_step_that_fails_is_said_and_made_good() {
    for step in [
        Step::Create,
        Step::Rename,
        Step::Sync,
        Step::SyncNames,
        Step::Write,
    ] {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        // The open segment fails, and so does the next one, for a while.
        faults.fail(Step::Sync, StorageError::Io, 1);
        faults.fail(step, StorageError::NoSpace, 3);
        let failed = trail.policy_violation(VIOLATION).unwrap_err();
        assert!(
            matches!(
                failed,
                RecordError::NotDurable(NotDurable::WriteFailed { .. })
            ),
            "{step:?}: {failed}"
        );
        assert_eq!(trail.counts().critical_failures, 1);
        let receipt = loop {
            match trail.policy_violation(VIOLATION) {
                Ok(receipt) => break receipt,
                Err(error) => assert!(error.to_string().contains("stays queued"), "{error}"),
            }
        };
        assert_eq!(trail.counts().failures, 0, "nothing was lost");
        let last = trail.close().unwrap();
        let report = place.verify(
            &key,
            &[receipt.checkpoint().clone(), last.checkpoint().clone()],
        );
        assert_eq!(report.outcome, Outcome::Holds, "{step:?}: {report}");
        assert!(report.end_vouched_for && report.closed && report.records_lost == 0);
        let violations = report.records;
        assert!(violations >= 5, "{step:?}: {report}");
    }
}

#[test]
fn what_does_not_fit_is_counted_and_accounted_for() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    // The disk is known to fail before the first number is lost.
    trail.policy_violation(VIOLATION).unwrap_err();
    let mut lost = Vec::new();
    for i in 0..40 {
        match trail.note(format!("note {i}")) {
            Ok(_) => {}
            Err(RecordError::NotDurable(NotDurable::QueueFull { seq })) => lost.push(seq.value()),
            Err(error) => panic!("{error}"),
        }
    }
    let critical = trail.policy_violation(VIOLATION).unwrap_err();
    let RecordError::NotDurable(NotDurable::WriteFailed { seq, .. }) = critical else {
        panic!("{critical}");
    };
    for i in 0..5 {
        if let Err(RecordError::NotDurable(NotDurable::QueueFull { seq })) =
            trail.note(format!("late note {i}"))
        {
            lost.push(seq.value());
        }
    }
    assert!(lost.len() >= 20, "{lost:?}");
    let counts = trail.counts();
    assert_eq!((counts.attempts, counts.failures), (47, lost.len() as u64));

    faults.heal();
    trail.flush().unwrap();
    let last = trail.close().unwrap();
    let records = place.records();
    let position = |wanted: u64| records.iter().position(|r| r["seq"] == wanted).unwrap();
    let gaps = of_event(&records, "RecordsLost");
    let accounted: Vec<u64> = gaps
        .iter()
        .flat_map(|gap| gap["first"].as_u64().unwrap()..=gap["last"].as_u64().unwrap())
        .collect();
    assert_eq!(
        accounted, lost,
        "every lost number is in a range, and no other"
    );
    for gap in &gaps {
        assert!(position(seq.value()) < position(gap["seq"].as_u64().unwrap()));
        assert_eq!(gap["cause"], "queue_full");
        assert!(gap["first_time"].as_str() <= gap["last_time"].as_str());
    }
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert_eq!(report.records_lost, lost.len() as u64);
    every_batch_could_have_been_the_last(&place, &key);
}

/// A process can be killed behind any batch: what is on disk then must hold.
fn every_batch_could_have_been_the_last(place: &Place, key: &VerifierKey) {
    let segments = segments(&place.dir());
    let mut batches = 0;
    for (number, path) in segments.iter().enumerate().rev() {
        let text = std::fs::read_to_string(path).unwrap();
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            end += line.len();
            if line.starts_with("{\"checkpoint\"") && line.ends_with('\n') {
                let copy = tempfile::tempdir().unwrap();
                for earlier in &segments[..number] {
                    std::fs::copy(earlier, copy.path().join(earlier.file_name().unwrap())).unwrap();
                }
                std::fs::write(copy.path().join(path.file_name().unwrap()), &text[..end]).unwrap();
                let report = audit::verify(copy.path(), std::slice::from_ref(key), &[]);
                assert_eq!(
                    report.outcome,
                    Outcome::Holds,
                    "{path:?} cut at {end}: {report}"
                );
                batches += 1;
            }
        }
    }
    assert!(batches >= 3, "only {batches} batches");
}

#[test]
fn a_disk_that_hangs_does_not_hang_the_caller() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder
        .critical_deadline(Duration::from_millis(300))
        .open_or_create()
        .unwrap();
    faults.hang();
    let started = Instant::now();
    let error = trail.policy_violation(VIOLATION).unwrap_err();
    assert!(
        matches!(
            error,
            RecordError::NotDurable(NotDurable::DeadlineExceeded { .. })
        ),
        "{error}"
    );
    trail.note("still accepted").unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
    let closing = Instant::now();
    let closed = trail.close().unwrap_err();
    assert!(matches!(closed, CloseError::TimedOut { .. }), "{closed}");
    assert!(closing.elapsed() < Duration::from_secs(2));
    faults.heal();
}

#[test]
fn closing_on_a_full_disk_says_how_much_is_lost() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder
        .critical_deadline(Duration::from_millis(1000))
        .open_or_create()
        .unwrap();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    let manager = manager(&trail);
    for _ in 0..7 {
        trail.note("lost").unwrap();
    }
    let error = trail.close().unwrap_err();
    assert!(
        matches!(error, CloseError::NotWritten { records: 7, .. }),
        "{error}"
    );
    // What comes too late to be told by the trail is told by whoever flushes next.
    let error = manager.close().unwrap_err();
    assert!(matches!(error, NotDurable::WriterStopped), "{error}");
    faults.heal();
    // The numbers that never reached the disk are used again: nothing claims that they exist.
    place.open().close().unwrap();
    let key = place.open().verifier_key().clone();
    assert_eq!(place.verify(&key, &[]).outcome, Outcome::Holds);
}

#[test]
fn losing_more_than_one_percent_is_recorded_as_degraded() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open_or_create().unwrap();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    for _ in 0..50 {
        let _lost_or_not = trail.note("one of too many");
    }
    let failures = trail.counts().failures;
    // The writer looks twice in each durability interval.
    std::thread::sleep(Duration::from_millis(300));
    faults.heal();
    trail.close().unwrap();
    let degraded = of_event(&place.records(), "AuditDegraded");
    assert_eq!(degraded.len(), 1, "{degraded:?}");
    assert_eq!(degraded[0]["degraded"], true);
    assert_eq!(degraded[0]["severity"], "CRITICAL");
    assert_eq!(degraded[0]["outcome"], "failure");
    assert_eq!(degraded[0]["window_s"], 300);
    assert_eq!(degraded[0]["attempts"], 50);
    assert_eq!(degraded[0]["failures"], failures);
}

#[test]
fn opening_again_first_makes_the_last_segment_durable() {
    let place = Place::new();
    place.open().close().unwrap();
    let faults = StorageFaults::dangerous_new();
    faults.fail(Step::Sync, StorageError::Io, 1);
    let error = place
        .builder()
        .dangerous_storage_faults(faults)
        .open_or_create()
        .unwrap_err();
    let OpenError::Io {
        path,
        operation: "sync",
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(path, segments(&place.dir())[0]);
    assert_eq!(segments(&place.dir()).len(), 1);
}

#[test]
fn a_steady_flow_does_not_keep_the_writer_from_its_other_duties() {
    let place = Place::new();
    let secret = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let public = secret.verifying_key().to_bytes();
    let slow = TrailKey::from_signer(public, move |message| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(ed25519_dalek::Signer::sign(&secret, message).to_bytes())
    })
    .unwrap();
    let trail = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), slow)
        .durable_within(Duration::from_millis(50))
        .queue_records(16)
        .open_or_create()
        .unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        for _ in 0..40 {
            let _lost_or_not = trail.note("more than fits");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    // Looked at while records are still coming: the tick must have noticed that most are lost.
    let degraded = of_event(&place.records(), "AuditDegraded");
    assert_eq!(degraded.len(), 1, "the writer never came to look");
    drop(trail);
}

#[test]
fn a_signer_that_fails_or_panics_is_said_and_does_not_end_the_trail() {
    let place = Place::new();
    let secret = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let public = secret.verifying_key().to_bytes();
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let signer = TrailKey::from_signer(public, move |message| {
        match counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 => panic!("unplugged"),
            2 => Err("no answer".into()),
            3 => Ok([7; 64]),
            _ => Ok(ed25519_dalek::Signer::sign(&secret, message).to_bytes()),
        }
    })
    .unwrap();
    let trail = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), signer)
        .durable_within(Duration::from_secs(60))
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    for cause in ["panicked", "no answer", "refuses"] {
        let error = trail.policy_violation(VIOLATION).unwrap_err();
        assert!(error.to_string().contains(cause), "{error}");
    }
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert_eq!(
        report.segments, 1,
        "nothing was written, so nothing was given up"
    );
    assert_eq!(of_event(&place.records(), "PolicyViolation").len(), 4);

    let mute = TrailKey::from_signer(public, |_| Err("unplugged".into())).unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), mute)
        .open_or_create()
        .unwrap_err();
    assert!(matches!(error, OpenError::Sign(_)), "{error}");
}
