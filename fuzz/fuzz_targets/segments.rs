//! Bytes that claim to be a trail, checked with the key of a real one.
//!
//! The fuzzer has no key, so whatever the reader says holds must be, up to its last checkpoint, byte
//! for byte what the real trail has; and with the real trail's last checkpoint as an anchor nothing
//! short of all of it may hold. A report must not contradict itself either.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vram_residency_fuzz::{
    ENDS, ORIGINAL, agrees_with_itself, anchor, check, segments, verifier_key,
};
use vram_trail::{AnchorState, Outcome, Report};

fuzz_target!(|data: &[u8]| {
    let segments = segments(data);
    let key = verifier_key();
    let report = check(&segments, &key, &[]);
    assert_eq!(report, check(&segments, &key, &[]), "twice the same");
    agrees_with_itself(&report);
    assert!(!report.end_vouched_for, "nobody vouches for the end");
    if report.outcome == Outcome::Holds {
        is_the_original(&segments, &report);
    }
    let anchored = check(&segments, &key, &[anchor()]);
    agrees_with_itself(&anchored);
    if anchored.outcome == Outcome::Holds {
        assert_eq!(report.outcome, Outcome::Holds);
        assert_eq!(anchored.anchors[0].state, AnchorState::Confirmed);
        assert!(anchored.end_vouched_for && anchored.leaves == anchor().size());
    }
});

/// What is acknowledged in the trail is what the real one has there.
fn is_the_original(segments: &[&[u8]], report: &Report) {
    let text = report.last_checkpoint.as_ref().expect("a last checkpoint");
    let line = checkpoint_line(text);
    let (last, end) = ORIGINAL
        .iter()
        .enumerate()
        .find_map(|(number, original)| Some((number, find(original, &line)? + line.len())))
        .expect("a checkpoint of the real trail");
    let present = segments.iter().rposition(|bytes| !bytes.is_empty());
    assert_eq!(present, Some(last), "the end is in the last segment");
    for (number, bytes) in segments.iter().enumerate().take(last + 1) {
        let end = if number == last { end } else { ENDS[number] };
        let is_absent = bytes.is_empty();
        assert!(is_absent || bytes.starts_with(&ORIGINAL[number][..end]));
        let is_older = Some((number as u64) + 1) <= report.first_segment;
        assert_eq!(is_absent, is_older, "a segment within is missing");
    }
}

fn checkpoint_line(text: &str) -> Vec<u8> {
    let text = text.replace('\n', "\\n");
    format!("{{\"checkpoint\":\"{text}\"}}\n").into_bytes()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
