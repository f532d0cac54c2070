//! A check returns while the writer finds that it is late, and while the trail is closed.
//!
//! Both may record that, wait for the trail's answer and end leases; exactly one of them does. The
//! writer never waits for a lock whose holder waits for the writer, nor for its own answer.
//!
//! As in the trail's own tests of threads, a scheduler tries any order of the steps:
//! `RUSTFLAGS="--cfg shuttle" cargo test -p vram-residency -p vram-trail --lib threads`. `VRAM_THREADS_RUNS` is how many runs each
//! test makes (4 000).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{JoinHandle, spawn, yield_now};
use shuttle::{Config, Runner};
use vram_trail::clock::{Time, Uptime};
use vram_trail::simulated::{self, Staged};
use vram_trail::threads::{self, World as Limits};
use vram_trail::{Mark, NotDurable, TrailKey};

use super::{Deadline, Late, Missed, OpenVerification};
use crate::event::{History, Subject};
use crate::registry::{LastCheck, Registry, Standing};

#[derive(Clone)]
struct Stage {
    limits: Limits,
    trail: simulated::Stage<Registry>,
}

impl Stage {
    fn open(limits: Limits, place: &Path) -> (Self, Staged<Registry>) {
        threads::begin(limits);
        let key = TrailKey::open_or_create(place.join("key")).unwrap();
        let (seed, records) = (thread_rng().r#gen(), thread_rng().gen_range(2..8));
        let (trail, writer) =
            simulated::Stage::open(Registry::new(), key, seed, records, yield_now);
        (Self { limits, trail }, writer)
    }

    fn is_recorded(&self) -> bool {
        self.trail.medium_holds(b"\"deadline_exceeded\"")
    }

    fn is_patient(&self) -> bool {
        self.limits == Limits::Patient
    }

    /// Returns a check of a shared shard, and the shard.
    fn begin(&self) -> (OpenVerification, Arc<Standing>) {
        let subject = Subject::new("s".parse().unwrap(), 0, "host".into());
        let mark = Mark::unnumbered(Time::now());
        let began = Uptime::now();
        let check = LastCheck { mark, began };
        let recorder = self.trail.recorder();
        let standing = Standing::new(recorder, subject, check, History::default(), None);
        let standing = Arc::new(standing);
        let limit = match self.limits {
            Limits::Patient => Duration::ZERO,
            Limits::Hasty => Duration::from_millis(1),
        };
        let missed = Missed::Fails;
        let open = standing.open("check").unwrap();
        (open.within(Deadline { limit, missed }), standing)
    }

    /// Starts a check that returns. Its result is whether the record of its failure, if any, is
    /// durable.
    fn check_slowly(&self, open: OpenVerification, standing: Arc<Standing>) -> JoinHandle<bool> {
        let stage = self.clone();
        spawn(move || {
            for _ in 0..thread_rng().gen_range(0..30) {
                threads::sleep(Duration::from_micros(100));
            }
            match open.in_time() {
                Ok(open) => {
                    assert!(!stage.is_patient());
                    open.inconclusive("in time".into());
                    assert!(standing.judge().is_ok() && !stage.is_recorded());
                    false
                }
                Err(Late::Failed(incident)) => {
                    assert!(standing.judge().is_err(), "leases go on");
                    let record = incident.record();
                    let is_closed = matches!(record, Err(NotDurable::Closed));
                    assert!(record.is_ok() || is_closed || !stage.is_patient());
                    assert!(
                        record.is_err() || stage.is_recorded(),
                        "a receipt for nothing"
                    );
                    record.is_ok()
                }
                Err(Late::Lapsed { .. }) => panic!("there is no maximum age"),
            }
        })
    }

    /// Starts a thread that returns whether leases have ended before the disk has the record of it.
    fn watch(&self, standing: Arc<Standing>, is_over: Arc<AtomicBool>) -> JoinHandle<bool> {
        let stage = self.clone();
        spawn(move || {
            while standing.judge().is_ok() {
                if is_over.load(Ordering::Relaxed) {
                    return false;
                }
                yield_now();
            }
            !stage.is_recorded()
        })
    }
}

fn play(limits: Limits, place: &Path) {
    let (stage, writer) = Stage::open(limits, place);
    let trail = writer.start();
    let (open, standing) = stage.begin();
    let is_over = Arc::new(AtomicBool::new(false));
    let watcher = stage.watch(Arc::clone(&standing), Arc::clone(&is_over));
    let check = stage.check_slowly(open, standing);
    let is_durable = if thread_rng().gen_bool(0.5) {
        let is_durable = check.join().unwrap();
        let _closed = trail.close();
        is_durable
    } else {
        let _closed = trail.close();
        check.join().unwrap()
    };
    is_over.store(true, Ordering::Relaxed);
    let ends_early = watcher.join().unwrap();
    // Where limits end at any moment, leases end with the limit of the critical deadline.
    assert!(
        !(ends_early && is_durable && stage.is_patient()),
        "leases end before that is durable"
    );
    while !stage.trail.is_stopped() {
        yield_now();
    }
    stage.trail.end();
}

/// The check never returns, and the writer ends by itself.
fn play_death(limits: Limits, place: &Path) {
    let (stage, writer) = Stage::open(limits, place);
    let (open, standing) = stage.begin();
    let times = thread_rng().gen_range(0..3);
    spawn(move || writer.work_and_die(times)).join().unwrap();
    assert!(standing.judge().is_err(), "leases go on");
    drop(open);
}

fn explore(limits: Limits, play: fn(Limits, &Path)) {
    let place = tempfile::tempdir().unwrap();
    let runs = std::env::var("VRAM_THREADS_RUNS").map_or(4_000, |text| text.parse().unwrap());
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    let path = place.path().to_owned();
    let runner = Runner::new(RandomScheduler::new(runs), config);
    assert_eq!(runner.run(move || play(limits, &path)), runs);
}

#[test]
fn a_late_check_and_the_writer_end_leases_once_that_is_recorded() {
    for limits in [Limits::Patient, Limits::Hasty] {
        explore(limits, play);
    }
}

#[test]
fn leases_end_with_a_late_check_although_the_writer_ends() {
    explore(Limits::Patient, play_death);
}
