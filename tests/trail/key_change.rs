//! A trail goes on under another key: the old one announces the new one, and signs nothing more.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{self, Place, key_at, of_event, records_in, segments};
use vram_residency::audit::{self, AuditTrailBuilder, Checkpoint, OpenError, Outcome, VerifierKey};
use vram_residency::{AuditTrail, TrailKey};

fn key(place: &Place, name: &str) -> TrailKey {
    TrailKey::open_or_create(place.temp.path().join(name)).unwrap()
}

fn with(place: &Place, name: &str) -> AuditTrailBuilder {
    let worker = "worker-1".parse().unwrap();
    AuditTrail::builder(worker, place.dir(), key(place, name))
}

fn run(builder: AuditTrailBuilder) -> (VerifierKey, Checkpoint) {
    let trail = builder.open_or_create().unwrap();
    let verifier = trail.verifier_key().clone();
    (verifier, trail.close().unwrap().checkpoint().clone())
}

fn refused(builder: AuditTrailBuilder, dir: &Path) -> OpenError {
    let before = std::fs::read_dir(dir).unwrap().count();
    let error = builder.open_or_create().unwrap_err();
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), before);
    error
}

#[test]
fn the_old_key_announces_the_new_one_with_its_last_checkpoint() {
    let place = Place::new();
    let (old, _) = run(with(&place, "a"));
    let (new, anchor) = run(with(&place, "b").previous_key(key(&place, "a")));
    assert_ne!(old, new);
    assert_eq!(old.name(), new.name());

    let paths = segments(&place.dir());
    assert_eq!(paths.len(), 3);
    let announced = records_in(&paths[1]);
    let changed = announced.last().unwrap();
    support::fields::expect(changed, "INFO success", &["previous_key key"]);
    assert_eq!(changed["event"], "KeyChanged");
    assert_eq!(changed["previous_key"], old.to_string());
    assert_eq!(changed["key"], new.to_string());
    assert_eq!(announced[0]["event"], "TrailOpened");
    assert_eq!(announced[0]["key"], old.to_string());
    let next = &records_in(&paths[2])[0];
    assert_eq!(next["event"], "SegmentOpened");
    assert_eq!(next["key"], new.to_string());

    let report = audit::verify(place.dir(), &[old, new], &[anchor]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for, "{report}");
}

#[test]
fn once_changed_the_new_key_opens_alone_and_the_old_one_is_refused() {
    let place = Place::new();
    run(with(&place, "a"));
    run(with(&place, "b").previous_key(key(&place, "a")));
    // With the setting left as it was, and without it.
    run(with(&place, "b").previous_key(key(&place, "a")));
    run(with(&place, "b"));
    let changes = of_event(&place.records(), "KeyChanged");
    assert_eq!(changes.len(), 1, "announced once");
    for builder in [
        with(&place, "a"),
        with(&place, "c"),
        with(&place, "c").previous_key(key(&place, "a")),
    ] {
        let error = refused(builder, &place.dir());
        assert!(matches!(error, OpenError::OtherKey { .. }), "{error}");
    }
    run(with(&place, "c").previous_key(key(&place, "b")));
    assert_eq!(of_event(&place.records(), "KeyChanged").len(), 2);
}

#[test]
fn a_new_trail_needs_no_previous_key_and_says_nothing_of_it() {
    let place = Place::new();
    run(with(&place, "b").previous_key(key(&place, "a")));
    assert!(of_event(&place.records(), "KeyChanged").is_empty());
}

/// The process is killed when the announcement is on disk, and the first segment under the new key
/// is not.
#[test]
fn a_change_that_was_cut_off_in_the_middle_is_finished_by_the_next_opening() {
    let place = Place::new();
    let (old, _) = run(with(&place, "a"));
    run(with(&place, "b").previous_key(key(&place, "a")));
    std::fs::remove_file(segments(&place.dir()).pop().unwrap()).unwrap();
    assert_eq!(of_event(&place.records(), "KeyChanged").len(), 1);

    for builder in [
        with(&place, "a"),
        with(&place, "b"),
        with(&place, "c").previous_key(key(&place, "a")),
    ] {
        let error = refused(builder, &place.dir());
        assert!(matches!(error, OpenError::OtherKey { .. }), "{error}");
    }
    let (new, anchor) = run(with(&place, "b").previous_key(key(&place, "a")));
    assert_eq!(of_event(&place.records(), "KeyChanged").len(), 1);
    let report = audit::verify(place.dir(), &[old, new], &[anchor]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for, "{report}");
}

#[test]
fn a_worker_that_was_killed_comes_back_with_another_key() {
    let place = Place::new();
    let trail = with(&place, "a").open_or_create().unwrap();
    let old = trail.verifier_key().clone();
    trail.note("before").unwrap();
    trail.flush().unwrap();
    // What a worker that is killed leaves behind: the files as they are now.
    let copy = Place::new();
    std::fs::create_dir(copy.dir()).unwrap();
    std::fs::set_permissions(copy.dir(), Permissions::from_mode(0o700)).unwrap();
    for path in segments(&place.dir()) {
        std::fs::copy(&path, copy.dir().join(path.file_name().unwrap())).unwrap();
    }
    trail.close().unwrap();
    let builder = AuditTrail::builder(
        "worker-1".parse().unwrap(),
        copy.dir(),
        key_at(copy.temp.path()),
    );
    let (new, anchor) = run(builder.previous_key(key(&place, "a")));
    let events: Vec<String> = records_in(&segments(&copy.dir())[1])
        .iter()
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["TrailOpened", "TailRecovered", "KeyChanged"]);
    let report = audit::verify(copy.dir(), &[old, new], &[anchor]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
}
