//! Every system call with which a trail reaches the disk fails once, or is the last one.
//!
//! The story: a worker opens a trail, records until segments were rotated several times, and closes
//! it; and the same again in a trail that a killed worker has left. `strace` lets the Nth occurrence
//! of one call answer EIO, ENOSPC or EINTR, or kills the worker as it enters it, for each N until
//! there is no Nth. Afterwards every record whose receipt was told is there, nothing is called
//! broken, and the next run goes on. A fault that does not kill costs nobody a receipt, unless it
//! kept the trail from being opened.
//!
//! `strace` counts in each thread by itself, and opening and writing are done by different ones: a
//! kill at the writer's first write would never be seen behind that of the opening. So it watches
//! a worker either from its start, or from the moment when the trail is open.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::{
    self, Place, VIOLATION, builder_at, child, child_command, name_of, only, say, skip,
};
use crate::worker::{Told, tell};
use rustix::process::{PTracer, set_ptracer};

const CALLS: [&str; 14] = [
    "openat",
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "fallocate",
    "renameat",
    "renameat2",
    "ftruncate",
    "newfstatat",
    "mkdir",
    "mkdirat",
    "flock",
    "unlinkat",
];

const FAULTS: [&str; 4] = ["error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL"];

/// So many critical records; and one receipt more for closing.
const VIOLATIONS: usize = 8;

/// The test that a child runs again as a worker.
fn this_test() -> &'static str {
    name_of(no_system_call_that_fails_costs_a_receipt)
}

#[test]
fn no_system_call_that_fails_costs_a_receipt() {
    if let Some(place) = child() {
        return live(&place);
    }
    if let Err(error) = Command::new("strace").arg("-V").output() {
        return skip(&format!("`strace` does not run: {error}"));
    }
    let left = left_by_a_killed_worker();
    let mut work: Vec<(Begin<'_>, Watch, &str)> = Vec::new();
    for begin in [Begin::New, Begin::Again(&left)] {
        for watch in [Watch::Opening, Watch::Writing] {
            work.extend(CALLS.map(|call| (begin, watch, call)));
        }
    }
    let work = Mutex::new(work);
    let counts: Mutex<BTreeMap<&str, [u32; FAULTS.len()]>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((begin, watch, call)) = next(&work) {
                    let found = fail_each_occurrence(begin, watch, call);
                    let mut counts = counts.lock().unwrap();
                    let all = counts.entry(call).or_default();
                    (0..FAULTS.len()).for_each(|fault| all[fault] += found[fault]);
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    say(&format!(
        "{}: how often each call met {FAULTS:?}",
        this_test()
    ));
    for (call, found) in &counts {
        say(&format!("{call:>12} {found:?}"));
    }
    for call in [
        "openat",
        "write",
        "fdatasync",
        "fsync",
        "renameat2",
        "newfstatat",
        "flock",
        "unlinkat",
    ] {
        assert!(
            counts[call].iter().all(|found| *found > 0),
            "{call} was never reached"
        );
    }
}

/// Some network and user-space file systems know no rename that refuses to overwrite.
#[test]
fn where_no_rename_refuses_to_overwrite_names_are_given_by_links() {
    if let Err(error) = Command::new("strace").arg("-V").output() {
        return skip(&format!("`strace` does not run: {error}"));
    }
    let left = left_by_a_killed_worker();
    for begin in [Begin::New, Begin::Again(&left)] {
        for error in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
            let inject = format!("inject=renameat2:error={error}");
            assert!(is_met(begin, Watch::Opening, "renameat2,linkat", &inject));
        }
    }
}

/// Whoever is the last to take a piece of work does not hold the lock while doing it.
fn next<T>(work: &Mutex<Vec<T>>) -> Option<T> {
    work.lock().unwrap().pop()
}

/// In the child.
fn live(place: &Path) {
    // Where only a parent may trace, the one who will is a sibling.
    let _may_be_traced = set_ptracer(PTracer::Any);
    // The harness has begun a line.
    println!();
    let trail = match builder_at(place).segment_bytes(4096).open_or_create() {
        Ok(trail) => trail,
        Err(error) => return println!("refused {error}"),
    };
    println!("key {}\nopened", trail.verifier_key());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for _ in 0..VIOLATIONS {
        trail.note("x".repeat(700)).unwrap();
        match trail.policy_violation(VIOLATION) {
            Ok(receipt) => tell(&receipt),
            Err(error) => println!("no receipt {error}"),
        }
    }
    match trail.close() {
        Ok(receipt) => tell(&receipt),
        Err(error) => println!("no receipt {error}"),
    }
}

/// What a worker finds.
#[derive(Clone, Copy)]
enum Begin<'a> {
    New,
    Again(&'a (Place, Told)),
}

/// From when on calls are counted.
#[derive(Clone, Copy, Debug)]
enum Watch {
    Opening,
    Writing,
}

/// A trail that was not closed, and the beginning of a segment that never got its name.
fn left_by_a_killed_worker() -> (Place, Told) {
    let place = Place::new();
    let trail = place.open();
    let mut told = Told {
        key: Some(trail.verifier_key().clone()),
        ..Told::default()
    };
    told.receive(&trail.policy_violation(VIOLATION).unwrap());
    let left = Place::new();
    copy(place.temp.path(), left.temp.path());
    fs::write(left.dir().join("000001.jsonl.new"), "{\"seq\":").unwrap();
    (left, told)
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from.join("key.pem"), to.join("key.pem")).unwrap();
    let (from, to) = (from.join("trail"), to.join("trail"));
    if !from.exists() {
        return;
    }
    fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// How often each fault was met.
fn fail_each_occurrence(begin: Begin<'_>, watch: Watch, call: &str) -> [u32; FAULTS.len()] {
    let mut found = [0; FAULTS.len()];
    for (fault, found) in FAULTS.iter().zip(&mut found) {
        for occurrence in 1.. {
            assert!(occurrence < 100, "{call} never ends");
            let inject = format!("inject={call}:{fault}:when={occurrence}");
            let run = std::panic::AssertUnwindSafe(|| is_met(begin, watch, call, &inject));
            match std::panic::catch_unwind(run) {
                Ok(true) => *found += 1,
                Ok(false) => break,
                Err(_) => panic!("{watch:?} {inject}"),
            }
        }
        // What is never called cannot fail in another way, either.
        if *found == 0 {
            break;
        }
    }
    found
}

/// One worker with one fault; whether it was met.
fn is_met(begin: Begin<'_>, watch: Watch, call: &str, inject: &str) -> bool {
    let place = Place::new();
    let mut told = Told::default();
    match begin {
        Begin::New => drop(place.key()),
        Begin::Again((left, earlier)) => {
            copy(left.temp.path(), place.temp.path());
            told.and(earlier.clone());
        }
    }
    let earlier = told.receipts.len();
    let log = place.temp.path().join("log");
    let strace = strace(&place, &log, call, inject);
    let (lines, output) = match watch {
        Watch::Opening => run(under(strace, place.temp.path()), |_| None),
        Watch::Writing => run(child_command(this_test(), place.temp.path()), |worker| {
            Some(attach(strace, worker))
        }),
    };
    lines.iter().for_each(|line| told.hear(line));
    let log = fs::read_to_string(&log).unwrap();
    let is_killed = output.status.signal() == Some(9);
    let is_refused = lines.iter().any(|line| line.starts_with("refused"));
    let receipts = told.receipts.len() - earlier;
    assert!(
        is_killed || is_refused || receipts == VIOLATIONS + 1,
        "{output:?}\n{lines:#?}\n{log}"
    );
    told.expect_kept(&place.dir());
    told.expect_continued(place.temp.path());
    is_killed || log.contains("(INJECTED)")
}

/// Calls count that name the trail, its directory or a file in it.
fn strace(place: &Place, log: &Path, call: &str, inject: &str) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "signal=none", "-o"])
        .arg(log);
    let names = (0..20).map(|segment| format!("{segment:06}.jsonl"));
    let names = names.flat_map(|name| [name.clone() + ".new", name]);
    let files = names
        .chain(["lock".to_owned()])
        .map(|name| place.dir().join(name));
    let paths: Vec<PathBuf> = [place.temp.path().to_owned(), place.dir()]
        .into_iter()
        .chain(files)
        .collect();
    for path in paths {
        strace.arg("-P").arg(path);
    }
    strace.args(["-e", &format!("trace={call}"), "-e", inject]);
    strace.stderr(Stdio::piped());
    strace
}

fn under(mut strace: Command, place: &Path) -> Command {
    strace
        .arg(std::env::current_exe().unwrap())
        .args(only(this_test()))
        .env(support::CHILD, place);
    strace
}

/// Starts a worker, does something when its trail is open, and lets it go on. What it has told, and
/// how it ended.
fn run(mut worker: Command, opened: impl FnOnce(&Child) -> Option<Child>) -> (Vec<String>, Output) {
    let mut worker = worker
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(worker.stdout.take().unwrap());
    let mut opened = Some(opened);
    let mut tracer = None;
    let mut lines = Vec::new();
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        if line == "opened\n" {
            tracer = opened.take().and_then(|opened| opened(&worker));
            // Killed already, if this fails.
            let _told = worker.stdin.take().unwrap().write_all(b"go on\n");
        }
        lines.push(line.trim_end().to_owned());
        line.clear();
    }
    let output = worker.wait_with_output().unwrap();
    if let Some(mut tracer) = tracer {
        tracer.wait().unwrap();
    }
    (lines, output)
}

/// Returns when all threads of the worker are watched.
fn attach(mut strace: Command, worker: &Child) -> Child {
    let mut tracer = strace
        .args(["-p", &worker.id().to_string()])
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    let is_watched = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    };
    let tasks = format!("/proc/{}/task", worker.id());
    while !fs::read_dir(&tasks)
        .unwrap()
        .all(|task| is_watched(task.unwrap()))
    {
        let ended = tracer.try_wait().unwrap();
        assert!(
            ended.is_none() && Instant::now() < patience,
            "strace: {ended:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    tracer
}
