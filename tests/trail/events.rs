//! What the trail records of itself, and what the operator puts on record: made to happen, with
//! exactly the fields, severity and outcome that a reviewer's queries rest on.

use crate::support::fields::{expect, one};
use crate::support::{self, Place, filled, manager, of_event, records, sealed};
use rustix::fs::CWD;
use serde_json::json;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{PolicyViolation, SameHostCopy};
use vram_residency::{Host, Provenance, VramManager, WorkerToken};

const LEN: usize = 1_500_000;
const HEADER: &str = "format numbers_below segment first_leaf origin key retention";
/// Where there is code for GPUs, what it is.
const KERNEL: &str = if cfg!(feature = "cuda") {
    "kernel_sha256"
} else {
    ""
};
const SETTINGS: &str = "crate_version features fault_injection key_access directory_access file_system kept locks fork_guard critical_deadline_ms \
    durable_within_ms queue_records reserved_records segment_bytes segment_age_s \
    failure_window_s failure_threshold_per_mille \
    anchors anchor_every_records anchor_every_ms";
const VIOLATION: PolicyViolation<'static> = PolicyViolation {
    policy: "p",
    violation: "v",
    details: "d",
    action: "a",
};

#[test]
fn notes_and_violations() {
    let place = Place::new();
    let trail = place.open();
    trail.note("a note").unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    let token = WorkerToken::generate().unwrap();
    let strict = VramManager::builder(Host::new(), &token, &trail)
        .require_pinned()
        .build()
        .unwrap();
    let refused = filled(&strict, "a", LEN).seal(Provenance::UnpinnedFirstUse);
    drop(refused.unwrap_err());
    let records = place.records();
    let note = one(&records, "Note", "INFO success", &["text"]);
    assert_eq!(note["text"], "a note");
    let violations = of_event(&records, "PolicyViolation");
    assert_eq!(violations.len(), 2);
    let fields = "policy violation details action";
    expect(&violations[0], "CRITICAL failure", &[fields]);
    expect(&violations[1], "CRITICAL failure", &[fields, "shard"]);
    assert_eq!(violations[1]["shard"], "a");
    assert_eq!(violations[1]["policy"], "require_pinned");
    assert_eq!(violations[1]["action"], "refused");
}

#[test]
fn what_the_trail_says_of_itself() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open_or_create().unwrap();
    let key = trail.verifier_key().to_string();
    let origin = trail.verifier_key().name().to_owned();
    faults.fail(Step::Write, StorageError::NoSpace, u32::MAX);
    faults.fail(Step::Create, StorageError::NoSpace, u32::MAX);
    trail.policy_violation(VIOLATION).unwrap_err();
    let lost = (0..40)
        .filter(|i| trail.note(format!("{i}")).is_err())
        .count();
    faults.heal();
    trail.flush().unwrap();
    let shard = sealed(&manager(&trail), "outlives", LEN);
    trail.close().unwrap();

    let all = records(&place.dir());
    let opened = one(
        &all,
        "TrailOpened",
        "INFO success",
        &[HEADER, SETTINGS, KERNEL],
    );
    assert_eq!(opened["queue_records"], 16);
    assert_eq!(opened["reserved_records"], 1024);
    assert_eq!(opened["segment_bytes"], 64 << 20);
    assert_eq!(opened["segment_age_s"], 86_400);
    assert_eq!(opened["failure_window_s"], 300);
    assert_eq!(opened["failure_threshold_per_mille"], 10);
    let compiled_in = [("cuda", cfg!(feature = "cuda")), ("fault-injection", true)];
    let features: Vec<_> = compiled_in
        .iter()
        .filter(|it| it.1)
        .map(|it| it.0)
        .collect();
    assert_eq!(opened["features"], json!(features));
    assert_eq!(
        json!([opened["key"], opened["origin"]]),
        json!([key, origin])
    );

    let next = one(&all, "SegmentOpened", "INFO success", &[HEADER, "previous"]);
    assert_eq!(json!([next["segment"], next["first_leaf"]]), json!([1, 1]));
    assert_eq!(json!([next["key"], next["origin"]]), json!([key, origin]));
    let previous = next["previous"].as_object().unwrap();
    let mut names: Vec<&String> = previous.keys().collect();
    names.sort_unstable();
    // Its last batch was signed, and is named as void.
    let stated = ["checkpoint", "end", "frontier", "segment", "void", "voided"];
    assert_eq!(names, stated);

    let fields = "segment operation cause";
    let poisoned = one(&all, "SegmentPoisoned", "CRITICAL failure", &[fields]);
    assert_eq!(
        json!([poisoned["segment"], poisoned["operation"]]),
        json!([0, "write"])
    );
    assert!(poisoned["cause"].as_str().unwrap().contains("os error 28"));

    let fields = "first last count cause first_time last_time";
    let gap = one(&all, "RecordsLost", "WARN failure", &[fields]);
    assert_eq!(gap["count"], lost);
    let range = gap["last"].as_u64().unwrap() - gap["first"].as_u64().unwrap();
    assert_eq!(range + 1, lost as u64);
    assert_eq!(gap["cause"], "queue_full");
    assert!(gap["first_time"].as_str() <= gap["last_time"].as_str());
    assert!(gap["last_time"].as_str() <= gap["time"].as_str());

    let closed = one(
        &all,
        "TrailClosed",
        "INFO success",
        &["live_shards live offset"],
    );
    assert_eq!(closed["live_shards"], 1);
    let live = json!([{"shard": "outlives", "allocation": 1, "device": "host", "bytes": LEN}]);
    assert_eq!(closed["live"], live);
    let last = std::fs::read(support::segments(&place.dir()).pop().unwrap()).unwrap();
    let at = usize::try_from(closed["offset"].as_u64().unwrap()).unwrap();
    assert!(last[at..].starts_with(format!("{{\"seq\":{},", closed["seq"]).as_bytes()));
    assert_eq!(last[at - 1], b'\n');
    drop(shard);
}

#[test]
fn a_trail_that_was_not_closed_is_opened_again() {
    let place = Place::new();
    place.open().close().unwrap();
    // What a worker that is killed leaves behind, with a torn line at its end.
    let path = support::segments(&place.dir()).pop().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let end = text
        .lines()
        .take(2)
        .map(|line| line.len() + 1)
        .sum::<usize>();
    std::fs::write(&path, &text[..end + 100]).unwrap();
    place.open().close().unwrap();
    let records = place.records();
    let fields = "segment void_from void_bytes void_records highest_seq";
    let recovered = one(&records, "TailRecovered", "CRITICAL failure", &[fields]);
    let below = of_event(&records, "TrailOpened")[0]["numbers_below"].as_u64();
    let below = below.unwrap();
    let told = [
        "segment",
        "void_from",
        "void_bytes",
        "void_records",
        "highest_seq",
    ];
    assert_eq!(
        told.map(|name| recovered[name].as_u64().unwrap()),
        [0, end as u64, 100, 0, below - 1]
    );
    let opened = of_event(&records, "TrailOpened").pop().unwrap();
    expect(
        &opened,
        "INFO success",
        &[HEADER, "previous", SETTINGS, KERNEL],
    );
    assert_eq!(opened["previous"]["end"], end);
}

#[test]
fn an_anchor_that_fails_recovers_and_contradicts() {
    let place = Place::new();
    let path = place.temp.path().join("anchor");
    let open = || {
        place
            .builder()
            .anchor(SameHostCopy::new(&path))
            .open_or_create()
    };
    let name = format!("file:{}", path.display());
    // A directory is where the file should be, and then it is not.
    std::fs::create_dir(&path).unwrap();
    let trail = open().unwrap();
    until(&place, "AnchorFailed");
    std::fs::remove_dir(&path).unwrap();
    until(&place, "AnchorRecovered");
    let cut = trail.close().unwrap();
    let known = std::fs::read_to_string(&path).unwrap();
    let last: serde_json::Value = serde_json::from_str(known.lines().last().unwrap()).unwrap();
    assert_eq!(last["checkpoint"], cut.checkpoint().to_string());
    let records = place.records();
    let fields = ["anchor cause size"];
    let failed = one(&records, "AnchorFailed", "WARN failure", &fields);
    // It fails when it is asked what it knows, before there is anything to keep.
    assert_eq!(json!([failed["anchor"], failed["size"]]), json!([name, 0]));
    let cause = "it refuses: the path is not a regular file";
    assert_eq!(failed["cause"], cause);
    let again = one(
        &records,
        "AnchorRecovered",
        "INFO success",
        &["anchor size"],
    );
    assert_eq!(again["anchor"], name);
    assert!(again["size"].as_u64().unwrap() >= 1);

    // The end is cut off while the anchor cannot answer, and then it does.
    let segment = &support::segments(&place.dir())[0];
    let text = std::fs::read_to_string(segment).unwrap();
    let end: usize = text.split_inclusive('\n').take(2).map(str::len).sum();
    std::fs::write(segment, &text[..end]).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let trail = open().unwrap();
    let ready = place.temp.path().join("ready");
    std::fs::write(&ready, &known).unwrap();
    // In one step: an anchor that knows nothing would be one that agrees.
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, &ready, CWD, &path, exchange).unwrap();
    until(&place, "AnchorContradicted");
    trail.close().unwrap();
    let fields = ["anchor contradiction size root"];
    let records = place.records();
    let told = one(&records, "AnchorContradicted", "CRITICAL failure", &fields);
    assert_eq!(
        json!([
            told["anchor"],
            told["contradiction"],
            told["size"],
            told["root"]
        ]),
        json!([
            name,
            "shorter",
            cut.checkpoint().size(),
            cut.checkpoint().to_string().lines().nth(2)
        ])
    );
}

fn until(place: &Place, event: &str) {
    let started = std::time::Instant::now();
    while of_event(&place.records(), event).is_empty() {
        assert!(started.elapsed().as_secs() < 60, "never: {event}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
