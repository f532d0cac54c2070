//! What sandboxes withhold: system calls (seccomp, gVisor) and files of `/proc`. A worker does without
//! what is not essential, and what it did without is on record.
//!
//! Each test runs alone in a process of its own, which refuses itself the calls with a seccomp filter, or
//! has no `/proc`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use vram_residency::audit::{NotDurable, RecordError};
use vram_residency::error::Revoked;
use vram_residency::{AuditTrail, Provenance, TrailKey};

use crate::support::{
    CHILD, Place, VIOLATION, alone, builder_at, child, filled, manager, name_of, of_event, only,
    ran_well, records, sealed, skip,
};

/// A call, the value that its third argument must have (or any), and what it answers.
type Refusal = (libc::c_long, Option<u32>, libc::c_int);

/// Lets this process, in all its threads, have these answers from now on.
fn refuse(refusals: &[Refusal]) {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const ANSWER: u16 = 0x06; // BPF_RET | BPF_K
    // In `struct seccomp_data`: the number, and the lower half of the third argument.
    const NUMBER: u32 = 0;
    const THIRD: u32 = 16 + 2 * 8;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = Vec::new();
    for (call, third, errno) in refusals {
        let answer = step(ANSWER, libc::SECCOMP_RET_ERRNO | *errno as u32, 0, 0);
        filter.push(step(LOAD, NUMBER, 0, 0));
        match third {
            None => filter.extend([step(EQUAL, *call as u32, 0, 1), answer]),
            Some(third) => filter.extend([
                step(EQUAL, *call as u32, 0, 3),
                step(LOAD, THIRD, 0, 0),
                step(EQUAL, *third, 0, 1),
                answer,
            ]),
        }
    }
    filter.push(step(ANSWER, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: sets a flag of the process.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    // SAFETY: the program and its filter live until the call returns; the kernel copies them.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// The exit status of a child that is made with `fork` and does this, and nothing that allocates much.
fn in_a_child(fork: impl Fn() -> libc::c_long, body: impl Fn() -> i32) -> i32 {
    let pid = fork();
    if pid == 0 {
        let status = body();
        // SAFETY: ends the child without running what is its parent's.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: writes to a number that lives.
    let ended = unsafe { libc::waitpid(pid as i32, &raw mut status, 0) };
    assert_eq!(i64::from(ended), pid);
    assert!(libc::WIFEXITED(status), "{status}");
    libc::WEXITSTATUS(status)
}

/// gVisor knows no memory that is wiped in forked children.
#[test]
fn where_no_memory_is_wiped_in_a_forked_child_it_is_refused_all_the_same() {
    alone(|place| {
        refuse(&[(
            libc::SYS_madvise,
            Some(libc::MADV_WIPEONFORK as u32),
            libc::EINVAL,
        )]);
        let trail = builder_at(place).open_or_create().unwrap();
        let manager = manager(&trail);
        let shared = sealed(&manager, "a", 4096).verify().unwrap().share();
        let lease = shared.lease().unwrap();
        let is_refused = |trail: &AuditTrail| {
            matches!(
                trail.policy_violation(VIOLATION),
                Err(RecordError::NotDurable(NotDurable::Forked(_)))
            )
        };
        // SAFETY: the child makes calls that are refused before they take a lock.
        let fork = || i64::from(unsafe { libc::fork() });
        let status = in_a_child(fork, || {
            let is_current = lease.is_current();
            let is_noted = trail.note("in a child").is_ok();
            let is_leased = !matches!(shared.lease(), Err(Revoked::Forked(_)));
            i32::from(is_current)
                + 2 * i32::from(is_noted)
                + 4 * i32::from(is_leased)
                + 8 * i32::from(!is_refused(&trail))
        });
        assert_eq!(status, 0, "the C library says when the process forks");

        // Past the C library: its process id gives the child away.
        // SAFETY: as above.
        let clone = || unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::SIGCHLD,
                0_usize,
                0_usize,
                0_usize,
                0_usize,
            )
        };
        let status = in_a_child(clone, || i32::from(!is_refused(&trail)));
        assert_eq!(status, 0, "the process id");

        assert!(lease.is_current());
        drop(lease);
        shared.reclaim().unwrap().release().unwrap();
        trail.policy_violation(VIOLATION).unwrap();
        trail.close().unwrap();
        let records = records(&place.join("trail"));
        assert_eq!(
            of_event(&records, "TrailOpened")[0]["fork_guard"],
            "at_fork"
        );
        assert_eq!(of_event(&records, "Note").len(), 0);
    });
}

#[test]
fn where_the_kernel_guards_against_forks_that_is_on_record() {
    let place = Place::new();
    place.open().close().unwrap();
    let opened = &of_event(&place.records(), "TrailOpened")[0];
    assert_eq!(opened["fork_guard"], "wiped_on_fork");
    assert_eq!(opened.get("refused_calls"), None);
}

#[test]
fn refused_calls_that_are_not_essential_are_on_record_and_fail_nothing() {
    alone(|place| {
        let calls = [
            libc::SYS_mlock,
            libc::SYS_mlock2,
            libc::SYS_memfd_create,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_fadvise64,
            libc::SYS_renameat2,
            libc::SYS_statfs,
            libc::SYS_statx,
            libc::SYS_fstatfs,
            libc::SYS_sched_getaffinity,
            libc::SYS_sysinfo,
        ];
        let mut refusals = calls.map(|call| (call, None, libc::EPERM)).to_vec();
        for advice in [
            libc::MADV_DONTDUMP,
            libc::MADV_WIPEONFORK,
            libc::MADV_HUGEPAGE,
        ] {
            refusals.push((libc::SYS_madvise, Some(advice as u32), libc::EPERM));
        }
        refuse(&refusals);
        builder_at(place).create().unwrap().close().unwrap();
        let trail = builder_at(place).segment_bytes(4096).open().unwrap();
        let manager = manager(&trail);
        for id in ["a", "b"] {
            let shard = filled(&manager, id, 600_000);
            let verified = shard.seal(Provenance::UnpinnedFirstUse).unwrap().verify();
            verified.unwrap().release().unwrap();
        }
        let verifier = trail.verifier_key().clone();
        trail.close().unwrap();
        let report = vram_residency::audit::verify(place.join("trail"), &[verifier], &[]);
        assert!(report.findings.is_empty(), "{report}");
        let records = records(&place.join("trail"));
        let opened = of_event(&records, "TrailOpened").pop().unwrap();
        // All that the worker would use, and nothing else.
        let refused = [
            "fadvise64",
            "fstatfs",
            "madvise(MADV_DONTDUMP)",
            "madvise(MADV_HUGEPAGE)",
            "mlock",
            "renameat2",
            "sched_getaffinity",
            "statx",
        ];
        assert_eq!(opened["refused_calls"], serde_json::json!(refused));
        assert_eq!(opened["fork_guard"], "at_fork");
        assert_eq!(opened["file_system"], "unknown");
        for allocated in of_event(&records, "VramAllocated") {
            assert_eq!(allocated["memory_locked"], false);
            assert_eq!(allocated["dumpable"], true);
        }
    });
}

/// A trail is written where `/proc` is what `commands` make of it; its records.
fn with_proc(test: &str, commands: &str) -> Option<Vec<Value>> {
    let place = Place::new();
    TrailKey::create(place.temp.path().join("key.pem")).unwrap();
    let program = std::env::current_exe().unwrap();
    let run = |then: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", &format!("{commands} && {then}"), "sh"])
            .arg(&program)
            .args(only(test))
            .env(CHILD, place.temp.path())
            .output()
    };
    match run("true") {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            skip(&format!("`{commands}` does not work here: {why}"));
            return None;
        }
        Err(error) => {
            skip(&format!("`unshare` does not run: {error}"));
            return None;
        }
    }
    ran_well(&run("exec \"$@\"").unwrap());
    Some(place.records())
}

fn live(place: &Path) {
    assert!(fs::read_to_string("/proc/meminfo").is_err());
    for id in ["a", "b"] {
        let trail = builder_at(place).open_or_create().unwrap();
        let manager = manager(&trail);
        let shard = sealed(&manager, id, 600_000);
        shard.verify().unwrap().release().unwrap();
        trail.close().unwrap();
    }
}

#[test]
fn without_files_of_proc_records_say_what_is_not_known() {
    let test = name_of(without_files_of_proc_records_say_what_is_not_known);
    if let Some(place) = child() {
        return live(&place);
    }
    let hidden = [
        "mount -t tmpfs none /proc",
        "mount -t proc -o subset=pid none /proc",
    ];
    for commands in hidden {
        let Some(records) = with_proc(test, commands) else {
            continue;
        };
        let opened = of_event(&records, "TrailOpened");
        let boots: Vec<&str> = opened
            .iter()
            .map(|record| record["boot"].as_str().unwrap())
            .collect();
        assert_eq!(boots.len(), 2);
        assert!(
            boots.iter().all(|boot| boot.starts_with("unknown-")),
            "{boots:?}"
        );
        assert_ne!(boots[0], boots[1], "two that are not known to be the same");
        for allocated in of_event(&records, "VramAllocated") {
            let available = &allocated["available_bytes"];
            // A limit of a cgroup may be known.
            let is_limit = available.as_u64().is_some_and(|bytes| bytes < 1 << 60);
            assert!(available == "unknown" || is_limit, "{available}");
        }
        // Named by `statfs`, where there is no list of mounts.
        assert_ne!(opened[0]["file_system"], "unknown");
    }
}
