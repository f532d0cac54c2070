//! Proofs of single records out of a real trail: every acknowledged record has one, no other has, and
//! what a proof says does not depend on what became of the rest of the trail.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

use crate::support::{self, Place, VIOLATION, segments};
use serde_json::Value;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{
    self, AnchorState, Outcome, Proof, ProofError, ProveError, UncheckedLine, VerifierKey,
    newest_checkpoint, prove, read_unchecked, stated_keys,
};

/// Three segments by two runs: in the first one, a failed sync leaves void bytes behind.
fn trail() -> (Place, VerifierKey) {
    let (place, builder, faults) = {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        (place, builder, faults)
    };
    let first = builder.open_or_create().unwrap();
    let key = first.verifier_key().clone();
    for number in 0..20 {
        first.note(format!("note {number}")).unwrap();
    }
    first.flush().unwrap();
    faults.fail(Step::Sync, StorageError::Io, 1);
    first.policy_violation(VIOLATION).unwrap();
    first.close().unwrap();
    let second = place.open();
    second.policy_violation(VIOLATION).unwrap();
    second.close().unwrap();
    assert_eq!(segments(&place.dir()).len(), 3);
    (place, key)
}

/// The lines that are not void, by number, in the order of the trail.
fn lines(place: &Place) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    read_unchecked(place.dir(), &mut |_, line| {
        if let UncheckedLine::Record(line) = line {
            let record: Value = serde_json::from_slice(line).unwrap();
            let line = String::from_utf8(line.to_vec()).unwrap();
            lines.push((record["seq"].as_u64().unwrap(), line));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    lines
}

#[test]
fn every_record_has_a_proof_against_the_newest_checkpoint() {
    let (place, key) = trail();
    let newest = newest_checkpoint(place.dir(), std::slice::from_ref(&key)).unwrap();
    let lines = lines(&place);
    assert_eq!(newest.size(), lines.len() as u64);
    for (index, (seq, line)) in lines.iter().enumerate() {
        let proof = prove(place.dir(), std::slice::from_ref(&key), *seq).unwrap();
        assert_eq!(proof.index(), index as u64);
        assert_eq!(proof.checkpoint(), &newest);
        let read: Proof = proof.to_string().parse().unwrap();
        assert_eq!(read.check(std::slice::from_ref(&key)).unwrap(), line);
    }
    let beyond = lines.iter().map(|(seq, _)| seq + 1).max().unwrap();
    assert!(matches!(
        prove(place.dir(), &[key], beyond),
        Err(ProveError::NoRecord { seq, .. }) if seq == beyond
    ));
}

/// The void copy of a record that was written again is never the one that is proven.
#[test]
fn a_record_is_shown_and_proven_once() {
    let (place, _) = trail();
    let mut seen = BTreeMap::new();
    for (seq, _) in lines(&place) {
        *seen.entry(seq).or_insert(0) += 1;
    }
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    let everything = support::records(&place.dir()).len();
    assert!(everything > seen.len(), "the trail has no void record");
}

#[test]
fn what_is_not_acknowledged_is_not_proven() {
    let (place, key) = trail();
    let (highest, line) = lines(&place).pop().unwrap();
    let last = segments(&place.dir()).pop().unwrap();
    let mut text = fs::read_to_string(&last).unwrap();
    text.push_str(&line.replace(&format!("\"seq\":{highest}"), "\"seq\":9000"));
    text.push('\n');
    fs::write(&last, text).unwrap();
    assert!(lines(&place).iter().any(|(seq, _)| *seq == 9000));
    assert!(matches!(
        prove(place.dir(), &[key], 9000),
        Err(ProveError::NoRecord { .. })
    ));
}

#[test]
fn a_record_before_the_damage_is_proven_and_one_behind_it_in_the_segment_is_not() {
    let (place, key) = trail();
    let before = lines(&place);
    let intact = newest_checkpoint(place.dir(), std::slice::from_ref(&key)).unwrap();
    let second = &segments(&place.dir())[1];
    let text = fs::read_to_string(second).unwrap();
    let damaged = text.replacen("unpinned model", "a pinned model", 1);
    assert_ne!(text, damaged);
    fs::write(second, &damaged).unwrap();
    let changed = damaged
        .lines()
        .find(|line| line.contains("a pinned model"))
        .unwrap();
    let changed: Value = serde_json::from_str(changed).unwrap();

    let (mut proven, mut refused, mut newest) = (0, 0, 0);
    for (seq, line) in &before {
        match prove(place.dir(), std::slice::from_ref(&key), *seq) {
            Ok(proof) => {
                assert_eq!(proof.check(std::slice::from_ref(&key)).unwrap(), line);
                assert_ne!(*seq, changed["seq"]);
                newest += usize::from(proof.checkpoint() == &intact);
                proven += 1;
            }
            Err(ProveError::NoRecord { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    // The first segment's records still have one; the last segment's even the newest checkpoint.
    assert!(
        proven > 20 && refused > 0 && newest > 0,
        "{proven} {refused} {newest}"
    );
}

#[test]
fn a_trail_without_its_oldest_segment_still_proves_the_rest() {
    let (place, key) = trail();
    let all = lines(&place);
    fs::remove_file(&segments(&place.dir())[0]).unwrap();
    let rest = lines(&place);
    assert!(rest.len() < all.len());
    for (seq, line) in &rest {
        let proof = prove(place.dir(), std::slice::from_ref(&key), *seq).unwrap();
        assert_eq!(proof.check(std::slice::from_ref(&key)).unwrap(), line);
    }
    assert!(prove(place.dir(), &[key], all[0].0).is_err());
}

#[test]
fn a_proof_needs_a_key_that_signed_the_trail() {
    let (place, key) = trail();
    let (other, stranger) = trail();
    drop(other);
    let proof = prove(place.dir(), std::slice::from_ref(&key), 0).unwrap();
    assert!(matches!(
        proof.check(std::slice::from_ref(&stranger)),
        Err(ProofError::NoKey { .. })
    ));
    let stranger = std::slice::from_ref(&stranger);
    assert!(matches!(
        prove(place.dir(), stranger, 0),
        Err(ProveError::NoRecord { seq: 0, .. })
    ));
    assert!(matches!(
        newest_checkpoint(place.dir(), stranger),
        Err(ProveError::NoCheckpoint { .. })
    ));
    assert_eq!(stated_keys(place.dir()).unwrap(), [key]);
    let empty = place.temp.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(
        prove(&empty, stranger, 0),
        Err(ProveError::NoTrail { .. })
    ));
    assert!(matches!(
        prove(empty.join("none"), stranger, 0),
        Err(ProveError::Io { .. })
    ));
}

/// A sync has failed, and its batch can be read all the same: it is written again elsewhere, behind
/// another header. Whoever anchors its checkpoint would call the honest trail forged.
#[test]
fn nothing_is_handed_out_whose_sync_may_have_failed() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.open_or_create().unwrap();
    let key = [trail.verifier_key().clone()];
    let dir = place.dir();
    // The only checkpoint so far: nobody but the writer knows whether it is on the disk.
    assert!(matches!(
        newest_checkpoint(&dir, &key),
        Err(ProveError::NoCheckpoint { .. })
    ));
    let durable = trail.policy_violation(VIOLATION).unwrap();
    let durable_too = trail.policy_violation(VIOLATION).unwrap();
    faults.fail(Step::Sync, StorageError::Io, 1);
    faults.fail(Step::Create, StorageError::Io, u32::MAX);
    trail.policy_violation(VIOLATION).unwrap_err();

    let anchor = newest_checkpoint(&dir, &key).unwrap();
    assert_eq!(anchor.to_string(), durable_too.checkpoint().to_string());
    let proof = prove(&dir, &key, durable.seq().value()).unwrap();
    let unsure = durable_too.seq().value() + 1;
    assert!(matches!(
        prove(&dir, &key, unsure),
        Err(ProveError::NoRecord { .. })
    ));

    faults.heal();
    trail.policy_violation(VIOLATION).unwrap();
    // The segment behind names what is durable of the one before.
    let anchors = [
        anchor,
        proof.checkpoint().clone(),
        newest_checkpoint(&dir, &key).unwrap(),
        trail.close().unwrap().checkpoint().clone(),
    ];
    let report = audit::verify(&dir, &key, &anchors);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for, "{report}");
    for anchor in &report.anchors {
        assert_eq!(anchor.state, AnchorState::Confirmed, "{report}");
    }
}
