//! Somebody who has the disk, and not the key, rewrites what happened.
//!
//! The trail was closed, and its last checkpoint is kept elsewhere. Every bit is flipped, every
//! segment is cut at every length, lines and segments are deleted, doubled and swapped, the last runs
//! are removed, everything is signed anew with a key of the attacker's own, parts of other trails are
//! put in, and an older copy of the whole directory is put back. None of this may pass as sound. What
//! passes where no anchor is kept is listed, too: FORMAT.md says the same.
//!
//! The script must agree on each. `VRAM_SCRIPT_CASES` is on how many it is asked (400; for all of
//! them, a number as large as you like), `VRAM_SCRIPT_SEED` chooses which.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tempfile::TempDir;
use vram_residency::audit::{Checkpoint, UnanchoredEnd, Verdict, VerifierKey, verify};
use vram_residency::{AuditTrail, TrailKey};

use crate::built::Trail;
use crate::script::Script;

/// The bytes of each segment.
type Segments = BTreeMap<u64, Vec<u8>>;

/// Where the trail is made: in memory, since there are many of it.
struct Place(TempDir);

/// The trail, and what is tried on its lines and segments.
struct Target {
    segments: Segments,
    keys: Vec<VerifierKey>,
    anchor: Checkpoint,
    rewritten: Vec<(String, Segments)>,
}

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self(if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        })
    }

    fn key(&self, name: &str) -> TrailKey {
        TrailKey::open_or_create(self.0.path().join(name)).unwrap()
    }

    /// A run that was closed.
    fn run(&self, dir: &str, key: &str, previous: &str, note: &str) -> (VerifierKey, Checkpoint) {
        let dir = self.0.path().join(dir);
        let builder = AuditTrail::builder("w".parse().unwrap(), dir, self.key(key));
        let trail = builder
            .previous_key(self.key(previous))
            .open_or_create()
            .unwrap();
        trail.note(note).unwrap();
        if note == "flushed" {
            trail.flush().unwrap();
        }
        let verifier = trail.verifier_key().clone();
        (verifier, trail.close().unwrap().checkpoint().clone())
    }

    fn segments(&self, dir: &str) -> Segments {
        let mut segments = Segments::new();
        let path = |number| self.0.path().join(format!("{dir}/{number:06}.jsonl"));
        while let Ok(bytes) = fs::read(path(segments.len())) {
            segments.insert(segments.len() as u64, bytes);
        }
        segments
    }

    fn copy(&self, from: &str, to: &str) {
        use std::os::unix::fs::DirBuilderExt as _;
        let to = self.0.path().join(to);
        fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
        for (number, bytes) in self.segments(from) {
            fs::write(to.join(format!("{number:06}.jsonl")), bytes).unwrap();
        }
    }
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// Puts other lines in the place of some of a segment.
fn put(segments: &mut Segments, segment: u64, at: std::ops::Range<usize>, new: &[&[u8]]) {
    let mut changed = lines(&segments[&segment]);
    changed.splice(at, new.iter().map(|line| line.to_vec()));
    segments.insert(segment, changed.concat());
}

impl Target {
    /// Three runs, the last of them under another key: four segments.
    fn new() -> Self {
        let place = Place::new();
        let (first, _) = place.run("trail", "a", "a", "one");
        let one = place.segments("trail");
        // The same worker tells another story from here on, under the same keys.
        place.copy("trail", "fork");
        place.run("fork", "a", "a", "another");
        place.run("fork", "b", "a", "flushed");
        place.run("trail", "a", "a", "two");
        let two = place.segments("trail");
        let (last, anchor) = place.run("trail", "b", "a", "flushed");
        for _ in 0..3 {
            place.run("same key", "a", "a", "two");
            place.run("other key", "c", "c", "two");
        }
        let segments = place.segments("trail");
        assert_eq!(segments.len(), 4);
        let mut target = Self {
            segments,
            keys: vec![first, last],
            anchor,
            rewritten: vec![
                ("an older copy, of the first run".into(), one),
                ("an older copy, of two runs".into(), two),
            ],
        };
        target.move_lines();
        target.move_segments();
        target.sign_anew();
        for other in ["fork", "same key", "other key"] {
            target.splice(other, &place.segments(other));
        }
        target
    }

    fn with(&mut self, what: String, change: impl FnOnce(&mut Segments)) {
        let mut segments = self.segments.clone();
        change(&mut segments);
        if segments != self.segments {
            self.rewritten.push((what, segments));
        }
    }

    fn move_lines(&mut self) {
        let mut all = Vec::new();
        for (segment, bytes) in &self.segments {
            all.extend(
                (0..)
                    .zip(lines(bytes))
                    .map(|(at, line)| (*segment, at, line)),
            );
        }
        for (index, (segment, at, line)) in all.iter().enumerate() {
            self.with(format!("line {at} of {segment} deleted"), |segments| {
                put(segments, *segment, *at..at + 1, &[]);
            });
            for (to, behind, _) in &all {
                let what = format!("line {at} of {segment} again behind {behind} of {to}");
                self.with(what, |segments| {
                    put(segments, *to, behind + 1..behind + 1, &[line]);
                });
            }
            for (other, there, text) in &all[index + 1..] {
                let what = format!("lines {at} of {segment} and {there} of {other} swapped");
                self.with(what, |segments| {
                    put(segments, *segment, *at..at + 1, &[text]);
                    put(segments, *other, *there..there + 1, &[line]);
                });
            }
        }
    }

    fn move_segments(&mut self) {
        let count = self.segments.len() as u64;
        for gone in 1..1_u64 << count {
            let numbers: Vec<u64> = (0..count).filter(|bit| gone >> bit & 1 == 1).collect();
            self.with(format!("segments {numbers:?} deleted"), |segments| {
                segments.retain(|number, _| !numbers.contains(number));
            });
        }
        for from in 0..count {
            let bytes = self.segments[&from].clone();
            for to in 0..=count {
                self.with(format!("segment {from} again as {to}"), |segments| {
                    segments.insert(to, bytes.clone());
                });
            }
            for to in from + 1..count {
                self.with(format!("segments {from} and {to} swapped"), |segments| {
                    let other = segments.insert(to, bytes.clone()).unwrap();
                    segments.insert(from, other);
                });
            }
        }
    }

    /// All hashes are right, and nothing is signed with the trail's key.
    fn sign_anew(&mut self) {
        for named in [None, Some(self.keys[0].to_string())] {
            let whose = named.as_ref().map_or("the attacker's", |_| "the trail's");
            let mut forged = Trail::with_key(8, self.keys[0].name());
            forged.named = named;
            forged.void = Some(0);
            for _ in 0..3 {
                forged.open("TrailOpened").notes(1);
                forged.record("TrailClosed", json!({})).checkpoint();
            }
            let forged: Segments = (0..).zip(forged.segments).collect();
            let what = format!("signed anew, and {whose} key named");
            self.with(what.clone(), |segments| segments.clone_from(&forged));
            for (number, bytes) in forged {
                self.with(format!("{what}, in segment {number}"), |segments| {
                    segments.insert(number, bytes);
                });
            }
        }
    }

    fn splice(&mut self, other: &str, foreign: &Segments) {
        for (segment, bytes) in foreign {
            self.with(format!("segment {segment} of {other}"), |segments| {
                segments.insert(*segment, bytes.clone());
            });
            let kept = self
                .segments
                .get(segment)
                .map_or(0, |kept| lines(kept).len());
            for (number, line) in lines(bytes).iter().enumerate() {
                for at in 0..kept {
                    for replaced in 0..=1 {
                        let what = format!("line {number} of {other} at {at} of {segment}");
                        self.with(what, |segments| {
                            put(segments, *segment, at..at + replaced, &[line]);
                        });
                    }
                }
            }
        }
        self.with(format!("{other} in its place"), |segments| {
            segments.clone_from(foreign);
        });
    }

    /// How many flips, cuts and other changes there are.
    fn cases(&self) -> usize {
        let bytes: usize = self.segments.values().map(Vec::len).sum();
        self.rewritten.len() + bytes * 9
    }

    fn case(&self, index: usize) -> (String, Segments) {
        let Some(change) = index.checked_sub(self.rewritten.len()) else {
            return self.rewritten[index].clone();
        };
        let mut at = change / 9;
        let mut segments = self.segments.clone();
        for (number, bytes) in &mut segments {
            if at >= bytes.len() {
                at -= bytes.len();
                continue;
            }
            let bit = change % 9;
            if bit == 8 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            let what = format!("segment {number}, byte {at}, bit {bit} (8: cut)");
            return (what, segments);
        }
        unreachable!("{index} is no case");
    }
}

/// A directory that holds one case after the other.
struct Bench {
    place: Place,
    held: Segments,
}

impl Bench {
    fn new() -> Self {
        Self {
            place: Place::new(),
            held: Segments::new(),
        }
    }

    fn put(&mut self, segments: Segments) -> &Path {
        let dir = self.place.0.path();
        let path = |number: &u64| dir.join(format!("{number:06}.jsonl"));
        for number in self.held.keys() {
            if !segments.contains_key(number) {
                fs::remove_file(path(number)).unwrap();
            }
        }
        for (number, bytes) in &segments {
            if self.held.get(number) != Some(bytes) {
                fs::write(path(number), bytes).unwrap();
            }
        }
        self.held = segments;
        dir
    }
}

#[test]
fn nothing_that_is_done_without_the_key_passes() {
    let target = Target::new();
    let anchors = [target.anchor.clone()];
    let mut bench = Bench::new();
    let report = verify(bench.put(target.segments.clone()), &target.keys, &anchors);
    let verdict = report.verdict(UnanchoredEnd::Refused);
    assert_eq!(verdict, Verdict::Sound, "{report}");

    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut bench = Bench::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= target.cases() {
                        return;
                    }
                    let (what, segments) = target.case(index);
                    let report = verify(bench.put(segments), &target.keys, &anchors);
                    let verdict = report.verdict(UnanchoredEnd::Refused);
                    assert_ne!(verdict, Verdict::Sound, "{what}\n{report}");
                }
            });
        }
    });
    println!("{} changes, none passes", target.cases());
}

/// Whoever accepts such an end accepts these, and no others.
#[test]
fn without_an_anchor_only_an_older_trail_or_another_one_of_the_same_keys_passes() {
    let target = Target::new();
    let mut bench = Bench::new();
    let mut accepted = Vec::new();
    for (what, segments) in &target.rewritten {
        let report = verify(bench.put(segments.clone()), &target.keys, &[]);
        let verdict = report.verdict(UnanchoredEnd::Refused);
        assert_ne!(verdict, Verdict::Sound, "{what}");
        if report.verdict(UnanchoredEnd::Accepted) == Verdict::Sound {
            accepted.push(what.as_str());
        }
    }
    assert_eq!(
        accepted,
        [
            "an older copy, of the first run",
            "an older copy, of two runs",
            "segments [2, 3] deleted",
            "segments [1, 2, 3] deleted",
            "fork in its place",
        ]
    );
}

#[test]
fn the_script_agrees_on_what_was_tampered_with() {
    let Some(mut script) = Script::start() else {
        return;
    };
    let number = |variable: &str, otherwise: u64| {
        std::env::var(variable).map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
    };
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = number("VRAM_SCRIPT_SEED", now);
    println!("VRAM_SCRIPT_SEED={seed}");
    let target = Target::new();
    let (total, rewritten) = (target.cases(), target.rewritten.len());
    let wanted = usize::try_from(number("VRAM_SCRIPT_CASES", 400)).unwrap();
    let mut random = seed;
    let mut choose = |end: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % end
    };
    let mut bench = Bench::new();
    let keys: Vec<String> = target.keys.iter().map(ToString::to_string).collect();
    for nth in 0..wanted.min(total) {
        // Flips are many, and much alike.
        let index = match nth % 2 {
            _ if wanted >= total => nth,
            0 => choose(total),
            _ => choose(rewritten),
        };
        let (what, segments) = target.case(index);
        let dir = bench.put(segments);
        let anchor = (nth % 4 < 2).then_some(&target.anchor);
        let report = verify(dir, &target.keys, anchor.map_or(&[], std::slice::from_ref));
        let text = anchor.map(ToString::to_string);
        script.agrees(&what, dir, &keys, text.as_deref(), &report);
    }
}
