//! Whatever the bytes and the ends of chunks, the lines equal those of a plain loop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::super::checkpoint::VerifierKey;
use super::super::Walk;
use super::super::line::MAX_LINE_BYTES;
use super::*;
use crate::{Trail, TrailKey};

/// Returns a small segment as the writer makes it, with several checkpoints, and its key.
fn segment() -> (Vec<u8>, VerifierKey) {
    static MADE: LazyLock<(Vec<u8>, VerifierKey)> = LazyLock::new(make_segment);
    MADE.clone()
}

fn make_segment() -> (Vec<u8>, VerifierKey) {
    if cfg!(miri) {
        // Miri opens no trail, and is slow at hashing.
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/trail-0.1");
        let key = std::fs::read_to_string(made.join("verifier-key.txt")).unwrap();
        let mut segment = std::fs::read(made.join("000002.jsonl")).unwrap();
        segment.truncate(600);
        return (segment, key.trim().parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let key = TrailKey::open_or_create(dir.path().join("key.pem")).unwrap();
    let path = dir.path().join("trail");
    let trail = Trail::builder("test".parse().unwrap(), &path, key)
        .open_or_create()
        .unwrap();
    for number in 0..12 {
        trail.note(format!("note {number}")).unwrap();
        if number % 4 == 0 {
            trail.flush().unwrap();
        }
    }
    let key = trail.verifier_key().clone();
    trail.close().unwrap();
    (std::fs::read(path.join("000000.jsonl")).unwrap(), key)
}

/// The lines handed over, and how reading ended.
type Handed = (Vec<String>, Result<(), io::ErrorKind>);

fn read(helpers: usize, chunk_bytes: usize, source: impl Read) -> Handed {
    let mut lines = Vec::new();
    let end = for_each_line_with(helpers, chunk_bytes, source, &[], |line, length| {
        lines.push(text(&line, length));
    });
    (lines, end.map_err(|error| error.kind()))
}

/// Returns the lines of `bytes`, by a loop that shares only the parser with the code under test.
fn plain(bytes: &[u8]) -> Vec<(Line<Node>, u64)> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| {
            let parsed = match line.split_last() {
                Some((b'\n', line)) => Line::parse(line, &mut None),
                _ => Line::parse_unended(line),
            };
            (parsed.checked(&[]), line.len() as u64)
        })
        .collect()
}

fn plain_text(bytes: &[u8]) -> Vec<String> {
    let lines = plain(bytes);
    lines
        .iter()
        .map(|(line, length)| text(line, *length))
        .collect()
}

/// Returns the whole content of a line. Where chunks end decides which record names the worker
/// again.
fn text(line: &Line<Node>, length: u64) -> String {
    match line {
        Line::Record(record, leaf) => {
            let (seq, fact) = (record.seq, &record.fact);
            format!("{length} {seq} {fact:?} {} {leaf:?}", record.in_one_form)
        }
        line => format!("{length} {line:?}"),
    }
}

#[test]
fn chunks_may_end_anywhere() {
    let (bytes, _) = segment();
    let torn = &bytes[..bytes.len() - 9];
    let step = if cfg!(miri) { bytes.len() } else { 1 };
    for chunk_bytes in (1..=bytes.len() + 1).step_by(step) {
        for helpers in [0, 2] {
            assert_eq!(
                read(helpers, chunk_bytes, torn),
                (plain_text(torn), Ok(())),
                "{chunk_bytes} bytes a chunk, {helpers} helpers"
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads megabytes")]
fn long_lines_short_lines_and_none_are_read_as_by_a_plain_loop() {
    let long = |length: usize| [vec![b'x'; length], b"\n".to_vec()].concat();
    let mut texts = vec![
        Vec::new(),
        b"\n".to_vec(),
        vec![b'\n'; 10_000],
        vec![0; 200_000],
        vec![b'x'; MAX_LINE_BYTES],
        vec![b'x'; MAX_LINE_BYTES + 1],
    ];
    for length in [
        MAX_LINE_BYTES - 1,
        MAX_LINE_BYTES,
        MAX_LINE_BYTES + 1,
        300_000,
    ] {
        texts.push(
            [
                b"a\n".to_vec(),
                long(length),
                long(1),
                long(length),
                b"b".to_vec(),
            ]
            .concat(),
        );
    }
    for text in &texts {
        for chunk_bytes in [7, 1000, 65_535, 65_536, 65_537, 100_000, 300_001, 1 << 20] {
            assert_eq!(
                read(1, chunk_bytes, text.as_slice()),
                (plain_text(text), Ok(())),
                "{} bytes, {chunk_bytes} bytes a chunk",
                text.len()
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads megabytes")]
fn an_endless_line_is_counted_and_not_kept() {
    let mut source = io::repeat(b'x').take(50_000_000);
    let mut cutter = Cutter::new(&mut source, 1000);
    let mut chunk = Chunk::default();
    assert!(cutter.cut(&mut chunk).unwrap());
    assert!(chunk.kept() < 2 * MAX_LINE_BYTES);
    let mut lengths = Vec::new();
    chunk.for_each_line(&[], &mut |_, length| lengths.push(length));
    assert_eq!(lengths, [50_000_000]);
    assert!(!cutter.cut(&mut chunk).unwrap());
}

/// Fails behind some bytes, and returns them in small pieces with interruptions.
struct Failing<'a> {
    bytes: &'a [u8],
    interrupt: bool,
}

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let some = buffer.len().min(11);
        self.bytes.read(&mut buffer[..some])
    }
}

#[test]
fn whole_lines_before_an_error_are_handed_over() {
    let (bytes, _) = segment();
    let step = if cfg!(miri) { bytes.len() / 3 } else { 37 };
    for end in (0..bytes.len()).step_by(step) {
        let whole = bytes[..end].iter().rposition(|byte| *byte == b'\n');
        let expected = plain_text(&bytes[..whole.map_or(0, |last| last + 1)]);
        for chunk_bytes in [100, 1000, 10_000] {
            let source = Failing {
                bytes: &bytes[..end],
                interrupt: false,
            };
            assert_eq!(
                read(1, chunk_bytes, source),
                (expected.clone(), Err(io::ErrorKind::StorageFull))
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "hashes too much")]
fn a_panic_ends_the_helpers() {
    let endless = io::repeat(b'\n');
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        for_each_line_with(3, 1000, endless, &[], |_, _| panic!("on purpose"))
    }));
    assert!(panicked.is_err());
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_damaged_segment_has_the_same_summary_as_by_a_plain_loop(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6),
        chunk_bytes in 1..4000_usize,
        helpers in 0..3_usize,
        acknowledged in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut bytes, key) = segment();
        for (at, byte, kind) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] ^= 1 << (byte % 8),
                1 => bytes[at] = b'\n',
                2 => { bytes.remove(at); }
                _ => bytes.insert(at, byte),
            }
        }
        let end = acknowledged.map(|end| end.index(bytes.len()) as u64);
        let keys = [key];
        let mut ignore = |_: super::super::Seen<'_>| {};
        let mut one = Walk::new(0, &keys, end, &mut ignore);
        for_each_line_with(helpers, chunk_bytes, bytes.as_slice(), &keys, |line, length| {
            one.step(line, length);
        }).unwrap();
        let one = format!("{:?}", one.finish());
        let mut two = Walk::new(0, &keys, end, &mut ignore);
        for (line, length) in plain(&bytes) {
            two.step(line, length);
        }
        prop_assert_eq!(one, format!("{:?}", two.finish()));
    }
}
