//! Checkpoints that others have signed, too: in anchors and proofs that changes no answer, and in a
//! segment there is the trail's own signature and no other.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::cosign::{Witness, line, with_lines};
use crate::support::{self, Place, VIOLATION, is_installed, segments};
use serde_json::{Value, json};
use vram_residency::audit::{
    AnchorState, Checkpoint, Contradiction, OpenError, Outcome, Proof, ProofError, SameHostCopy,
    SocketAnchor, VerifierKey, prove, verify,
};

/// A closed trail, its key, and its last checkpoint.
fn trail() -> (Place, VerifierKey, Checkpoint) {
    let place = Place::new();
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.note("a note").unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    let last = trail.close().unwrap().checkpoint().clone();
    (place, key, last)
}

/// What a witness and others may put under a checkpoint: before and behind the trail's own line.
fn lines_of_others(place: &Place, key: &VerifierKey, last: &Checkpoint) -> Vec<(String, String)> {
    let none = String::new;
    let mut cases = vec![
        // A cosignature by ML-DSA-44, without and with its key's hash, and the shortest there is.
        (none(), line("witness.example/ml-dsa", &[7; 2428])),
        (line("witness.example/ml-dsa", &[7; 2432]), none()),
        (none(), line("short", &[1; 5])),
        // Another key under the trail's own name, with a signature of any length.
        (line(key.name(), &[9; 68]), line(key.name(), &[8; 76])),
        (line(key.name(), &[9; 2428]), none()),
        // As many as there may be, and as large.
        (
            line("w", &[5; 100]).repeat(50),
            line("w", &[6; 100]).repeat(50),
        ),
        (largest_line("w").repeat(32), largest_line("v").repeat(32)),
        (
            (0..100)
                .map(|n| line(&format!("w{n}"), &[n; 7850]))
                .collect(),
            none(),
        ),
    ];
    if is_installed("openssl") {
        let witness = Witness::new(place.temp.path(), "witness.example/w1");
        let cosignature = witness.cosign(last);
        cases.push((none(), cosignature.clone()));
        cases.push((cosignature.clone(), none()));
        cases.push((cosignature.clone(), cosignature));
    }
    cases
}

/// A line of 16 384 bytes, without its newline.
fn largest_line(name: &str) -> String {
    let padding = "n".repeat(16_384 - line(name, &[0; 12_000]).len() + 1);
    let line = line(&format!("{name}{padding}"), &[0; 12_000]);
    assert_eq!(line.len(), 16_385);
    line
}

#[test]
fn what_others_have_signed_vouches_for_the_end_as_before_and_keeps_its_text() {
    let (place, key, last) = trail();
    for (before, behind) in lines_of_others(&place, &key, &last) {
        let text = with_lines(&last, &before, &behind);
        let anchor: Checkpoint = text.parse().unwrap();
        assert_eq!(anchor.to_string(), text);
        // Without a key, nobody can tell which line under the trail's name is its own.
        if !before.contains(key.name()) {
            assert_eq!(anchor.signature(), last.signature());
        }
        assert_eq!(anchor.signed_text(), last.signed_text());
        let report = verify(place.dir(), std::slice::from_ref(&key), &[anchor]);
        assert_eq!(report.anchors[0].state, AnchorState::Confirmed);
        assert!(report.end_vouched_for, "{} bytes", text.len());
    }
}

#[test]
fn what_others_have_signed_proves_a_record_as_before() {
    let (place, key, last) = trail();
    let keys = std::slice::from_ref(&key);
    let proof = prove(place.dir(), keys, 1).unwrap();
    let record = proof.check(keys).unwrap();
    for (before, behind) in lines_of_others(&place, &key, &last) {
        let cosigned = with_lines(&last, &before, &behind);
        let text = proof.to_string().replace(&last.to_string(), &cosigned);
        assert_ne!(text, proof.to_string());
        let read: Proof = text.parse().unwrap();
        assert_eq!(read.to_string(), text);
        assert_eq!(read.check(keys).unwrap(), record);
    }
}

/// Whoever signs a checkpoint chooses no bytes of ours: a wrong signature under a key that the reader
/// knows makes the whole text worth nothing, as Go's `note.Open` has it.
#[test]
fn a_wrong_signature_under_a_known_key_counts_for_nothing_wherever_it_stands() {
    let (place, key, last) = trail();
    let (_elsewhere, other, _) = trail();
    let keys = [key.clone(), other.clone()];
    let hash = |key: &VerifierKey| -> [u8; 4] {
        let text = key.to_string();
        let digits = text[key.name().len() + 1..].split('+').next().unwrap();
        hex::decode(digits).unwrap().try_into().unwrap()
    };
    let forged = |key: &VerifierKey, length: usize| {
        let mut blob = vec![3; length];
        blob[..4].copy_from_slice(&hash(key));
        line(key.name(), &blob)
    };
    let proof = prove(place.dir(), &keys, 1).unwrap();
    let ends = |before: &str, behind: &str| {
        let text = with_lines(&last, before, behind);
        let report = verify(place.dir(), &keys, &[text.parse().unwrap()]);
        assert_eq!(report.outcome, Outcome::Holds);
        let proof: Proof = proof
            .to_string()
            .replace(&last.to_string(), &text)
            .parse()
            .unwrap();
        let checked = proof.check(&keys).map(str::len);
        assert_eq!(checked.is_ok(), report.end_vouched_for);
        if let Err(error) = checked {
            assert_eq!(error, ProofError::NotSigned);
            assert_eq!(report.anchors[0].state, AnchorState::Foreign);
        }
        report.end_vouched_for
    };
    for length in [68, 76, 2428] {
        // The trail's own key: the first line decides.
        assert!(!ends(&forged(&key, length), ""), "{length}");
        assert!(ends("", &forged(&key, length)), "{length}");
        // Another key that was given.
        assert!(!ends(&forged(&other, length), ""), "{length}");
        assert!(!ends("", &forged(&other, length)), "{length}");
    }
    // The same lines say nothing to a reader who has only the trail's key.
    let text = with_lines(&last, &forged(&other, 68), "");
    let report = verify(place.dir(), &[key], &[text.parse().unwrap()]);
    assert!(report.end_vouched_for);
}

#[test]
fn more_than_a_note_may_hold_is_refused() {
    let (_place, _, last) = trail();
    let one = line("w", &[5; 68]);
    assert!(
        with_lines(&last, &one.repeat(100), "")
            .parse::<Checkpoint>()
            .is_ok()
    );
    for (wrong, words) in [
        (one.repeat(101), "too many signatures"),
        (largest_line("w").repeat(65), "too many signatures"),
        (largest_line("w").replacen('n', "nn", 1), "16 384 bytes"),
        (largest_line("w").repeat(80), "longer than any checkpoint"),
        (one.replace("w ", "w+ "), "form"),
        (one.replace("w ", " "), "form"),
        (one.replace("w ", "w\u{1} "), "form"),
        (one.replace("w ", "w\u{2003} "), "form"),
        (one.replace('\u{2014}', "-"), "form"),
        (line("w", &[5; 4]), "too short"),
        (one.replace("BQ", "B!"), "base64"),
        (String::from("\n"), "three lines"),
    ] {
        let error = with_lines(&last, &wrong, "").parse::<Checkpoint>();
        let told = error.unwrap_err().to_string();
        assert!(told.contains(words), "{words}: {told}");
    }
}

/// In a trail nobody else signs, so a line more is damage, and so is one of another length.
#[test]
fn in_a_segment_there_is_one_signature() {
    let (place, key, last) = trail();
    let path = segments(&place.dir()).pop().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let own = json!({ "checkpoint": last.to_string() }).to_string();
    assert!(text.contains(&own));
    let signature = last.to_string().lines().last().unwrap().to_owned() + "\n";
    for changed in [
        with_lines(&last, "", &line("w", &[5; 76])),
        with_lines(&last, &line("w", &[5; 68]), ""),
        last.to_string()
            .replace(&signature, &line(key.name(), &[5; 76])),
    ] {
        let line = json!({ "checkpoint": changed }).to_string();
        let more = format!("{}{own}\n", text.replace(&own, &line));
        std::fs::write(&path, more).unwrap();
        let report = verify(place.dir(), std::slice::from_ref(&key), &[]);
        assert_eq!(report.outcome, Outcome::Broken, "{changed}");
    }
}

#[test]
fn a_trail_is_compared_with_what_a_witness_has_cosigned() {
    let (place, key, last) = trail();
    let (before, behind) = lines_of_others(&place, &key, &last).pop().unwrap();
    let text = with_lines(&last, &before, &behind);
    let copy = place.temp.path().join("copy");
    std::fs::write(&copy, &text).unwrap();
    let socket = place.temp.path().join("socket");
    let answer = json!({ "checkpoint": with_lines(&last, &largest_line("\"").repeat(32), &largest_line("\\").repeat(32)) });
    let listener = UnixListener::bind(&socket).unwrap();
    let size = last.size();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut question = String::new();
            while stream.read_line(&mut question).unwrap_or(0) > 0 {
                let said = match question.strip_prefix("newest ") {
                    Some(_) => format!("{answer}\n"),
                    None => match serde_json::from_str::<Value>(&question) {
                        Ok(line) => {
                            let kept = line["checkpoint"].as_str().unwrap();
                            format!("ok {}\n", kept.lines().nth(1).unwrap())
                        }
                        // All that it keeps of this trail, in one page.
                        Err(_) => match question
                            .trim_end()
                            .rsplit(' ')
                            .next()
                            .unwrap()
                            .parse::<u64>()
                        {
                            Ok(from) if question.starts_with("checkpoints ") => {
                                let page = (size >= from).then_some(&answer["checkpoint"]);
                                let page: Vec<_> = page.into_iter().collect();
                                json!({ "checkpoints": page }).to_string() + "\n"
                            }
                            _ => "no such question\n".to_owned(),
                        },
                    },
                };
                stream.get_mut().write_all(said.as_bytes()).unwrap();
                question.clear();
            }
        }
    });
    let open = || {
        place
            .builder()
            .anchor(SocketAnchor::unix(&socket))
            .anchor(SameHostCopy::new(&copy))
    };
    // The trail continues both.
    let kept = std::fs::read(segments(&place.dir()).pop().unwrap()).unwrap();
    open().open().unwrap().close().unwrap();
    let failed = support::of_event(&place.records(), "AnchorFailed");
    assert!(failed.is_empty(), "{failed:?}");
    // Cut back to before it, the trail contradicts both.
    for path in segments(&place.dir()).iter().skip(1) {
        std::fs::remove_file(path).unwrap();
    }
    let text = String::from_utf8(kept).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let cut = lines
        .iter()
        .position(|line| line.starts_with("{\"checkpoint\""))
        .unwrap();
    std::fs::write(&segments(&place.dir())[0], lines[..=cut].concat()).unwrap();
    std::fs::write(&copy, with_lines(&last, &before, &behind)).unwrap();
    for builder in [
        place.builder().anchor(SocketAnchor::unix(&socket)),
        place.builder().anchor(SameHostCopy::new(&copy)),
    ] {
        let refused = builder.open().unwrap_err();
        assert!(
            matches!(
                refused,
                OpenError::Contradicts {
                    contradiction: Contradiction::Shorter { .. },
                    ..
                }
            ),
            "{refused:?}"
        );
    }
}
