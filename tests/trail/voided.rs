//! The writer signs a checkpoint before its batch is written. If the write fails, the trail goes on with
//! other leaves, and a validly signed statement lies among void bytes that the honest trail contradicts.
//!
//! Somebody who looks for evidence finds it there, and holds it against the trail. So the next header
//! names what was signed and never acknowledged, and a report can say what it is. It excuses nothing:
//! whoever has the key could declare away a checkpoint that an anchor has, so no trail is opened under
//! such an anchor, and none is called sound. And what leaves the process was acknowledged before.
//!
//! The truth comes from a signer that remembers all that it has signed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Place, VIOLATION, records_in, segments};
use serde_json::Value;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    Anchor, AnchorError, AnchorState, AuditTrailBuilder, Checkpoint, Missing, OpenError, Outcome,
    PolicyViolation, UnanchoredEnd, Verdict, VerifierKey, newest_checkpoint,
};
use vram_residency::{AuditTrail, TrailKey};

/// Size and root, as the text of a checkpoint has them.
type Stated = (u64, String);

fn stated(text: &str) -> Stated {
    let mut lines = text.lines().skip(1);
    let size = lines.next().unwrap().parse().unwrap();
    (size, lines.next().unwrap().to_owned())
}

/// All that was signed, in order.
type Signed = Arc<Mutex<Vec<Stated>>>;

fn remembering(signed: &Signed) -> TrailKey {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let signed = Arc::clone(signed);
    TrailKey::from_signer(secret.verifying_key().to_bytes(), move |message| {
        let text = String::from_utf8(message.to_vec())?;
        signed.lock().unwrap().push(stated(&text));
        Ok(ed25519_dalek::Signer::sign(&secret, message).to_bytes())
    })
    .unwrap()
}

fn builder(place: &Place, signed: &Signed, faults: &StorageFaults) -> AuditTrailBuilder {
    AuditTrail::builder(
        "worker-1".parse().unwrap(),
        place.dir(),
        remembering(signed),
    )
    .durable_within(Duration::from_millis(100))
    .anchor_every_records(1)
    .dangerous_storage_faults(faults.clone())
}

/// An anchor that remembers all that it was given, and answers with `kept` when it is asked.
struct Remembering {
    given: Signed,
    kept: Option<Checkpoint>,
}

impl Anchor for Remembering {
    fn name(&self) -> &str {
        "remembering"
    }

    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), AnchorError> {
        let text = checkpoint.to_string();
        self.given.lock().unwrap().push(stated(&text));
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        Ok(self.kept.clone())
    }
}

/// What all headers name as void.
fn named(place: &Place) -> BTreeSet<Stated> {
    let mut named = BTreeSet::new();
    for path in segments(&place.dir()) {
        let header = &records_in(&path)[0];
        for voided in header["previous"]["voided"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let root = voided["root"].as_str().unwrap().to_owned();
            named.insert((voided["size"].as_u64().unwrap(), root));
        }
    }
    named
}

/// The texts of all whole checkpoint lines in the directory, in named segments and others.
fn checkpoints(place: &Place) -> Vec<String> {
    let mut notes = Vec::new();
    for entry in std::fs::read_dir(place.dir()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Ok(value) = serde_json::from_str::<Value>(line)
                && let Some(note) = value["checkpoint"].as_str()
            {
                notes.push(note.to_owned());
            }
        }
    }
    notes
}

/// Everything that was signed is either the trail's own history or named as void by a header.
fn is_accounted_for(place: &Place, key: &VerifierKey, signed: &Signed) {
    let named = named(place);
    let secret = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let origin = key.name();
    for (size, root) in signed.lock().unwrap().iter() {
        let body = format!("{origin}\n{size}\n{root}\n");
        let mut blob = hex::decode(key.to_string().split('+').nth(1).unwrap()).unwrap();
        blob.extend(ed25519_dalek::Signer::sign(&secret, body.as_bytes()).to_bytes());
        let blob = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, blob);
        let anchor = format!("{body}\n— {origin} {blob}\n").parse().unwrap();
        let report = place.verify(key, &[anchor]);
        assert_eq!(report.outcome, Outcome::Holds, "{size}: {report}");
        let is_named = named.contains(&(*size, root.clone()));
        match report.anchors[0].state {
            AnchorState::Confirmed => assert!(!is_named, "{size} is declared void"),
            AnchorState::Voided => assert!(is_named, "{size} is not named"),
            other => panic!("{size}: {other}"),
        }
    }
}

#[test]
fn the_header_behind_a_failed_sync_names_the_checkpoint_that_it_voids() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let trail = builder(&place, &signed, &faults).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    faults.fail(Step::Sync, StorageError::Io, 1);
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap();

    let void = signed.lock().unwrap()[1].clone();
    assert_eq!(named(&place), BTreeSet::from([void.clone()]));
    let note = checkpoints(&place)
        .into_iter()
        .find(|note| stated(note) == void);
    let note: Checkpoint = note
        .expect("it stands among the void bytes")
        .parse()
        .unwrap();
    let report = place.verify(&key, &[note.clone(), last.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
    assert!(!report.end_vouched_for, "{report}");
    assert_eq!(report.verdict(UnanchoredEnd::Accepted), Verdict::Lacking);
    let missing = report.missing(UnanchoredEnd::Accepted);
    assert_eq!(missing, [Missing::AnchorConfirmed]);

    // It explains the anchor, and does not excuse it.
    let before = checkpoints(&place);
    let anchor = Remembering {
        given: Signed::default(),
        kept: Some(note),
    };
    let opened = builder(&place, &signed, &faults).anchor(anchor).open();
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::Contradicts { .. }), "{error}");
    assert_eq!(checkpoints(&place), before);
    is_accounted_for(&place, &key, &signed);
}

/// A segment that cannot be begun is tried again with another header each time, and gets another root.
#[test]
fn every_attempt_to_begin_a_segment_is_named_and_no_unsynced_checkpoint_leaves_the_process() {
    for step in [
        Step::Create,
        Step::Rename,
        Step::Sync,
        Step::SyncNames,
        Step::Write,
    ] {
        let (place, signed) = (Place::new(), Signed::default());
        let given = Signed::default();
        let faults = StorageFaults::dangerous_new();
        let anchor = Remembering {
            given: Arc::clone(&given),
            kept: None,
        };
        let builder = builder(&place, &signed, &faults).anchor(anchor);
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        let keys = [key.clone()];
        let mut handed_out = Vec::new();
        faults.fail(Step::Sync, StorageError::Io, 1);
        faults.fail(step, StorageError::Io, 3);
        for _ in 0..6 {
            match trail.policy_violation(VIOLATION) {
                Ok(receipt) => handed_out.push(stated(&receipt.checkpoint().to_string())),
                Err(error) => {
                    let text = format!("{error:?} {error}");
                    for (_, root) in signed.lock().unwrap().iter() {
                        assert!(!text.contains(root), "{text}");
                    }
                }
            }
            handed_out.push(stated(&trail.checkpoint().unwrap().to_string()));
            if let Ok(newest) = newest_checkpoint(place.dir(), &keys) {
                handed_out.push(stated(&newest.to_string()));
            }
        }
        // Closing fails, too, for a while.
        faults.fail(Step::Sync, StorageError::Io, 1);
        faults.fail(step, StorageError::Io, 1);
        let last = trail.close().unwrap();
        handed_out.push(stated(&last.checkpoint().to_string()));
        handed_out.extend(given.lock().unwrap().drain(..));

        is_accounted_for(&place, &key, &signed);
        let named = named(&place);
        assert!(named.len() >= 2, "{step:?}: {named:?}");
        for stated in handed_out {
            assert!(!named.contains(&stated), "{step:?}: {stated:?} left");
        }
    }
}

/// A power cut has kept of a batch what `tear` leaves of it; the trail was opened again and closed.
fn torn(tear: impl FnOnce(&mut Vec<u8>)) -> (Place, VerifierKey, Checkpoint) {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let trail = builder(&place, &signed, &faults).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    let receipt = trail.policy_violation(VIOLATION).unwrap();
    let path = segments(&place.dir()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    trail.close().unwrap();
    tear(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let trail = builder(&place, &signed, &faults).open().unwrap();
    trail.close().unwrap();
    (place, key, receipt.checkpoint().clone())
}

fn damage_a_record(bytes: &mut [u8]) {
    let policy = VIOLATION.policy.as_bytes();
    let at = bytes.windows(policy.len()).rposition(|part| part == policy);
    bytes[at.unwrap()] = 0;
}

#[test]
fn an_opening_names_the_checkpoint_of_a_torn_batch() {
    let (place, key, checkpoint) = torn(|bytes| damage_a_record(bytes));
    let expected = BTreeSet::from([stated(&checkpoint.to_string())]);
    assert_eq!(named(&place), expected);
    let report = place.verify(&key, &[checkpoint]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
}

/// A crash may cut a line anywhere, and a missing part of the origin or signature can be completed.
#[test]
fn an_opening_names_a_checkpoint_whose_line_is_torn_at_either_edge() {
    // How many bytes are gone at the end, and how many are zero at the beginning: the origin begins
    // behind 15.
    let at_the_end = [1, 2, 5, 7, 60].map(|count| (count, 0));
    let at_the_beginning = [1, 14, 15, 16, 30, 40].map(|count| (0, count));
    for (gone, zero) in at_the_end.into_iter().chain(at_the_beginning) {
        let (place, key, checkpoint) = torn(|bytes| {
            damage_a_record(bytes);
            let lines = bytes.strip_suffix(b"\n").unwrap();
            let start = lines.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            bytes[start..start + zero].fill(0);
            bytes.truncate(bytes.len() - gone);
        });
        let report = place.verify(&key, &[checkpoint]);
        assert_eq!(report.outcome, Outcome::Holds, "{gone}, {zero}: {report}");
        assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
    }
}

/// A caller may record texts that look like checkpoints, and more of them than a header lists.
#[test]
fn what_callers_record_hides_no_checkpoint_that_was_signed() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let open = || builder(&place, &signed, &faults);
    let trail = open().open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    // The violation will be the second leaf. Half of the texts come before its checkpoint in any order by
    // size and root, half behind it.
    let text = |(size, letter): (u64, char)| format!("\n{size}\nA{letter}{}=\n\n", "A".repeat(41));
    let texts = [2, 3].map(|size| ('A'..='S').map(|letter| text((size, letter))).collect());
    let [before, behind]: [String; 2] = texts;
    let texts = [2, 3].map(|size| ('a'..='q').map(|letter| text((size, letter))).collect());
    let [more_before, more_behind]: [String; 2] = texts;
    let violation = PolicyViolation {
        policy: &[VIOLATION.policy, &before].concat(),
        violation: &more_before,
        details: &behind,
        action: &more_behind,
    };
    let receipt = trail.policy_violation(violation).unwrap();
    assert_eq!(receipt.checkpoint().size(), 2);
    let path = segments(&place.dir()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    trail.close().unwrap();
    damage_a_record(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    open().open().unwrap().close().unwrap();
    assert_eq!(named(&place).len(), 64, "more than are listed");
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
}

/// Files without unacknowledged checkpoints do not prevent an opening.
#[test]
fn leftovers_that_hold_nothing_new_do_not_refuse_an_opening() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let open = || builder(&place, &signed, &faults);
    open().create().unwrap().close().unwrap();
    std::fs::create_dir(place.dir().join("000007.jsonl.new")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.dir().join("000008.jsonl.new")).unwrap();
    // More than a process may have open.
    for number in 1..=1100 {
        let (segment, others) = (number / 64, number % 64 + 1);
        let name = format!("{segment:06}.jsonl.{others}.new");
        std::fs::write(place.dir().join(name), "").unwrap();
    }
    // No writer gives such names.
    for strange in [
        "000001.jsonl.20260714.new",
        "000001.jsonl..new",
        "1.jsonl.new",
    ] {
        std::fs::write(place.dir().join(strange), "").unwrap();
    }
    // A second name, made a file of its own by whoever restored the directory.
    let path = segments(&place.dir()).remove(0);
    std::fs::copy(&path, path.with_extension("jsonl.new")).unwrap();
    open().open().unwrap().close().unwrap();
    let left = std::fs::read_dir(place.dir()).unwrap().count();
    assert_eq!(
        left,
        2 + 1 + 2 + 3,
        "segments, the lock, what is not the trail's"
    );
}

/// A segment without a name holds one batch. One that holds more was acknowledged under a name.
#[test]
fn a_segment_that_somebody_puts_aside_refuses_the_opening_and_is_welcome_back() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let open = || builder(&place, &signed, &faults);
    let refused = |path: &std::path::Path, name: &str| {
        let aside = place.dir().join(name);
        std::fs::rename(path, &aside).unwrap();
        let error = open().open_or_create().unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        std::fs::rename(&aside, path).unwrap();
    };
    open().create().unwrap().close().unwrap();
    let path = segments(&place.dir()).remove(0);
    // The only one: nothing else says that there is a trail.
    refused(&path, "000000.jsonl.new");
    open().open().unwrap().close().unwrap();
    // The first of two, which no opening reads otherwise.
    refused(&path, "000000.jsonl.new");
    refused(&path, "000001.jsonl.new");
    let path = segments(&place.dir()).remove(1);
    for name in ["000001.jsonl.new", "000001.jsonl.7.new", "000000.jsonl.new"] {
        refused(&path, name);
    }
    // Where there is no rename that overwrites nothing, a crash may leave a second name.
    let second = path.with_extension("jsonl.new");
    std::fs::hard_link(&path, &second).unwrap();
    open().open().unwrap().close().unwrap();
    assert!(!second.exists());
}

/// Nobody needs the key to make an acknowledged end look like one that was never acknowledged: a last
/// segment is cut back to its first batch, and loses its name. With the anchor the trail is refused; opened
/// without one, it is never sound again, and the report says why.
#[test]
fn a_first_batch_that_somebody_puts_aside_is_not_excused() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let open = || builder(&place, &signed, &faults);
    open().create().unwrap().close().unwrap();
    let trail = open().open().unwrap();
    let key = trail.verifier_key().clone();
    let path = segments(&place.dir()).remove(1);
    let first_batch = std::fs::read(&path).unwrap();
    let line = first_batch
        .trim_ascii_end()
        .rsplit(|byte| *byte == b'\n')
        .next();
    let line: Value = serde_json::from_slice(line.unwrap()).unwrap();
    let last: Checkpoint = line["checkpoint"].as_str().unwrap().parse().unwrap();
    trail.close().unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path.with_extension("jsonl.new"), first_batch).unwrap();
    let anchor = || Remembering {
        given: Signed::default(),
        kept: Some(last.clone()),
    };
    let error = open().anchor(anchor()).open().unwrap_err();
    assert!(matches!(error, OpenError::Contradicts { .. }), "{error}");
    let is_there = path.with_extension("jsonl.new").exists();
    assert!(is_there, "a refused opening removes no evidence");

    open().open().unwrap().close().unwrap();
    let report = place.verify(&key, std::slice::from_ref(&last));
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
    assert!(!report.end_vouched_for, "{report}");
    let verdict = report.verdict(UnanchoredEnd::Accepted);
    assert_eq!(verdict, Verdict::Lacking, "{report}");
    let text = report.to_string();
    assert!(text.contains("put their segment aside"), "{text}");
    open().anchor(anchor()).open().unwrap_err();
}

/// The opening signed a checkpoint, and could not give the segment its name.
#[test]
fn an_opening_names_what_an_opening_that_failed_has_signed() {
    let (place, signed) = (Place::new(), Signed::default());
    let faults = StorageFaults::dangerous_new();
    let trail = builder(&place, &signed, &faults).open_or_create().unwrap();
    let key = trail.verifier_key().clone();
    trail.close().unwrap();
    faults.fail(Step::Rename, StorageError::Io, 1);
    let error = builder(&place, &signed, &faults).open().unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    let void = signed.lock().unwrap().last().unwrap().clone();
    builder(&place, &signed, &faults)
        .open()
        .unwrap()
        .close()
        .unwrap();
    assert_eq!(named(&place), BTreeSet::from([void]));
    is_accounted_for(&place, &key, &signed);
}
