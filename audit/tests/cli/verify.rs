//! `verify`: its four exit statuses, and what it takes for anchors and keys.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use vram_residency::TrailKey;

use crate::support::{Place, VIOLATION, segments};
use crate::{Ended, Trail};

const GOOD: &str = "verify trail --key @verifier.key --anchor anchor.txt";
const UNANCHORED: &str = "verify trail --key @verifier.key";

#[test]
fn a_closed_and_anchored_trail_that_lost_nothing_is_status_0() {
    let trail = Trail::new();
    trail
        .run(GOOD)
        .with(0)
        .says("SOUND, WITH 1 INCIDENT\n")
        .says("vouched for by an anchor");
    let key = &trail.key;
    trail
        .run(&format!("verify trail --key {key} --anchor anchor.txt"))
        .with(0);
    trail
        .run(&format!("{UNANCHORED} --accept-unanchored-end"))
        .with(0);
}

#[test]
fn what_is_missing_is_named_under_status_3() {
    let trail = Trail::new();
    trail
        .run(UNANCHORED)
        .with(3)
        .says("missing:  no anchor vouches for the end");

    let place = Place::new();
    let open = place.open();
    open.policy_violation(VIOLATION).unwrap();
    let living = format!(
        "verify {} --key {}",
        place.dir().display(),
        open.verifier_key()
    );
    trail
        .run(&format!("{living} --accept-unanchored-end"))
        .with(3)
        .says("missing:  the trail was not closed");
    drop(open);

    fs::remove_file(&segments(&trail.place.dir())[0]).unwrap();
    trail.run(GOOD).with(3).says("older segments are absent");
}

/// The same trail, with an incident and without: who reads one line, or the status, can tell.
#[test]
fn incidents_and_the_time_span_are_told_whatever_the_status() {
    let trail = Trail::new();
    let first = |words: &str, code| {
        let ended = trail.run(words).with(code);
        ended.out.lines().next().unwrap().to_owned()
    };
    assert_eq!(first(GOOD, 0), "SOUND, WITH 1 INCIDENT");
    let lacking = "HOLDS, WITH 1 INCIDENT, BUT: no anchor vouches for the end";
    assert_eq!(first(UNANCHORED, 3), lacking);
    let fail = |words: &str| format!("{words} --fail-on-incident");
    assert_eq!(first(&fail(GOOD), 4), "SOUND, WITH 1 INCIDENT");
    assert_eq!(first(&fail(UNANCHORED), 4), lacking);
    let json = trail.run(&format!("{} --json", fail(GOOD))).with(4).out;
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["exit_status"], 4);
    assert_eq!(report["verdict"], "sound");
    let records = trail.place.records();
    let mut times: Vec<&str> = records
        .iter()
        .map(|record| record["time"].as_str().unwrap())
        .collect();
    times.sort_unstable();
    let (earliest, latest) = (times[0], times[times.len() - 1]);
    assert_eq!(report["first_time"], earliest);
    assert_eq!(report["last_time"], latest);
    let told = trail.run(GOOD).with(0);
    assert!(
        told.out
            .contains(&format!("\ntime:     {earliest} to {latest}\n")),
        "{told:?}"
    );
    assert!(
        told.out
            .contains("\nincidents: 1 (SealVerificationFailed)\n"),
        "{told:?}"
    );
    // Broken goes before, and so does what cannot be read.
    trail
        .run(&fail(&format!("{UNANCHORED} --anchor missing")))
        .with(2);
    trail.tamper(0, "note 3", "note 4");
    trail.run(&fail(GOOD)).with(1);

    let place = Place::new();
    let open = place.open();
    let key = open.verifier_key().clone();
    open.close().unwrap();
    let quiet = format!(
        "verify {} --key {key} --accept-unanchored-end --fail-on-incident",
        place.dir().display()
    );
    let ended = trail.run(&quiet).with(0);
    assert!(ended.out.starts_with("SOUND\n"), "{ended:?}");
    assert!(ended.out.contains("\nincidents: 0 "), "{ended:?}");
}

#[test]
fn a_changed_trail_is_status_1_and_every_damage_is_listed() {
    let trail = Trail::new();
    trail.tamper(0, "note 3", "note 4");
    trail.tamper(2, "unpinned model", "a pinned model");
    let ended = trail.run(GOOD).with(1).says("BROKEN");
    assert!(ended.out.contains("segment 000000") && ended.out.contains("segment 000002"));
    // Broken goes before missing, and before what cannot be read.
    trail.run(UNANCHORED).with(1);
    let second = &segments(&trail.place.dir())[1];
    fs::remove_file(second).unwrap();
    fs::create_dir(second).unwrap();
    trail.run(GOOD).with(1);
}

#[test]
fn a_trail_that_was_cut_is_caught_by_its_anchor_alone() {
    let trail = Trail::new();
    fs::remove_file(&segments(&trail.place.dir())[2]).unwrap();
    trail.run(GOOD).with(1).says("CONTRADICTS");
    trail
        .run(&format!("{UNANCHORED} --accept-unanchored-end"))
        .with(0);
}

#[test]
fn a_key_that_a_header_names_writes_no_line_into_the_report() {
    let trail = Trail::new();
    trail.tamper(0, "\"key\":\"", "\"key\":\"\\nHOLDS\\n\\u001b[2J");
    let stranger = Trail::new().key;
    let ended = trail.run(&format!("verify trail --key {stranger}")).with(2);
    let shown = "name the key \\nHOLDS\\n\\u{1b}[2J";
    assert!(ended.out.contains(shown), "{ended:?}");
    assert!(!ended.out.lines().any(|line| line == "HOLDS"), "{ended:?}");
}

#[test]
fn what_cannot_be_checked_is_status_2() {
    let trail = Trail::new();
    let other = TrailKey::open_or_create(trail.path("other.pem")).unwrap();
    let stranger = other
        .verifier_key("vram-residency/worker-1/0000000000000000")
        .unwrap();
    trail
        .run(&format!(
            "verify trail --key {stranger} --accept-unanchored-end"
        ))
        .with(2)
        .says("no given key");
    let second = &segments(&trail.place.dir())[1];
    fs::remove_file(second).unwrap();
    std::os::unix::fs::symlink("/dev/zero", second).unwrap();
    trail
        .run(&format!("{UNANCHORED} --accept-unanchored-end"))
        .with(2);
}

#[test]
fn json_is_one_object_that_says_what_the_status_says() {
    let trail = Trail::new();
    for (words, code, verdict, missing) in [
        (GOOD, 0, "sound", json!([])),
        (UNANCHORED, 3, "lacking", json!(["end_vouched_for"])),
    ] {
        let ended = trail.run(&format!("{words} --json")).with(code);
        let report: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(ended.out.lines().count(), 1);
        assert_eq!(report["verdict"], verdict);
        assert_eq!(report["exit_status"], code);
        assert_eq!(report["missing"], missing);
        assert_eq!(report["segments"], 3);
        assert_eq!(report["schema_version"], 1);
        assert_eq!(report["incidents"], 1);
        assert_eq!(report["leaves"], trail.last.size());
    }
}

#[test]
fn json_is_an_object_although_a_key_or_an_anchor_cannot_be_used() {
    let trail = Trail::new();
    trail.write("nonsense", "nonsense\n");
    for (words, file) in [
        (
            format!("{UNANCHORED} --anchor nonsense"),
            "nonsense, line 1",
        ),
        (format!("{GOOD} --anchor missing"), "missing: "),
        (format!("{GOOD} --key @missing"), "missing: "),
        (format!("{GOOD} --key @nonsense"), "nonsense: "),
    ] {
        let ended = trail.run(&format!("{words} --json")).with(2);
        let answer: Value = serde_json::from_str(&ended.out).unwrap();
        let reason = answer["not_checked"][0].as_str().unwrap();
        assert!(reason.starts_with(file), "{words}: {reason}");
        assert_eq!(
            answer,
            json!({
                "schema_version": 1,
                "verdict": "not_checked",
                "exit_status": 2,
                "missing": [],
                "outcome": "not_checked",
                "not_checked": [reason],
            })
        );
        assert_eq!(ended.err, format!("vram-audit: {reason}\n"));
    }
}

#[test]
fn an_anchor_file_holds_checkpoints_in_any_of_their_forms() {
    let trail = Trail::new();
    let note = trail.last.to_string();
    let line = json!({ "checkpoint": note }).to_string();
    let logged = json!({ "level": "INFO", "fields": { "checkpoint": note } }).to_string();
    let older: Vec<String> = fs::read_to_string(&segments(&trail.place.dir())[2])
        .unwrap()
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["checkpoint"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert!(older.len() > 1);
    for (form, count) in [
        (format!("{note}\n\n{note}"), 2),
        (format!("{line}\n"), 1),
        (line.clone(), 1),
        (logged, 1),
        (
            format!("{}{note}{line}\n\n", older.concat()),
            older.len() + 2,
        ),
    ] {
        trail.write("anchors", &form);
        let words = "verify trail --key @verifier.key --anchor anchors --json";
        let report: Value = serde_json::from_str(&trail.run(words).with(0).out).unwrap();
        assert_eq!(report["anchors"].as_array().unwrap().len(), count, "{form}");
    }
    for (wrong, words) in [
        (String::new(), "holds no checkpoint"),
        (String::from("\n \n"), "holds no checkpoint"),
        (format!("{note}nonsense\n"), "line 6"),
        (format!("nonsense\n{note}"), "line 1"),
        (note.replace("\n\n", "\n"), "line 1"),
        (String::from("{}"), "no field `checkpoint`"),
        (String::from("{\"checkpoint\":5}"), "no field `checkpoint`"),
        (String::from("\u{0}\u{1b}[2J"), "line 1"),
        (note.replace('\n', "\r\n"), "line 1: the lines end in CR LF"),
        (
            format!("{note}\n{}", note.replace('\n', "\r\n")),
            "line 7: the lines end in CR LF",
        ),
    ] {
        trail.write("anchors", &wrong);
        let ended = trail
            .run("verify trail --key @verifier.key --anchor anchors")
            .with(2);
        assert!(ended.err.contains(words), "{wrong:?}: {ended:?}");
    }
    trail.write("anchors", b"\xff\xfe");
    for file in ["anchors", "missing", "trail", "/dev/zero"] {
        let words = format!("verify trail --key @verifier.key --anchor {file}");
        assert!(trail.run(&words).with(2).out.is_empty(), "{file}");
    }
}

#[test]
fn a_torn_last_line_of_an_anchor_file_is_passed_over_and_named() {
    let trail = Trail::new();
    let line = json!({ "checkpoint": trail.last.to_string() }).to_string();
    let words = "verify trail --key @verifier.key --anchor anchors";
    for end in [40, line.len() - 1] {
        trail.write("anchors", format!("{line}\n{}", &line[..end]));
        let ended = trail.run(words).with(0);
        assert!(
            ended.err.contains("line 2: the last line is torn"),
            "{ended:?}"
        );
    }
    // Nothing but a torn line is no anchor, and a whole line that is no checkpoint is refused.
    for wrong in [line[..40].to_owned(), format!("{line}\n{}\n", &line[..40])] {
        trail.write("anchors", wrong);
        trail.run(words).with(2);
    }
}

/// `prove --help` calls a proof an anchor, so it is one.
#[test]
fn a_proof_is_an_anchor_alone_and_among_others() {
    let trail = Trail::new();
    let proof = trail.run("prove trail 5").with(0).out;
    let note = trail.last.to_string();
    let cosigned = format!("{proof}\u{2014} w AAAAAAAA\n");
    let verify = "verify trail --key @verifier.key --anchor x.tlog-proof";
    for (form, count) in [
        (proof.clone(), 1),
        (format!("{proof}{cosigned}"), 2),
        (
            format!(
                "{proof}\n{note}{proof}{}\n{proof}",
                json!({ "checkpoint": note })
            ),
            5,
        ),
    ] {
        trail.write("x.tlog-proof", &form);
        let report: Value =
            serde_json::from_str(&trail.run(&format!("{verify} --json")).with(0).out).unwrap();
        let anchors = report["anchors"].as_array().unwrap();
        assert_eq!(anchors.len(), count, "{form}");
        assert!(anchors.iter().all(|anchor| anchor["state"] == "confirmed"));
    }
    for (wrong, words) in [
        (
            proof.replace("index 5", "index 6"),
            "line 1: the record does not lead",
        ),
        (
            format!("{note}{}", proof.replace("index 5", "index 6")),
            "line 6: the record",
        ),
        (proof.replace("@v1", "@v2"), "line 1: not a tlog-proof"),
        (proof.replace("extra ", "more "), "line 1: not a tlog-proof"),
        (
            proof.split("\n\n").next().unwrap().to_owned(),
            "line 1: not a tlog-proof",
        ),
        (
            proof.replace('\u{2014}', "-"),
            "line 1: the proof does not end in a checkpoint",
        ),
        (
            proof.replace('\n', "\r\n"),
            "line 1: the lines end in CR LF",
        ),
    ] {
        trail.write("x.tlog-proof", &wrong);
        let ended = trail.run(verify).with(2);
        assert!(ended.err.contains(words), "{wrong:?}: {ended:?}");
    }
    // A trail that was cut behind the record contradicts it.
    trail.write("x.tlog-proof", &proof);
    fs::remove_file(&segments(&trail.place.dir())[2]).unwrap();
    trail.run(verify).with(1).says("CONTRADICTS");
}

#[test]
fn an_anchor_that_others_have_signed_too_vouches_for_the_end() {
    let trail = Trail::new();
    let others = format!("\u{2014} w {}=\n", "A".repeat(10_003)).repeat(100);
    let note = trail
        .last
        .to_string()
        .replace("\n\n", &format!("\n\n{others}"));
    for form in [note.repeat(2), json!({ "checkpoint": note }).to_string()] {
        trail.write("cosigned", &form);
        trail
            .run("verify trail --key @verifier.key --anchor cosigned")
            .with(0);
    }
    let proof = trail.run("prove trail 5").with(0).out;
    trail.write("cosigned", proof.replace(&trail.last.to_string(), &note));
    for words in [
        "check-proof cosigned --key",
        "verify trail --anchor cosigned --key",
    ] {
        trail.run(&format!("{words} @verifier.key")).with(0);
    }
}

#[test]
fn anchors_take_little_memory_whatever_is_in_their_files() {
    let trail = Trail::new();
    let note = trail.last.to_string();
    let verify = "verify trail --key @verifier.key --anchor many";
    // Address space, so that whoever takes more is refused it; threads reserve most of this.
    let limited = |words: &str| {
        let mut shell = Command::new("sh");
        shell
            .current_dir(trail.place.temp.path())
            .args(["-c", "ulimit -v 300000; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_vram-audit"))
            .args(words.split_whitespace());
        Ended::of(shell.output().unwrap())
    };
    trail.write("many", note.repeat((7 << 20) / note.len()));
    limited(verify).with(0);
    // One line that does not end, and one text that does not.
    let endless = fs::File::create(trail.place.temp.path().join("many")).unwrap();
    endless.set_len(600 << 20).unwrap();
    let ended = limited(verify).with(2);
    let words = "line 1: it has more than 8388608 bytes";
    assert!(ended.err.contains(words), "{ended:?}");
    trail.write("many", "a line\n".repeat(40 << 17));
    limited(verify).with(2);
    let padding = vec![r#"{"":0}"#; (7 << 20) / 7].join(",");
    let line = json!({ "checkpoint": note }).to_string();
    let line = line.replacen('{', &format!("{{\"padding\":[{padding}],"), 1);
    trail.write("many", line);
    limited(verify).with(0);
}

#[test]
fn a_broken_trail_is_status_1_even_if_an_anchor_file_cannot_be_read() {
    let trail = Trail::new();
    let last = trail.last.to_string();
    trail.write("half", format!("{last}\nnonsense\n"));
    fs::remove_file(&segments(&trail.place.dir())[2]).unwrap();
    let verify = |anchors: &str| trail.run(&format!("{UNANCHORED} {anchors}"));
    // The trail was cut: who has no anchor that says so cannot know.
    let ended = verify("--anchor missing").with(2);
    assert!(ended.out.is_empty() && ended.err.contains("missing: "));
    for anchors in [
        "--anchor missing --anchor anchor.txt",
        "--anchor anchor.txt --anchor missing",
        "--anchor half",
    ] {
        let ended = verify(anchors).with(1).says("CONTRADICTS");
        assert!(
            ["missing: ", "half, line "]
                .iter()
                .any(|words| ended.err.contains(words)),
            "{ended:?}"
        );
    }
    trail.tamper(0, "note 3", "note 4");
    let ended = verify("--anchor missing --json").with(1);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["verdict"], "broken");
    assert!(ended.err.contains("missing: "), "{ended:?}");
}

#[test]
fn an_anchor_of_somebody_else_vouches_for_nothing() {
    let trail = Trail::new();
    let other = Trail::new();
    trail.write("foreign", other.last.to_string());
    trail
        .run("verify trail --key @verifier.key --anchor foreign")
        .with(3)
        .says("of another trail or key");
}
