//! The trail by itself: opening, recording, closing, and what it does when the disk does not.

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, of_event, records_in, segments};
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    self, CloseError, NotDurable, OpenError, Outcome, PolicyViolation, RecordError, VerifierKey,
};
use vram_residency::{AuditTrail, TrailKey};

const VIOLATION: PolicyViolation<'static> = PolicyViolation {
    policy: "models-are-pinned",
    violation: "unpinned model",
    details: "asked for by the operator",
    action: "refused",
};

#[test]
fn a_record_has_its_common_fields_in_the_order_of_the_format() {
    let place = Place::new();
    let trail = place.open();
    trail
        .note("line\nbreak, \"quotes\", \u{1b}[2J and ünïcode")
        .unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();

    let text = std::fs::read_to_string(&segments(&place.dir())[0]).unwrap();
    for line in text
        .lines()
        .filter(|line| !line.starts_with("{\"checkpoint\""))
    {
        let mut rest = line;
        for field in [
            "{\"seq\":",
            ",\"time\":\"",
            ",\"mono_us\":",
            ",\"boot\":\"",
            ",\"worker\":\"worker-1\"",
            ",\"event\":\"",
            ",\"severity\":\"",
            ",\"outcome\":\"",
        ] {
            let at = rest
                .find(field)
                .unwrap_or_else(|| panic!("{field} in {line}"));
            rest = &rest[at + field.len()..];
        }
        assert!(
            !line.bytes().any(|byte| byte < 0x20),
            "control byte in {line}"
        );
        let time = serde_json::from_str::<Value>(line).unwrap()["time"].clone();
        let time = time.as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000000Z".len(), "{time}");
    }
    let records = place.records();
    let names: Vec<&str> = records
        .iter()
        .map(|r| r["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["TrailOpened", "Note", "PolicyViolation", "TrailClosed"]
    );
    let seqs: Vec<u64> = records.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
    assert_eq!(
        records[1]["text"],
        "line\nbreak, \"quotes\", \u{1b}[2J and ünïcode"
    );
    assert_eq!(records[2]["severity"], "CRITICAL");
    assert_eq!(records[2]["outcome"], "failure");
    assert_eq!(records[2]["policy"], "models-are-pinned");
    assert_eq!(records[2]["violation"], "unpinned model");
    assert_eq!(records[2]["details"], "asked for by the operator");
    assert_eq!(records[2]["action"], "refused");
    assert_eq!(records[0]["crate_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(records[0]["fault_injection"], true);
    assert_eq!(records[0]["critical_deadline_ms"], 5000);
    assert_eq!(records[0]["durable_within_ms"], 100);
    assert_eq!(records[0]["first_leaf"], 0);
    assert_eq!(records[3]["live_shards"], 0);
}

#[test]
fn directory_and_segments_are_for_the_owner_alone() {
    let place = Place::new();
    place.open().close().unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&place.dir()), 0o700);
    assert_eq!(mode(&segments(&place.dir())[0]), 0o600);
    assert_eq!(mode(&place.dir().join("lock")), 0o600);
}

#[test]
fn a_closed_trail_holds_and_only_an_anchor_vouches_for_its_end() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.note("one").unwrap();
    let receipt = trail.close().unwrap();

    let report = place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && !report.end_vouched_for);
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for);
    assert_eq!(report.records, 3);
}

#[test]
fn a_receipt_means_that_record_and_checkpoint_are_on_disk() {
    let place = Place::new();
    let trail = place.open();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    let text = std::fs::read_to_string(&segments(&place.dir())[0]).unwrap();
    let mut lines = text.lines().rev();
    let checkpoint: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(checkpoint["checkpoint"], receipt.checkpoint().to_string());
    let record: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(record["seq"], receipt.seq().value());
    assert_eq!(receipt.checkpoint().size(), 2);
}

#[test]
fn an_ordinary_record_is_durable_within_the_interval() {
    let place = Place::new();
    let trail = place.open();
    let seq = trail.note("soon").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !place.records().iter().any(|r| r["seq"] == seq.value()) {
        assert!(Instant::now() < deadline, "the note never reached the disk");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(trail);
}

#[test]
fn opening_again_goes_on_in_the_same_trail() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.note("first run").unwrap();
    trail.close().unwrap();
    let trail = place.open();
    assert_eq!(trail.verifier_key(), &key);
    let receipt = trail.close().unwrap();

    let records = place.records();
    let seqs: Vec<u64> = records.iter().map(|r| r["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (0..5).collect::<Vec<_>>());
    assert_eq!(records[3]["event"], "TrailOpened");
    assert_eq!(records[3]["segment"], 1);
    assert_eq!(records[3]["first_leaf"], 3);
    assert!(of_event(&records, "TailRecovered").is_empty());
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for);
}

#[test]
fn a_torn_tail_is_left_as_it_is_and_said() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let path = &segments(&place.dir())[0];
    let whole = std::fs::read(path).unwrap();
    // Cut within the last batch: `TrailClosed` is there, its checkpoint is not.
    std::fs::write(path, &whole[..whole.len() - 20]).unwrap();
    let cut = std::fs::read(path).unwrap();

    place.open().close().unwrap();
    assert_eq!(
        std::fs::read(path).unwrap(),
        cut,
        "an old segment was changed"
    );
    let recovered = of_event(&place.records(), "TailRecovered");
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0]["severity"], "CRITICAL");
    assert_eq!(recovered[0]["segment"], 0);
    assert_eq!(recovered[0]["void_records"], 1);
    assert_eq!(recovered[0]["highest_seq"], 2);
    let void = recovered[0]["void_bytes"].as_u64().unwrap();
    assert_eq!(
        recovered[0]["void_from"].as_u64().unwrap() + void,
        cut.len() as u64
    );
    let report = place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}

#[test]
fn damage_another_key_another_worker_are_refused() {
    let place = Place::new();
    let trail = place.open();
    trail.policy_violation(VIOLATION).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();

    let other = TrailKey::open_or_create(place.temp.path().join("other.pem")).unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), other)
        .open()
        .unwrap_err();
    assert!(matches!(error, OpenError::OtherKey { .. }), "{error}");
    let error = AuditTrail::builder("worker-2".parse().unwrap(), place.dir(), place.key())
        .open()
        .unwrap_err();
    assert!(matches!(error, OpenError::OtherWorker { .. }), "{error}");

    let path = &segments(&place.dir())[0];
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replacen("unpinned", "unpinnet", 1)).unwrap();
    let before = std::fs::read_dir(place.dir()).unwrap().count();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.dir()).unwrap().count(), before);
}

#[test]
fn a_directory_that_is_open_linked_or_reachable_by_others_is_refused() {
    let place = Place::new();
    let trail = place.open();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    trail.close().unwrap();

    let link = place.temp.path().join("link");
    symlink(place.dir(), &link).unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &link, place.key())
        .open()
        .unwrap_err();
    assert!(matches!(error, OpenError::SymbolicLink { .. }), "{error}");

    for mode in [0o720, 0o702, 0o750, 0o755, 0o777] {
        std::fs::set_permissions(place.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
        let error = place.builder().open().unwrap_err();
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }
    let file = place.temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &file, place.key())
        .open()
        .unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_missing_parent_says_what_is_missing() {
    let place = Place::new();
    let dir = place.temp.path().join("no/such/place");
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &dir, place.key())
        .open()
        .unwrap_err();
    assert!(error.to_string().contains("no/such/place"), "{error}");
}

#[test]
fn texts_have_a_limit() {
    let place = Place::new();
    let trail = place.open();
    assert!(trail.note("x".repeat(1024)).is_ok());
    assert!(matches!(
        trail.note("x".repeat(1025)),
        Err(RecordError::TooLong { len: 1025 })
    ));
    let details = "\u{1}".repeat(1024);
    let longest = PolicyViolation {
        policy: &details,
        violation: &details,
        details: &details,
        action: &details,
    };
    trail.policy_violation(longest).unwrap();
    let key = trail.verifier_key().clone();
    trail.close().unwrap();
    assert_eq!(place.verify(&key, &[]).outcome, Outcome::Holds);
}

#[test]
fn a_failed_sync_poisons_the_segment_and_nothing_acknowledged_is_lost() {
    for step in [Step::Sync, Step::Write] {
        let place = Place::new();
        let faults = StorageFaults::dangerous_new();
        let trail = place
            .builder()
            .dangerous_storage_faults(faults.clone())
            .open()
            .unwrap();
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
fn every_step_that_fails_is_said_and_made_good() {
    for step in [
        Step::Create,
        Step::Rename,
        Step::Sync,
        Step::SyncNames,
        Step::Write,
    ] {
        let place = Place::new();
        let faults = StorageFaults::dangerous_new();
        let trail = place
            .builder()
            .dangerous_storage_faults(faults.clone())
            .open()
            .unwrap();
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
    let faults = StorageFaults::dangerous_new();
    let trail = place
        .builder()
        .queue_records(16)
        .dangerous_storage_faults(faults.clone())
        .open()
        .unwrap();
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
    let faults = StorageFaults::dangerous_new();
    let trail = place
        .builder()
        .critical_deadline(Duration::from_millis(300))
        .dangerous_storage_faults(faults.clone())
        .open()
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
    let faults = StorageFaults::dangerous_new();
    let trail = place
        .builder()
        .critical_deadline(Duration::from_millis(200))
        .dangerous_storage_faults(faults.clone())
        .open()
        .unwrap();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    for _ in 0..7 {
        trail.note("lost").unwrap();
    }
    let error = trail.close().unwrap_err();
    assert!(
        matches!(error, CloseError::NotWritten { records: 7, .. }),
        "{error}"
    );
    faults.heal();
    // The numbers that never reached the disk are used again: nothing claims that they exist.
    place.open().close().unwrap();
    let key = place.open().verifier_key().clone();
    assert_eq!(place.verify(&key, &[]).outcome, Outcome::Holds);
}

#[test]
fn dropping_a_trail_closes_it_also_while_unwinding() {
    let place = Place::new();
    let trail = place.open();
    trail.note("before the panic").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _trail = trail;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let names: Vec<Value> = place.records().iter().map(|r| r["event"].clone()).collect();
    assert_eq!(names, ["TrailOpened", "Note", "TrailClosed"]);
}

#[test]
fn numbers_are_in_order_under_many_threads_and_none_is_missing() {
    let place = Place::new();
    let trail = Arc::new(place.open());
    let key = trail.verifier_key().clone();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let trail = Arc::clone(&trail);
            std::thread::spawn(move || {
                for i in 0..500 {
                    if i % 50 == 0 {
                        trail.policy_violation(VIOLATION).unwrap();
                    } else {
                        trail.note(format!("{thread}/{i}")).unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let trail = Arc::into_inner(trail).unwrap();
    let last = trail.close().unwrap();
    let seqs: Vec<u64> = place
        .records()
        .iter()
        .map(|r| r["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (0..4002).collect::<Vec<_>>());
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}

#[test]
fn losing_more_than_one_percent_is_recorded_as_degraded() {
    let place = Place::new();
    let faults = StorageFaults::dangerous_new();
    let trail = place
        .builder()
        .queue_records(16)
        .dangerous_storage_faults(faults.clone())
        .open()
        .unwrap();
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
        .open()
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
        .open()
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
fn a_link_is_refused_with_a_slash_behind_it_too() {
    let place = Place::new();
    place.open().close().unwrap();
    let link = place.temp.path().join("link");
    symlink(place.dir(), &link).unwrap();
    for path in ["link/", "link//", "link/."] {
        let path = place.temp.path().join(path);
        let error = AuditTrail::builder("worker-1".parse().unwrap(), path, place.key())
            .open()
            .unwrap_err();
        assert!(matches!(error, OpenError::SymbolicLink { .. }), "{error}");
    }
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
        .open()
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
        .open()
        .unwrap_err();
    assert!(matches!(error, OpenError::Sign(_)), "{error}");
}

#[test]
fn deadlines_and_intervals_have_bounds() {
    let place = Place::new();
    for wrong in [Duration::ZERO, Duration::MAX] {
        let error = place.builder().critical_deadline(wrong).open().unwrap_err();
        assert!(error.to_string().contains("critical_deadline"), "{error}");
        let error = place.builder().durable_within(wrong).open().unwrap_err();
        assert!(error.to_string().contains("durable_within"), "{error}");
    }
    let error = place.builder().queue_records(15).open().unwrap_err();
    assert!(error.to_string().contains("queue_records"), "{error}");
    assert!(!place.dir().exists());
}
