//! The check that shares nothing with the library comes to the same answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ed25519_dalek::SigningKey;
use vram_residency::audit::Outcome;
use vram_residency::audit::faults::{Step, StorageError};

use crate::built::{ORIGIN, Trail, good, holds};
use crate::numbers::{killed, numbered};
use crate::support::Place;

fn script(dir: &Path, key: &str, anchor: &str) -> (bool, String) {
    let anchor_file = dir.join("anchor.txt");
    fs::write(&anchor_file, anchor).unwrap();
    let mut command = Command::new("python3");
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verify_trail.py"))
        .args([dir, Path::new(key), &anchor_file]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// The script shares nothing with the library, and must come to the same answer.
#[test]
fn the_script_agrees() {
    let mut killed = killed();
    killed.recovered(4).notes(1).checkpoint();
    let mut tail = good();
    tail.notes(1);
    let mut garbage = good();
    garbage.notes(1).checkpoint();
    let end = garbage.segments[2].len();
    garbage.segments[2][end - 60..].fill(b'\n');
    let mut more = garbage.clone();
    more.notes(1);
    let mut damaged = good();
    let at = damaged.segments[1].len() / 2;
    damaged.segments[1][at] ^= 1;
    let mut swapped = good();
    swapped.segments.swap(0, 1);
    let mut forged = Trail::with_key(8, ORIGIN);
    forged.open("TrailOpened").checkpoint();
    forged.key = SigningKey::from_bytes(&[7; 32]);
    let mut gap = numbered(&[1, 3]);
    gap.checkpoint();
    let mut longer = good();
    longer.note = longer.sign(99, [1; 32]);
    for (name, trail) in [
        ("good", good()),
        ("killed", killed),
        ("tail", tail),
        ("garbage in the last checkpoint", garbage),
        ("a record behind garbage", more),
        ("damaged", damaged),
        ("swapped", swapped),
        ("forged", forged),
        ("gap", gap),
        ("longer anchor", longer),
    ] {
        let dir = trail.stored();
        let report = trail.verify(&[trail.anchor()]);
        let (ok, text) = script(dir.path(), &trail.key_text(), &trail.note);
        assert_eq!(
            ok,
            report.outcome == Outcome::Holds,
            "{name}: {text}\n{report}"
        );
        assert!(
            text.starts_with(if ok { "HOLDS" } else { "BROKEN" }),
            "{name}: {text}"
        );
    }
}

/// The library's own trails: poisoned, with lost records, left open, and opened again.
#[test]
fn the_script_agrees_on_trails_of_the_writer() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open().unwrap();
    let key = trail.verifier_key().clone();
    trail.note("before").unwrap();
    trail.flush().unwrap();
    faults.fail(Step::Sync, StorageError::Io, 1);
    trail.note("written again").unwrap();
    trail.flush().unwrap();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    let refused = (0..40).filter(|_| trail.note("too many").is_err()).count();
    trail.flush().unwrap_err();
    faults.heal();
    trail.close().unwrap();

    let torn = place.dir().join("000002.jsonl");
    let mut bytes = fs::read(&torn).unwrap();
    bytes.extend_from_slice(b"{\"seq\":");
    fs::write(&torn, bytes).unwrap();
    let trail = place.open();
    trail.note("after").unwrap();
    let last = trail.close().unwrap();

    let anchor = last.checkpoint();
    let report = place.verify(&key, std::slice::from_ref(anchor));
    holds(&report);
    assert!(report.end_vouched_for && report.closed);
    assert_eq!((report.segments, report.records_lost), (4, refused as u64));
    assert_eq!(report.void.len(), 3, "{report}");
    let (ok, text) = script(&place.dir(), &key.to_string(), &anchor.to_string());
    assert!(ok && text.contains("is vouched for"), "{text}");
}
