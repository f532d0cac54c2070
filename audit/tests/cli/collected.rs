//! `anchor --from-log`: checkpoints out of logs, as `tracing` writes them and as collectors keep them.

use std::io::Write;
use std::process::Stdio;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::prelude::*;
use vram_residency::audit::Checkpoint;

use crate::support::{Place, VIOLATION};
use crate::{Ended, Trail};

const SEARCH: &str = "anchor --from-log log --key @verifier.key";

/// What `tracing` wrote, for each of its forms of text.
#[derive(Default)]
struct Log(Mutex<Vec<u8>>);

impl Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Log {
    type Writer = &'static Log;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The logs of this process from the first call on: plain, with colours, compact, pretty.
fn logs() -> &'static [Log; 4] {
    static LOGS: OnceLock<[Log; 4]> = OnceLock::new();
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let logs = LOGS.get_or_init(Default::default);
    INSTALLED.get_or_init(|| {
        tracing_subscriber::registry()
            .with(fmt::layer().with_ansi(false).with_writer(&logs[0]))
            .with(fmt::layer().with_ansi(true).with_writer(&logs[1]))
            .with(
                fmt::layer()
                    .with_ansi(false)
                    .compact()
                    .with_writer(&logs[2]),
            )
            .with(fmt::layer().with_ansi(false).pretty().with_writer(&logs[3]))
            .init();
    });
    logs
}

/// A trail, its last two checkpoints, and what was logged of it, in each form that a log may have.
fn logged() -> (Trail, Vec<Checkpoint>, Vec<(&'static str, String)>) {
    let logs = logs();
    let trail = Trail::new();
    let place = Place::new();
    let open = place.open();
    trail.write("verifier.key", open.verifier_key().to_string());
    let first = open.policy_violation(VIOLATION).unwrap();
    // Until the log has it, which is given the newest one alone.
    let root = first
        .checkpoint()
        .to_string()
        .lines()
        .nth(2)
        .unwrap()
        .to_owned();
    let text = |log: &Log| String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    while logs.iter().any(|log| !text(log).contains(&root)) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let last = open.close().unwrap();
    let checkpoints = vec![first.checkpoint().clone(), last.checkpoint().clone()];
    let mut forms: Vec<_> = ["plain", "colours", "compact", "pretty"]
        .into_iter()
        .zip(logs.iter().map(text))
        .collect();
    let each = |form: &dyn Fn(&Checkpoint) -> String| -> String {
        let strays = [
            "{\"checkpoint\":\"model-7.pt\",\"fields\":{\"checkpoint\":\"vram\"}}",
            "2026-01-01T00:00:00Z  INFO worker: opened origin=vram-residency/w/0123456789abcdef",
            "vram-residency/w/0123456789abcdef",
            "12",
            "checkpoint=llama.pt",
            "\u{2014} someone AAAAAAAA",
            "{\"log\":",
            "",
        ];
        let stray = strays.join("\n") + "\n";
        checkpoints
            .iter()
            .map(|checkpoint| stray.clone() + &form(checkpoint) + &stray)
            .collect()
    };
    let time = "2026-01-01T00:00:00.000000Z";
    let target = "vram_residency::checkpoint";
    forms.push(("note", each(&Checkpoint::to_string)));
    forms.push(("json", each(&|checkpoint| {
        let fields = json!({ "message": "checkpoint", "size": checkpoint.size(), "checkpoint": checkpoint });
        json!({ "timestamp": time, "level": "INFO", "fields": fields, "target": target }).to_string() + "\n"
    })));
    forms.push(("flat json", each(&|checkpoint| {
        json!({ "timestamp": time, "message": "checkpoint", "checkpoint": checkpoint, "target": target })
            .to_string() + "\n"
    })));
    forms.push((
        "ascii json",
        each(&|checkpoint| {
            json!({ "checkpoint": checkpoint })
                .to_string()
                .replace('\u{2014}', "\\u2014")
                + "\n"
        }),
    ));
    forms.push((
        "logfmt",
        each(&|checkpoint| {
            let note = checkpoint.to_string().replace('\n', "\\n");
            format!("ts={time} level=info msg=checkpoint checkpoint=\"{note}\" target={target}\n")
        }),
    ));
    (trail, checkpoints, forms)
}

/// Each line in pieces, the last of which is marked as such.
fn pieces(line: &str, most: usize) -> Vec<(String, bool)> {
    let letters: Vec<char> = line.chars().collect();
    let mut pieces: Vec<String> = letters
        .chunks(most)
        .map(|piece| piece.iter().collect())
        .collect();
    if pieces.is_empty() {
        pieces.push(String::new());
    }
    let last = pieces.len() - 1;
    pieces
        .into_iter()
        .enumerate()
        .map(|(at, piece)| (piece, at == last))
        .collect()
}

fn cri(log: &str, most: usize) -> String {
    let mut wrapped = String::new();
    for (piece, last) in log.lines().flat_map(|line| pieces(line, most)) {
        let tag = if last { "F" } else { "P" };
        wrapped += &format!("2026-01-01T00:00:00.000000001Z stdout {tag} {piece}\n");
        // What comes by the other stream in between.
        wrapped += "2026-01-01T00:00:00.000000002Z stderr F 12\n";
    }
    wrapped
}

fn docker(log: &str, most: usize) -> String {
    let time = "2026-01-01T00:00:00.000000001Z";
    let each = log
        .lines()
        .flat_map(|line| pieces(line, most))
        .map(|(piece, last)| {
            let end = if last { "\n" } else { "" };
            json!({ "log": piece + end, "stream": "stdout", "time": time }).to_string() + "\n"
        });
    each.collect()
}

/// journald keeps no empty line, and journalctl shows bytes where a terminal's codes are.
fn journald(log: &str) -> String {
    let each = log.lines().filter(|line| !line.is_empty()).map(|line| {
        let message = if line.contains('\u{1b}') {
            json!(line.as_bytes())
        } else {
            json!(line)
        };
        let ours = json!({ "_PID": "7", "_STREAM_ID": "a", "_SYSTEMD_UNIT": "w.service", "MESSAGE": message });
        let other = json!({ "_PID": "8", "_STREAM_ID": "b", "_SYSTEMD_UNIT": "x.service", "MESSAGE": "5" });
        format!("{ours}\n{other}\n")
    });
    each.collect()
}

fn before_each(log: &str, prefix: &str) -> String {
    let lines = log.lines().filter(|line| !line.is_empty());
    lines.map(|line| format!("{prefix}{line}\n")).collect()
}

#[test]
fn every_checkpoint_is_found_in_every_form_and_wrapping_and_vouches_for_the_trail() {
    let (trail, checkpoints, forms) = logged();
    let expected: String = checkpoints.iter().map(Checkpoint::to_string).collect();
    for (form, log) in forms {
        for (wrapping, wrapped) in [
            ("none", log.clone()),
            ("cr lf", log.replace('\n', "\r\n")),
            ("cri", cri(&log, 16_384)),
            ("cri in parts", cri(&log, 40)),
            ("docker", docker(&log, 16_384)),
            ("docker in parts", docker(&log, 40)),
            ("journalctl -o json", journald(&log)),
            ("journalctl -o cat", before_each(&log, "")),
            (
                "journalctl -o short-iso",
                before_each(&log, "2026-01-01T00:00:00+0000 host worker[7]: "),
            ),
            (
                "journalctl -o short",
                before_each(&log, "Jan 01 00:00:00 host worker[7]: "),
            ),
            (
                "kubectl logs --prefix",
                before_each(&log, "[pod/worker-0/worker] "),
            ),
            (
                "docker logs -t",
                before_each(&log, "2026-01-01T00:00:00.000000001Z "),
            ),
            ("docker compose logs", before_each(&log, "worker-1  | ")),
            ("cri in docker", docker(&cri(&log, 60), 50)),
            ("docker in journald", journald(&docker(&log, 16_384))),
            ("docker in cri", cri(&docker(&log, 40), 40)),
        ] {
            trail.write("log", &wrapped);
            let ended = trail.run(SEARCH).with(0);
            assert_eq!(ended.out, expected, "{form} in {wrapping}: {}", ended.err);
            assert!(
                !ended.err.contains(" cut"),
                "{form} in {wrapping}: {}",
                ended.err
            );
        }
    }
    // And they are what `verify` takes.
    let other = Trail::new();
    other.write("log", docker(&other.last.to_string(), 30));
    other.write("anchors", other.run(SEARCH).with(0).out);
    other
        .run("verify trail --key @verifier.key --anchor anchors")
        .with(0)
        .says("vouched for by an anchor");
}

#[test]
fn a_field_of_the_journals_own_protocol_is_found() {
    let trail = Trail::new();
    let note = trail.last.to_string();
    let message = json!({ "MESSAGE": "checkpoint", "F_CHECKPOINT": note, "F_SIZE": "5" });
    trail.write("log", message.to_string());
    assert_eq!(trail.run(SEARCH).with(0).out, note);
    let whole = json!({ "MESSAGE": format!("checkpoint checkpoint={note}") });
    trail.write("log", whole.to_string());
    assert_eq!(trail.run(SEARCH).with(0).out, note);
}

#[test]
fn what_is_cut_is_told_with_its_line_and_what_is_whole_is_printed() {
    let trail = Trail::new();
    let note = trail.last.to_string();
    let lines: Vec<&str> = note.lines().collect();
    let text = format!("INFO vram_residency::checkpoint: checkpoint size=5 checkpoint={note}");
    let line = json!({ "fields": { "checkpoint": note } }).to_string();
    let half = |text: &str| {
        text.chars()
            .take(text.chars().count() / 2)
            .collect::<String>()
    };
    let forged = note.replace(&format!("\n{}\n", trail.last.size()), "\n4\n");
    for (cut, words) in [
        (text.replace(lines[4], ""), "signature is missing"),
        (
            text.replace(lines[2], "nonsense"),
            "not its size and its root",
        ),
        (
            text.replace(&format!("\n{}\n", lines[1]), "\nfive\n"),
            "not its size and its root",
        ),
        (
            text.replace(lines[4], &half(lines[4])),
            "a checkpoint is cut",
        ),
        (format!("checkpoint={}", half(lines[0])), ""),
        (line.replace("\\n\\n", "\\n"), "a checkpoint is cut"),
        (half(&line), "a checkpoint is cut"),
        (
            note.replace(lines[4], "\u{2014} w AAAAAAAA"),
            "its own signature is missing",
        ),
        (forged, "is not signed by a given key"),
    ] {
        trail.write("log", format!("a\nb\n{cut}\nc\n"));
        let ended = trail.run(SEARCH);
        if !words.is_empty() {
            let ended = ended.with(1).says("log, line 3: ").says(words);
            assert!(ended.out.is_empty(), "{cut}: {ended:?}");
            trail.write("log", format!("a\nb\n{cut}\n{}{text}", "c\n".repeat(40)));
            let ended = trail.run(SEARCH).with(0).says("log, line 3: ");
            assert_eq!(ended.out, note, "{cut}");
        }
    }
    // A log that was rotated in the middle of one.
    let (old, new) = text.split_at(text.len() - 60);
    let at = old.rfind('\n').unwrap() + 1;
    trail.write("log.1", &old[..at]);
    trail.write("log", format!("{}{new}", &old[at..]));
    let ended = trail
        .run("anchor --from-log log.1 --from-log log --key @verifier.key")
        .with(0);
    assert_eq!(ended.out, note);
}

#[test]
fn only_what_was_asked_for_is_printed_and_each_once() {
    let (trail, other) = (Trail::new(), Trail::new());
    let (ours, theirs) = (trail.last.to_string(), other.last.to_string());
    trail.write("log", format!("{ours}{theirs}{ours}\n{theirs}"));
    let ended = trail
        .run(SEARCH)
        .with(0)
        .says("2 checkpoint(s) of other trails");
    assert_eq!(ended.out, ours);
    let ended = trail
        .run("anchor --from-log log")
        .with(0)
        .says("checkpoints of 2 trails");
    assert_eq!(ended.out, format!("{ours}{theirs}"));
    assert!(ended.err.contains(other.last.origin()), "{ended:?}");
    let asked = format!("anchor --from-log log --origin {}", other.last.origin());
    assert_eq!(trail.run(&asked).with(0).out, theirs);
    for origin in ["vram-residency/none/0123456789abcdef", "x"] {
        let asked = format!("anchor --from-log log --origin {origin}");
        trail.run(&asked).with(2).says("no checkpoint was found");
    }
    trail.write("log", "nothing\n\u{1b}[2J{\"\u{0}\n");
    trail.run(SEARCH).with(2).says("no checkpoint was found");
    trail.write("log", vec![b'x'; 9 << 20]);
    trail.run(SEARCH).with(2).says("line 1: longer than 4 MiB");
    trail
        .run("anchor --from-log missing")
        .with(2)
        .says("missing: ");
    trail.run("anchor").with(2);
    trail.run("anchor trail --from-log log").with(2);
    trail.run("anchor trail --origin x").with(2);
    // From a pipe.
    let mut child = trail
        .command("anchor --from-log -")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(cri(&ours, 16_384).as_bytes())
        .unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap()).with(0);
    assert_eq!(ended.out, ours);
}

/// Two workers write to one stream by turns.
#[test]
fn lines_of_two_workers_that_alternate_are_told_apart_by_their_stream() {
    let (trail, other) = (Trail::new(), Trail::new());
    let (ours, theirs) = (trail.last.to_string(), other.last.to_string());
    let by = |name: &str, line: &str| {
        json!({ "_PID": name, "_SYSTEMD_UNIT": "w", "MESSAGE": line }).to_string() + "\n"
    };
    let log: String = ours
        .lines()
        .zip(theirs.lines())
        .map(|(ours, theirs)| by("1", ours) + &by("2", theirs))
        .collect();
    trail.write("log", &log);
    let found = trail.run("anchor --from-log log").with(0).out;
    assert!(found.contains(&ours) && found.contains(&theirs), "{found}");
    let parsed: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(parsed["_PID"], "1");
}
