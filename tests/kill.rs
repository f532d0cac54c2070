//! A worker that is killed. Whoever was told that a shard is broken, or was given a receipt, finds
//! it on disk, however soon after that the process ended; and the next run goes on in the same trail.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use support::{Place, child, child_command, manager, of_event, records_in, sealed, segments};
use vram_residency::audit::{Checkpoint, Outcome, PolicyViolation, VerifierKey};
use vram_residency::error::VerifyError;

const LANES: u64 = 4;
const KILLS_PER_LANE: u64 = 50;

#[test]
fn a_failed_verification_is_on_disk_when_its_error_exists() {
    if let Some(place) = child() {
        die_with_the_error_in_hand(&place);
    }
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(kill_again_and_again);
        }
    });
}

/// In the child: the next thing after the error came back is the end of the process.
fn die_with_the_error_in_hand(place: &Path) -> ! {
    let trail = support::builder_at(place).open().unwrap();
    let manager = manager(&trail);
    let shard = sealed(&manager, "shard-1", 10_000);
    shard.dangerous_flip_bit(9_999, 7).unwrap();
    let failed = shard.verify();
    let _killed = kill_process(getpid(), Signal::KILL);
    unreachable!("still alive with {failed:?}");
}

/// Every kill leaves one segment; nothing is closed in between.
fn kill_again_and_again() {
    let place = Place::new();
    place.open().close().unwrap();
    let key = verifier_key(&place.dir());
    for kill in 0..KILLS_PER_LANE {
        let status = child_command(
            "a_failed_verification_is_on_disk_when_its_error_exists",
            place.temp.path(),
        )
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
        assert_eq!(status.signal(), Some(9), "the child did not get that far");
        expect_failure_on_disk(&place, &key, kill);
    }
    let receipt = place.open().close().unwrap();
    let recovered = of_event(&place.records(), "TailRecovered");
    assert_eq!(recovered.len() as u64, KILLS_PER_LANE);
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.closed && report.end_vouched_for);
}

fn expect_failure_on_disk(place: &Place, key: &VerifierKey, kill: u64) {
    let segments = segments(&place.dir());
    assert_eq!(segments.len() as u64, kill + 2);
    let text = std::fs::read_to_string(segments.last().unwrap()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at = lines
        .iter()
        .position(|line| line["event"] == "SealVerificationFailed")
        .expect("the failure is not on disk");
    assert_eq!(lines[at]["reason"], "digest_mismatch");
    assert_eq!(lines[at]["damaged"], serde_json::json!([[0, 1]]));

    // The leaf's index: the leaves of earlier segments, and the records before it in this one.
    let before = lines[..at].iter().filter(|line| line["seq"].is_u64());
    let leaf = lines[0]["first_leaf"].as_u64().unwrap() + before.count() as u64;
    let covering = lines[at..]
        .iter()
        .filter_map(|line| line["checkpoint"].as_str())
        .map(|text| text.parse::<Checkpoint>().unwrap())
        .find(|checkpoint| checkpoint.size() > leaf)
        .expect("no checkpoint covers it");
    let report = place.verify(key, &[covering]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for, "{report}");
    assert_eq!(lines[1]["event"] == "TailRecovered", kill > 0, "{text}");
}

/// As a reviewer would get it on a first visit: the trail names it, and the check vouches for it.
fn verifier_key(dir: &Path) -> VerifierKey {
    let first = &records_in(&segments(dir)[0])[0];
    first["key"].as_str().unwrap().parse().unwrap()
}

#[test]
fn no_receipt_is_lost_whenever_the_worker_is_killed() {
    if let Some(place) = child() {
        tell_receipts_for_ever(&place);
    }
    let place = Place::new();
    place.open().close().unwrap();
    let key = verifier_key(&place.dir());
    let mut told = Vec::new();
    for run in 0..12 {
        let mut worker = child_command(
            "no_receipt_is_lost_whenever_the_worker_is_killed",
            place.temp.path(),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().contains("ready") {}
        std::thread::sleep(Duration::from_micros(3_700 * run));
        worker.kill().unwrap();
        worker.wait().unwrap();
        // A line that the kill tore is not one that anybody was told.
        told.extend(lines.map_while(Result::ok).filter_map(|line| {
            let number = line.strip_prefix("receipt ")?.strip_suffix('.')?;
            number.parse::<u64>().ok()
        }));
    }
    let receipt = place.open().close().unwrap();
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    let written: Vec<u64> = of_event(&place.records(), "PolicyViolation")
        .iter()
        .map(|record| record["seq"].as_u64().unwrap())
        .collect();
    assert!(
        told.len() >= 12,
        "killed before anything was told: {told:?}"
    );
    for seq in told {
        assert!(written.contains(&seq), "record {seq} was acknowledged");
    }
}

fn tell_receipts_for_ever(place: &Path) -> ! {
    let trail = support::builder_at(place).open().unwrap();
    println!("ready");
    loop {
        trail.note("between").unwrap();
        let receipt = trail
            .policy_violation(PolicyViolation {
                policy: "p",
                violation: "v",
                details: "d",
                action: "a",
            })
            .unwrap();
        println!("receipt {}.", receipt.seq());
    }
}

#[test]
fn what_came_back_from_the_child_is_the_error_of_a_broken_shard() {
    let place = Place::new();
    let trail = place.open();
    let shard = sealed(&manager(&trail), "shard-1", 10_000);
    shard.dangerous_flip_bit(9_999, 7).unwrap();
    let Err(VerifyError::Broken { incident, .. }) = shard.verify() else {
        panic!("a flipped bit was not found");
    };
    assert!(incident.record().is_ok() && incident.is_injected());
}
