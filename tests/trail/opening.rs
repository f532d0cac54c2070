//! A trail is opened, created, or either, as the caller says: a service that finds its volume not
//! mounted must not begin another trail, whose first checkpoint would look as good as any.

use std::path::Path;

use crate::support::{Place, VIOLATION, of_event};
use vram_residency::TrailKey;
use vram_residency::audit::OpenError;
use vram_residency::key::KeyError;

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn opening_makes_nothing_where_there_is_no_directory() {
    let place = Place::new();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(&error, OpenError::NoTrail { path } if *path == place.dir()));
    assert!(error.to_string().contains("mounted"), "{error}");
    assert!(!place.dir().exists());
}

#[test]
fn opening_makes_nothing_in_a_directory_without_a_segment() {
    use std::os::unix::fs::DirBuilderExt;

    let place = Place::new();
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(place.dir())
        .unwrap();
    // A creation that was killed has left this: no record in it was ever acknowledged.
    let unfinished = place.dir().join("000000.jsonl.new");
    for made in [false, true] {
        if made {
            std::fs::write(&unfinished, "{").unwrap();
        }
        let before = entries(&place.dir());
        let error = place.builder().open().unwrap_err();
        assert!(matches!(error, OpenError::NoTrail { .. }), "{error}");
        assert_eq!(entries(&place.dir()), before);
    }
    place.builder().create().unwrap().close().unwrap();
    assert!(!unfinished.exists());
}

/// Going on would mix two formats in a way that no version of the verifier knows.
#[test]
fn a_trail_of_a_later_format_is_left_to_the_version_that_wrote_it() {
    let place = Place::new();
    place.builder().create().unwrap().close().unwrap();
    let segment = place.dir().join("000000.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replace("\"format\":2,", "\"format\":3,")).unwrap();
    let before = entries(&place.dir());
    let error = place.builder().open().unwrap_err();
    assert!(
        matches!(error, OpenError::LaterFormat { format: 3, .. }),
        "{error}"
    );
    assert_eq!(entries(&place.dir()), before);
}

#[test]
fn creating_refuses_a_trail_that_is_there_and_leaves_it_as_it_is() {
    let place = Place::new();
    let trail = place.builder().create().unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let segment = place.dir().join("000000.jsonl");
    let before = std::fs::read(&segment).unwrap();

    let error = place.builder().create().unwrap_err();
    assert!(matches!(&error, OpenError::Exists { path } if *path == place.dir()));
    assert_eq!(std::fs::read(&segment).unwrap(), before);

    place.builder().open().unwrap().close().unwrap();
    place.builder().open_or_create().unwrap().close().unwrap();
    assert_eq!(of_event(&place.records(), "TrailOpened").len(), 3);
}

/// The issue of a real service: its volume comes later than the worker, and then hides what the worker
/// has begun on the mount point.
#[test]
fn a_service_whose_volume_is_not_mounted_does_not_begin_another_trail() {
    let place = Place::new();
    place.builder().create().unwrap().close().unwrap();
    let volume = place.temp.path().join("volume");
    std::fs::rename(place.dir(), &volume).unwrap();
    // The mount point, as an unmounted volume leaves it: empty, and of the right mode.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::create_dir(place.dir()).unwrap();
    std::fs::set_permissions(place.dir(), mode).unwrap();
    let error = place.builder().open().unwrap_err();
    assert!(matches!(error, OpenError::NoTrail { .. }), "{error}");
    assert_eq!(entries(&place.dir()), [""; 0]);

    std::fs::remove_dir(place.dir()).unwrap();
    std::fs::rename(&volume, place.dir()).unwrap();
    let trail = place.builder().open().unwrap();
    trail.close().unwrap();
    assert_eq!(of_event(&place.records(), "TrailOpened").len(), 2);
}

#[test]
fn a_key_is_opened_or_created_as_the_caller_says() {
    let place = Place::new();
    let path = place.temp.path().join("other.pem");
    let error = TrailKey::open(&path).unwrap_err();
    assert!(matches!(error, KeyError::File { .. }), "{error}");
    assert!(!path.exists());

    TrailKey::create(&path).unwrap();
    let made = std::fs::read(&path).unwrap();
    let error = TrailKey::create(&path).unwrap_err();
    assert!(matches!(&error, KeyError::Exists { path: named, .. } if *named == path));
    assert_eq!(std::fs::read(&path).unwrap(), made);

    // A file that is no key is there, too, and is never replaced.
    let other = place.temp.path().join("notes.txt");
    std::fs::write(&other, "no key").unwrap();
    let error = TrailKey::create(&other).unwrap_err();
    assert!(matches!(error, KeyError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(&other).unwrap(), b"no key");
    assert_eq!(
        entries(place.temp.path()).len(),
        2,
        "a temporary file is left"
    );
}

/// What an opening is told to overlook stands in its first record, which has a longest length.
#[test]
fn only_so_much_is_overlooked_by_name() {
    let place = Place::new();
    let setting = |builder: vram_residency::audit::AuditTrailBuilder| match builder.create() {
        Err(OpenError::Configuration { setting, .. }) => Some(setting),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    let many = (0..17).fold(place.builder(), |builder, number| {
        builder.new_origin_beside(format!("vram-residency/worker-1/{number:016x}"))
    });
    assert_eq!(setting(many), Some("new_origin_beside"));
    let long = place
        .builder()
        .dangerous_ignore_unverifiable_anchor("x".repeat(257));
    assert_eq!(setting(long), Some("dangerous_ignore_unverifiable_anchor"));
    assert!(!place.dir().exists(), "something was made");

    let most = (0..16).fold(place.builder(), |builder, number| {
        let name = format!("\"{number:0255}");
        builder
            .new_origin_beside(name.clone())
            .dangerous_ignore_unverifiable_anchor(name)
    });
    assert_eq!(setting(most), None);
}
