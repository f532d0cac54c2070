//! A disk that is full, and one that hangs. Seal and verify go on; what could not be written is
//! counted, logged and accounted for; an incident says within its deadline that its record is not
//! durable and why; and when there is room again, what matters is written first.
//!
//! The full disk is a real one: a small tmpfs in a mount namespace of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{
    self, Place, builder_at, child, filled, manager, name_of, of_event, records, sealed, skip,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use vram_residency::audit::faults::{Step, StorageError, StorageFaults};
use vram_residency::audit::{
    Incident, Missing, NotDurable, Outcome, RecordError, SameHostCopy, UnanchoredEnd,
};
use vram_residency::error::VerifyError;
use vram_residency::shard::{Quarantined, Sealed, Shard};
use vram_residency::{AuditTrail, Host, Provenance, VramManager};

const DEADLINE: Duration = Duration::from_secs(2);

#[test]
fn a_full_disk_stops_nothing_and_loses_nothing_unsaid() {
    let test = name_of(a_full_disk_stops_nothing_and_loses_nothing_unsaid);
    if let Some(place) = child() {
        return on_a_full_disk(&place);
    }
    let place = Place::new();
    // As any user: in a user namespace of its own, this one may mount.
    let script = r#"mkdir -m 0700 "$D/trail" && mount -t tmpfs -o size=128k,mode=0700 trail "$D/trail" && "$@""#;
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["-U", "-r", "-m", "sh", "-c", script, "sh"])
            .env("D", place.temp.path());
        command
    };
    let probe = script.replace(r#""$@""#, "true");
    match unshare(&probe).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return skip(&format!("no tmpfs can be mounted: {why}"));
        }
        Err(error) => return skip(&format!("`unshare` does not run: {error}")),
    }
    std::fs::remove_dir(place.dir()).unwrap();
    let output = unshare(script)
        .arg(std::env::current_exe().unwrap())
        .args(support::only(test))
        .env(support::CHILD, place.temp.path())
        .output()
        .unwrap();
    support::ran_well(&output);
}

/// In the child: everything in one life, since the disk has to be filled and emptied once.
fn on_a_full_disk(place: &Path) {
    let log = Log::install();
    let trail = builder_at(place)
        .critical_deadline(DEADLINE)
        .queue_records(64)
        .open_or_create()
        .unwrap();
    let key = trail.verifier_key().clone();
    let manager = manager(&trail);
    let filler = fill(place, &trail);

    let shard = filled(&manager, "serving", 3_000_000);
    let shard = shard.seal(Provenance::UnpinnedFirstUse).unwrap();
    let shared = shard.verify().unwrap().share();
    let lease = shared.lease().unwrap();
    shared.check().unwrap();
    assert!(lease.is_current());

    // Allocated and sealed while the queue has room, so that what is lost later is known to a digit.
    let next = flipped(&manager, "broken-too");
    let (incident, first) = find_out(flipped(&manager, "broken"));
    expect_no_room(&incident);
    assert_eq!(trail.counts().critical_failures, 1);
    assert_eq!(trail.counts().failures, 0, "nothing is lost so far");

    let lost = lose_some(&trail);
    assert_eq!(trail.counts().failures, lost.len() as u64);
    // The reserved room: what is critical is still taken, and kept until it can be written.
    let (second, next) = find_out(next);
    expect_no_room(&second);
    wait_for(
        || log.errors("has no room").len() == 1,
        "the gap is logged once",
    );
    assert!(!log.errors("cannot be written").is_empty());
    assert!(!log.errors("must be durable").is_empty());

    std::fs::remove_file(filler).unwrap();
    // An attempt that began before there was room may still fail.
    wait_for(
        || trail.flush().is_ok(),
        "there is room, and it is not used",
    );
    let seqs = [&incident, &second].map(|incident| incident.seq().unwrap().value());
    expect_all_accounted_for(&place.join("trail"), seqs, &lost);
    drop((lease, shared, first, next, manager));
    let receipt = trail.close().unwrap();
    let report = vram_residency::audit::verify(
        place.join("trail"),
        std::slice::from_ref(&key),
        &[receipt.checkpoint().clone()],
    );
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for && report.closed);
    assert_eq!(report.records_lost, lost.len() as u64);
}

const WORKER: &str = "VRAM_TEST_WORKER";

/// Nothing is lost and nothing fails: without a look at what waits, the worker seems to be well.
#[test]
fn a_full_disk_is_seen_before_a_record_is_lost_and_a_kill_then_loses_what_was_seen() {
    let test =
        name_of(a_full_disk_is_seen_before_a_record_is_lost_and_a_kill_then_loses_what_was_seen);
    if let Some(place) = child() {
        if std::env::var_os(WORKER).is_some() {
            show_what_waits_and_die(&place);
        }
        return kill_on_a_full_disk(test, &place);
    }
    let place = Place::new();
    if let Err(why) = support::on_a_small_disk(test, &place, "trail", "128k") {
        skip(&why);
    }
}

/// In the child, where the disk is: runs a worker that dies, and goes on in its trail.
fn kill_on_a_full_disk(test: &str, place: &Path) {
    let output = support::child_command(test, place)
        .env(WORKER, "")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(9), "{told}{errors}");
    let numbers = told.lines().filter_map(|line| line.strip_prefix("told "));
    let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 849);

    std::fs::remove_file(place.join("trail/filler")).unwrap();
    let trail = builder_at(place).open().unwrap();
    let key = trail.verifier_key().clone();
    let receipt = trail.policy_violation(support::VIOLATION).unwrap();
    assert!(receipt.seq().value() > numbers[848]);
    let receipt = trail.close().unwrap();
    let report = vram_residency::audit::verify(
        place.join("trail"),
        std::slice::from_ref(&key),
        &[receipt.checkpoint().clone()],
    );
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    let missing = report.missing(UnanchoredEnd::Refused);
    assert_eq!(missing, [Missing::KilledRuns], "{report}");
    let kept = report.records;
    let at_most = report.kills[0].records_at_most.unwrap();
    assert!(at_most + kept >= 849, "{report}");
}

/// In the worker: an exporter, an anchor that works, and 849 notes for a disk that is full.
fn show_what_waits_and_die(place: &Path) -> ! {
    let exporter = PrometheusBuilder::new().install_recorder().unwrap();
    let trail = builder_at(place)
        .anchor(SameHostCopy::new(place.join("anchor")))
        .anchor_every(Duration::from_millis(1))
        .open_or_create()
        .unwrap();
    let shown = |name: &str| -> f64 {
        let page = exporter.render();
        let name = format!("vram_audit_{name}{{");
        let line = page.lines().find(|line| line.starts_with(&name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.unwrap_or("0").parse().unwrap()
    };
    fill(place, &trail);
    let made = Instant::now();
    let mut told = String::from("\n");
    for i in 0..849 {
        let seq = trail.note(format!("note {i}")).unwrap();
        told.push_str(&format!("told {seq}\n"));
    }
    wait_for(
        || shown("oldest_not_durable_seconds") > 2.0 && shown("unanchored_seconds") > 2.0,
        "a full disk is not seen",
    );
    assert!(shown("queue_depth") >= 849.0);
    let backlog = trail.backlog();
    assert!(backlog.records >= 849 && backlog.oldest >= made.elapsed());
    assert!(trail.unanchored_for() >= made.elapsed());
    // What was looked at so far.
    assert_eq!(trail.counts().failures, 0);
    assert!(shown("heartbeat") > 0.0 && shown("degraded") == 0.0);
    print!("{told}");
    std::io::stdout().flush().unwrap();
    let _killed = kill_process(getpid(), Signal::KILL);
    unreachable!("still alive");
}

#[test]
fn a_disk_that_takes_nothing_is_told_once_a_minute() {
    support::alone(|place| {
        let log = Log::install();
        let faults = StorageFaults::dangerous_new();
        let trail = builder_at(place)
            .dangerous_storage_faults(faults.clone())
            .open_or_create()
            .unwrap();
        let failing = Instant::now();
        for step in [Step::Write, Step::Create] {
            faults.fail(step, StorageError::NoSpace, u32::MAX);
        }
        for _ in 0..7 {
            trail.note("waits").unwrap();
        }
        let told = || log.errors("cannot be written");
        wait_for(|| !told().is_empty(), "it is not told");
        let minute = Duration::from_secs(60);
        while told().len() == 1 {
            assert!(failing.elapsed() < 2 * minute, "it is not told again");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(failing.elapsed() >= minute, "{:?}", told());
        let again = &told()[1];
        for part in ["No space left on device", " records=", " since=2"] {
            assert!(again.contains(part), "{again}");
        }
        faults.heal();
        trail.close().unwrap();
        assert_eq!(told().len(), 2);
    });
}

/// Fills the disk until the trail has nothing left to write into, not even a rest of a page.
fn fill(place: &Path, trail: &AuditTrail) -> std::path::PathBuf {
    let path = place.join("trail/filler");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    for _ in 0..16 {
        if trail.note("x".repeat(1024)).is_ok()
            && let Err(error) = trail.flush()
        {
            let text = error.to_string();
            assert!(text.contains("No space left on device"), "{text}");
            return path;
        }
    }
    panic!("the disk does not get full");
}

fn flipped(manager: &VramManager<Host>, id: &str) -> Shard<Sealed, Host> {
    let shard = sealed(manager, id, 10_000);
    shard.dangerous_flip_bit(0, 0).unwrap();
    shard
}

fn find_out(shard: Shard<Sealed, Host>) -> (Box<Incident>, Box<Shard<Quarantined, Host>>) {
    let started = Instant::now();
    let Err(VerifyError::Broken(broken)) = shard.verify() else {
        panic!("the flipped bit was not found");
    };
    let (incident, shard) = broken.into_parts();
    let took = started.elapsed();
    assert!(took < DEADLINE + Duration::from_secs(1), "took {took:?}");
    (incident, shard)
}

fn expect_no_room(incident: &Incident) {
    let Err(NotDurable::WriteFailed { cause, seq, .. }) = incident.record() else {
        panic!("{:?}", incident.record());
    };
    assert!(cause.contains("No space left on device"), "{cause}");
    assert_eq!(Some(*seq), incident.seq());
    let text = incident.to_string();
    assert!(text.contains("NOT durable"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.contains("stays queued"), "{text}");
}

/// More than the queue takes. Returns the numbers of what was refused.
fn lose_some(trail: &AuditTrail) -> Vec<u64> {
    let mut lost = Vec::new();
    for i in 0..150 {
        match trail.note(format!("note {i}")) {
            Ok(_) => {}
            Err(RecordError::NotDurable(NotDurable::QueueFull { seq })) => lost.push(seq.value()),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lost.len() > 50, "{}", lost.len());
    lost
}

/// The critical records stand before every `RecordsLost` and before whatever has a higher number;
/// no number is missing, and those that are lost are exactly those that callers were told of.
fn expect_all_accounted_for(dir: &Path, critical: [u64; 2], lost: &[u64]) {
    let records: Vec<Value> = support::acknowledged(dir, u64::MAX);
    let at = |seq: u64| {
        let found: Vec<usize> = (0..records.len())
            .filter(|i| records[*i]["seq"] == seq)
            .collect();
        assert_eq!(
            found.len(),
            1,
            "record {seq} is there {} times",
            found.len()
        );
        found[0]
    };
    let gaps = of_event(&records, "RecordsLost");
    for seq in critical {
        assert_eq!(records[at(seq)]["event"], "SealVerificationFailed");
        for gap in &gaps {
            assert!(at(seq) < at(gap["seq"].as_u64().unwrap()));
        }
        // A header's number is given when a segment is tried, so it can be lower or higher.
        for later in records
            .iter()
            .filter(|record| record["event"] != "SegmentOpened")
        {
            let later = later["seq"].as_u64().unwrap();
            assert!(later <= seq || at(seq) < at(later));
        }
    }
    let accounted: Vec<u64> = gaps
        .iter()
        .flat_map(|gap| gap["first"].as_u64().unwrap()..=gap["last"].as_u64().unwrap())
        .collect();
    assert_eq!(accounted, lost);
    let count: u64 = gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum();
    assert_eq!(count, lost.len() as u64);
    let mut seqs: Vec<u64> = records.iter().filter_map(|r| r["seq"].as_u64()).collect();
    seqs.extend(lost);
    seqs.sort_unstable();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
    let poisoned = of_event(&records, "SegmentPoisoned");
    assert!(!poisoned.is_empty() && poisoned[0]["cause"].as_str().unwrap().contains("No space"));
}

fn wait_for(mut condition: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn install() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn errors(&self, text: &str) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .lines()
            .filter(|line| line.contains(" ERROR ") && line.contains(text))
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_hangs_does_not_keep_an_incident_back() {
    let place = Place::new();
    let faults = StorageFaults::dangerous_new();
    let deadline = Duration::from_millis(400);
    let trail = place
        .builder()
        .critical_deadline(deadline)
        .dangerous_storage_faults(faults.clone())
        .open_or_create()
        .unwrap();
    let manager = manager(&trail);
    let shard = sealed(&manager, "broken", 10_000);
    shard.dangerous_flip_bit(9_999, 0).unwrap();
    let good = filled(&manager, "good", 10_000);
    faults.hang();

    let good = good.seal(Provenance::UnpinnedFirstUse).unwrap();
    let good = good.verify().unwrap();
    let started = Instant::now();
    let failed = shard.verify().unwrap_err();
    let took = started.elapsed();
    assert!(
        deadline <= took && took < deadline + Duration::from_secs(2),
        "{took:?}"
    );
    let incident = failed.incident().unwrap();
    let Err(NotDurable::DeadlineExceeded { waited, .. }) = incident.record() else {
        panic!("{:?}", incident.record());
    };
    assert!(*waited >= deadline);
    assert!(incident.to_string().contains("the disk does not answer"));
    assert!(good.view().len() == 10_000);
    assert_eq!(trail.counts().critical_failures, 1);

    // The record was kept, and is the first thing that is written when the disk is back.
    let seq = incident.seq().unwrap().value();
    assert!(!records(&place.dir()).iter().any(|r| r["seq"] == seq));
    faults.heal();
    trail.flush().unwrap();
    assert!(records(&place.dir()).iter().any(|r| r["seq"] == seq));
    assert_eq!(trail.counts().failures, 0);
}

#[test]
fn a_flush_tries_again_instead_of_telling_of_an_earlier_failure() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder
        .durable_within(Duration::from_secs(60))
        .open_or_create()
        .unwrap();
    let shard = flipped(&manager(&trail), "broken");
    for step in [Step::Write, Step::Create] {
        faults.fail(step, StorageError::NoSpace, u32::MAX);
    }
    let (incident, _shard) = find_out(shard);
    expect_no_room(&incident);
    let error = trail.flush().unwrap_err();
    assert!(matches!(error, NotDurable::WriteFailed { .. }), "{error}");
    faults.heal();
    trail.flush().unwrap();
    let seq = incident.seq().unwrap().value();
    assert!(records(&place.dir()).iter().any(|r| r["seq"] == seq));
}
