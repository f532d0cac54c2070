//! The shape of a run: opened, closed, and then nothing but the next one. It binds runs of format 2;
//! trails of format 1 that have another shape hold as they did.

use serde_json::json;

use crate::built::{Trail, broken, holds, words};
use crate::script::Script;

fn poisoned(trail: &mut Trail) {
    let fields = json!({"segment": 0, "operation": "sync", "cause": "EIO"});
    trail.record("SegmentPoisoned", fields);
}

/// Runs that end and begin as they must: closed, rotated, killed, killed while a segment began.
fn proper(format: Option<u64>) -> Trail {
    let mut trail = Trail::new();
    trail.format = format;
    trail
        .open("TrailOpened")
        .checkpoint()
        .notes(2)
        .checkpoint()
        .close();
    trail.open("TrailOpened").notes(1).checkpoint();
    trail.open("SegmentOpened").notes(1).checkpoint().notes(1);
    let highest = trail.kill();
    trail.open("TrailOpened").recovered(highest).checkpoint();
    let highest = trail.kill();
    trail.open("TrailOpened").recovered(highest);
    trail
        .change_key(9)
        .open("SegmentOpened")
        .checkpoint()
        .close();
    trail
}

/// A change, what the report says of it in format 2, and that format 1 has nothing against it.
type Case = (&'static str, &'static str, fn(&mut Trail));

const CASES: [Case; 14] = [
    (
        "begins with SegmentOpened",
        "a trail begins with",
        |trail| {
            trail.open("SegmentOpened").checkpoint();
        },
    ),
    (
        "a note behind TrailClosed",
        "behind `TrailClosed`",
        |trail| {
            trail
                .open("TrailOpened")
                .checkpoint()
                .close()
                .notes(1)
                .checkpoint();
        },
    ),
    (
        "a note behind TrailClosed in its batch",
        "behind `TrailClosed`",
        |trail| {
            trail.open("TrailOpened").checkpoint();
            let offset = trail.segments[0].len();
            trail
                .record("TrailClosed", json!({"offset": offset}))
                .notes(1)
                .checkpoint();
        },
    ),
    ("a poisoned closing", "behind `TrailClosed`", |trail| {
        trail.open("TrailOpened").checkpoint().open("SegmentOpened");
        let offset = trail.segments[1].len();
        trail.record("TrailClosed", json!({"offset": offset}));
        poisoned(trail);
        trail.close();
    }),
    ("closed twice", "behind `TrailClosed`", |trail| {
        trail.open("TrailOpened").checkpoint().close().close();
    }),
    (
        "a segment behind TrailClosed",
        "`SegmentOpened` stands behind",
        |trail| {
            trail.open("TrailOpened").checkpoint().close();
            trail.open("SegmentOpened").checkpoint();
        },
    ),
    ("no TailRecovered", "no `TailRecovered`", |trail| {
        trail.open("TrailOpened").checkpoint().kill();
        trail.open("TrailOpened").notes(1).checkpoint();
    }),
    ("TailRecovered is late", "second line", |trail| {
        trail.open("TrailOpened").checkpoint();
        let highest = trail.kill();
        trail
            .open("TrailOpened")
            .checkpoint()
            .recovered(highest)
            .checkpoint();
    }),
    (
        "TailRecovered in the next segment",
        "no `TailRecovered`",
        |trail| {
            trail.open("TrailOpened").checkpoint();
            trail.open("TrailOpened").checkpoint();
            trail.open("SegmentOpened").checkpoint();
        },
    ),
    ("another worker", "another worker", |trail| {
        trail.open("TrailOpened").notes(1);
        let line = String::from_utf8(trail.leaves.last().unwrap().clone()).unwrap();
        trail.instead(line.replace("worker-1", "worker-2").as_bytes());
        trail.notes(1).checkpoint();
    }),
    ("another worker throughout", "another worker", |trail| {
        trail.open("TrailOpened");
        let line = String::from_utf8(trail.leaves.last().unwrap().clone()).unwrap();
        let other = line.replace("\"worker\":\"worker-1\"", "\"worker\":\"worker-2\"");
        trail.instead(other.as_bytes()).checkpoint();
    }),
    (
        "TrailClosed without its offset",
        "does not say where it stands",
        |trail| {
            trail.open("TrailOpened").checkpoint();
            trail.record("TrailClosed", json!({})).checkpoint();
        },
    ),
    ("another previous key", "names another key", |trail| {
        trail.open("TrailOpened").checkpoint();
        let key = trail.key_text();
        let keys = json!({"previous_key": key.replace("0123", "3210"), "key": key});
        trail.record("KeyChanged", keys).checkpoint();
    }),
    ("no previous key", "names another key", |trail| {
        trail.open("TrailOpened").checkpoint();
        let keys = json!({"key": trail.key_text()});
        trail.record("KeyChanged", keys).checkpoint();
    }),
];

#[test]
fn runs_that_end_and_begin_as_they_must_hold_in_both_formats() {
    for format in [None, Some(2)] {
        let trail = proper(format);
        let dir = trail.stored();
        let keys = [7, 9].map(|seed| Trail::with_key(seed, &trail.origin).key_text());
        let given = keys.each_ref().map(|key| key.parse().unwrap());
        let report = vram_residency::audit::verify(dir.path(), &given, &[trail.anchor()]);
        holds(&report);
        assert!(report.closed, "{report}");
        if let Some(mut script) = Script::start() {
            script.agrees("proper", dir.path(), &keys, Some(&trail.note), &report);
        }
    }
}

#[test]
fn a_run_of_another_shape_is_broken_in_format_2_alone() {
    let mut script = Script::start();
    for (name, because, make) in CASES {
        for format in [None, Some(1), Some(2)] {
            let mut trail = Trail::new();
            trail.format = format;
            make(&mut trail);
            let report = trail.verify(&[]);
            if format == Some(2) {
                broken(&report, because);
            } else {
                assert_eq!(words(&report), "", "{name}");
            }
            if let Some(script) = &mut script {
                script.agrees(
                    name,
                    trail.stored().path(),
                    &[trail.key_text()],
                    None,
                    &report,
                );
            }
        }
    }
}

/// Software may be rolled back, and forward again: each run keeps the rules of its own format.
#[test]
fn runs_of_both_formats_may_stand_in_one_trail() {
    let mut script = Script::start();
    let formats = [None, Some(2), Some(1), Some(2)];
    let mut trail = Trail::new();
    for (number, format) in formats.into_iter().enumerate() {
        trail.format = format;
        let highest = if number > 0 { trail.kill() } else { 0 };
        trail.open("TrailOpened");
        if number > 0 {
            trail.recovered(highest);
        }
        trail.notes(1).checkpoint();
    }
    let report = trail.verify(&[]);
    holds(&report);
    // But not in one run.
    let mut mixed = trail.clone();
    mixed.format = Some(1);
    mixed.open("SegmentOpened").checkpoint();
    let other = mixed.verify(&[]);
    broken(&other, "another format");
    // What format 1 closed, format 2 may not go on with, and the other way round.
    let mut behind = Trail::new();
    behind.open("TrailOpened").checkpoint().close();
    behind.format = Some(2);
    behind.open("SegmentOpened").checkpoint();
    let third = behind.verify(&[]);
    broken(&third, "stands behind `TrailClosed`");
    if let Some(script) = &mut script {
        for (name, trail, report) in [
            ("both", &trail, &report),
            ("mixed", &mixed, &other),
            ("behind", &behind, &third),
        ] {
            script.agrees(
                name,
                trail.stored().path(),
                &[trail.key_text()],
                None,
                report,
            );
        }
    }
}

#[test]
fn format_2_states_void_bytes_and_recovers_as_many() {
    let mut script = Script::start();
    let mut trail = Trail::of_format_2();
    trail.open("TrailOpened").checkpoint();
    trail.write(b"torn");
    let stated = trail.clone();
    let highest = trail.kill();
    trail.open("TrailOpened").recovered(highest).checkpoint();
    holds(&trail.verify(&[]));

    // A header that does not say how many.
    let mut silent = stated.clone();
    silent.format = None;
    silent.open("TrailOpened");
    let line = String::from_utf8(silent.leaves.last().unwrap().clone()).unwrap();
    let line = line.replacen("\"first_leaf\"", "\"format\":2,\"first_leaf\"", 1);
    silent
        .instead(line.as_bytes())
        .recovered(highest)
        .checkpoint();
    broken(&silent.verify(&[]), "how many void bytes");

    let mut other = stated;
    other.void = Some(5);
    other.open("TrailOpened").recovered(highest).checkpoint();
    broken(&other.verify(&[]), "other void bytes");
    if let Some(script) = &mut script {
        for trail in [trail, silent, other] {
            let report = trail.verify(&[]);
            script.agrees(
                "void",
                trail.stored().path(),
                &[trail.key_text()],
                None,
                &report,
            );
        }
    }
}
