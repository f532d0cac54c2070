//! A forked child keeps what it borrows: proven by a program in safe code.
//!
//! The package in `tests/forked-child` is of edition 2021, where `CommandExt::before_exec` is safe and runs
//! any code in the child. It forbids `unsafe`, so a fault or a byte that changes there is this crate's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::package::stage;
use crate::support::{Place, of_event};

#[test]
fn a_shard_that_a_child_owns_has_its_bytes() {
    assert_eq!(inherited("shard"), [true]);
}

#[test]
fn a_lease_in_a_child_has_its_bytes_and_is_not_current() {
    assert_eq!(inherited("lease"), [true]);
}

/// The lease is leaked, so the memory is never freed.
#[test]
fn a_static_borrow_that_was_taken_before_the_fork_holds() {
    assert_eq!(inherited("static"), [false; 0]);
}

#[test]
fn a_borrow_in_a_child_holds_while_the_parent_wipes() {
    assert_eq!(inherited("wiping-parent"), [true]);
}

#[test]
fn a_worker_that_does_not_fork_says_so() {
    assert_eq!(inherited("no-child"), [false]);
}

/// Runs a case, and returns of each shard that was freed whether a child may have a copy, as recorded.
#[track_caller]
fn inherited(case: &str) -> Vec<bool> {
    let place = Place::new();
    let output = Command::new(program())
        .arg(place.temp.path())
        .arg(case)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {}, {said}", output.status);
    let freed = of_event(&place.records(), "VramDeallocated");
    assert!(freed.iter().all(|record| record["wiped"] == true));
    let inherited = freed.iter().map(|record| &record["inherited"]);
    inherited.map(|value| value.as_bool().unwrap()).collect()
}

fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let stage = stage("forked-child");
        let output = Command::new(env!("CARGO"))
            .args(["build", "--offline", "--quiet", "--manifest-path"])
            .arg(stage.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(stage.join("target"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        stage.join("target/debug/forked-child")
    })
}
