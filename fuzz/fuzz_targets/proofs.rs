//! Text that claims to be the proof of one record.
//!
//! One text only stands for a proof, and the fuzzer has no key: a proof that the real trail's key
//! vouches for shows a line of that trail, at its place.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vram_residency_fuzz::{ENDS, ORIGINAL, verifier_key};
use vram_trail::Proof;

fuzz_target!(|text: &str| {
    let Ok(proof) = text.parse::<Proof>() else {
        return;
    };
    assert_eq!(proof.to_string(), text);
    // What a key that nobody knows has signed changes no answer.
    let more = format!("{text}\u{2014} w AAAAAAAAAAAA\n");
    if let Ok(more) = more.parse::<Proof>() {
        assert_eq!(
            more.check(&[verifier_key()]),
            proof.check(&[verifier_key()])
        );
    }
    if let Ok(record) = proof.check(&[verifier_key()]) {
        assert_eq!(record, proof.unchecked_record());
        assert!(proof.index() < proof.checkpoint().size());
        let leaf = usize::try_from(proof.index()).unwrap();
        assert_eq!(
            Some(record),
            leaves().nth(leaf),
            "a line that was never there"
        );
    }
});

/// The real trail's acknowledged records.
fn leaves() -> impl Iterator<Item = &'static str> {
    let segments = ORIGINAL.into_iter().zip(ENDS);
    let lines = segments.flat_map(|(bytes, end)| bytes[..end].split(|byte| *byte == b'\n'));
    let lines = lines.map(|line| str::from_utf8(line).unwrap());
    lines.filter(|line| !line.is_empty() && !line.starts_with("{\"checkpoint\":"))
}
