//! A worker that is killed. Whoever was told that a shard is broken, or was given a receipt, finds
//! it on disk, however soon after that the process ended; and the next run goes on in the same trail.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use crate::support::{
    self, Place, Random, VIOLATION, child, child_command, manager, name_of, number, of_event,
    records_in, say, sealed, segments,
};
use crate::worker::{Told, Worker, record_for_ever};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use vram_residency::audit::{
    Accepted, Checkpoint, Missing, Outcome, UnanchoredEnd, Verdict, VerifierKey,
};
use vram_residency::error::VerifyError;

const LANES: u64 = 4;
const KILLS_PER_LANE: u64 = 50;
const KILLS_PER_TRAIL: u64 = 5;

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
    let trail = support::builder_at(place).open_or_create().unwrap();
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
            name_of(a_failed_verification_is_on_disk_when_its_error_exists),
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

/// `VRAM_KILLS=1000` is the long form.
#[test]
fn no_receipt_is_lost_whenever_the_worker_is_killed() {
    if let Some(place) = child() {
        record_for_ever(&place);
    }
    let test = name_of(no_receipt_is_lost_whenever_the_worker_is_killed);
    let kills = number("VRAM_KILLS", 100);
    let random = Random::told(test);
    let told: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let (mut random, kills) = (random.lane(lane), (kills + lane) / LANES);
                scope.spawn(move || kill_at_random(test, kills, &mut random))
            })
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    say(&format!("{test}: {kills} kills, {told} receipts, 0 lost"));
    assert!(told as u64 > kills, "killed before anything was told");
}

/// How many receipts were told. A trail lives through several kills, some of them while it opens.
fn kill_at_random(test: &str, kills: u64, random: &mut Random) -> usize {
    let mut receipts = 0;
    let mut left = kills;
    while left > 0 {
        let place = Place::new();
        let mut told = Told::default();
        for _ in 0..left.min(KILLS_PER_TRAIL) {
            let worker = Worker::until_a_moment(test, place.temp.path(), random);
            told.and(worker.kill());
            told.expect_kept(&place.dir());
        }
        left = left.saturating_sub(KILLS_PER_TRAIL);
        receipts += told.receipts.len();
        told.expect_continued(place.temp.path());
    }
    receipts
}

/// Notes that nobody waits for are lost with the process, but their numbers are not given again.
#[test]
fn no_number_that_a_killed_worker_told_is_used_again() {
    if let Some(place) = child() {
        take_notes_and_die(&place);
    }
    let place = Place::new();
    let output = child_command(
        name_of(no_number_that_a_killed_worker_told_is_used_again),
        place.temp.path(),
    )
    .stderr(Stdio::null())
    .output()
    .unwrap();
    assert_eq!(output.status.signal(), Some(9));
    let told = String::from_utf8(output.stdout).unwrap();
    let told: Vec<u64> = told
        .lines()
        .filter_map(|line| line.strip_prefix("told "))
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(told.len(), 1000);
    let key = verifier_key(&place.dir());
    let kept = place.verify(&key, &[]);

    let trail = place.open();
    let next = trail.policy_violation(VIOLATION).unwrap().seq().value();
    assert!(next > told[999], "{next} follows {}", told[999]);
    let receipt = trail.close().unwrap();
    let report = place.verify(&key, &[receipt.checkpoint().clone()]);
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    for record in place.records() {
        let seq = record["seq"].as_u64().unwrap();
        assert!(
            record["event"] == "Note" || !told.contains(&seq),
            "{record}"
        );
    }
    // That something is missing is not passed over, unless somebody has looked into it.
    let accepted = Accepted::from(UnanchoredEnd::Refused);
    assert_eq!(report.verdict(accepted), Verdict::Lacking);
    assert_eq!(report.missing(accepted), [Missing::KilledRuns]);
    let kill = &report.kills[0];
    let accepted = accepted.kills_before(kill.next_seq + 1);
    assert_eq!(report.verdict(accepted), Verdict::Sound);
    assert_eq!(kill.last_seq, kept.last_seq);
    let missing = told.len() as u64 + 1 - kept.records;
    assert!(kill.records_at_most.unwrap() >= missing, "{report}");
}

/// In the child: writes down each number that it was told, and dies long before they are durable.
fn take_notes_and_die(place: &Path) -> ! {
    let trail = support::builder_at(place)
        .durable_within(std::time::Duration::from_secs(600))
        .open_or_create()
        .unwrap();
    let mut told = String::from("\n");
    for _ in 0..1000 {
        let seq = trail.note("told and lost").unwrap();
        told.push_str(&format!("told {seq}\n"));
    }
    print!("{told}");
    std::io::Write::flush(&mut std::io::stdout()).unwrap();
    let _killed = kill_process(getpid(), Signal::KILL);
    unreachable!("still alive");
}

#[test]
fn what_came_back_from_the_child_is_the_error_of_a_broken_shard() {
    let place = Place::new();
    let trail = place.open();
    let shard = sealed(&manager(&trail), "shard-1", 10_000);
    shard.dangerous_flip_bit(9_999, 7).unwrap();
    let Err(VerifyError::Broken(broken)) = shard.verify() else {
        panic!("a flipped bit was not found");
    };
    let incident = broken.incident();
    assert!(incident.record().is_ok() && incident.is_injected());
}
