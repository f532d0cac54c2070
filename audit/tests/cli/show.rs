//! `show` and `inspect`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::segments;
use crate::{Ended, Trail, vram_audit};

fn records(ended: &Ended) -> Vec<Value> {
    let lines = ended.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn json_is_the_exact_lines_without_those_that_are_void() {
    let trail = Trail::new();
    let shown = trail
        .run("show trail --json")
        .with(0)
        .says("showing is not verifying");
    let numbers: Vec<u64> = records(&shown)
        .iter()
        .map(|record| record["seq"].as_u64().unwrap())
        .collect();
    let mut once = numbers.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), numbers.len());
    assert_eq!(numbers.len() as u64, trail.last.size());
    let written = segments(&trail.place.dir())
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect::<String>();
    for line in shown.out.lines() {
        assert!(written.contains(&format!("{line}\n")), "{line}");
    }
}

#[test]
fn conditions_are_met_all_at_once() {
    let trail = Trail::new();
    let all = records(&trail.run("show trail --json").with(0));
    let count = |words: &str| {
        let shown = records(&trail.run(&format!("show trail --json {words}")).with(0));
        shown.len()
    };
    let expected =
        |wanted: &dyn Fn(&Value) -> bool| all.iter().filter(|record| wanted(record)).count();
    assert_eq!(count("--event Note"), 20);
    assert_eq!(count("--event Note --event TrailClosed"), 22);
    assert_eq!(count("--severity INFO"), all.len());
    let critical = expected(&|record| record["severity"] == "CRITICAL");
    assert!(critical >= 3);
    assert_eq!(count("--severity critical"), critical);
    assert_eq!(
        count("--severity WARN"),
        expected(&|record| record["severity"] != "INFO")
    );
    let about = expected(&|record| record["shard"] == "shard-a");
    assert!(about > 2);
    assert_eq!(count("--shard shard-a"), about);
    assert_eq!(count("--shard shard-a --event Note"), 0);
    assert_eq!(count("--worker worker-1"), all.len());
    assert_eq!(count("--worker worker-1 --shard shard-a"), about);
    // An event that this version knows may be missing from a trail: that is an answer.
    assert_eq!(count("--event KeyChanged"), 0);
    let middle = all[all.len() / 2]["time"].as_str().unwrap();
    let before = expected(&|record| record["time"].as_str().unwrap() < middle);
    assert_eq!(count(&format!("--until {middle}")), before);
    assert_eq!(count(&format!("--since {middle}")), all.len() - before);
    assert_eq!(count("--since 2000-01-01 --until 2100-01-01"), all.len());
    assert_eq!(count("--until 2000-01-01"), 0);
}

/// A slip in a name would find nothing, which is what a reviewer hopes to find.
#[test]
fn what_never_occurs_is_said_to_be_so_with_the_name_that_was_meant() {
    let trail = Trail::new();
    for (words, told) in [
        (
            "--event SealVerificationFaild",
            "of the name SealVerificationFaild; did you mean SealVerificationFailed?",
        ),
        (
            "--event sealverificationfailed",
            "did you mean SealVerificationFailed?",
        ),
        (
            "--shard nosuch",
            "no record in this trail is about the shard nosuch\n",
        ),
        (
            "--shard shard-A",
            "about the shard shard-A; did you mean shard-a?",
        ),
        (
            "--worker worker-2",
            "by the worker worker-2; did you mean worker-1?",
        ),
        ("--event Nots --severity CRITICAL", "did you mean Note?"),
    ] {
        let ended = trail.run(&format!("show trail {words}")).with(2);
        assert!(
            ended.out.is_empty() && ended.err.contains(told),
            "{ended:?}"
        );
    }
    // What the other names ask for is shown, and each that was not found is told.
    let ended = trail
        .run("show trail --json --event Note --event X --shard Y")
        .with(2);
    assert!(
        ended.err.contains("name X\n") && ended.err.contains("shard Y\n"),
        "{ended:?}"
    );
    let ended = trail
        .run("show trail --json --event Note --event X")
        .with(2);
    assert_eq!(records(&ended).len(), 20);
    // Whatever occurs in the trail can be asked for, known or not.
    trail.tamper(0, "\"event\":\"Note\"", "\"event\":\"Nota\"");
    let ended = trail.run("show trail --json --event Nota").with(0);
    assert_eq!(records(&ended).len(), 1);
    trail
        .run("show trail --event Noto")
        .with(2)
        .says("did you mean Not");
    // Lines that cannot be read may hold the name: they go first.
    trail.tamper(0, "{\"seq\":5", "{\"sex\":5");
    trail
        .run("show trail --shard nosuch")
        .with(1)
        .says("about the shard nosuch")
        .says("neither record nor checkpoint");
}

#[test]
fn people_get_a_line_for_each_record_without_control_characters() {
    let trail = Trail::new();
    let shown = trail.run("show trail").with(0);
    assert_eq!(shown.out.lines().count() as u64, trail.last.size());
    let failed = shown
        .out
        .lines()
        .find(|line| line.contains("SealVerificationFailed"))
        .unwrap();
    for part in [
        "CRITICAL",
        " shard-a ",
        " reason=digest_mismatch",
        " damaged_windows=1",
    ] {
        assert!(failed.contains(part), "{part}: {failed}");
    }
    let note = shown
        .out
        .lines()
        .find(|line| line.contains("Note"))
        .unwrap();
    assert!(note.ends_with("Note text=\"note 0\""), "{note}");
    // Whoever wrote a trail may want to write to the reviewer's terminal.
    trail.tamper(0, "note 7", "\u{9b}31m\u{202e}evil\\u001b[2J");
    let shown = trail.run("show trail --event Note").with(0);
    assert!(shown.out.contains("evil"));
    assert!(
        shown
            .out
            .chars()
            .all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'))
    );
}

#[test]
fn no_name_and_no_value_writes_a_line_of_its_own() {
    let trail = Trail::new();
    trail.tamper(
        0,
        "\"text\":\"note 7\"",
        "\"text\\nFORGED name\":\"7\\nFORGED value\"",
    );
    let exact = trail.run("show trail --json").with(0).out;
    let named = exact.lines().find(|line| line.contains("FORGED")).unwrap();
    let event = named.replacen("\"Note\"", "\"No\\nFORGED event\"", 1);
    let inspect = |line: &str| {
        let mut command = trail.command("inspect");
        Ended::of(command.arg(line).output().unwrap()).with(0)
    };
    for (ended, forged) in [
        (trail.run("show trail").with(0), 2),
        (inspect(&event), 4),
        (inspect(named), 2),
    ] {
        assert_eq!(ended.out.matches("FORGED").count(), forged, "{ended:?}");
        assert!(
            !ended.out.lines().any(|line| line.starts_with("FORGED")),
            "{ended:?}"
        );
    }
}

#[test]
fn what_is_no_record_is_counted_and_a_torn_end_is_not_held_against_the_trail() {
    let trail = Trail::new();
    let last = segments(&trail.place.dir()).pop().unwrap();
    let mut file = OpenOptions::new().append(true).open(last).unwrap();
    file.write_all(b"{\"seq\":99").unwrap();
    trail.run("show trail").with(0);
    trail.tamper(0, "{\"seq\":3", "{\"sex\":3");
    trail
        .run("show trail")
        .with(1)
        .says("1 line(s) are neither record nor checkpoint");
}

#[test]
fn every_field_of_every_record_is_explained() {
    let trail = Trail::new();
    let lines = trail.run("show trail --json").with(0).out;
    let piped = trail.write("lines", &lines);
    let mut command = trail.command("inspect -");
    command.stdin(std::fs::File::open(piped).unwrap());
    let ended = Ended::of(command.output().unwrap()).with(0);
    assert!(
        !ended.out.contains("not known to this version"),
        "{}",
        ended.out
    );
    assert!(!ended.out.contains("does not know"), "{}", ended.out);
    for words in [
        "SealVerificationFailed\n",
        "reason = digest_mismatch\n",
        "step_ns",
        "microseconds",
    ] {
        assert_eq!(ended.out.contains(words), words != "step_ns", "{words}");
    }
}

#[test]
fn a_checkpoint_line_is_explained_and_anything_else_is_status_1() {
    let trail = Trail::new();
    let last = segments(&trail.place.dir()).pop().unwrap();
    let text = std::fs::read_to_string(last).unwrap();
    let inspect = |line: &str| {
        let mut command = trail.command("inspect");
        Ended::of(command.arg(line).output().unwrap())
    };
    let ended = inspect(text.lines().last().unwrap()).with(0);
    assert!(ended.out.starts_with("checkpoint\n"));
    assert!(
        ended
            .out
            .contains(&format!("size = {}\n", trail.last.size()))
    );
    for wrong in [
        "",
        "{",
        "[]",
        "{}",
        "5",
        "{\"checkpoint\":\"\"}",
        "{\"seq\":1}",
        "\u{1b}[2J",
        "--seq",
    ] {
        inspect(wrong)
            .with(1)
            .says("neither a record nor a checkpoint");
    }
    let mut child = trail
        .command("inspect -")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(&[b"x".repeat(1_000_000), b"\n\xff\n".to_vec()].concat())
        .unwrap();
    drop(stdin);
    let ended = Ended::of(child.wait_with_output().unwrap()).with(1);
    assert!(
        ended.err.contains("line 1:") && ended.err.contains("line 2:"),
        "{ended:?}"
    );
    assert!(!ended.err.contains("line 3:"), "{ended:?}");
}

/// What a record can hold that a reader of JSON stumbles over. The trail is not verified here: a
/// record that `verify` would count is shown, or its line is named, whatever the conditions.
#[test]
fn a_critical_record_is_never_hidden_because_it_cannot_be_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/trail-format-1");
    let bytes = std::fs::read_to_string(fixture.join("000000.jsonl")).unwrap();
    let lines = bytes.lines();
    let at = lines.clone().position(|line| line.contains("CRITICAL"));
    let line = at.unwrap() + 1;
    let critical = lines.clone().nth(at.unwrap()).unwrap();
    let time = critical[17..].split('"').next().unwrap();
    let details = "\"asked for by the operator\"";
    let levels = "[".repeat(20_000) + &"]".repeat(20_000);
    for (from, to) in [
        (details, "\"\\ud800\""),
        (details, "1e999999999"),
        (details, &"9".repeat(20_000)),
        (details, &levels),
        (details, "{\"a\":[\"\\udfff\"]}"),
        (time, "9999-99-99T99:99:99.999999999Z"),
    ] {
        let hostile = bytes.replacen(critical, &critical.replace(from, to), 1);
        assert_ne!(hostile, bytes);
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("000000.jsonl");
        let show = |words: &[&str]| {
            let mut command = vram_audit(["show"]);
            Ended::of(command.arg(place.path()).args(words).output().unwrap())
        };
        let is_time = from == time;
        std::fs::write(&file, &hostile).unwrap();
        for words in [&["--severity", "CRITICAL"][..], &["--shard", "weights"]] {
            let ended = show(words);
            if is_time {
                // There is nothing that it could not be compared with.
                let ended = ended.with(0);
                assert_eq!(ended.out.contains(to), words[0] == "--severity");
            } else {
                let ended = ended.with(1);
                ended.says(&format!("line {line} of segment 000000 cannot be shown"));
            }
        }
        if is_time {
            for words in [["--since", "2026-01-01"], ["--until", "2026-01-01"]] {
                let ended = show(&words).with(1);
                assert!(ended.out.contains(to), "{}", ended.out);
                ended.says(&format!(
                    "line {line} of segment 000000 has a time that there is not"
                ));
            }
        }
        // In format 2 it is no record.
        let hostile = hostile.replacen("\"segment\":0", "\"format\":2,\"segment\":0", 1);
        std::fs::write(&file, hostile).unwrap();
        let ended = show(&["--severity", "CRITICAL"]).with(1);
        ended.says("1 line(s) are neither record nor checkpoint");
    }
}

#[test]
fn times_that_only_a_text_can_hold_are_compared_as_they_are_written() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/trail-format-1");
    let bytes = std::fs::read_to_string(fixture.join("000000.jsonl")).unwrap();
    let first = &bytes[17..47];
    let last = "9999-12-31T23:59:59.999999999Z";
    let place = tempfile::tempdir().unwrap();
    std::fs::write(
        place.path().join("000000.jsonl"),
        bytes.replacen(first, last, 1),
    )
    .unwrap();
    for (words, shown) in [
        (["--since", "9998-01-01"], true),
        (["--until", "9998-01-01"], false),
    ] {
        let mut command = vram_audit(["show"]);
        let output = command.arg(place.path()).args(words).output().unwrap();
        let ended = Ended::of(output).with(0);
        assert_eq!(ended.out.contains(last), shown, "{}", ended.out);
    }
}
