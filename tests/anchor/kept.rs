//! What an anchor has kept since long is compared, too: with a trail that somebody continued who has
//! its key, that was cut back to another key, or that stands in another one's place.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use vram_residency::audit::{
    Anchor, AnchorError, AnchorState, Checkpoint, Contradiction, Listing, OpenError, Outcome,
    SameHostCopy,
};
use vram_residency::{AuditTrail, TrailKey};

use crate::opening::{checkpoints, contradicts, copy, live, renamed};
use crate::server::{Manner, Server};
use crate::support::{Place, VIOLATION, of_event, segments};
use crate::{Memory, until};

#[track_caller]
fn is_unverifiable(error: &OpenError, expected: u64) {
    let OpenError::UnverifiableAnchor { anchor, size, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((anchor.as_str(), *size), ("memory", expected));
    let words = "dangerous_ignore_unverifiable_anchor(\"memory\")";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn a_larger_checkpoint_that_no_given_key_has_signed_refuses_unless_it_is_ignored_by_name() {
    let place = Place::new();
    let honest = live(place.open(), 1);
    let other = Place::new();
    let foreign = live(other.open(), 9);
    let (origin, size) = (honest.checkpoint().origin(), honest.checkpoint().size());
    let forged = renamed(foreign.checkpoint(), origin);
    // This trail's own, with one digit more.
    let text = honest.checkpoint().to_string();
    let edited = text.replace(&format!("\n{size}\n"), &format!("\n{size}0\n"));
    for larger in [forged, edited.parse().unwrap()] {
        let memory = Memory::of(&larger);
        let error = place.builder().anchor(memory.clone()).open().unwrap_err();
        is_unverifiable(&error, larger.size());
        // The other anchor's name does not help.
        let builder = place.builder().anchor(memory.clone());
        let builder = builder.dangerous_ignore_unverifiable_anchor("another");
        builder.open().unwrap_err();
        let before = place.records().len();
        let builder = place.builder().anchor(memory.clone());
        let builder = builder.dangerous_ignore_unverifiable_anchor("memory");
        let trail = builder.open().unwrap();
        trail.close().unwrap();
        let since = place.records().split_off(before);
        let opened = of_event(&since, "TrailOpened").remove(0);
        assert_eq!(opened["ignored_unverifiable_anchors"], json!(["memory"]));
        let partly = of_event(&since, "AnchorPartlyCompared").remove(0);
        assert_eq!(partly["comparison"], "unverifiable_ignored");
        assert!(!memory.sizes().is_empty(), "it is given checkpoints again");
    }
}

/// Whoever holds an old key and an old copy: the trail is cut back to before its key was changed.
#[test]
fn a_trail_that_was_cut_back_across_a_change_of_its_key_is_refused() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place.builder().anchor(memory.clone()).create().unwrap();
    live(trail, 2);
    let copied = place.temp.path().join("older");
    copy(&place.dir(), &copied);
    let new = TrailKey::open_or_create(place.temp.path().join("new.pem")).unwrap();
    let builder = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), new);
    let builder = builder.previous_key(place.key()).anchor(memory.clone());
    let last = live(builder.open().unwrap(), 2);
    copy(&copied, &place.dir());
    let error = place.builder().anchor(memory.clone()).open().unwrap_err();
    is_unverifiable(&error, last.checkpoint().size());
    // With the newer key it is a plain contradiction.
    let new = TrailKey::open_or_create(place.temp.path().join("new.pem")).unwrap();
    let builder = AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), new);
    let builder = builder.previous_key(place.key()).anchor(memory);
    let error = builder.open().unwrap_err();
    assert!(matches!(error, OpenError::Contradicts { .. }), "{error}");
}

/// An anchor that was away for two changes of the key: a root that fits needs no signature.
#[test]
fn checkpoints_under_keys_that_are_gone_are_compared_by_their_roots() {
    let place = Place::new();
    let key = |name: &str| TrailKey::open_or_create(place.temp.path().join(name)).unwrap();
    let with =
        |name: &str| AuditTrail::builder("worker-1".parse().unwrap(), place.dir(), key(name));
    let first = live(with("a").create().unwrap(), 2);
    live(with("b").previous_key(key("a")).open().unwrap(), 1);
    live(with("c").previous_key(key("b")).open().unwrap(), 1);
    let memory = Memory::of(first.checkpoint());
    let last = live(with("c").anchor(memory.clone()).open().unwrap(), 1);
    assert!(of_event(&place.records(), "AnchorFailed").is_empty());
    assert_eq!(memory.newest().as_ref(), Some(last.checkpoint()));
}

/// Somebody with the trail's key goes on with an older copy, without the incident and longer, and
/// gives the anchor what it takes: its newest checkpoint agrees with the forged trail.
#[test]
fn a_longer_continuation_of_an_older_copy_is_refused_by_what_the_anchor_kept_before() {
    let place = Place::new();
    let server = Server::tcp();
    let file = place.temp.path().join("copy");
    let open = || place.builder().anchor(SameHostCopy::new(&file));
    let trail = open().anchor(server.anchor()).create().unwrap();
    let key = trail.verifier_key().clone();
    server.trust(&key);
    live(trail, 2);
    let copied = place.temp.path().join("older");
    copy(&place.dir(), &copied);
    let trail = open().anchor(server.anchor()).open().unwrap();
    let incident = trail.policy_violation(VIOLATION).unwrap();
    // An anchor that is slow gets the newest checkpoint alone.
    until("the incident is anchored", || {
        trail.unanchored_for().is_zero().then_some(())
    });
    trail.close().unwrap();
    copy(&copied, &place.dir());
    let forged = live(place.open(), 9);
    let forged = forged.checkpoint();
    assert!(forged.size() > incident.checkpoint().size());
    for anchor in [
        &mut server.anchor() as &mut dyn Anchor,
        &mut SameHostCopy::new(&file),
    ] {
        anchor.keep(forged).unwrap();
        assert_eq!(anchor.newest(key.name()).unwrap().as_ref(), Some(forged));
    }
    for expected in [
        contradicts(&place, server.anchor()),
        contradicts(&place, SameHostCopy::new(&file)),
    ] {
        assert!(expected.0 <= incident.checkpoint().size(), "{expected:?}");
        assert_eq!(expected.1, Contradiction::Different);
    }
    let all = server.all(key.name());
    let report = place.verify(&key, &all);
    assert_eq!(report.outcome, Outcome::Broken, "{report}");
    assert!(!report.end_vouched_for);
    // What keeps the newest alone cannot see it, and the trail says so.
    for answer in [Some("no idea\n"), None] {
        server.behave(Manner::Old(answer));
        let before = of_event(&place.records(), "AnchorPartlyCompared").len();
        let trail = place.builder().anchor(server.anchor()).open().unwrap();
        let partly = until("it goes on record", || {
            let partly = of_event(&place.records(), "AnchorPartlyCompared");
            partly.get(before).cloned()
        });
        assert_eq!(partly["anchor"], server.anchor().name());
        assert_eq!(partly["comparison"], "newest_only");
        assert_eq!(
            (&partly["severity"], &partly["outcome"]),
            (&json!("WARN"), &json!("failure"))
        );
        trail.close().unwrap();
        assert!(of_event(&place.records(), "AnchorFailed").is_empty());
    }
}

/// The fork lies many segments back, and the pages are small.
#[test]
fn one_pass_finds_the_one_checkpoint_of_many_that_does_not_fit() {
    let place = Place::new();
    for notes in [3, 1, 4] {
        live(
            place
                .builder()
                .segment_bytes(4096)
                .open_or_create()
                .unwrap(),
            notes * 5,
        );
    }
    let all = checkpoints(&place.dir());
    let memory = Memory::default();
    memory.0.lock().unwrap().given = all.clone();
    let newest = all.last().unwrap().clone();
    let origin = newest.origin().to_owned();
    memory.0.lock().unwrap().newest.insert(origin, newest);
    place
        .builder()
        .anchor(memory.clone())
        .open()
        .unwrap()
        .close()
        .unwrap();
    assert!(of_event(&place.records(), "AnchorFailed").is_empty());

    // Bytes of a segment that is long closed: the end is as it was, and nobody reads so far back.
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let with_notes = |path: &PathBuf| read(path).contains("\"text\":\"");
    let segments = segments(&place.dir());
    let path = segments[1..].iter().find(|path| with_notes(path));
    let path = path.unwrap();
    let text = read(path);
    let at = text.find("\"text\":\"").unwrap() + 8;
    let other = if &text[at..=at] == "9" { "8" } else { "9" };
    std::fs::write(path, [&text[..at], other, &text[at + 1..]].concat()).unwrap();
    place.open().close().unwrap();
    let (size, contradiction) = contradicts(&place, memory);
    assert_eq!(contradiction, Contradiction::Different);
    assert!(size < all.last().unwrap().size(), "{size}");
}

/// Takes its time over each page, and fails once, as soon as it keeps more than it did at first.
struct Faltering {
    memory: Memory,
    at_first: usize,
    has_failed: bool,
}

impl Anchor for Faltering {
    fn name(&self) -> &str {
        self.memory.name()
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        self.memory.keep(checkpoint)
    }

    fn newest(&mut self, origin: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Anchor::newest(&mut self.memory, origin)
    }

    fn checkpoints(&mut self, origin: &str, from: u64) -> Result<Listing<Checkpoint>, AnchorError> {
        std::thread::sleep(Duration::from_millis(20));
        let has_more = self.memory.sizes().len() > self.at_first;
        if has_more && !std::mem::replace(&mut self.has_failed, true) {
            return Err(AnchorError::Other("unplugged".into()));
        }
        self.memory.checkpoints(origin, from)
    }

    fn origins(&mut self, worker: &str) -> Result<Listing<String>, AnchorError> {
        self.memory.origins(worker)
    }
}

/// The anchor's newest checkpoint is that of the run itself by then, which the trail that was found
/// cannot have.
#[test]
fn a_comparison_that_is_broken_off_after_the_first_own_checkpoint_contradicts_nothing() {
    let place = Place::new();
    let builder = || place.builder().segment_bytes(4096);
    for _ in 0..3 {
        live(builder().open_or_create().unwrap(), 20);
    }
    let all = checkpoints(&place.dir());
    let newest = all.last().unwrap().clone();
    let memory = Memory::of(&newest);
    memory.0.lock().unwrap().given = all.clone();
    let anchor = Faltering {
        memory: memory.clone(),
        at_first: all.len(),
        has_failed: false,
    };
    let builder = builder().anchor(anchor);
    let builder = builder.critical_deadline(Duration::from_millis(50));
    let trail = builder.open().unwrap();
    until("it fails", || {
        of_event(&place.records(), "AnchorFailed").pop()
    });
    trail.policy_violation(VIOLATION).unwrap();
    until("it works again", || {
        let about = |event| of_event(&place.records(), event).pop();
        about("AnchorRecovered").or_else(|| about("AnchorContradicted"))
    });
    trail.close().unwrap();
    assert!(of_event(&place.records(), "AnchorContradicted").is_empty());
}

#[track_caller]
fn other_origin(opened: Result<AuditTrail, OpenError>) -> String {
    match opened {
        Err(OpenError::OtherOrigin { origin, .. }) => origin,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_origin_under_an_anchor_that_knows_another_of_this_worker_is_refused_unless_named() {
    let place = Place::new();
    let server = Server::tcp();
    let memory = Memory::default();
    let open = || {
        place
            .builder()
            .anchor(server.anchor())
            .anchor(memory.clone())
    };
    let trail = open().create().unwrap();
    let known = trail.verifier_key().name().to_owned();
    live(trail, 1);
    // The volume is not mounted, or the directory was deleted.
    std::fs::remove_dir_all(place.dir()).unwrap();
    assert_eq!(other_origin(open().create()), known);
    assert_eq!(other_origin(open().open_or_create()), known);
    assert_eq!(
        other_origin(open().new_origin_beside("another").create()),
        known
    );
    assert!(segments(&place.dir()).is_empty(), "nothing is begun");
    // Another worker is nobody's business.
    let elsewhere = place.temp.path().join("elsewhere");
    let builder = AuditTrail::builder("worker-10".parse().unwrap(), elsewhere, place.key());
    builder
        .anchor(memory.clone())
        .create()
        .unwrap()
        .close()
        .unwrap();

    let trail = open().new_origin_beside(&known).create().unwrap();
    live(trail, 1);
    let opened = of_event(&place.records(), "TrailOpened").remove(0);
    assert_eq!(opened["new_origin_beside"], json!([known]));
    assert!(of_event(&place.records(), "AnchorFailed").is_empty());
    // From now on the anchors know it.
    live(open().open().unwrap(), 1);
}

/// The directory was exchanged for that of a trail that no anchor has ever seen.
#[test]
fn a_trail_that_no_anchor_knows_in_the_place_of_one_that_they_know_is_refused() {
    let place = Place::new();
    let memory = Memory::default();
    let trail = place.builder().anchor(memory.clone()).create().unwrap();
    let known = trail.verifier_key().name().to_owned();
    live(trail, 1);
    std::fs::remove_dir_all(place.dir()).unwrap();
    live(place.open(), 3);
    let opened = place.builder().anchor(memory.clone()).open();
    assert_eq!(other_origin(opened), known);
    let builder = place.builder().anchor(memory).new_origin_beside(known);
    builder.open().unwrap().close().unwrap();
}

#[test]
fn an_anchor_that_cannot_list_origins_is_named() {
    let place = Place::new();
    let server = Server::tcp();
    server.behave(Manner::Old(Some("no such question\n")));
    let trail = place.builder().anchor(server.anchor()).create().unwrap();
    let partly = until("it goes on record", || {
        of_event(&place.records(), "AnchorPartlyCompared").pop()
    });
    assert_eq!(partly["comparison"], "origins_unknown");
    trail.close().unwrap();
}

#[test]
fn a_root_that_fits_under_a_signature_that_does_not_vouches_for_nothing() {
    let (place, other) = (Place::new(), Place::new());
    let trail = place.open();
    let key = trail.verifier_key().clone();
    let ours = live(trail, 1).checkpoint().to_string();
    let theirs = live(other.open(), 1).checkpoint().to_string();
    let (text, _) = ours.split_once("\n\n").unwrap();
    let (_, line) = theirs.split_once("\n\n").unwrap();
    let signature = line.rsplit_once(' ').unwrap().1;
    let forged = format!("{text}\n\n— {} {signature}", key.name());
    let forged: Checkpoint = forged.parse().unwrap();
    assert_eq!(forged.to_string().lines().nth(2), ours.lines().nth(2));
    // More than one thread's share.
    let report = place.verify(&key, &vec![forged; 1000]);
    assert!(!report.end_vouched_for, "{report}");
    let mut states = report.anchors.iter().map(|anchor| anchor.state);
    assert!(
        states.all(|state| state == AnchorState::Foreign),
        "{report}"
    );
    let report = place.verify(&key, &[ours.parse().unwrap()]);
    assert!(report.end_vouched_for, "{report}");
}
