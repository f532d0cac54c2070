//! File systems that keep less than a trail needs, real ones where this machine can mount them: what is
//! on record about them, what is logged, and what is refused.
//!
//! `strace` answers for the file systems that cannot be had here: CIFS and 9p that know no sync of a
//! directory, NFS without locks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;
use vram_residency::TrailKey;
use vram_residency::audit::OpenError;
use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::key::KeyError;

use crate::support::{
    self, CHILD, Place, VIOLATION, builder_at, child, name_of, of_event, only, ran_well, records,
    skip,
};

/// Opens a trail in the child's place, and tells what was logged.
fn live(place: &Path) {
    let log = Mutex::new(fs::File::create(place.join("log")).unwrap());
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(log);
    log.init();
    let trail = builder_at(place).open_or_create().unwrap();
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let opened = of_event(&records(&place.join("trail")), "TrailOpened")
        .pop()
        .unwrap();
    // Where the parent sees it: what is mounted for the child is not mounted for others.
    let log = fs::read_to_string(place.join("log")).unwrap();
    let told = serde_json::json!({ "opened": opened, "log": log });
    fs::write(place.join("told"), told.to_string()).unwrap();
}

/// Runs a test alone in a mount namespace, after commands that mount something on `$D/trail`.
fn mounted(test: &str, commands: &str) -> Option<Value> {
    let place = Place::new();
    TrailKey::create(place.temp.path().join("key.pem")).unwrap();
    let script = format!("set -e; cd \"$D\"; mkdir -m 0700 trail; {commands}");
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        let place = place.temp.path();
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .env("D", place)
            .env(CHILD, place);
        command
    };
    let program = std::env::current_exe().unwrap();
    match run(&script).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            skip(&format!("cannot be mounted here: {commands}: {why}"));
            return None;
        }
        Err(error) => {
            skip(&format!("`unshare` does not run: {error}"));
            return None;
        }
    }
    fs::remove_dir_all(place.temp.path().join("trail")).unwrap();
    let script = format!("rm -rf \"$D\"/o \"$D\"/image; {script}; exec \"$@\"");
    ran_well(&run(&script).arg(program).args(only(test)).output().unwrap());
    let told = fs::read_to_string(place.temp.path().join("told")).unwrap();
    Some(serde_json::from_str(&told).unwrap())
}

#[test]
fn a_file_system_that_keeps_nothing_is_on_record_and_a_warning() {
    let test = name_of(a_file_system_that_keeps_nothing_is_on_record_and_a_warning);
    if let Some(place) = child() {
        return live(&place);
    }
    let overlay = "mkdir -p o/l o/u o/w; chmod 0700 o/l; \
        mount -t overlay -o lowerdir=o/l,upperdir=o/u,workdir=o/w";
    let image = "truncate -s 16M image; mkfs.ext4 -q image; mount -o loop";
    let closed = "chmod 0700 trail";
    let cases = [
        (
            "mount -t tmpfs -o mode=0700 none trail".to_owned(),
            "tmpfs",
            "in_memory",
            "in memory",
        ),
        (
            format!("{overlay},volatile none trail; {closed}"),
            "overlay",
            "not_synced",
            "no sync",
        ),
        (
            format!("{overlay} none trail; {closed}"),
            "overlay",
            "overlay_layer",
            "container",
        ),
        (
            format!("{image},nobarrier image trail; {closed}"),
            "ext4",
            "not_synced",
            "no sync",
        ),
        (
            format!("{image} image trail; {closed}"),
            "ext4",
            "on_disk",
            "",
        ),
    ];
    for (commands, file_system, kept, warning) in cases {
        let Some(told) = mounted(test, &commands) else {
            continue;
        };
        let opened = &told["opened"];
        assert_eq!(opened["file_system"], file_system, "{commands}");
        assert_eq!(opened["kept"], kept, "{commands}");
        assert_eq!(opened["locks"], "directory_and_file", "{commands}");
        assert_eq!(opened["severity"], "INFO");
        let log = told["log"].as_str().unwrap();
        let warned = log.lines().find(|line| line.contains("WARN"));
        match warned {
            Some(line) => assert!(!warning.is_empty() && line.contains(warning), "{line}"),
            None => assert_eq!(warning, "", "{commands}: {log}"),
        }
    }
}

#[test]
fn where_a_directory_cannot_be_synced_no_trail_is_opened_and_the_error_says_so() {
    let place = Place::new();
    for is_new in [true, false] {
        let (builder, faults) = place.faulty();
        faults.fail(Step::SyncNames, StorageError::Unsupported, 1);
        let error = builder.open_or_create().unwrap_err();
        let OpenError::NamesNotDurable { path, .. } = &error else {
            panic!("{is_new}: {error}");
        };
        assert_eq!(*path, place.dir());
        assert!(
            error.to_string().contains("cannot sync a directory"),
            "{error}"
        );
        if is_new {
            fs::remove_dir_all(place.dir()).unwrap();
            place.open().close().unwrap();
        }
    }
    // One that fails is no file system that cannot.
    let (builder, faults) = place.faulty();
    faults.fail(Step::SyncNames, StorageError::Io, 1);
    let error = builder.open().unwrap_err();
    assert!(
        matches!(
            &error,
            OpenError::Io {
                operation: "sync directory",
                ..
            }
        ),
        "{error}"
    );
}

/// Runs a test under `strace`, which lets the calls on `path` answer as `inject` says.
fn under_strace(test: &str, place: &Path, path: &Path, call: &str, inject: &str) {
    let output = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
        ])
        .args(["-e", &format!("inject={call}:{inject}"), "-P"])
        .arg(path)
        .arg(std::env::current_exe().unwrap())
        .args(only(test))
        .env(CHILD, place)
        .output()
        .unwrap();
    ran_well(&output);
}

fn has_strace() -> bool {
    Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|output| output.status.success())
        || {
            skip("`strace` does not run");
            false
        }
}

/// What the child is to try, and finds.
fn tried(place: &Path) -> String {
    let told = match fs::read_to_string(place.join("task")).unwrap().as_str() {
        "key" => TrailKey::create(place.join("other.pem"))
            .map(drop)
            .map_err(|error| {
                assert!(matches!(error, KeyError::NamesNotDurable { .. }), "{error}");
                error.to_string()
            }),
        _ => builder_at(place)
            .open_or_create()
            .map(|trail| drop(trail.close().unwrap()))
            .map_err(|error| error.to_string()),
    };
    told.err().unwrap_or_default()
}

#[test]
fn what_a_file_system_cannot_do_is_refused_before_anything_is_made() {
    let test = name_of(what_a_file_system_cannot_do_is_refused_before_anything_is_made);
    if let Some(place) = child() {
        return fs::write(place.join("told"), tried(&place)).unwrap();
    }
    if !has_strace() {
        return;
    }
    let place = Place::new();
    let root = place.temp.path();
    TrailKey::create(root.join("key.pem")).unwrap();
    let attempt = |task: &str, path: &Path, call: &str, inject: &str| {
        fs::write(root.join("task"), task).unwrap();
        under_strace(test, root, path, call, inject);
        fs::read_to_string(root.join("told")).unwrap()
    };
    for error in ["EINVAL", "EOPNOTSUPP", "ENOSYS"] {
        let inject = format!("error={error}");
        let told = attempt("key", root, "fsync", &inject);
        assert!(told.contains("cannot sync a directory"), "{told}");
        assert!(!root.join("other.pem").exists(), "{error}");
        for path in [root, &place.dir()] {
            let told = attempt("trail", path, "fsync", &inject);
            assert!(told.contains("cannot sync a directory"), "{told}");
            assert!(told.starts_with(&path.display().to_string()), "{told}");
            assert!(!place.dir().exists(), "{error} {}", path.display());
        }
    }
    assert_eq!(
        fs::read_dir(root).unwrap().count(),
        3,
        "key, task and answer"
    );

    let lock = place.dir().join("lock");
    for error in ["ENOLCK", "EOPNOTSUPP"] {
        let told = attempt("trail", &lock, "flock", &format!("error={error}"));
        assert!(told.contains("file system without locks"), "{told}");
        assert!(!place.dir().exists(), "{error}");
    }
    // The directory cannot be locked, and the file can.
    for (error, segments) in [("EBADF", 1), ("ENOLCK", 2)] {
        let told = attempt("trail", &place.dir(), "flock", &format!("error={error}"));
        assert_eq!(told, "");
        let opened = of_event(&place.records(), "TrailOpened");
        assert_eq!(opened.len(), segments);
        assert_eq!(opened[segments - 1]["locks"], "file");
    }
}

#[test]
fn an_error_of_opening_names_the_file_its_cause_and_what_to_do() {
    let test = name_of(an_error_of_opening_names_the_file_its_cause_and_what_to_do);
    if let Some(place) = child() {
        return fs::write(place.join("told"), tried(&place)).unwrap();
    }
    let place = Place::new();
    place.open().close().unwrap();
    let dir = place.temp.path().join("no/such/trail");
    let builder = vram_residency::AuditTrail::builder("w".parse().unwrap(), &dir, place.key());
    let error = builder.create().unwrap_err();
    assert!(
        matches!(&error, OpenError::NoParent { parent, .. } if *parent == place.temp.path().join("no/such")),
        "{error}"
    );
    assert!(error.to_string().contains("make that first"), "{error}");

    if !rustix::process::geteuid().is_root() || !support::is_installed("setpriv") {
        return skip("only root can be another user");
    }
    // A segment that somebody else has restored.
    let nobody = 65_534;
    let root = place.temp.path();
    let segment = place.dir().join("000000.jsonl");
    fs::write(root.join("task"), "trail").unwrap();
    fs::write(root.join("told"), "").unwrap();
    fs::copy(std::env::current_exe().unwrap(), root.join("test")).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for path in ["key.pem", "trail", "trail/lock", "told"] {
        std::os::unix::fs::chown(root.join(path), Some(nobody), None).unwrap();
    }
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            &nobody.to_string(),
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(root.join("test"))
        .args(only(test))
        .env(CHILD, root)
        .output()
        .unwrap();
    ran_well(&output);
    let told = fs::read_to_string(root.join("told")).unwrap();
    assert_eq!(
        told,
        format!(
            "cannot sync {}: let the worker's user read and write there",
            segment.display()
        )
    );
}
