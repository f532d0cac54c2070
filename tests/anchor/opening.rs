//! A trail is opened, and its anchors remember more than the directory does, or something else.

use std::path::Path;
use std::time::Duration;

use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{
    Anchor, AnchorState, Checkpoint, Contradiction, OpenError, Receipt, SameHostCopy, SocketAnchor,
};
use vram_residency::{AuditTrail, TrailKey};

use crate::server::Server;
use crate::support::{Place, VIOLATION, of_event, records, segments};
use crate::{Memory, until};

/// A run that leaves `notes` notes, each with a checkpoint of its own.
pub fn live(trail: AuditTrail, notes: usize) -> Receipt {
    for note in 0..notes {
        trail.note(format!("{note}")).unwrap();
        trail.flush().unwrap();
    }
    trail.close().unwrap()
}

pub fn copy(from: &Path, to: &Path) {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for path in segments(from) {
        let target = to.join(path.file_name().unwrap());
        std::fs::copy(&path, &target).unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// All checkpoints in a trail, void ones too.
pub fn checkpoints(dir: &Path) -> Vec<Checkpoint> {
    let text: String = segments(dir)
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    text.lines()
        .filter(|line| line.starts_with("{\"checkpoint\""))
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            value["checkpoint"].as_str()?.parse().ok()
        })
        .collect()
}

#[track_caller]
pub fn contradicts(place: &Place, anchor: impl Anchor) -> (u64, Contradiction) {
    let before: Vec<Vec<u8>> = segments(&place.dir())
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let name = anchor.name().to_owned();
    match place.builder().anchor(anchor).open_or_create() {
        Err(OpenError::Contradicts {
            path,
            anchor,
            size,
            contradiction,
        }) => {
            assert_eq!((path, anchor), (place.dir(), name));
            let after = segments(&place.dir());
            assert_eq!(after.len(), before.len(), "nothing may be added");
            for (path, bytes) in after.iter().zip(before) {
                assert_eq!(std::fs::read(path).unwrap(), bytes);
            }
            (size, contradiction)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_trail_that_is_shorter_than_any_anchor_knows_is_refused() {
    let place = Place::new();
    let server = Server::tcp();
    let unix = Server::unix(&place.temp.path().join("socket"));
    let file = place.temp.path().join("copy");
    let trail = place
        .builder()
        .anchor(server.anchor())
        .anchor(unix.anchor())
        .anchor(SameHostCopy::new(&file))
        .open_or_create()
        .unwrap();
    let last = live(trail, 3);
    let size = last.checkpoint().size();

    // The last batch is cut off, and every byte that is left was signed.
    let path = segments(&place.dir()).pop().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let whole = text.trim_end_matches('\n');
    let cut = whole[..whole.rfind("\n{\"checkpoint\"").unwrap()].rfind("\n{\"checkpoint\"");
    let end = text[cut.unwrap() + 1..].find('\n').unwrap() + cut.unwrap() + 2;
    std::fs::write(&path, &text[..end]).unwrap();
    let leaves = size - 1;
    let expected = (size, Contradiction::Shorter { leaves });
    assert_eq!(contradicts(&place, server.anchor()), expected);
    assert_eq!(contradicts(&place, unix.anchor()), expected);
    assert_eq!(contradicts(&place, SameHostCopy::new(&file)), expected);
    assert_eq!(contradicts(&place, Memory::of(last.checkpoint())), expected);
    // Nobody who knows of it is asked: the cut goes unnoticed, and that is why there are anchors.
    place.open().close().unwrap();
}

#[test]
fn a_trail_whose_last_run_was_removed_is_refused() {
    let place = Place::new();
    live(place.open(), 2);
    let trail = place
        .builder()
        .anchor(Memory::default())
        .open_or_create()
        .unwrap();
    let last = live(trail, 2);
    std::fs::remove_file(segments(&place.dir()).pop().unwrap()).unwrap();
    let leaves = checkpoints(&place.dir()).last().unwrap().size();
    let (size, contradiction) = contradicts(&place, Memory::of(last.checkpoint()));
    assert_eq!(size, last.checkpoint().size());
    assert_eq!(contradiction, Contradiction::Shorter { leaves });
}

#[test]
fn an_older_copy_of_the_directory_that_went_on_is_refused() {
    let place = Place::new();
    let copied = place.temp.path().join("older");
    live(place.open(), 3);
    copy(&place.dir(), &copied);
    live(place.open(), 2);
    let known = checkpoints(&place.dir());
    let (before, since) = known.split_at(checkpoints(&copied).len());
    for notes in [2, 5] {
        copy(&copied, &place.dir());
        live(place.open(), notes);
        live(place.open(), 1);
        for checkpoint in since {
            let (size, contradiction) = contradicts(&place, Memory::of(checkpoint));
            assert_eq!(size, checkpoint.size());
            let leaves = checkpoints(&place.dir()).last().unwrap().size();
            let expected = match checkpoint.size() > leaves {
                true => Contradiction::Shorter { leaves },
                false => Contradiction::Different,
            };
            assert_eq!(contradiction, expected);
        }
        // What both have in common is no contradiction.
        for checkpoint in before {
            let opened = place
                .builder()
                .anchor(Memory::of(checkpoint))
                .open_or_create();
            opened.unwrap().close().unwrap();
        }
    }
}

#[test]
fn an_honest_trail_is_opened_whatever_checkpoint_of_it_an_anchor_remembers() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    trail.policy_violation(VIOLATION).unwrap();
    // Void bytes at the end of a segment, which no anchor has ever seen.
    faults.fail(Step::Sync, StorageError::Io, 1);
    let poisoned = trail.policy_violation(VIOLATION).unwrap();
    live(trail, 2);
    for notes in [0, 4, 1] {
        live(place.open(), notes);
    }
    // A tail that a killed worker has left: acknowledged is what stands before it.
    let path = segments(&place.dir()).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();

    let mut known = checkpoints(&place.dir());
    known.retain(|checkpoint| {
        let report = place.verify(&key, std::slice::from_ref(checkpoint));
        // What was declared void holds, too, and is refused all the same.
        report.anchors[0].state == AnchorState::Confirmed
    });
    assert!(known.len() >= 12, "{}", known.len());
    assert!(known.contains(poisoned.checkpoint()));
    for checkpoint in &known {
        let memory = Memory::of(checkpoint);
        let trail = place
            .builder()
            .anchor(memory.clone())
            .open_or_create()
            .unwrap();
        trail.close().unwrap();
        assert_eq!(memory.0.lock().unwrap().asked, 1);
    }
    let failed = of_event(&place.records(), "AnchorFailed");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_trail_whose_oldest_segments_are_gone_is_opened() {
    let place = Place::new();
    let first = live(place.open(), 2);
    live(place.open(), 2);
    live(place.open(), 2);
    let known = checkpoints(&place.dir());
    for path in &segments(&place.dir())[..2] {
        std::fs::remove_file(path).unwrap();
    }
    for checkpoint in [&known[0], first.checkpoint(), known.last().unwrap()] {
        let opened = place
            .builder()
            .anchor(Memory::of(checkpoint))
            .open_or_create();
        opened.unwrap().close().unwrap();
    }
}

#[test]
fn what_the_trails_key_has_not_signed_stops_nobody_and_vouches_for_nothing() {
    let place = Place::new();
    let honest = live(place.open(), 4);
    let other = Place::new();
    let foreign = live(other.open(), 1);
    let origin = honest.checkpoint().origin();
    for nonsense in [foreign.checkpoint(), &renamed(foreign.checkpoint(), origin)] {
        let memory = Memory::default();
        let mut inner = memory.0.lock().unwrap();
        inner.newest.insert(origin.into(), nonsense.clone());
        drop(inner);
        let earlier = of_event(&place.records(), "AnchorFailed").len();
        let trail = place.builder().anchor(memory.clone()).open().unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        until("it goes on record", || {
            let failed = of_event(&place.records(), "AnchorFailed");
            let failed = failed.get(earlier)?;
            let cause = failed["cause"].as_str().unwrap();
            assert!(cause.contains("no key of this trail has signed"), "{cause}");
            Some(())
        });
        assert!(trail.anchored_until().is_none());
        trail.close().unwrap();
        assert!(memory.sizes().is_empty(), "nothing until it makes sense");
    }
}

/// Another key's signature under this trail's name.
pub fn renamed(foreign: &Checkpoint, origin: &str) -> Checkpoint {
    let text = foreign.to_string().replace(foreign.origin(), origin);
    text.parse().unwrap()
}

#[test]
fn an_anchor_that_answers_too_late_is_compared_then_and_a_contradiction_is_on_record() {
    let place = Place::new();
    let trail = place.builder().open_or_create().unwrap();
    live(trail, 1);
    let copied = place.temp.path().join("older");
    copy(&place.dir(), &copied);
    let last = live(place.open(), 1);
    copy(&copied, &place.dir());

    let memory = Memory::of(last.checkpoint());
    memory.trouble(Some("unplugged"));
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    until("it failed", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    memory.trouble(None);
    let told = until("it contradicts", || {
        of_event(&place.records(), "AnchorContradicted").pop()
    });
    assert_eq!(told["contradiction"], "shorter");
    assert_eq!(told["size"], last.checkpoint().size());
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    assert!(memory.sizes().is_empty(), "its evidence stays as it is");
    contradicts(&place, memory);
}

#[test]
fn an_anchor_that_answers_too_late_and_agrees_has_recovered() {
    let place = Place::new();
    let last = live(place.open(), 3);
    let memory = Memory::of(last.checkpoint());
    memory.trouble(Some("unplugged"));
    let trail = place
        .builder()
        .anchor(memory.clone())
        .open_or_create()
        .unwrap();
    until("it failed", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    memory.trouble(None);
    until("it recovered", || {
        of_event(&place.records(), "AnchorRecovered").pop()
    });
    assert!(of_event(&place.records(), "AnchorContradicted").is_empty());
    trail.close().unwrap();
    assert!(!memory.sizes().is_empty());
}

#[test]
fn a_server_that_cannot_be_reached_does_not_keep_a_worker_from_starting() {
    let place = Place::new();
    live(place.open(), 1);
    let key: TrailKey = place.key();
    let trail = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), key)
        .anchor(SocketAnchor::unix(place.temp.path().join("nobody")))
        .durable_within(Duration::from_millis(50))
        .open_or_create()
        .unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    let failed = until("it failed", || {
        of_event(&records(&place.dir()), "AnchorFailed").pop()
    });
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.starts_with("connect:"), "{cause}");
    trail.close().unwrap();
}
