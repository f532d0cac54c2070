//! Several threads use a trail at once, and none of them may wait for ever or get a wrong answer.
//!
//! A check has failed in one thread. Another thread records a note, a third flushes, the disk has
//! just come back, and a fourth closes the trail. Between any two steps of one thread the others
//! may take any number of steps. The writer may be woken a moment too early, a failure reported
//! before it is written down, or a count taken beside the lock. Then, very rarely, a thread waits
//! for ever, a receipt is for a record that is not on disk, or a loss is not counted.
//!
//! So a scheduler replaces the system's. Queue, writer, handles and closing are those of the
//! library; their locks, clock and thread are those of `threads.rs`. Every order of the steps is
//! possible, and each run tries a random one. The disk is the simulated one. In half of the runs
//! limits never end, so a forgotten thread waits for ever, which the scheduler notices. In the
//! other half any limit may end at any moment.
//!
//! A receipt is compared with the medium when it is given. In the end the power is cut. The
//! trail is then checked and compared with the test's own list, as in the other tests of this disk.
//!
//! Each of these defects was put into the code, and a test here failed:
//!
//! * no wake-up in `push`, `settle`, `report_failure`, `stop`, `close` or `hurry`,
//! * one thread woken instead of all,
//! * a wake-up before the change that it reports,
//! * the lock released between a look and the wait, between a number and its place in the queue, or
//!   before `urgent` is cleared,
//! * counting beside the lock,
//! * records that are queued, given up or without room not counted,
//! * records taken after closing,
//! * records called durable before the write, or because the writer was idle,
//! * a flush that accepts a writer that has ended.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p vram-residency -p vram-trail --lib threads` runs it. `VRAM_THREADS_RUNS` is how many
//! runs each test makes (4 000). A run that fails prints its seed: `SHUTTLE_RANDOM_SEED` repeats
//! it, with `VRAM_THREADS_RUNS=1` and the name of the test.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::RandomScheduler;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{JoinHandle, spawn, yield_now};
use shuttle::{Config, Runner};
use tempfile::TempDir;

use super::super::Disk;
use super::model::{Given, Model, acknowledged};
use super::number;
use super::world::LONG;
use crate::application::Plain;
use crate::builder::TrailBuilder;
use crate::event::{Event, Seq, Violation};
use crate::keeper::{Keeper, Threads};
use crate::key::TrailKey;
use crate::queue::Lane;
use crate::storage::Presence;
use crate::threads::{self, Instant, World as Limits};
use crate::writer::{StopOnDrop, Writer};
use crate::{
    Checkpoint, CloseError, NotDurable, Receipt, Recorder, Shared, Trail, VerifierKey, verify,
};

/// The parameters of a run.
#[derive(Clone, Copy)]
struct Story {
    limits: Limits,
    /// The disk fails now and then, hangs if limits end, and works in the end.
    weather: bool,
    /// The writer's thread ends by itself.
    dies: bool,
}

/// The state that all threads of a run share.
#[derive(Clone)]
struct Stage {
    story: Story,
    shared: Arc<Shared<Plain>>,
    disk: Disk,
    model: Arc<Mutex<Model>>,
    /// How many records were refused because the trail was closed or its writer gone.
    turned_away: Arc<Mutex<u64>>,
    /// How often a critical record's caller got the answer that it is not durable.
    critical_failures: Arc<Mutex<u64>>,
    hanging: Arc<AtomicBool>,
}

impl Stage {
    fn open(story: Story, place: &Path) -> (Self, Writer<Plain, Disk>) {
        threads::begin(story.limits);
        let disk = Disk::new(thread_rng().r#gen());
        let hanging = Arc::new(AtomicBool::new(false));
        let hangs = Arc::clone(&hanging);
        disk.meanwhile(Some(Box::new(move || {
            yield_now();
            while hangs.load(Ordering::Relaxed) {
                yield_now();
            }
        })));
        let key = TrailKey::open_or_create(place.join("key")).unwrap();
        let records = thread_rng().gen_range(2..8);
        let (writer, shared) =
            TrailBuilder::new(Arc::new(Plain), "w".parse().unwrap(), "/simulated", key)
                .queue_records(records)
                .prepare(disk.clone(), Presence::Either)
                .unwrap();
        let model = Model {
            run: 1,
            opened: true,
            closed: Some(false),
            ..Model::default()
        };
        let stage = Self {
            story,
            shared,
            disk,
            model: Arc::new(Mutex::new(model)),
            turned_away: Arc::default(),
            critical_failures: Arc::default(),
            hanging,
        };
        (stage, writer)
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Returns a handle that does not keep the trail open.
    fn recorder(&self) -> Recorder<Plain> {
        Recorder {
            shared: Arc::clone(&self.shared),
            _keeper: Arc::new(Keeper::of_none(Arc::clone(&self.shared))),
        }
    }

    /// Returns whether nothing can keep a record from the disk.
    fn is_kind(&self) -> bool {
        self.story.limits == Limits::Patient && !self.story.weather && !self.story.dies
    }

    /// Starts a thread that records, and keeps the trail open meanwhile if it has a keeper.
    fn actor(&self, keeper: Option<Arc<Keeper<Plain>>>) -> JoinHandle<()> {
        let stage = self.clone();
        spawn(move || {
            let _keeper = keeper;
            let mut own = Vec::new();
            for _ in 0..thread_rng().gen_range(1..5) {
                match thread_rng().gen_range(0..7) {
                    0..3 => own.push(stage.note()),
                    3..6 => own.push(stage.violation()),
                    _ => stage.flush(&own),
                }
            }
        })
    }

    /// Returns a new text, and its place in the list.
    fn text(&self) -> (usize, String) {
        let mut model = self.model();
        let number = model.given.len();
        model.given.push(Given {
            run: 1,
            seq: u64::MAX,
            taken: false,
            acknowledged: false,
        });
        (number, format!("{number} text"))
    }

    /// Notes the result for a text.
    fn told(&self, number: usize, seq: Option<Seq>, refused: Option<&NotDurable>) {
        let mut model = self.model();
        if let Some(seq) = seq {
            model.tell(seq, number);
        }
        match refused {
            Some(NotDurable::QueueFull { seq }) => {
                let run = model.run;
                model.refused.push((run, seq.0));
            }
            Some(NotDurable::NoNumber) => model.unnumbered += 1,
            Some(NotDurable::Closed | NotDurable::WriterStopped) if seq.is_none() => {
                *self.turned_away.lock().unwrap() += 1;
            }
            _ => model.given[number].taken = true,
        }
        model.given[number].seq = seq.map_or(u64::MAX, |seq| seq.0);
    }

    fn note(&self) -> usize {
        let (number, text) = self.text();
        let (mark, taken) = self
            .shared
            .push(Event::Note { text: text.into() }, Lane::Ordinary);
        self.told(number, mark.seq, taken.err().as_ref());
        number
    }

    fn violation(&self) -> usize {
        let (number, text) = self.text();
        let violation = Box::new(Violation {
            policy: text.as_str().into(),
            violation: "v".into(),
            details: "d".into(),
            action: "a".into(),
        });
        let recorder = self.recorder();
        let (mark, outcome) =
            recorder.answer(recorder.submit_event(Event::PolicyViolation { violation }));
        if let Ok(receipt) = &outcome {
            assert!(self.is_on_medium(&text), "a receipt for nothing: {text}");
            self.receipt(receipt);
        }
        self.told(number, mark.seq, outcome.as_ref().err());
        *self.critical_failures.lock().unwrap() += u64::from(outcome.is_err());
        match outcome {
            Ok(receipt) => self.model().acknowledge(receipt.seq().0),
            Err(NotDurable::DeadlineExceeded { waited, .. }) => {
                assert_eq!(self.story.limits, Limits::Hasty);
                assert!(
                    waited >= self.shared.settings.critical_deadline,
                    "{waited:?}"
                );
            }
            Err(NotDurable::WriteFailed { .. }) => assert!(self.story.weather),
            Err(NotDurable::Closed) => {}
            Err(NotDurable::WriterStopped) => assert!(!self.is_kind() || mark.seq.is_none()),
            Err(error) => panic!("{error}"),
        }
        number
    }

    /// Flushes: everything that this thread has recorded is durable, or it learns that it is not.
    fn flush(&self, own: &[usize]) {
        let recorder = self.recorder();
        match recorder.flush() {
            Ok(()) => {
                let mut model = self.model();
                for &number in own {
                    let taken = model.given[number].taken;
                    model.given[number].acknowledged |= taken;
                    let text = format!("{number} text");
                    assert!(!taken || self.is_on_medium(&text), "not flushed: {text}");
                }
            }
            Err(error) => assert!(!self.is_kind(), "{error}"),
        }
    }

    /// Returns whether the medium holds a line with this text.
    fn is_on_medium(&self, text: &str) -> bool {
        self.medium_holds(format!("\"{text}\"").as_bytes())
    }

    fn medium_holds(&self, bytes: &[u8]) -> bool {
        self.disk.medium_holds(bytes)
    }

    fn receipt(&self, receipt: &Receipt) {
        let line = receipt.checkpoint().to_line().unwrap();
        assert!(
            self.medium_holds(line.as_bytes()),
            "a checkpoint for nothing"
        );
        let mut model = self.model();
        let newest = model.newest.as_ref().map_or(0, Checkpoint::size);
        if newest < receipt.checkpoint().size() {
            model.receive(receipt.checkpoint());
        }
    }

    /// Starts a thread in which the disk fails, hangs, and works again.
    fn weather(&self) -> JoinHandle<()> {
        let stage = self.clone();
        spawn(move || {
            for _ in 0..thread_rng().gen_range(1..4) {
                let hangs = stage.story.limits == Limits::Hasty && thread_rng().gen_bool(0.3);
                stage.disk.fail([300, 1000][thread_rng().gen_range(0..2)]);
                stage.hanging.store(hangs, Ordering::Relaxed);
                for _ in 0..thread_rng().gen_range(1..20) {
                    yield_now();
                }
                stage.hanging.store(false, Ordering::Relaxed);
                stage.disk.fail(0);
            }
        })
    }

    /// Checks the result of closing. Returns how many records it gave up.
    fn closed(&self, closed: Result<Receipt, CloseError>) -> Option<u64> {
        match closed {
            Ok(receipt) => {
                self.receipt(&receipt);
                let mut model = self.model();
                model.closed = Some(true);
                Some(0)
            }
            Err(error) => {
                assert!(!self.is_kind(), "{error}");
                self.model().closed = None;
                match error {
                    CloseError::NotWritten { records, .. } => Some(records),
                    CloseError::TimedOut { .. } => {
                        assert_eq!(self.story.limits, Limits::Hasty);
                        None
                    }
                    error => panic!("{error}"),
                }
            }
        }
    }

    /// Checks the trail after every thread has ended: what has a receipt is there, and what is
    /// missing was counted.
    fn check(&self, given_up: Option<u64>, key: &VerifierKey, place: &Path) {
        while !self.shared.queue.wait_stopped(Instant::now()) {
            yield_now();
        }
        let mut model = self.model();
        if model.closed == Some(true) {
            model.acknowledge(u64::MAX);
        }
        drop(model);
        self.disk.meanwhile(None);
        self.disk.cut_power();
        let contents = self.disk.contents();
        let directory = place.join("trail");
        let _none_before = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        for (segment, bytes) in &contents {
            std::fs::write(directory.join(format!("{segment:06}.jsonl")), bytes).unwrap();
        }
        let model = self.model();
        let anchors: Vec<Checkpoint> = model.newest.iter().cloned().collect();
        let report = verify(&directory, std::slice::from_ref(key), &anchors);
        model.agrees(&report, anchors.len(), &contents);

        let counts = self.shared.counts();
        assert_eq!(counts.attempts, model.given.len() as u64, "attempts");
        let critical_failures = *self.critical_failures.lock().unwrap();
        assert_eq!(counts.critical_failures, critical_failures);
        let known =
            model.refused.len() as u64 + model.unnumbered + *self.turned_away.lock().unwrap();
        let taken = model.given.iter().filter(|given| given.taken).count() as u64;
        let found = acknowledged(&contents, report.leaves);
        let found = found
            .iter()
            .filter(|record| record["event"] == "Note" || record["event"] == "PolicyViolation");
        let gone = taken - found.count() as u64;
        match given_up {
            Some(records) => assert_eq!(counts.failures, known + records, "failures"),
            None => assert!(counts.failures >= known, "failures"),
        }
        assert!(counts.failures >= known + gone, "a loss is not counted");
    }
}

/// Plays one run: threads record, and the trail is closed or dropped meanwhile.
fn play(story: Story, place: &Path) {
    let (stage, writer) = Stage::open(story, place);
    let key = stage.shared.verifier.clone();
    let threads = Threads {
        writer: spawn(move || writer.run()),
        hook: None,
    };
    let keeper = Arc::new(Keeper::new(Arc::clone(&stage.shared), threads));
    let users = thread_rng().gen_bool(0.5).then(|| Arc::clone(&keeper));
    let trail = Trail {
        shared: Arc::clone(&stage.shared),
        keeper,
    };
    let weather = story.weather.then(|| stage.weather());
    let mut actors: Vec<_> = (0..thread_rng().gen_range(1..4))
        .map(|_| stage.actor(users.clone()))
        .collect();
    let has_users = users.is_some();
    drop(users);
    let early = thread_rng().gen_bool(0.5);
    let later = actors.split_off(if early { 0 } else { actors.len() });
    for actor in actors {
        actor.join().unwrap();
    }
    let given_up = if thread_rng().gen_bool(0.8) {
        stage.closed(trail.close())
    } else {
        drop(trail);
        stage.model().closed = stage.is_kind().then_some(true);
        None
    };
    let is_dropped = given_up.is_none();
    for thread in later.into_iter().chain(weather) {
        thread.join().unwrap();
    }
    if has_users && is_dropped && stage.is_kind() {
        let turned_away = *stage.turned_away.lock().unwrap();
        assert_eq!(turned_away, 0, "closed while it had users");
    }
    stage.check(given_up, &key, place);
}

/// Plays one run in which the writer's thread ends by itself.
fn play_death(story: Story, place: &Path) {
    let (stage, mut writer) = Stage::open(story, place);
    let key = stage.shared.verifier.clone();
    let weather = story.weather.then(|| stage.weather());
    let shared = Arc::clone(&stage.shared);
    let writer = spawn(move || {
        let _stopped = StopOnDrop(Arc::clone(&shared));
        for _ in 0..thread_rng().gen_range(0..3) {
            shared.queue.wait_for_work(Duration::ZERO);
            writer.drain(Instant::now() + LONG);
            yield_now();
        }
    });
    let actors: Vec<_> = (0..3).map(|_| stage.actor(None)).collect();
    for thread in actors.into_iter().chain([writer]).chain(weather) {
        thread.join().unwrap();
    }
    stage.check(None, &key, place);
}

fn explore(story: Story, play: fn(Story, &Path)) {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    let place = place.unwrap();
    let runs = usize::try_from(number("VRAM_THREADS_RUNS", 4_000)).unwrap();
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    let path = place.path().to_owned();
    let runner = Runner::new(RandomScheduler::new(runs), config);
    assert_eq!(runner.run(move || play(story, &path)), runs);
}

#[test]
fn nobody_is_forgotten_and_nothing_is_lost_on_a_disk_that_works() {
    let story = Story {
        limits: Limits::Patient,
        weather: false,
        dies: false,
    };
    explore(story, play);
}

#[test]
fn nobody_is_forgotten_when_the_disk_fails_and_recovers() {
    let story = Story {
        limits: Limits::Patient,
        weather: true,
        dies: false,
    };
    explore(story, play);
}

#[test]
fn any_limit_may_end_at_any_moment() {
    let story = Story {
        limits: Limits::Hasty,
        weather: false,
        dies: false,
    };
    explore(story, play);
}

#[test]
fn any_limit_may_end_while_the_disk_fails_or_hangs() {
    let story = Story {
        limits: Limits::Hasty,
        weather: true,
        dies: false,
    };
    explore(story, play);
}

#[test]
fn a_writer_that_dies_leaves_nobody_waiting() {
    for weather in [false, true] {
        let story = Story {
            limits: Limits::Patient,
            weather,
            dies: true,
        };
        explore(story, play_death);
    }
}
