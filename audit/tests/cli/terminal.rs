//! Terminals and pipes: colours and bars on a terminal only, and an end of the reader is no error.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::support::is_installed;
use crate::{Ended, Trail};

/// What the command writes if both its outputs are a terminal.
fn on_a_terminal(trail: &Trail, words: &str, variables: &[(&str, &str)]) -> Option<String> {
    if !is_installed("script") {
        return None;
    }
    let command = format!("{} {words}", env!("CARGO_BIN_EXE_vram-audit"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .current_dir(trail.place.temp.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

const VERIFY: &str = "verify trail --key @verifier.key --anchor anchor.txt";

#[test]
fn colours_are_for_terminals_and_no_color_is_heeded() {
    let trail = Trail::new();
    let piped = trail.run(VERIFY).with(0);
    assert!(
        !piped.out.contains('\u{1b}') && piped.err.is_empty(),
        "{piped:?}"
    );
    let Some(shown) = on_a_terminal(&trail, VERIFY, &[]) else {
        return;
    };
    assert!(
        shown.contains("\u{1b}[1;33mSOUND, WITH 1 INCIDENT\u{1b}[0m"),
        "{shown:?}"
    );
    for quiet in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = on_a_terminal(&trail, "show trail", &[quiet]).unwrap();
        assert!(shown.contains("SealVerified"));
        assert!(!shown.contains("\u{1b}["), "{quiet:?}: {shown:?}");
    }
}

#[test]
fn a_bar_is_for_terminals() {
    let trail = Trail::new();
    // Large enough that there is something to draw before it is done.
    trail.write("large", vec![0; 64 << 20]);
    assert!(trail.run("digest large").with(0).err.is_empty());
    let Some(shown) = on_a_terminal(&trail, "digest large", &[]) else {
        return;
    };
    assert!(shown.contains("64.00 MiB"), "{shown:?}");
    assert!(shown.contains("sha256:"));
}

#[test]
fn a_reader_that_has_enough_ends_the_command_quietly() {
    let trail = Trail::new();
    for words in [
        "show trail",
        "show trail --json",
        "prove trail 1",
        "anchor trail",
        "--help",
    ] {
        let mut child = trail
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let status = child.wait().unwrap();
        let mut told = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut told)
            .unwrap();
        assert_eq!(status.code(), Some(0), "{words}: {told}");
        let notices = told
            .lines()
            .filter(|line| !line.contains("showing is not verifying"));
        assert_eq!(notices.count(), 0, "{words}: {told}");
    }
    // What was found is told by the status, whether or not anybody reads the report.
    let mut child = trail
        .command("verify trail --key @verifier.key")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn output_that_cannot_be_written_is_status_2_and_broken_stays_1() {
    let trail = Trail::new();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = |words: &str| {
        let mut command = trail.command(words);
        Ended::of(command.stdout(full()).output().unwrap())
    };
    for words in [
        VERIFY,
        "show trail",
        "prove trail 1",
        "digest anchor.txt",
        "retention trail --at 2200-01-01",
    ] {
        run(words).with(2).says("cannot be written");
    }
    trail.tamper(0, "note 3", "note 4");
    run(VERIFY).with(1);
}

#[test]
fn nobody_at_standard_error_is_no_panic() {
    let trail = Trail::new();
    let mut child = trail
        .command("show missing")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
