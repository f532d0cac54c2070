//! Somebody else is at work in the trail's directory: segments vanish, are exchanged, grow, shrink.
//!
//! The story: an operator sets up log rotation for everything that ends in `l`, a cleaner removes
//! what looks old, a script restores a backup into a directory that is in use. The worker holds its
//! file open and notices nothing: its writes and syncs succeed, in a file that no name leads to. So
//! a receipt is given only for what can be found under the segment's name, and what was lost before
//! is said, by the worker and by whoever verifies.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Place, VIOLATION, is_installed, of_event, records_in, segments};
use serde_json::Value;
use vram_residency::AuditTrail;
use vram_residency::audit::{
    Checkpoint, CloseError, NotDurable, OpenError, Outcome, RecordError, Report, UnanchoredEnd,
    Verdict, VerifierKey,
};

/// What a trail looks like behind one interference with its open segment.
struct Aftermath {
    place: Place,
    report: Report,
    /// The header of the segment behind the one that was disturbed.
    header: Value,
    /// `SegmentPoisoned`.
    poisoned: Value,
}

fn segment(place: &Place, number: usize) -> PathBuf {
    place.dir().join(format!("{number:06}.jsonl"))
}

/// Two records with receipts, something happens to the segment that holds them, a third record, and
/// closing. The third receipt must be worth something whatever happened.
fn disturbed(interfere: impl FnOnce(&Path)) -> Aftermath {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    // The trail's first segment is not the one that is disturbed: where that is gone, the segments
    // that are left have a hole, and are no trail whose oldest part was removed.
    drop(trail);
    let trail = place.builder().open().unwrap();
    let first = trail.policy_violation(VIOLATION).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    interfere(&segment(&place, 1));
    let third = trail.policy_violation(VIOLATION).unwrap();
    assert!(
        fs::read_to_string(segment(&place, 2))
            .unwrap()
            .contains(&format!("{{\"seq\":{},", third.seq())),
        "a receipt was given for what no name leads to"
    );
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    the_script_agrees(&place, &key, last.checkpoint(), &report);
    let records = records_in(&segment(&place, 2));
    let poisoned = of_event(&records, "SegmentPoisoned");
    assert_eq!(poisoned.len(), 1, "{records:?}");
    assert_eq!(poisoned[0]["segment"], 1);
    assert_eq!(poisoned[0]["operation"], "check segment");
    assert!(first.seq() < third.seq());
    Aftermath {
        header: records[0].clone(),
        poisoned: poisoned[0].clone(),
        place,
        report,
    }
}

/// `tests/verify_trail.py` shares nothing with the library.
fn the_script_agrees(place: &Place, key: &VerifierKey, anchor: &Checkpoint, report: &Report) {
    // It follows links, which the library refuses.
    let is_link = |path: &PathBuf| path.is_symlink();
    if segments(&place.dir()).iter().any(is_link) {
        return;
    }
    if !is_installed("python3") || !is_installed("openssl") {
        return;
    }
    let file = place.temp.path().join("anchor");
    fs::write(&file, anchor.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_trail.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(script)
        .args([place.dir(), PathBuf::from(key.to_string()), file])
        .output()
        .unwrap();
    let verdict = report.verdict(UnanchoredEnd::Refused);
    let status = output.status.code();
    assert_eq!(
        status,
        Some(verdict.exit_code().into()),
        "{output:?}\n{report}"
    );
}

impl Aftermath {
    #[track_caller]
    fn says(&self, words: &str) {
        let cause = self.poisoned["cause"].as_str().unwrap();
        assert!(cause.contains(words), "{cause}");
    }

    /// The next run goes on with new numbers.
    #[track_caller]
    fn goes_on(&self) {
        let highest = self
            .place
            .records()
            .iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .max();
        let trail = self.place.builder().open().unwrap();
        let receipt = trail.policy_violation(VIOLATION).unwrap();
        trail.close().unwrap();
        assert!(Some(receipt.seq().value()) > highest);
    }
}

#[test]
fn a_removed_segment_costs_no_later_receipt_and_is_missed() {
    let after = disturbed(|segment| fs::remove_file(segment).unwrap());
    after.says("removed or renamed");
    assert_eq!(after.report.outcome, Outcome::Broken, "{}", after.report);
    let words = &after.report.findings[0].words;
    assert!(words.contains("missing"), "{words}");
    after.goes_on();
}

#[test]
fn a_first_segment_that_is_removed_is_reported_as_absent() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    fs::remove_file(segment(&place, 0)).unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let report = place.verify(&key, &[]);
    assert!(report.older_segments_absent, "{report}");
    assert_ne!(report.verdict(UnanchoredEnd::Accepted), Verdict::Sound);
}

#[test]
fn a_segment_that_was_rotated_away_can_be_put_back() {
    let mut rotated = PathBuf::new();
    let after = disturbed(|segment| {
        rotated = segment.with_extension("jsonl.1");
        fs::rename(segment, &rotated).unwrap();
    });
    after.says("removed or renamed");
    assert_eq!(after.report.outcome, Outcome::Broken, "{}", after.report);
    // The file has what was written in vain behind its end, and the header has said so.
    fs::rename(&rotated, segment(&after.place, 1)).unwrap();
    let key = after.place.open().verifier_key().clone();
    let report = after.place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}

#[test]
fn a_copy_in_a_segments_place_is_not_written_to_and_its_records_hold() {
    let after = disturbed(|segment| {
        let copy = segment.with_extension("copy");
        fs::copy(segment, &copy).unwrap();
        fs::rename(&copy, segment).unwrap();
    });
    after.says("another file was put in its place");
    assert_eq!(after.report.outcome, Outcome::Holds, "{}", after.report);
    assert!(after.report.end_vouched_for && after.report.closed);
    after.goes_on();
}

#[test]
fn an_older_copy_in_a_segments_place_lacks_what_had_a_receipt() {
    let after = disturbed(|segment| {
        let bytes = fs::read(segment).unwrap();
        let copy = segment.with_extension("copy");
        fs::write(&copy, &bytes[..bytes.len() / 2]).unwrap();
        fs::rename(&copy, segment).unwrap();
    });
    after.says("another file was put in its place");
    assert_eq!(after.report.outcome, Outcome::Broken, "{}", after.report);
}

#[test]
fn a_link_in_a_segments_place_is_not_followed() {
    let after = disturbed(|segment| {
        let elsewhere = segment.with_extension("elsewhere");
        fs::rename(segment, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, segment).unwrap();
    });
    after.says("another file was put in its place");
    assert_ne!(after.report.outcome, Outcome::Holds, "{}", after.report);
}

fn append(segment: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(segment).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn what_somebody_appends_is_void_and_breaks_nothing() {
    let lines = [
        "not a line of the trail\n".to_owned(),
        // No newline: the next record would continue it.
        "x".to_owned(),
        "y\n".repeat(1000),
    ];
    for line in &lines {
        let after = disturbed(|segment| append(segment, line.as_bytes()));
        after.says("was changed by somebody else");
        assert_eq!(after.report.outcome, Outcome::Holds, "{}", after.report);
        let end = after.header["previous"]["end"].as_u64().unwrap();
        let found = fs::metadata(segment(&after.place, 1)).unwrap().len();
        assert_eq!(after.header["previous"]["void"], found - end);
        assert!(
            found - end > line.len() as u64,
            "the batch stands there, too"
        );
        after.goes_on();
    }
}

/// More than one batch stands behind the end then: a checkpoint with lines on both sides.
#[test]
fn what_the_trail_itself_said_before_may_stand_in_void_bytes() {
    let after = disturbed(|segment| {
        let text = fs::read_to_string(segment).unwrap();
        append(segment, text.as_bytes());
    });
    assert_eq!(after.report.outcome, Outcome::Holds, "{}", after.report);
    after.goes_on();
    // The header has counted them.
    append(&segment(&after.place, 1), b"!");
    let key = after.place.open().verifier_key().clone();
    let report = after.place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
}

#[test]
fn a_segment_that_somebody_truncates_is_given_up_and_its_loss_is_found() {
    for keep in [0, 100] {
        let after = disturbed(|segment| {
            let file = OpenOptions::new().write(true).open(segment).unwrap();
            file.set_len(keep).unwrap();
        });
        after.says("was changed by somebody else");
        assert_eq!(after.report.outcome, Outcome::Broken, "{}", after.report);
        after.goes_on();
    }
}

#[test]
fn a_segment_that_vanishes_while_nothing_is_recorded_is_noticed() {
    let place = Place::new();
    let trail = place.open();
    trail.policy_violation(VIOLATION).unwrap();
    fs::remove_file(segment(&place, 0)).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while !segment(&place, 1).exists() {
        assert!(Instant::now() < patience, "the writer never looked");
        std::thread::sleep(Duration::from_millis(10));
    }
    trail.close().unwrap();
    assert_eq!(of_event(&place.records(), "SegmentPoisoned").len(), 1);
}

#[test]
fn what_was_appended_before_a_rotation_is_explained_by_a_record() {
    let place = Place::new();
    let trail = place
        .builder()
        .segment_bytes(4096)
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    let mut number = 0;
    for _ in 0..20 {
        let receipt = trail.policy_violation(VIOLATION).unwrap();
        assert!(receipt.seq().value() > 0);
        let newest = segments(&place.dir()).len() - 1;
        if newest > number {
            number = newest;
            append(&segment(&place, number), b"!");
        }
    }
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(!of_event(&place.records(), "SegmentPoisoned").is_empty());
}

fn is_not_written(error: &RecordError, words: &str) -> bool {
    matches!(error, RecordError::NotDurable(NotDurable::WriteFailed { cause, .. }) if cause.contains(words))
}

#[test]
fn without_its_directory_a_trail_gives_errors_and_goes_on_when_that_is_back() {
    for removed in [true, false] {
        let place = Place::new();
        let trail = place
            .builder()
            .critical_deadline(Duration::from_millis(800))
            .open_or_create()
            .unwrap();
        let key = trail.verifier_key().clone();
        trail.policy_violation(VIOLATION).unwrap();
        let aside = place.temp.path().join("aside");
        if removed {
            fs::remove_dir_all(place.dir()).unwrap();
        } else {
            fs::rename(place.dir(), &aside).unwrap();
        }
        for _ in 0..2 {
            let error = trail.policy_violation(VIOLATION).unwrap_err();
            assert!(is_not_written(&error, "directory"), "{error}");
        }
        if removed {
            // Another directory in its place is not the trail's.
            fs::create_dir(place.dir()).unwrap();
            let error = trail.policy_violation(VIOLATION).unwrap_err();
            assert!(is_not_written(&error, "directory"), "{error}");
            let error = trail.close().unwrap_err();
            assert!(
                matches!(&error, CloseError::NotWritten { records: 3, cause, .. } if cause.contains("directory")),
                "{error}"
            );
            assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 0);
        } else {
            fs::rename(&aside, place.dir()).unwrap();
            trail.policy_violation(VIOLATION).unwrap();
            let last = trail.close().unwrap();
            let report = place.verify(&key, &[last.checkpoint().clone()]);
            assert_eq!(report.outcome, Outcome::Holds, "{report}");
            assert_eq!(of_event(&place.records(), "PolicyViolation").len(), 4 + 1);
        }
    }
}

#[test]
fn without_the_lock_file_a_second_writer_is_refused_all_the_same() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    fs::remove_file(place.dir().join("lock")).unwrap();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();
    let report = place.verify(&key, &[last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    place.open().close().unwrap();
}

/// Somebody holds the lock that versions before this one look at, and nothing else.
#[test]
fn a_worker_of_an_earlier_version_and_a_new_one_exclude_each_other() {
    let place = Place::new();
    place.open().close().unwrap();
    let lock = fs::File::open(place.dir().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    lock.unlock().unwrap();
    let trail = place.open();
    assert!(lock.try_lock().is_err());
    trail.close().unwrap();
    lock.try_lock().unwrap();
}

/// A restored backup, or a writer that came past the locks.
#[test]
fn a_name_that_is_taken_is_not_overwritten_and_ends_the_writer() {
    for bytes in [b"".as_slice(), b"another writer's segment\n"] {
        let place = Place::new();
        let trail = place
            .builder()
            .segment_bytes(4096)
            .open_or_create()
            .unwrap();
        let stranger = segment(&place, 1);
        fs::write(&stranger, bytes).unwrap();
        let mut given = 0;
        let error = loop {
            match trail.policy_violation(VIOLATION) {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
            assert!(given < 100, "the segment is never full");
        };
        assert!(
            matches!(error, RecordError::NotDurable(NotDurable::Displaced)),
            "{error}"
        );
        let error = trail.note("too late").unwrap_err();
        assert!(
            matches!(error, RecordError::NotDurable(NotDurable::Displaced)),
            "{error}"
        );
        let started = Instant::now();
        let error = trail.close().unwrap_err();
        assert!(
            matches!(error, CloseError::Displaced { records: 0 | 1 }),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(2), "it looped");
        assert_eq!(fs::read(&stranger).unwrap(), bytes);
        assert_eq!(segments(&place.dir()).len(), 2);
        let there = records_in(&segment(&place, 0));
        assert_eq!(of_event(&there, "PolicyViolation").len(), given);
    }
}

/// A reader asks with a shared lock: never long, but as often as there are readers.
#[test]
fn readers_never_keep_a_worker_from_its_trail() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let keys = std::slice::from_ref(&key);
                let _checkpoint_or_none =
                    vram_residency::audit::newest_checkpoint(place.dir(), keys);
            }
        };
        scope.spawn(read);
        scope.spawn(read);
        let opened = (0..100).try_for_each(|_| {
            let trail: AuditTrail = place.builder().open()?;
            trail.close().unwrap();
            Ok::<(), OpenError>(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        opened.unwrap();
    });
}

/// A reader that is held up between asking and letting go.
#[test]
fn a_reader_that_is_slow_for_a_moment_keeps_no_worker_from_its_trail() {
    let place = Place::new();
    place.open().close().unwrap();
    for path in [place.dir().join("lock"), place.dir()] {
        let asked = fs::File::open(path).unwrap();
        asked.try_lock_shared().unwrap();
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(asked);
        });
        place.builder().open().unwrap().close().unwrap();
        reader.join().unwrap();
    }
}

#[test]
fn verifying_in_the_workers_process_releases_no_lock() {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    for _ in 0..3 {
        trail.policy_violation(VIOLATION).unwrap();
        let keys = std::slice::from_ref(&key);
        vram_residency::audit::newest_checkpoint(place.dir(), keys).unwrap();
        place.verify(&key, &[]);
        // Whoever reads every file there, a backup for example.
        for file in fs::read_dir(place.dir()).unwrap() {
            fs::read(file.unwrap().path()).unwrap();
        }
        let error = place.builder().open().unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    }
    trail.close().unwrap();
}
