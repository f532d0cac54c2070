//! Checkpoints that a header declares void: named by a report, and never excused.

use serde_json::{Value, json};
use vram_residency::audit::{AnchorState, Checkpoint, Missing, UnanchoredEnd, Verdict};

use crate::built::{Trail, broken, holds};
use crate::script::Script;

/// Begins the next segment with a header that declares `voided` void.
fn open_declaring(trail: &mut Trail, voided: &Value) {
    trail.open("SegmentOpened");
    let line = String::from_utf8(trail.leaves.pop().unwrap()).unwrap();
    let previous = format!(r#""previous":{{"voided":{voided},"#);
    let line = line.replacen(r#""previous":{"#, &previous, 1);
    trail.leaves.push(line.clone().into_bytes());
    *trail.segments.last_mut().unwrap() = format!("{line}\n").into_bytes();
}

/// A closed trail of two segments, and the checkpoint of 3 leaves that its second header is to name.
fn declaring(format: u64, voided: impl Fn(&Value) -> Value) -> (Trail, Checkpoint) {
    let mut trail = Trail::new();
    trail.void = Some(0);
    trail.below = (format > 1).then_some(1000);
    trail.open("TrailOpened").notes(1).checkpoint();
    let note = trail.sign(3, [9; 32]);
    let root = note.lines().nth(2).unwrap();
    let entry = json!({"size": 3, "root": root});
    open_declaring(&mut trail, &voided(&entry));
    trail.notes(2).close();
    (trail, note.parse().unwrap())
}

#[test]
fn an_anchor_that_is_declared_void_is_named_and_vouches_for_nothing() {
    let (trail, void) = declaring(2, |entry| json!([entry]));
    let report = trail.verify(&[void, trail.anchor()]);
    holds(&report);
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
    assert_eq!(report.anchors[0].voided_by, Some(1));
    assert_eq!(report.anchors[1].state, AnchorState::Confirmed);
    assert_eq!(report.voided_anchors, 1);
    assert!(!report.end_vouched_for, "the key's holder may have done it");
    for end in [UnanchoredEnd::Accepted, UnanchoredEnd::Refused] {
        assert_eq!(report.verdict(end), Verdict::Lacking);
        assert!(report.missing(end).contains(&Missing::AnchorConfirmed));
    }
    let text = report.to_string();
    assert!(text.contains("DECLARED VOID"), "{text}");
    assert!(text.contains("acknowledged records are gone"), "{text}");
}

/// Whoever gives all that an append-only anchor keeps is told which one it is.
#[test]
fn an_anchor_that_is_declared_void_is_named_among_however_many() {
    let (trail, void) = declaring(2, |entry| json!([entry]));
    for place in [0, 255, 256, 400] {
        let mut anchors = vec![trail.anchor(); 400];
        anchors.insert(place, void.clone());
        let report = trail.verify(&anchors);
        let text = report.to_string();
        assert!(text.contains("DECLARED VOID"), "{place}: {text}");
        assert_eq!(report.anchors.len(), 256);
        anchors[place] = trail.sign(3, [8; 32]).parse().unwrap();
        let text = trail.verify(&anchors).to_string();
        assert!(text.contains("CONTRADICTS the trail"), "{place}: {text}");
    }
}

/// Longer than the trail, and at a size that it has: both are contradictions without the declaration.
#[test]
fn what_no_header_declares_void_contradicts_as_ever() {
    let (trail, void) = declaring(2, |_| json!([]));
    broken(&trail.verify(&[void]), "contradicts");
    let (trail, _) = declaring(2, |entry| json!([entry]));
    let other: Checkpoint = trail.sign(3, [8; 32]).parse().unwrap();
    broken(&trail.verify(&[other]), "contradicts");
    let longer: Checkpoint = trail.sign(9, [9; 32]).parse().unwrap();
    broken(&trail.verify(&[longer]), "contradicts");
    let (trail, longer) = declaring(2, |entry| {
        let mut longer = entry.clone();
        longer["size"] = json!(99);
        json!([entry, longer])
    });
    let root = longer.root();
    let longer: Checkpoint = trail.sign(99, root).parse().unwrap();
    let report = trail.verify(&[longer]);
    assert_eq!(report.anchors[0].state, AnchorState::Voided, "{report}");
}

/// What is acknowledged before the header cannot be taken back by it.
#[test]
fn a_header_declares_nothing_void_that_is_acknowledged_or_no_checkpoint() {
    let root = json!("CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=");
    for voided in [
        json!([{"size": 2, "root": root}]),
        json!([{"size": 3, "root": "CQkJ"}]),
        json!([{"size": 3, "root": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQl="}]),
        json!(vec![json!({"size": 3, "root": root}); 65]),
    ] {
        let (trail, _) = declaring(2, |_| voided.clone());
        broken(&trail.verify(&[]), "declares void");
    }
    let (trail, _) = declaring(2, |entry| json!(vec![entry.clone(); 64]));
    holds(&trail.verify(&[]));
}

/// The field has no meaning there.
#[test]
fn a_header_of_format_1_declares_nothing_void() {
    let (trail, void) = declaring(1, |entry| json!([entry]));
    holds(&trail.verify(&[]));
    broken(&trail.verify(&[void]), "contradicts");
}

/// A header that no checkpoint covers says nothing.
#[test]
fn only_an_acknowledged_header_declares() {
    let mut trail = Trail::new();
    trail.void = Some(0);
    trail.below = Some(1000);
    trail.open("TrailOpened").notes(1).checkpoint();
    let void = trail.sign(3, [9; 32]);
    let entry = json!({"size": 3, "root": void.lines().nth(2).unwrap()});
    open_declaring(&mut trail, &json!([entry]));
    trail.notes(2);
    let report = trail.verify(&[void.parse().unwrap()]);
    assert_ne!(report.anchors[0].state, AnchorState::Voided, "{report}");
}

#[test]
fn the_script_agrees_on_what_is_declared_void() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let root = json!("CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=");
    let cases: [(&str, u64, Value); 7] = [
        ("nothing", 2, json!([])),
        ("it", 2, json!([{"size": 3, "root": root}])),
        ("another size", 2, json!([{"size": 4, "root": root}])),
        ("format 1", 1, json!([{"size": 3, "root": root}])),
        ("acknowledged", 2, json!([{"size": 2, "root": root}])),
        ("no root", 2, json!([{"size": 3, "root": "CQkJ"}])),
        (
            "too many",
            2,
            json!(vec![json!({"size": 3, "root": root}); 65]),
        ),
    ];
    for (name, format, voided) in cases {
        let (trail, void) = declaring(format, |_| voided.clone());
        let dir = trail.stored();
        let keys = [trail.key_text()];
        for anchor in [void, trail.anchor()] {
            let report = trail.verify(std::slice::from_ref(&anchor));
            script.agrees(name, dir.path(), &keys, Some(&anchor.to_string()), &report);
        }
    }
}
