//! The check that shares nothing with the library comes to the same answer.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{Missing, Report, UnanchoredEnd, Verdict, verify};

use crate::built::{ORIGIN, Trail, good, holds, tree};
use crate::killed::bounded;
use crate::numbers::{killed, numbered};
use crate::support::{Place, is_installed};

/// Reads trails one after the other, so that what `openssl` said of a signature is asked once.
const MANY: &str = "
import json, sys
import verify_trail
for line in sys.stdin:
    result = verify_trail.Check(*json.loads(line))
    print(json.dumps([result.status, sorted(result.missing), result.problems]), flush=True)
";

/// The script, running.
pub(crate) struct Script {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// None if the script cannot run here.
    pub(crate) fn start() -> Option<Self> {
        if !is_installed("python3") || !is_installed("openssl") {
            return None;
        }
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let mut child = Command::new("python3")
            .args(["-B", "-c", MANY])
            .env("PYTHONPATH", tests)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
    }

    /// Holds the script's answer against a report of the same trail.
    #[track_caller]
    pub(crate) fn agrees(
        &mut self,
        name: &str,
        dir: &Path,
        keys: &[String],
        anchor: Option<&str>,
        report: &Report,
    ) {
        let line = json!([dir, keys, anchor]).to_string() + "\n";
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let verdict = report.verdict(UnanchoredEnd::Refused);
        let status = verdict.exit_code();
        assert_eq!(answer[0], status, "{name}: {answer}\n{report}");
        if verdict == Verdict::Lacking {
            let missing = report.missing(UnanchoredEnd::Refused);
            let mut missing: Vec<&str> = missing.into_iter().map(word).collect();
            missing.sort_unstable();
            assert_eq!(answer[1], json!(missing), "{name}: {answer}\n{report}");
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ended = self.child.wait();
    }
}

/// What the script calls it.
fn word(missing: Missing) -> &'static str {
    match missing {
        Missing::AnchorConfirmed => "anchor",
        Missing::Close => "close",
        Missing::EndVouchedFor => "end",
        Missing::KilledRuns => "killed runs",
        Missing::OlderSegments => "older segments",
        Missing::Records => "records",
        Missing::TailAcknowledged => "tail",
        other => panic!("the script has no word for {other:?}"),
    }
}

fn cases() -> Vec<(&'static str, Trail, Verdict)> {
    let mut killed = killed();
    killed.recovered(4).notes(1).checkpoint();
    let mut bounded = bounded();
    bounded
        .open("TrailOpened")
        .recovered(19)
        .notes(1)
        .checkpoint();
    let mut reused = crate::killed::bounded();
    reused.seq = 19;
    reused.open("TrailOpened").recovered(18).checkpoint();
    let mut tail = good();
    tail.notes(1);
    let mut garbage = good();
    garbage.notes(1).checkpoint();
    let end = garbage.segments[2].len();
    garbage.segments[2][end - 60..].fill(b'\n');
    let mut more = garbage.clone();
    more.notes(1);
    let mut stale = good();
    let line = json!({"checkpoint": stale.note}).to_string() + "\n";
    stale.write(line.as_bytes());
    let mut damaged = good();
    let at = damaged.segments[1].len() / 2;
    damaged.segments[1][at] ^= 1;
    let mut void = good();
    void.segments[1].push(b'x');
    let mut batches = good();
    let line = json!({"checkpoint": batches.sign(99, [1; 32])}).to_string() + "\n";
    batches.segments[0].extend(format!("\n{line}{line}").into_bytes());
    let mut swapped = good();
    swapped.segments.swap(0, 1);
    let mut forged = Trail::with_key(8, ORIGIN);
    forged.open("TrailOpened").checkpoint();
    forged.key = SigningKey::from_bytes(&[7; 32]);
    let mut gap = numbered(&[1, 3]);
    gap.checkpoint();
    let mut lost = numbered(&[1, 4]);
    lost.lost(2, 3).checkpoint();
    let mut longer = good();
    longer.note = longer.sign(99, [1; 32]);
    let mut cosigned = good();
    let others = format!("— w {}\n", STANDARD.encode([5; 76]));
    cosigned.note = cosigned.note.replace("\n\n", &format!("\n\n{others}")) + &others;
    let mut wrong = good();
    let own = wrong.note.lines().last().unwrap().to_owned();
    let (name, blob) = own.rsplit_once(' ').unwrap();
    let hash = STANDARD.decode(blob).unwrap()[..4].to_vec();
    let first = format!("{name} {}\n", STANDARD.encode([hash, vec![5; 72]].concat()));
    wrong.note = wrong.note.replace("\n\n", &format!("\n\n{first}"));
    let mut moved = good();
    let offset = json!({"offset": 5});
    moved.record("TrailClosed", offset).checkpoint();
    moved.notes(1).checkpoint();
    let mut changed = good();
    changed.change_key(9).open("SegmentOpened").checkpoint();
    let mut sudden = good();
    sudden.key = SigningKey::from_bytes(&[9; 32]);
    sudden.open("SegmentOpened").checkpoint();
    // The process is killed right after a rotation: its header is ahead of what it never wrote.
    let mut rotated = numbered(&[1, 2]);
    rotated.checkpoint();
    rotated.seq = 9;
    rotated.open("SegmentOpened").checkpoint();
    let mut high = numbered(&[1]);
    high.seq = 1 << 53;
    high.open("TrailOpened").recovered(1).checkpoint();
    vec![
        ("good", good(), Verdict::Sound),
        ("killed after a rotation", rotated, Verdict::Lacking),
        ("numbers above 2^53", high, Verdict::Broken),
        ("killed", killed, Verdict::Lacking),
        ("killed below its bound", bounded, Verdict::Lacking),
        ("a number given again", reused, Verdict::Broken),
        ("tail", tail, Verdict::Lacking),
        ("a record behind garbage", more, Verdict::Broken),
        ("a checkpoint that stands twice", stale, Verdict::Broken),
        ("damaged", damaged, Verdict::Broken),
        ("void bytes behind a clean end", void, Verdict::Broken),
        ("void bytes of two batches", batches, Verdict::Broken),
        ("swapped", swapped, Verdict::Broken),
        ("forged", forged, Verdict::NotChecked),
        ("gap", gap, Verdict::Broken),
        ("lost", lost, Verdict::Lacking),
        ("longer anchor", longer, Verdict::Broken),
        (
            "an anchor that others have signed",
            cosigned,
            Verdict::Sound,
        ),
        (
            "an anchor with a wrong signature first",
            wrong,
            Verdict::Lacking,
        ),
        ("closed elsewhere", moved, Verdict::Broken),
        ("key changed", changed, Verdict::Lacking),
        ("key changed suddenly", sudden, Verdict::Broken),
    ]
}

#[test]
fn the_script_agrees() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let both = [7, 9].map(|seed| Trail::with_key(seed, ORIGIN).key_text());
    for (name, trail, expected) in cases() {
        let dir = trail.stored();
        for (given, anchor) in [
            (&both[..], Some(trail.anchor())),
            (&both[..1], Some(trail.anchor())),
            (&both[..], None),
        ] {
            let keys: Vec<_> = given.iter().map(|key| key.parse().unwrap()).collect();
            let anchors: Vec<_> = anchor.iter().cloned().collect();
            let report = verify(dir.path(), &keys, &anchors);
            let text = anchor.map(|anchor| anchor.to_string());
            script.agrees(name, dir.path(), given, text.as_deref(), &report);
            if given.len() == 2 && text.is_some() {
                let verdict = report.verdict(UnanchoredEnd::Refused);
                assert_eq!(verdict, expected, "{name}\n{report}");
            }
        }
    }
}

#[test]
fn the_script_agrees_on_anchors_of_another_trail() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let (trail, other) = (good(), Trail::with_key(8, "another"));
    let keys = [trail.key_text(), other.key_text()];
    let dir = trail.stored();
    let total = trail.leaves.len();
    for root in [[9; 32], tree(&trail.leaves)] {
        let anchor = other.sign(total, root);
        let given = keys.each_ref().map(|key| key.parse().unwrap());
        let report = verify(dir.path(), &given, &[anchor.parse().unwrap()]);
        assert_eq!(report.verdict(UnanchoredEnd::Refused), Verdict::Lacking);
        script.agrees("foreign", dir.path(), &keys, Some(&anchor), &report);
    }
}

/// Both sides take the same lines for records, and the same names for segments.
#[test]
fn the_script_agrees_on_forms() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let trail = good();
    let keys = [trail.key_text()];
    let anchor = trail.anchor();
    for (right, other) in [
        ("Note", "Noted"),
        ("INFO", "LOUD"),
        ("success", "unknown"),
        ("Note", "N\\u006fte"),
        ("worker\":\"w", "worker\":\"\\u0077"),
        ("\"boot\":\"b0", "\"bo\\u006ft\":\"b0"),
        ("\"seq\":16", "\"seq\":9007199254740993"),
    ] {
        // A leaf that is signed as it stands: only its form is wrong.
        let mut changed = trail.clone();
        changed.open("TrailOpened").checkpoint();
        changed.record("Note", json!({}));
        let line = String::from_utf8(changed.leaves.pop().unwrap()).unwrap();
        let wrong = line.replacen(right, other, 1);
        assert_ne!(line, wrong);
        let segment = changed.segments.last_mut().unwrap();
        segment.truncate(segment.len() - line.len() - 1);
        changed.write(format!("{wrong}\n").as_bytes());
        changed.leaves.push(wrong.into_bytes());
        changed.checkpoint();
        let report = changed.verify(&[changed.anchor()]);
        let expected = match other {
            "Noted" => Verdict::Lacking,
            _ => Verdict::Broken,
        };
        assert_eq!(report.verdict(UnanchoredEnd::Refused), expected, "{other}");
        let dir = changed.stored();
        script.agrees(other, dir.path(), &keys, Some(&changed.note), &report);
    }
    let dir = trail.stored();
    for name in ["0000000.jsonl", "99999999999999999999.jsonl", "0.jsonl"] {
        fs::write(dir.path().join(name), "no segment").unwrap();
    }
    let report = verify(dir.path(), &[trail.verifier_key()], &[anchor]);
    assert_eq!(report.verdict(UnanchoredEnd::Refused), Verdict::Sound);
    script.agrees("names", dir.path(), &keys, Some(&trail.note), &report);
}

/// The library's own trails: poisoned, with lost records, left open, and opened again.
#[test]
fn the_script_agrees_on_trails_of_the_writer() {
    let place = Place::new();
    let (builder, faults) = place.faulty();
    let trail = builder.queue_records(16).open_or_create().unwrap();
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
    let (keys, anchor) = ([key.to_string()], anchor.to_string());
    if let Some(mut script) = Script::start() {
        script.agrees("written", &place.dir(), &keys, Some(&anchor), &report);
    }
}
