//! A check comes back while the writer finds that it is late, and while the trail is closed.
//!
//! Both may record that, wait for the trail's answer and end leases; one of them does. The writer waits for
//! neither a lock that is held by a thread that waits for the writer, nor for its own answer.

use super::*;
use crate::clock::{Time, Uptime};
use crate::event::{History, Mark, Subject};
use crate::registry::{LastCheck, Standing};
use crate::verification::{Deadline, Late, Missed, OpenVerification};

impl Stage {
    fn is_recorded(&self) -> bool {
        self.medium_holds(b"\"deadline_exceeded\"")
    }

    /// A check of a shared shard, and the shard.
    fn begin(&self) -> (OpenVerification, Arc<Standing>) {
        let subject = Subject::new("s".parse().unwrap(), 0, "host".into());
        let mark = Mark {
            seq: None,
            time: Time::now(),
        };
        let began = Uptime::now();
        let check = LastCheck { mark, began };
        let standing = Standing::new(self.recorder(), subject, check, History::default(), None);
        let standing = Arc::new(standing);
        let limit = match self.story.limits {
            Limits::Patient => Duration::ZERO,
            Limits::Hasty => Duration::from_millis(1),
        };
        let missed = Missed::Fails;
        let open = standing.open("check").unwrap();
        (open.within(Deadline { limit, missed }), standing)
    }

    /// A check that comes back, and says whether the record of its failure is durable, if it has failed.
    fn check_slowly(&self, open: OpenVerification, standing: Arc<Standing>) -> JoinHandle<bool> {
        let stage = self.clone();
        spawn(move || {
            for _ in 0..thread_rng().gen_range(0..30) {
                sync::sleep(Duration::from_micros(100));
            }
            match open.in_time() {
                Ok(open) => {
                    assert_eq!(stage.story.limits, Limits::Hasty);
                    open.inconclusive("in time".into());
                    assert!(standing.judge().is_ok() && !stage.is_recorded());
                    false
                }
                Err(Late::Failed(incident)) => {
                    assert!(standing.judge().is_err(), "leases go on");
                    let record = incident.record();
                    let is_closed = matches!(record, Err(NotDurable::Closed));
                    assert!(record.is_ok() || is_closed || !stage.is_kind());
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

    /// Looks whether leases end before the disk has the record of that.
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

fn play_late(story: Story, place: &Path) {
    let (stage, writer) = Stage::open(story, place);
    let threads = Threads {
        writer: spawn(move || writer.run()),
        hook: None,
    };
    let keeper = Arc::new(Keeper::new(Arc::clone(&stage.shared), threads));
    let trail = AuditTrail {
        shared: Arc::clone(&stage.shared),
        keeper,
    };
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
        !(ends_early && is_durable && stage.is_kind()),
        "leases end before that is durable"
    );
    while !stage.shared.queue.wait_stopped(Instant::now()) {
        yield_now();
    }
    stage.disk.meanwhile(None);
}

#[test]
fn a_late_check_and_the_writer_end_leases_once_that_is_recorded() {
    for limits in [Limits::Patient, Limits::Hasty] {
        let story = Story {
            limits,
            weather: false,
            dies: false,
        };
        explore(story, play_late);
    }
}

/// The check never comes back, and the writer ends by itself.
fn play_late_death(story: Story, place: &Path) {
    let (stage, mut writer) = Stage::open(story, place);
    let (open, standing) = stage.begin();
    let shared = Arc::clone(&stage.shared);
    let writer = spawn(move || {
        let _stopped = StopOnDrop(Arc::clone(&shared));
        for _ in 0..thread_rng().gen_range(0..3) {
            shared.registry.tick();
            writer.drain(Instant::now() + LONG);
        }
    });
    writer.join().unwrap();
    assert!(standing.judge().is_err(), "leases go on");
    drop(open);
}

#[test]
fn leases_end_with_a_late_check_although_the_writer_ends() {
    let story = Story {
        limits: Limits::Patient,
        weather: false,
        dies: true,
    };
    explore(story, play_late_death);
}
