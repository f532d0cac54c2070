//! The reviewer's command, as a reviewer runs it: each subcommand, each exit status, hostile input,
//! terminals and pipes.

mod collected;
mod files;
mod prove;
mod show;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod terminal;
mod verify;

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::{Place, VIOLATION, manager, sealed, segments};
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{Checkpoint, VerifierKey};

/// A closed trail of three segments and two runs, with an incident and void bytes; its key and its
/// last checkpoint are in files beside it.
struct Trail {
    place: Place,
    key: VerifierKey,
    last: Checkpoint,
}

impl Trail {
    fn new() -> Self {
        let place = Place::new();
        let (builder, faults) = place.faulty();
        let trail = builder.open_or_create().unwrap();
        let key = trail.verifier_key().clone();
        let shard = sealed(&manager(&trail), "shard-a", 600_000);
        for number in 0..20 {
            trail.note(format!("note {number}")).unwrap();
        }
        trail.flush().unwrap();
        faults.fail(Step::Sync, StorageError::Io, 1);
        shard.dangerous_flip_bit(0, 0).unwrap();
        assert!(shard.verify().is_err());
        trail.close().unwrap();
        let trail = place.open();
        drop(sealed(&manager(&trail), "shard-b", 5000).verify().unwrap());
        trail.policy_violation(VIOLATION).unwrap();
        let last = trail.close().unwrap().checkpoint().clone();
        assert_eq!(segments(&place.dir()).len(), 3);
        let trail = Self { place, key, last };
        trail.write("verifier.key", format!("\n{}\n", trail.key));
        trail.write("anchor.txt", trail.last.to_string());
        trail
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.temp.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The command, run beside the trail's directory `trail`, with words parted by spaces.
    fn run(&self, words: &str) -> Ended {
        Ended::of(self.command(words).output().unwrap())
    }

    fn command(&self, words: &str) -> Command {
        let mut command = vram_audit(words.split_whitespace());
        command.current_dir(self.place.temp.path());
        command
    }

    /// Replaces a text in a segment, once.
    fn tamper(&self, segment: usize, from: &str, to: &str) {
        let path = &segments(&self.place.dir())[segment];
        let text = fs::read_to_string(path).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        fs::write(path, changed).unwrap();
    }
}

fn vram_audit<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vram-audit"));
    command.args(args).stdin(Stdio::null());
    command
}

/// How a command ended, and what it told.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Ended with this status and said so: each line of an error begins with the command's name.
    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        if code != 0 && self.out.is_empty() {
            assert!(self.err.starts_with("vram-audit: "), "{self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Self {
        assert!(
            self.err.contains(words) || self.out.contains(words),
            "{words}: {self:?}"
        );
        self
    }
}

const SUBCOMMANDS: [&str; 9] = [
    "verify",
    "show",
    "prove",
    "check-proof",
    "anchor",
    "retention",
    "digest",
    "key",
    "inspect",
];

#[test]
fn help_and_version_are_on_standard_output() {
    let trail = Trail::new();
    let help = trail.run("--help").with(0);
    for subcommand in SUBCOMMANDS {
        assert!(
            help.out.contains(&format!("\n  {subcommand} ")),
            "{subcommand}"
        );
        let own = trail.run(&format!("{subcommand} --help")).with(0);
        for section in ["Usage:", "Exit status:", "Examples:"] {
            assert!(own.out.contains(section), "{subcommand}: {section}");
        }
        assert!(own.err.is_empty());
        assert!(
            own.out.lines().all(|line| line.chars().count() <= 100),
            "{subcommand}"
        );
    }
    let version = trail.run("--version").with(0);
    assert_eq!(
        version.out,
        concat!("vram-audit ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_wrong_call_is_status_2() {
    let trail = Trail::new();
    for words in [
        "",
        "nonsense",
        "verify",
        "verify trail",
        "verify trail --key",
        "verify trail --key nonsense",
        "verify trail --key @missing",
        "verify trail --key @anchor.txt",
        "verify trail --key @trail",
        "show",
        "show trail --since yesterday",
        "show trail --severity LOUD",
        "prove trail",
        "prove trail -1",
        "prove trail 99999999999999999999",
        "check-proof anchor.txt",
        "retention trail",
        "retention trail --at 2026-13-01",
        "digest",
        "key key.pem",
        "key key.pem --trail trail --origin x",
        "inspect",
    ] {
        let ended = trail.run(words);
        assert_eq!(ended.code, 2, "{words}: {ended:?}");
        assert!(
            ended.out.is_empty() && !ended.err.is_empty(),
            "{words}: {ended:?}"
        );
        assert!(!ended.err.contains("panicked"), "{words}: {ended:?}");
        if !words.is_empty() {
            assert!(ended.err.starts_with("vram-audit: "), "{words}: {ended:?}");
        }
    }
}

#[test]
fn a_directory_that_is_no_trail_is_status_2_for_everyone() {
    let trail = Trail::new();
    fs::create_dir(trail.path("empty")).unwrap();
    for dir in ["missing", "empty", "anchor.txt"] {
        for words in [
            format!("verify {dir} --key @verifier.key"),
            format!("show {dir}"),
            format!("prove {dir} 1"),
            format!("anchor {dir}"),
            format!("retention {dir} --at 2026-01-01"),
            format!("key key.pem --trail {dir}"),
        ] {
            let ended = trail.run(&words).with(2);
            assert!(!ended.err.is_empty() || !ended.out.is_empty(), "{words}");
        }
    }
}
