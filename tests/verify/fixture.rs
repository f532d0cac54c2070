//! Trails that earlier code wrote, kept as they were. Evidence outlives the code that wrote it: today's
//! reader finds in them what was found then, and today's writer goes on in them.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, Place, VIOLATION, is_installed, of_event, records_in, segments};
use serde_json::Value;
use vram_residency::audit::{
    AnchorState, Checkpoint, Missing, Outcome, Report, Unacknowledged, UnanchoredEnd, VerifierKey,
    verify,
};

/// Written by version 0.1.0.
const FIRST: Fixture = Fixture("trail-0.1");

/// Written by the last code whose headers stated no format.
const FORMAT_1: Fixture = Fixture("trail-format-1");

#[test]
fn a_trail_of_the_first_version_holds() {
    let place = FIRST.copied();
    let report = place.verify(&FIRST.key(), &[FIRST.anchor()]);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!((report.segments, report.leaves), (4, 38));
    assert_eq!(report.last_seq, Some(52));
    assert_eq!((report.records_lost, report.lost), (14, vec![[35, 48]]));
    assert_eq!(report.never_acknowledged, 1);
    // What two writes left that failed half-way.
    let void: Vec<_> = report.void.iter().map(|void| void.bytes).collect();
    assert_eq!(void, [407, 232]);
    assert_eq!(report.last_checkpoint, Some(FIRST.anchor().to_string()));
}

#[test]
fn a_trail_of_the_first_version_is_continued() {
    let place = FIRST.copied();
    let before = contents(&place);
    let trail = place.open();
    assert_eq!(trail.verifier_key(), &FIRST.key());
    trail.note("many versions later").unwrap();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    assert!(receipt.seq().value() > 52, "{}", receipt.seq());
    let closed = trail.close().unwrap();

    let after = contents(&place);
    assert!(after.len() > before.len());
    for (path, bytes) in &before {
        assert_eq!(&after[path], bytes, "{} was changed", path.display());
    }
    // The last run was closed, so nothing had to be recovered.
    assert_eq!(of_event(&place.records(), "TailRecovered").len(), 1);

    let report = place.verify(&FIRST.key(), &[FIRST.anchor(), closed.checkpoint().clone()]);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!((report.records_lost, report.never_acknowledged), (14, 1));
    assert!(report.leaves > 38);
}

/// Should somebody ever write it anew, it would show nothing: later versions put fields there that
/// it lacks.
#[test]
fn it_is_what_the_first_version_wrote() {
    let records = support::records(&FIRST.dir());
    let opened = of_event(&records, "TrailOpened");
    let closed = of_event(&records, "TrailClosed");
    assert_eq!((opened.len(), closed.len()), (3, 2));
    for header in opened {
        assert_eq!(header["crate_version"], "0.1.0");
        assert!(header.get("retention").is_none());
    }
    for record in closed {
        assert!(record.get("offset").is_none());
    }
    let first = &records_in(&segments(&FIRST.dir())[0])[0];
    assert_eq!(first["key"], FIRST.key().to_string());
}

/// The same verdict and the same counts as from the code that wrote it.
#[test]
fn a_trail_of_format_1_holds_with_poisoned_closings_among_its_runs() {
    let place = FORMAT_1.copied();
    let kept = FORMAT_1.kept();
    assert_eq!(kept.len(), 10);
    let report = verify(place.dir(), &FORMAT_1.keys(), &kept);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!(
        (report.segments, report.leaves, report.records),
        (11, 55, 55)
    );
    assert_eq!((report.first_seq, report.last_seq), (Some(0), Some(81)));
    assert_eq!((report.records_lost, &report.lost), (26, &vec![[33, 58]]));
    assert_eq!(report.never_acknowledged, 1);
    let void = |void: &Unacknowledged| (void.segment, void.bytes, void.records);
    let void: Vec<_> = report.void.iter().map(void).collect();
    assert_eq!(
        void,
        [
            (0, 481, 1),
            (2, 340, 1),
            (3, 283, 0),
            (4, 485, 1),
            (8, 241, 1)
        ]
    );
    assert_eq!(report.last_checkpoint, Some(FORMAT_1.anchor().to_string()));
    let missing = report.missing(UnanchoredEnd::Refused);
    assert_eq!(missing, [Missing::Records], "{report}");
}

#[test]
fn a_trail_of_format_1_is_continued() {
    let place = FORMAT_1.copied();
    let before = contents(&place);
    let trail = place.open();
    assert_eq!(trail.verifier_key(), &FORMAT_1.key());
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    assert!(receipt.seq().value() > 81, "{}", receipt.seq());
    let closed = trail.close().unwrap();
    let after = contents(&place);
    assert!(after.len() > before.len());
    for (path, bytes) in &before {
        assert_eq!(&after[path], bytes, "{} was changed", path.display());
    }
    assert_eq!(of_event(&place.records(), "TailRecovered").len(), 1);
    let mut anchors = FORMAT_1.kept();
    anchors.push(closed.checkpoint().clone());
    let report = verify(place.dir(), &FORMAT_1.keys(), &anchors);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!((report.records_lost, report.never_acknowledged), (26, 1));
    assert!(report.leaves > 55);
}

#[test]
fn the_script_says_the_same_of_old_trails() {
    if !is_installed("python3") || !is_installed("openssl") {
        return;
    }
    for fixture in [FIRST, FORMAT_1] {
        let keys: Vec<_> = fixture.keys().iter().map(ToString::to_string).collect();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify_trail.py");
        let output = Command::new("python3")
            .arg("-B")
            .arg(script)
            .arg(fixture.dir())
            .arg(keys.join(","))
            .arg(fixture.dir().join("anchor.txt"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(3), "{fixture:?}: {text}");
        assert_eq!(text, "HOLDS, BUT LACKS:\n  records\n");
    }
}

/// Should somebody ever write it anew, it would show nothing: headers state a format today, and a
/// closing is the last record of its run.
#[test]
fn it_is_what_was_written_before_headers_stated_a_format() {
    let records = support::records(&FORMAT_1.dir());
    let headers = |record: &&Value| record.get("first_leaf").is_some();
    let headers: Vec<_> = records.iter().filter(headers).collect();
    assert_eq!(headers.len(), 11);
    for header in headers {
        assert!(header.get("format").is_none(), "{header}");
    }
    let poisoned = records_in(&segments(&FORMAT_1.dir())[5]);
    let names: Vec<_> = poisoned.iter().map(|record| &record["event"]).collect();
    assert_eq!(
        names,
        [
            "SegmentOpened",
            "TrailClosed",
            "SegmentPoisoned",
            "TrailClosed"
        ]
    );
    let changed = of_event(&records, "KeyChanged");
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0]["key"], FORMAT_1.key().to_string());
}

/// A trail in the repository, by the name of its directory.
#[derive(Clone, Copy, Debug)]
struct Fixture(&'static str);

impl Fixture {
    fn dir(self) -> PathBuf {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        fixtures.join(self.0)
    }

    fn read(self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir().join(name)).ok()
    }

    /// All keys that signed it, in their order.
    fn keys(self) -> Vec<VerifierKey> {
        let text = self
            .read("verifier-keys.txt")
            .or_else(|| self.read("verifier-key.txt"));
        let lines = text.unwrap();
        lines.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The key that it ends with.
    fn key(self) -> VerifierKey {
        self.keys().pop().unwrap()
    }

    fn anchor(self) -> Checkpoint {
        self.read("anchor.txt").unwrap().parse().unwrap()
    }

    /// Checkpoints that were kept on the way.
    fn kept(self) -> Vec<Checkpoint> {
        let note = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["checkpoint"].as_str().unwrap().parse().unwrap()
        };
        self.read("kept.json").unwrap().lines().map(note).collect()
    }

    /// The fixture where a trail and its key are expected, closed to others: git keeps no modes.
    fn copied(self) -> Place {
        let place = Place::new();
        let copy = |from: &Path, to: PathBuf| {
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(place.dir())
            .unwrap();
        for segment in segments(&self.dir()) {
            copy(&segment, place.dir().join(segment.file_name().unwrap()));
        }
        copy(
            &self.dir().join("key.pem"),
            place.temp.path().join("key.pem"),
        );
        place
    }
}

fn contents(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    segments(&place.dir())
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[track_caller]
fn expect_to_hold(report: &Report) {
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(!report.older_segments_absent && report.tail.is_none());
    for anchor in &report.anchors {
        assert_eq!(anchor.state, AnchorState::Confirmed, "{report}");
    }
}
