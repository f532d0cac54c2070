//! What the targets share: a real trail, and a way from the fuzzer's bytes to a directory.
//!
//! The reader of segments is private to the library, so the targets go the way that everybody goes:
//! a directory, and [`verify`]. An input is the segments of a trail one behind the other, with the
//! byte 0x1e between them, which no segment holds; a segment with no bytes is absent.

use std::cell::RefCell;
use std::path::Path;

use tempfile::TempDir;
use vram_trail::{Checkpoint, Outcome, Report, VerifierKey, verify};

/// What stands between two segments of an input.
pub const BETWEEN: u8 = 0x1e;

/// The most segments that are made of an input.
const MAX_SEGMENTS: usize = 8;

/// The segments of the trail that version 0.1.0 wrote.
pub const ORIGINAL: [&[u8]; 4] = [
    include_bytes!("../../tests/fixtures/trail-0.1/000000.jsonl"),
    include_bytes!("../../tests/fixtures/trail-0.1/000001.jsonl"),
    include_bytes!("../../tests/fixtures/trail-0.1/000002.jsonl"),
    include_bytes!("../../tests/fixtures/trail-0.1/000003.jsonl"),
];

/// Where the acknowledged part of each ends: the next one's header says so (`previous.end`), and the
/// last one was closed. Behind it, bytes are void.
pub const ENDS: [usize; 4] = [3934, 2926, 1858, ORIGINAL[3].len()];

/// The key that signed it: a test key, public on purpose.
pub const KEY_PEM: &str = include_str!("../../tests/fixtures/trail-0.1/key.pem");

pub fn verifier_key() -> VerifierKey {
    let text = include_str!("../../tests/fixtures/trail-0.1/verifier-key.txt");
    text.trim_end().parse().unwrap()
}

/// Its last checkpoint.
pub fn anchor() -> Checkpoint {
    let text = include_str!("../../tests/fixtures/trail-0.1/anchor.txt");
    text.parse().unwrap()
}

thread_local! {
    static PLACE: TempDir = {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        place.unwrap()
    };
    static WRITTEN: RefCell<usize> = const { RefCell::new(0) };
}

/// Checks the trail that has these segments; an empty one is absent.
pub fn check(segments: &[&[u8]], key: &VerifierKey, anchors: &[Checkpoint]) -> Report {
    PLACE.with(|place| {
        let written = segments.len().min(MAX_SEGMENTS);
        let before = WRITTEN.replace(written);
        for number in 0..before.max(written) {
            let path = place.path().join(format!("{number:06}.jsonl"));
            match segments.get(number) {
                Some(bytes) if !bytes.is_empty() => std::fs::write(path, bytes).unwrap(),
                _ => drop(std::fs::remove_file(path)),
            }
        }
        verify(place.path(), std::slice::from_ref(key), anchors)
    })
}

/// The segments of an input.
pub fn segments(data: &[u8]) -> Vec<&[u8]> {
    data.split(|byte| *byte == BETWEEN)
        .take(MAX_SEGMENTS)
        .collect()
}

/// No part of a report contradicts another one.
pub fn agrees_with_itself(report: &Report) {
    let holds = report.outcome == Outcome::Holds;
    assert_eq!(report.outcome == Outcome::Broken, report.findings_total > 0);
    assert!(report.findings.len() as u64 <= report.findings_total);
    assert!(!holds || report.not_checked.is_empty());
    assert!(!report.end_vouched_for || holds);
    assert!(!holds || report.origin.is_some() && report.last_checkpoint.is_some());
    if holds {
        assert!(report.first_leaf < report.leaves);
        assert_eq!(report.records, report.leaves - report.first_leaf);
    }
    assert_eq!(report.older_segments_absent, report.first_segment > Some(0));
    assert!(report.first_seq <= report.last_seq);
    assert!(!report.closed || report.tail.is_none());
    for [first, last] in &report.lost {
        assert!(first <= last);
    }
    let checkpoint = report.last_checkpoint.as_ref();
    if let Some(checkpoint) = checkpoint {
        let checkpoint: Checkpoint = checkpoint.parse().expect("a checkpoint");
        assert_eq!(checkpoint.size(), report.leaves);
    }
    assert!(!report.to_string().is_empty());
}
