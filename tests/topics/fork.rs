//! A worker that forks. The child has the parent's memory, and none of its threads: everything it
//! could do with the trail or a shard is an error at once, never a wait, and nothing it does
//! reaches the disk or the parent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::backend::{Device, device, manager};
use crate::support::{VIOLATION, alone, builder_at, filled, model, sealed, segments};
use rustix::process::{Pid, WaitOptions, waitpid};
use vram_residency::audit::{
    CloseError, NotDurable, OpenError, Outcome, PolicyViolation, RecordError, SameHostCopy,
};
use vram_residency::device::DeviceError;
use vram_residency::error::{
    AllocateError, BuildError, CheckError, LoadError, NotSealed, ReclaimError, ReleaseError,
    Revoked, SealAllError, SealError, VerifyError, WriteError,
};
use vram_residency::manager::NewShard;
use vram_residency::shard::{Allocated, Batch, Sealed, Shard, Verified};
use vram_residency::{AuditTrail, Lease, Provenance, Shared, Stream, VramManager, WorkerToken};

const LEN: usize = 1 << 20;

/// Forks, runs `body` in the child, and returns the child. The child has `seconds` to live.
fn fork(seconds: u32, body: impl FnOnce()) -> Pid {
    // SAFETY: the child allocates at most, which glibc allows after a fork; it takes no lock that a
    // thread of the parent may hold, such as the trail's writer, since every call is refused or
    // answered before one. That it is, is what is tested: `alarm` ends a child that waits.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid != 0 {
        return Pid::from_raw(pid).unwrap();
    }
    // SAFETY: sets a timer, whose signal ends this process; nothing handles it.
    unsafe { libc::alarm(seconds) };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    // SAFETY: ends the process without running what the parent registered for its own end.
    unsafe { libc::_exit(if outcome.is_ok() { 0 } else { 1 }) }
}

fn expect_well(child: Pid) {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(
        (status.exit_status(), status.terminating_signal()),
        (Some(0), None),
        "the child failed an assertion, or hung"
    );
}

#[track_caller]
fn is<T: Debug, E: Debug>(outcome: Result<T, E>, expected: impl FnOnce(&E) -> bool) -> E {
    match outcome {
        Err(error) if expected(&error) => error,
        other => panic!("in a forked child: {other:?}"),
    }
}

/// Everything that a worker holds, in every state.
struct Everything {
    trail: AuditTrail,
    manager: VramManager<Device>,
    allocated: Shard<Allocated, Device>,
    batch: Batch<Device>,
    sealed: Shard<Sealed, Device>,
    verified: Shard<Verified, Device>,
    to_share: Shard<Verified, Device>,
    shared: Shared<Device>,
    lease: Lease<Device>,
}

fn batch(manager: &VramManager<Device>) -> Batch<Device> {
    let wanted = ["one", "two"].map(|name| NewShard::new(name.parse().unwrap(), model(), 1000));
    let mut batch = manager.allocate_all(wanted).unwrap();
    for mut member in batch.iter_mut() {
        member.write_at(0, &[1; 1000]).unwrap();
    }
    batch
}

impl Everything {
    fn at(place: &Path) -> Self {
        let anchor = SameHostCopy::new(place.join("anchor"));
        let builder = builder_at(place).on_degraded(|_| {}).anchor(anchor);
        let trail = builder.open_or_create().unwrap();
        let manager = manager(&trail);
        let shared = sealed(&manager, "shared", LEN).verify().unwrap().share();
        Self {
            allocated: filled(&manager, "allocated", LEN),
            batch: batch(&manager),
            sealed: sealed(&manager, "sealed", LEN),
            verified: sealed(&manager, "verified", LEN).verify().unwrap(),
            to_share: sealed(&manager, "to-share", LEN).verify().unwrap(),
            lease: shared.lease().unwrap(),
            shared,
            manager,
            trail,
        }
    }
}

#[test]
fn in_a_forked_child_every_call_is_an_error_and_the_parent_goes_on() {
    alone(|place| {
        let everything = Everything::at(place);
        everything.trail.flush().unwrap();
        let before = files(&place.join("trail"));
        let spare = device();
        let child = fork(30, || borrow_everything(&everything, spare, place));
        expect_well(child);
        assert_eq!(before, files(&place.join("trail")), "the child wrote");
        go_on(everything, place);
    });
}

/// What takes `&self`.
fn borrow_everything(everything: &Everything, spare: Device, place: &Path) {
    let Everything {
        trail,
        manager,
        shared,
        lease,
        sealed,
        ..
    } = everything;
    is(trail.note("from the child"), |error| {
        matches!(error, RecordError::NotDurable(NotDurable::Forked(_)))
    });
    let violation = PolicyViolation {
        policy: "p",
        violation: "v",
        details: "d",
        action: "a",
    };
    is(trail.policy_violation(violation), |error| {
        matches!(error, RecordError::NotDurable(NotDurable::Forked(_)))
    });
    is(trail.flush(), |error| {
        matches!(error, NotDurable::Forked(_))
    });
    assert!(trail.anchored_until().is_none());
    assert_eq!(trail.unanchored_for(), std::time::Duration::ZERO);
    is(
        manager.allocate("new".parse().unwrap(), model(), 1),
        |error| matches!(error, AllocateError::Forked(_)),
    );
    is(
        manager.allocate_all([NewShard::new("new".parse().unwrap(), model(), 1)]),
        |error| matches!(error.source, AllocateError::Forked(_)),
    );
    let token = WorkerToken::generate().unwrap();
    is(
        VramManager::builder(spare, &token, trail).build(),
        |error| matches!(error, BuildError::Forked(_)),
    );
    let own = AuditTrail::builder(
        "worker-1".parse().unwrap(),
        place.join("own"),
        crate::support::key_at(place),
    );
    is(own.open(), |error| matches!(error, OpenError::Forked(_)));
    assert!(!place.join("own").exists());
    is(shared.check(), |error| {
        matches!(error, CheckError::Forked(_))
    });
    is(shared.check_window(0..1), |error| {
        matches!(error, CheckError::Forked(_))
    });
    is(shared.lease(), |error| matches!(error, Revoked::Forked(_)));
    assert!(!lease.is_current() && !lease.clone().is_current());
    // What is told is as it was when the process forked.
    assert!(shared.verified_at() <= SystemTime::now());
    let told = serde_json::to_value(shared.handle()).unwrap();
    assert!(told["verified_time"].is_string());
    is(sealed.dangerous_flip_bit(0, 0), |error| {
        matches!(error, DeviceError::Forked { .. })
    });
    drop(sealed.dangerous_open_verification());
}

/// The parent is as it was before it forked.
fn go_on(everything: Everything, place: &Path) {
    let Everything {
        trail,
        manager,
        allocated,
        batch,
        sealed,
        verified,
        to_share,
        shared,
        lease,
    } = everything;
    let key = trail.verifier_key().clone();
    shared.check().unwrap();
    assert!(lease.is_current());
    assert_eq!(crate::backend::bytes(lease.view())[251], 0);
    drop(lease);
    assert_eq!(crate::backend::bytes(verified.view()).len(), LEN);
    verified.reverify().unwrap().release().unwrap();
    to_share.release().unwrap();
    sealed.verify().unwrap().release().unwrap();
    allocated
        .seal(Provenance::UnpinnedFirstUse)
        .unwrap()
        .release()
        .unwrap();
    for shard in batch.seal(|_| Provenance::UnpinnedFirstUse).unwrap() {
        shard.verify().unwrap().release().unwrap();
    }
    shared.reclaim().unwrap().release().unwrap();
    manager.close().unwrap();
    let receipt = trail.close().unwrap();
    let report = vram_residency::audit::verify(
        place.join("trail"),
        std::slice::from_ref(&key),
        &[receipt.checkpoint().clone()],
    );
    assert_eq!(report.outcome, Outcome::Holds, "{report}");
    assert!(report.end_vouched_for && report.closed);
    assert_eq!((report.records_lost, report.never_acknowledged), (0, 0));
}

#[test]
fn in_a_forked_child_every_transition_gives_back_what_it_took() {
    alone(|place| {
        let everything = Everything::at(place);
        everything.trail.flush().unwrap();
        let before = files(&place.join("trail"));
        // The child's copy goes through everything and is dropped; the parent's must not be.
        let mut kept = Some(everything);
        let child = fork(30, || take_everything(kept.take().unwrap()));
        expect_well(child);
        assert_eq!(before, files(&place.join("trail")), "the child wrote");
        go_on(kept.unwrap(), place);
    });
}

/// The child goes on in the middle of a load that the parent began.
#[test]
fn a_reader_that_forks_loads_nothing_in_the_child() {
    struct Forking {
        child: Option<Pid>,
        is_child: bool,
    }
    impl Read for Forking {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.child.is_none() && !self.is_child {
                // SAFETY: as in `fork`.
                let pid = unsafe { libc::fork() };
                self.child = Pid::from_raw(pid);
                self.is_child = self.child.is_none();
            }
            out.fill(7);
            Ok(out.len())
        }
    }
    alone(|place| {
        let everything = Everything::at(place);
        let id = "loaded".parse().unwrap();
        let mut shard = everything
            .manager
            .allocate(id, model(), LEN as u64)
            .unwrap();
        let mut reader = Forking {
            child: None,
            is_child: false,
        };
        let bytes = (&mut reader).take(LEN as u64);
        let loaded = shard.load_from(bytes, Stream::TreeOnly);
        if reader.is_child {
            let forked = matches!(loaded, Err(LoadError::Device(DeviceError::Forked { .. })));
            // SAFETY: as in `fork`.
            unsafe { libc::_exit(if forked { 0 } else { 1 }) }
        }
        loaded.unwrap();
        expect_well(reader.child.unwrap());
        shard.release().unwrap();
        go_on(everything, place);
    });
}

/// What takes `self` or `&mut self`; and then the destructors.
fn take_everything(everything: Everything) {
    let Everything {
        trail,
        manager,
        mut allocated,
        batch,
        sealed,
        verified,
        to_share,
        shared,
        lease,
    } = everything;
    is(allocated.write_at(0, &[1]), |error| {
        matches!(error, WriteError::Forked(_))
    });
    let stream = [0u8; LEN];
    is(
        allocated.load_from(&stream[..], Stream::TreeOnly),
        |error| matches!(error, LoadError::Forked(_)),
    );
    let error = is(allocated.seal(Provenance::UnpinnedFirstUse), |error| {
        matches!(error, SealError::Forked { .. })
    });
    let allocated = error.into_shard().unwrap();
    let error = is(batch.seal(|_| Provenance::UnpinnedFirstUse), |_| true);
    let SealAllError::NotSealed { batch, source, .. } = error else {
        panic!("{error:?}")
    };
    assert!(matches!(source, NotSealed::Forked(_)), "{source:?}");
    is(batch.release(), |error| {
        matches!(error, ReleaseError::Forked(_))
    });
    let error = is(sealed.verify(), |error| {
        matches!(error, VerifyError::Forked { .. })
    });
    let sealed = error.into_shard().unwrap();
    let error = is(verified.reverify(), |error| {
        matches!(error, VerifyError::Forked { .. })
    });
    let error = is(error.into_shard().unwrap().verify(), |error| {
        matches!(error, VerifyError::Forked { .. })
    });
    let was_verified = error.into_shard().unwrap();
    drop(lease);
    let error = is(shared.reclaim(), |error| {
        matches!(error, ReclaimError::Forked { .. })
    });
    let shared = error.into_shared().unwrap();
    is(allocated.release(), |error| {
        matches!(error, ReleaseError::Forked(_))
    });
    is(sealed.release(), |error| {
        matches!(error, ReleaseError::Forked(_))
    });
    // Sharing asks nobody, and what comes of it gives no lease.
    let shared_here = to_share.share();
    is(shared_here.lease(), |error| {
        matches!(error, Revoked::Forked(_))
    });
    drop((was_verified, shared, shared_here));
    is(manager.close(), |error| {
        matches!(error, NotDurable::Forked(_))
    });
    is(trail.close(), |error| {
        matches!(error, CloseError::Forked(_))
    });
    // The handles of the trail's threads have not touched those of this process.
    for _ in 0..3 {
        std::thread::spawn(|| {}).join().unwrap();
    }
}

/// Threads of the parent are in the middle of everything when it forks; none of them is in the child.
#[test]
fn what_is_told_about_a_shared_shard_waits_for_no_thread_that_is_not_there() {
    alone(|place| {
        let trail = builder_at(place).open_or_create().unwrap();
        let manager = manager(&trail);
        let shared = sealed(&manager, "shared", 64).verify().unwrap().share();
        let done = AtomicBool::new(false);
        let busy = |work: &(dyn Fn() + Sync)| {
            while !done.load(Ordering::Relaxed) {
                work();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| busy(&|| assert!(shared.verified_at() <= SystemTime::now())));
            scope.spawn(|| busy(&|| drop(shared.handle())));
            scope.spawn(|| busy(&|| shared.check().unwrap()));
            let forks = std::panic::AssertUnwindSafe(|| {
                for _ in 0..300 {
                    expect_well(fork(5, || {
                        let _told = (shared.verified_at(), shared.handle());
                    }));
                }
            });
            let outcome = std::panic::catch_unwind(forks);
            done.store(true, Ordering::Relaxed);
            outcome.unwrap();
        });
    });
}

#[test]
fn a_child_that_lives_on_does_not_keep_the_trail_locked() {
    alone(|place| {
        let trail = builder_at(place).open_or_create().unwrap();
        let child = fork(60, || {
            std::thread::sleep(std::time::Duration::from_secs(50))
        });
        trail.close().unwrap();
        let reopened = builder_at(place).open_or_create();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        waitpid(Some(child), WaitOptions::empty()).unwrap();
        reopened.unwrap().close().unwrap();
    });
}

/// The child is made by a thread, and makes one of its own; neither ever calls `exec`.
#[test]
fn a_killed_worker_leaves_no_lock_to_its_children() {
    alone(|place| {
        if place.join("worker").exists() {
            let trail = builder_at(place).open_or_create().unwrap();
            trail.policy_violation(VIOLATION).unwrap();
            let live = || {
                fork(60, || {
                    fork(60, || std::thread::sleep(Duration::from_secs(50)));
                    std::thread::sleep(Duration::from_secs(50));
                })
            };
            let child = std::thread::spawn(live).join().unwrap();
            std::fs::write(place.join("child"), child.as_raw_nonzero().to_string()).unwrap();
            loop {
                trail.policy_violation(VIOLATION).unwrap();
            }
        }
        std::fs::write(place.join("worker"), "").unwrap();
        let mut worker = Command::new(std::env::current_exe().unwrap());
        let mut worker = worker
            .args(std::env::args().skip(1))
            .process_group(0)
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        let child = loop {
            let told = std::fs::read_to_string(place.join("child")).unwrap_or_default();
            if let Ok(child) = told.parse() {
                break Pid::from_raw(child).unwrap();
            }
            assert!(Instant::now() < patience, "the worker does not fork");
            std::thread::sleep(Duration::from_millis(5));
        };
        let group = Pid::from_child(&worker);
        // Only the worker: `Child::kill` is SIGKILL.
        worker.kill().unwrap();
        worker.wait().unwrap();
        let reopened = builder_at(place).open();
        let lives = rustix::process::test_kill_process(child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        lives.unwrap();
        reopened.unwrap().close().unwrap();
    });
}

/// Whoever forks while another thread opens a trail takes no lock along.
#[test]
fn a_child_that_is_forked_amidst_an_opening_does_not_keep_the_trail_locked() {
    alone(|place| {
        let trail = builder_at(place).open_or_create().unwrap();
        trail.close().unwrap();
        let mut children = Vec::new();
        for _ in 0..40 {
            let opening = std::thread::scope(|scope| {
                let opening = scope.spawn(|| builder_at(place).open().map(AuditTrail::close));
                for _ in 0..3 {
                    children.push(fork(60, || std::thread::sleep(Duration::from_secs(50))));
                }
                opening.join().unwrap()
            });
            if let Err(error) = opening {
                panic!("{error}");
            }
        }
        for child in children {
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
            waitpid(Some(child), WaitOptions::empty()).unwrap();
        }
    });
}

fn files(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    segments(dir)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}
