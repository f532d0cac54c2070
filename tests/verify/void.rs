//! Bytes behind the acknowledged part of an older segment: those that a process left, and no more.

use serde_json::json;

use crate::built::{Trail, broken, holds};

/// A first segment that has `left` bytes behind its end.
fn left(left: &[u8]) -> Trail {
    let mut trail = Trail::new();
    trail.open("TrailOpened").notes(1).checkpoint();
    trail.write(left);
    trail
}

fn closed(mut trail: Trail) -> Trail {
    trail.record("TrailClosed", json!({})).checkpoint();
    trail
}

fn grown(trail: &Trail) -> Trail {
    let mut grown = trail.clone();
    grown.segments[0].push(b'x');
    grown
}

#[test]
fn behind_a_clean_close_or_a_rotation_there_are_none() {
    for (event, void) in [
        ("TrailOpened", None),
        ("TrailOpened", Some(0)),
        ("SegmentOpened", Some(0)),
    ] {
        let mut trail = closed(left(b""));
        trail.void = void;
        trail.open(event).checkpoint();
        holds(&trail.verify(&[]));
        broken(&grown(&trail).verify(&[]), "void bytes");
    }
}

#[test]
fn behind_a_killed_process_there_are_those_that_the_next_one_found() {
    for void in [None, Some(4)] {
        let mut trail = left(b"torn");
        trail.void = void;
        trail.open("TrailOpened").recovered(1).checkpoint();
        holds(&trail.verify(&[]));
        broken(&grown(&trail).verify(&[]), "void bytes");
    }
    // A file may come back shorter than it was read, if a sync had failed before.
    let mut shorter = left(b"torn");
    shorter.open("TrailOpened").recovered(1).checkpoint();
    shorter.segments[0].pop();
    holds(&shorter.verify(&[]));

    let mut silent = left(b"torn");
    silent
        .open("TrailOpened")
        .checkpoint()
        .recovered(1)
        .checkpoint();
    broken(&silent.verify(&[]), "void bytes");
}

/// `SegmentPoisoned` may never have become durable, so it is the header that says how many.
#[test]
fn behind_a_failed_write_there_are_at_most_those_of_its_batch() {
    let mut trail = left(b"half");
    trail.void = Some(4);
    trail.open("SegmentOpened").checkpoint();
    holds(&trail.verify(&[]));
    broken(&grown(&trail).verify(&[]), "void bytes");
    trail.segments[0].pop();
    holds(&trail.verify(&[]));
    // Version 0.1.0 did not say how many, and began a segment for no other reason.
    let mut old = left(b"half");
    old.open("SegmentOpened").checkpoint();
    holds(&grown(&old).verify(&[]));
}

#[test]
fn trail_closed_stands_where_it_says() {
    let mut trail = Trail::new();
    trail.open("TrailOpened").checkpoint().notes(1).checkpoint();
    let offset = trail.segments[0].len();
    trail
        .record("TrailClosed", json!({"offset": offset}))
        .checkpoint();
    holds(&trail.verify(&[trail.anchor()]));
    // All leaves are there, and each checkpoint that is left matches.
    let text = String::from_utf8(trail.segments[0].clone()).unwrap();
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.remove(1);
    trail.segments[0] = lines.concat().into_bytes();
    broken(&trail.verify(&[trail.anchor()]), "stands elsewhere");
}
