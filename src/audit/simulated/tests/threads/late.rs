//! A check comes back while the writer finds that it is late, and while the trail is closed.
//!
//! Both may record that, wait for the trail's answer and end leases; one of them does. The writer waits for
//! neither a lock that is held by a thread that waits for the writer, nor for its own answer.

use super::*;
use crate::audit::event::{History, Subject};
use crate::audit::guard::{Deadline, Incident, Late, Missed, OpenVerification, Served};
use crate::manager::Assurance;

/// What ends with the check.
#[derive(Clone)]
struct Leases {
    stage: Stage,
    subject: Subject,
    ended: Arc<AtomicBool>,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").finish_non_exhaustive()
    }
}

impl Served for Leases {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn open(self: Arc<Self>, _: &'static str) -> Option<OpenVerification> {
        None
    }

    fn revoke(&self, incident: &Incident) {
        let is_closed = matches!(incident.record(), Err(NotDurable::Closed));
        let is_durable = incident.record().is_ok();
        assert!(is_durable || is_closed || !self.stage.is_kind());
        assert!(
            !is_durable || self.stage.is_recorded(),
            "a receipt for nothing"
        );
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Stage {
    fn is_recorded(&self) -> bool {
        self.medium_holds(b"\"deadline_exceeded\"")
    }

    /// A check, and whether leases have ended.
    fn begin(&self) -> (OpenVerification, Arc<AtomicBool>) {
        let subject = Subject::new("s".parse().unwrap(), 0, "host".into());
        let ended = Arc::new(AtomicBool::new(false));
        let leases = Leases {
            stage: self.clone(),
            subject: subject.clone(),
            ended: Arc::clone(&ended),
        };
        let recorder = self.recorder();
        let history = History::default();
        let open = OpenVerification::begin(
            &recorder,
            Assurance::Queued,
            subject,
            "check",
            history,
            false,
        );
        let limit = match self.story.limits {
            Limits::Patient => Duration::ZERO,
            Limits::Hasty => Duration::from_millis(1),
        };
        let missed = Missed::Fails;
        let open = open
            .of_served(Arc::new(leases))
            .within(Deadline { limit, missed });
        (open, ended)
    }

    fn check_slowly(&self) -> JoinHandle<()> {
        let stage = self.clone();
        spawn(move || {
            let (open, ended) = stage.begin();
            for _ in 0..thread_rng().gen_range(0..30) {
                sync::sleep(Duration::from_micros(100));
            }
            match open.in_time() {
                Ok(open) => {
                    assert_eq!(stage.story.limits, Limits::Hasty);
                    open.inconclusive("in time".into());
                    assert!(!ended.load(Ordering::Relaxed) && !stage.is_recorded());
                }
                Err(Late::Failed(_)) => assert!(ended.load(Ordering::Relaxed), "leases go on"),
                Err(Late::Lapsed { .. }) => panic!("there is no maximum age"),
            }
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
    let check = stage.check_slowly();
    if thread_rng().gen_bool(0.5) {
        check.join().unwrap();
        let _closed = trail.close();
    } else {
        let _closed = trail.close();
        check.join().unwrap();
    }
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
    let (open, ended) = stage.begin();
    let shared = Arc::clone(&stage.shared);
    let writer = spawn(move || {
        let _stopped = StopOnDrop(Arc::clone(&shared));
        for _ in 0..thread_rng().gen_range(0..3) {
            shared.tick_watched();
            writer.drain(Instant::now() + LONG);
        }
    });
    writer.join().unwrap();
    assert!(ended.load(Ordering::Relaxed), "leases go on");
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
