//! A trail whose lines the fuzzer wrote, and whose checkpoints are all genuine.
//!
//! Without the key the fuzzer gets no further than the first checkpoint. Here it has the key: where a
//! line of its input says `C`, a checkpoint is put that matches the leaves before it, and the roots
//! are computed here and not by the library. Behind a line `V` the bytes of the segment are void. So the rules behind the signatures are met: numbers,
//! headers, `previous`, losses, recoveries. What the reader says of such a trail must not contradict
//! itself, and it must have counted what is there: with a signature everything can be forged, but
//! not made to hold with two records of one number.

#![no_main]

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use vram_residency_fuzz::{KEY_PEM, agrees_with_itself, check, segments, verifier_key};
use vram_trail::Outcome;

type Node = [u8; 32];

fuzz_target!(|data: &[u8]| {
    let key = SigningKey::from_pkcs8_pem(KEY_PEM).unwrap();
    let mut leaves = Vec::new();
    let mut signed = Vec::new();
    for lines in segments(data) {
        let mut segment = Vec::new();
        let mut acknowledged = None;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            match line {
                b"C\n" => segment.extend_from_slice(checkpoint(&key, &leaves).as_bytes()),
                b"V\n" => acknowledged = acknowledged.or(Some(leaves.len())),
                _ => {
                    leaves.push(leaf(line.strip_suffix(b"\n").unwrap_or(line)));
                    segment.extend_from_slice(line);
                }
            }
        }
        leaves.truncate(acknowledged.unwrap_or(leaves.len()));
        signed.push(segment);
    }
    let parts: Vec<&[u8]> = signed.iter().map(Vec::as_slice).collect();
    let report = check(&parts, &verifier_key(), &[]);
    agrees_with_itself(&report);
    if report.outcome == Outcome::Holds && report.tail.is_none() && report.void_bytes == 0 {
        no_number_is_there_twice(&parts);
    }
});

/// With nothing unacknowledged, every line that is no checkpoint is an acknowledged record.
fn no_number_is_there_twice(segments: &[&[u8]]) {
    let mut numbers = BTreeSet::new();
    for line in segments.concat().split(|byte| *byte == b'\n') {
        if line.is_empty() || line.starts_with(b"{\"checkpoint\":") {
            continue;
        }
        let record: Value = serde_json::from_slice(line).expect("a record is JSON");
        let seq = record["seq"].as_u64().expect("a record has a number");
        assert!(numbers.insert(seq), "{seq} is there twice");
    }
}

fn checkpoint(key: &SigningKey, leaves: &[Node]) -> String {
    let verifier = verifier_key();
    let origin = verifier.name();
    let root = BASE64.encode(root(leaves));
    let body = format!("{origin}\n{}\n{root}\n", leaves.len());
    let hash = Sha256::new()
        .chain_update(origin)
        .chain_update([b'\n', 1])
        .chain_update(key.verifying_key().as_bytes())
        .finalize();
    let mut blob = hash[..4].to_vec();
    blob.extend_from_slice(&key.sign(body.as_bytes()).to_bytes());
    let note = format!("{body}\n\u{2014} {origin} {}\n", BASE64.encode(blob));
    format!("{{\"checkpoint\":{}}}\n", Value::from(note))
}

fn leaf(line: &[u8]) -> Node {
    Sha256::new()
        .chain_update([0])
        .chain_update(line)
        .finalize()
        .into()
}

/// RFC 6962, section 2.1, as it stands there.
fn root(leaves: &[Node]) -> Node {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            Sha256::new()
                .chain_update([1])
                .chain_update(root(left))
                .chain_update(root(right))
                .finalize()
                .into()
        }
    }
}
