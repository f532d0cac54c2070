//! A trail that version 0.1.0 wrote, kept as it was. Evidence outlives the code that wrote it: today's
//! reader finds in it what was found then, and today's writer goes on in it.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use support::{Place, VIOLATION, of_event, records_in, segments};
use vram_residency::audit::{AnchorState, Checkpoint, Outcome, Report, VerifierKey};

#[test]
fn a_trail_of_the_first_version_holds() {
    let place = copied();
    let report = place.verify(&verifier_key(), &[anchor()]);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!((report.segments, report.leaves), (4, 38));
    assert_eq!(report.last_seq, Some(52));
    assert_eq!((report.records_lost, report.lost), (14, vec![[35, 48]]));
    assert_eq!(report.never_acknowledged, 1);
    // What two writes left that failed half-way.
    let void: Vec<_> = report.void.iter().map(|void| void.bytes).collect();
    assert_eq!(void, [407, 232]);
    assert_eq!(report.last_checkpoint, Some(anchor().to_string()));
}

#[test]
fn a_trail_of_the_first_version_is_continued() {
    let place = copied();
    let before = contents(&place);
    let trail = place.open();
    assert_eq!(trail.verifier_key(), &verifier_key());
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

    let report = place.verify(&verifier_key(), &[anchor(), closed.checkpoint().clone()]);
    expect_to_hold(&report);
    assert!(report.closed && report.end_vouched_for, "{report}");
    assert_eq!((report.records_lost, report.never_acknowledged), (14, 1));
    assert!(report.leaves > 38);
}

/// Should somebody ever write it anew, it would show nothing: later versions put fields there that
/// it lacks.
#[test]
fn it_is_what_the_first_version_wrote() {
    let records = support::records(&fixture());
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
    let first = &records_in(&segments(&fixture())[0])[0];
    assert_eq!(first["key"], verifier_key().to_string());
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trail-0.1")
}

/// The fixture where a trail and its key are expected, closed to others: git keeps no modes.
fn copied() -> Place {
    let place = Place::new();
    let copy = |from: &Path, to: PathBuf| {
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
    };
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(place.dir())
        .unwrap();
    for segment in segments(&fixture()) {
        copy(&segment, place.dir().join(segment.file_name().unwrap()));
    }
    copy(
        &fixture().join("key.pem"),
        place.temp.path().join("key.pem"),
    );
    place
}

fn verifier_key() -> VerifierKey {
    let text = std::fs::read_to_string(fixture().join("verifier-key.txt")).unwrap();
    text.trim().parse().unwrap()
}

fn anchor() -> Checkpoint {
    let text = std::fs::read_to_string(fixture().join("anchor.txt")).unwrap();
    text.parse().unwrap()
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
