//! The usual log, `tracing_subscriber::fmt()`, into a pipe that nobody reads: `worker 2>&1 | collector`
//! after the collector has gone, or while it hangs.

use std::io::{PipeWriter, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use vram_residency::audit::faults::{Step, StorageError};
use vram_residency::audit::{Outcome, SameHostCopy};

use crate::support::{
    Place, VIOLATION, builder_at, child, child_command, filled, manager, name_of, of_event, sealed,
    skip,
};

/// The exit status of a child that has seen all hold.
const HELD: i32 = 77;

/// Within this time the trail's calls return; a pipe that is full never lets go.
const SOON: Duration = Duration::from_secs(30);

/// Where the log goes.
#[derive(Clone, Copy)]
enum Log {
    Stderr,
    Stdout,
}

/// Puts the writing end of a pipe in the place of standard output and standard error, as `2>&1 |` does.
fn redirect(fill: bool) {
    let (read, mut write) = std::io::pipe().unwrap();
    if fill {
        set_flags(&write, libc::O_NONBLOCK);
        for size in [4096, 1] {
            while write.write(&vec![b'x'; size]).is_ok() {}
        }
        set_flags(&write, 0);
        // Nobody reads, and nobody closes.
        let _open = read.into_raw_fd();
    } else {
        drop(read);
    }
    for standard in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open.
        assert_eq!(unsafe { libc::dup2(write.as_raw_fd(), standard) }, standard);
    }
}

fn set_flags(pipe: &PipeWriter, flags: i32) {
    // SAFETY: changes a flag of an open descriptor.
    let set = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(set, 0);
}

/// What a worker goes through whose disk fails now and then. Panics if the trail does not hold.
fn work(place: &Path) {
    let storage = vram_residency::audit::faults::StorageFaults::dangerous_new();
    let trail = builder_at(place)
        .queue_records(16)
        .anchor(SameHostCopy::new(place.join("copy")))
        .dangerous_storage_faults(storage.clone())
        .open_or_create()
        .unwrap();
    let manager = manager(&trail);
    let kept = sealed(&manager, "kept", 4096).verify().unwrap();
    let outlives = filled(&manager, "outlives", 4096);
    // The writer has much to say: segments that are given up, records that are lost.
    storage.fail(Step::Sync, StorageError::Io, 2);
    for round in 0..50 {
        for number in 0..40 {
            let _lost_or_not = trail.note(format!("{round}/{number}"));
        }
        // Some fail with the disk; none hangs.
        let _durable_or_not = trail.policy_violation(VIOLATION);
    }
    storage.heal();
    let receipt = trail.policy_violation(VIOLATION).expect("the disk works");
    assert!(trail.counts().failures > 0, "nothing was lost");
    kept.release().unwrap();
    let closed = trail.close().expect("the trail closes");
    assert!(closed.seq() > receipt.seq());
    // Its record comes too late, which is logged by whoever lets it go, in a destructor.
    drop(outlives);
    drop(manager);
}

/// Opening warns of a trail in memory.
fn work_in_memory() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    let place = Place {
        temp: tempfile::TempDir::new_in(memory).unwrap(),
    };
    let opened = Instant::now();
    let trail = place.builder().open_or_create().unwrap();
    assert!(opened.elapsed() < SOON / 2, "opening waits for the log");
    trail.policy_violation(VIOLATION).unwrap();
    trail.close().unwrap();
    let opened = &of_event(&place.records(), "TrailOpened")[0];
    assert_eq!(opened["kept"], "in_memory");
}

fn install(log: Log) {
    match log {
        Log::Stderr => tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init(),
        Log::Stdout => tracing_subscriber::fmt().init(),
    }
}

/// Runs `test` again as a child, whose log goes into such a pipe.
fn holds(test: &str, log: Log, fill: bool) {
    if let Some(place) = child() {
        redirect(fill);
        install(log);
        let outcome = std::panic::catch_unwind(|| {
            work(&place);
            work_in_memory();
        });
        let words = outcome.err().map(|panic| match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(_) => "it panicked".to_owned(),
        });
        if let Some(words) = &words {
            std::fs::write(place.join("why"), words).unwrap();
        }
        // The harness would write into the pipe, too.
        // SAFETY: ends the process, and runs nothing before that.
        unsafe { libc::_exit(if words.is_none() { HELD } else { 1 }) };
    }
    if !Path::new("/dev/shm").is_dir() {
        skip("there is no /dev/shm, so no trail is opened in memory");
    }
    let place = Place::new();
    let started = Instant::now();
    let mut worker = started_with(child_command(test, place.temp.path()));
    let status = ends(&mut worker, started);
    let why = std::fs::read_to_string(place.temp.path().join("why")).unwrap_or_default();
    assert_eq!(status.code(), Some(HELD), "{status} {why}");

    let records = place.records();
    assert!(!of_event(&records, "PolicyViolation").is_empty());
    assert!(!of_event(&records, "SegmentPoisoned").is_empty());
    assert_eq!(of_event(&records, "TrailClosed").len(), 1);
    let trail = place.open();
    let key = trail.verifier_key().clone();
    trail.close().unwrap();
    let report = place.verify(&key, &[]);
    assert_eq!(report.outcome, Outcome::Holds, "{report:?}");
}

fn started_with(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// How the child ends; kills one that hangs.
fn ends(child: &mut Child, started: Instant) -> ExitStatus {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > SOON {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_worker_whose_log_goes_to_a_closed_stderr_keeps_its_trail() {
    let test = name_of(a_worker_whose_log_goes_to_a_closed_stderr_keeps_its_trail);
    holds(test, Log::Stderr, false);
}

#[test]
fn a_worker_whose_log_goes_to_a_closed_stdout_keeps_its_trail() {
    let test = name_of(a_worker_whose_log_goes_to_a_closed_stdout_keeps_its_trail);
    holds(test, Log::Stdout, false);
}

#[test]
fn a_worker_whose_log_goes_to_a_full_stderr_keeps_its_trail() {
    let test = name_of(a_worker_whose_log_goes_to_a_full_stderr_keeps_its_trail);
    holds(test, Log::Stderr, true);
}

#[test]
fn a_worker_whose_log_goes_to_a_full_stdout_keeps_its_trail() {
    let test = name_of(a_worker_whose_log_goes_to_a_full_stdout_keeps_its_trail);
    holds(test, Log::Stdout, true);
}
