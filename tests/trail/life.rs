//! The trail by itself: opening, recording, closing.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Place, VIOLATION, of_event, segments};
use serde_json::Value;
use vram_residency::audit::{OpenError, Outcome, PolicyViolation, RecordError, Retention};
use vram_residency::{AuditTrail, TrailKey};

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
    let by: Vec<&str> = records.iter().map(|r| r["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["library", "caller", "caller", "library"]);
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
    // Numbers up to there may have been told to somebody; one record has reached the file.
    let below = of_event(&place.records(), "TrailOpened")[0]["numbers_below"].as_u64();
    assert_eq!(recovered[0]["highest_seq"], below.unwrap() - 1);
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
        .open_or_create()
        .unwrap_err();
    assert!(matches!(error, OpenError::OtherKey { .. }), "{error}");
    let error = AuditTrail::builder("worker-2".parse().unwrap(), place.dir(), place.key())
        .open_or_create()
        .unwrap_err();
    assert!(matches!(error, OpenError::OtherWorker { .. }), "{error}");

    let path = &segments(&place.dir())[0];
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, text.replacen("unpinned", "unpinnet", 1)).unwrap();
    let before = std::fs::read_dir(place.dir()).unwrap().count();
    let error = place.builder().open_or_create().unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.dir()).unwrap().count(), before);
}

#[test]
fn a_directory_that_is_open_linked_or_reachable_by_others_is_refused() {
    let place = Place::new();
    let trail = place.open();
    let error = place.builder().open_or_create().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    trail.close().unwrap();

    let link = place.temp.path().join("link");
    symlink(place.dir(), &link).unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &link, place.key())
        .open_or_create()
        .unwrap_err();
    assert!(matches!(error, OpenError::SymbolicLink { .. }), "{error}");

    for mode in [0o720, 0o702, 0o750, 0o755, 0o777] {
        std::fs::set_permissions(place.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
        let error = place.builder().open_or_create().unwrap_err();
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }
    let file = place.temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &file, place.key())
        .open_or_create()
        .unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
}

#[test]
fn a_missing_parent_says_what_is_missing() {
    let place = Place::new();
    let dir = place.temp.path().join("no/such/place");
    let error = AuditTrail::builder("worker-1".parse().unwrap(), &dir, place.key())
        .open_or_create()
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
fn a_link_is_refused_with_a_slash_behind_it_too() {
    let place = Place::new();
    place.open().close().unwrap();
    let link = place.temp.path().join("link");
    symlink(place.dir(), &link).unwrap();
    for path in ["link/", "link//", "link/."] {
        let path = place.temp.path().join(path);
        let error = AuditTrail::builder("worker-1".parse().unwrap(), path, place.key())
            .open_or_create()
            .unwrap_err();
        assert!(matches!(error, OpenError::SymbolicLink { .. }), "{error}");
    }
}

#[test]
fn deadlines_and_intervals_have_bounds() {
    let place = Place::new();
    for wrong in [Duration::ZERO, Duration::MAX] {
        let error = place
            .builder()
            .critical_deadline(wrong)
            .open_or_create()
            .unwrap_err();
        assert!(error.to_string().contains("critical_deadline"), "{error}");
        let error = place
            .builder()
            .durable_within(wrong)
            .open_or_create()
            .unwrap_err();
        assert!(error.to_string().contains("durable_within"), "{error}");
    }
    let error = place
        .builder()
        .queue_records(15)
        .open_or_create()
        .unwrap_err();
    assert!(error.to_string().contains("queue_records"), "{error}");
    let error = place
        .builder()
        .segment_bytes(4095)
        .open_or_create()
        .unwrap_err();
    assert!(error.to_string().contains("segment_bytes"), "{error}");
    let error = place.builder().segment_age(Duration::ZERO).open_or_create();
    let error = error.unwrap_err();
    assert!(error.to_string().contains("segment_age"), "{error}");
    for wrong in [Retention::years(0, "law"), Retention::months(6, "")] {
        let error = place
            .builder()
            .retention(wrong)
            .open_or_create()
            .unwrap_err();
        assert!(error.to_string().contains("retention"), "{error}");
    }
    assert!(!place.dir().exists());
}
