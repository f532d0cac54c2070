//! A random process and its disk: what it does, how it ends, and what it must find again.
//!
//! The promises that the process got are in the model beside it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::{Disk, Random};
use super::model::{self, Model};
use crate::application::Plain;
use crate::builder::TrailBuilder;
use crate::faults::Memory;
use crate::key::TrailKey;
use crate::storage::Presence;
use crate::threads::Instant;
use crate::writer::Writer;
use crate::{Anchor, AnchorError, Checkpoint, OpenError, Shared, VerifierKey, verify};

/// Long enough for everything here.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// An anchor that is asked what it remembers while the trail is opened, and knows nothing later.
/// Otherwise the reads of the disk would not be the same from the same seed.
struct AskedOnce(Option<Arc<Checkpoint>>);

impl Anchor for AskedOnce {
    fn name(&self) -> &str {
        "asked once"
    }

    fn keep(&mut self, _: &Checkpoint) -> Result<(), AnchorError> {
        Ok(())
    }

    fn newest(&mut self, _: &str) -> Result<Option<Checkpoint>, AnchorError> {
        let kept = self.0.take();
        let none = || AnchorError::Refused {
            words: "not again".into(),
        };
        kept.map(|kept| Some(Checkpoint::clone(&kept)))
            .ok_or_else(none)
    }
}

/// One run of the process.
pub(super) struct Process {
    pub(super) writer: Writer<Plain, Disk>,
    pub(super) shared: Arc<Shared<Plain>>,
}

impl Process {
    fn drain(&mut self, until: Instant, healthy: bool) {
        self.writer.drain(until);
        if healthy {
            // A flipped bit costs a segment, and the writer may rest before it takes the remaining
            // records.
            self.writer.drain(until);
        }
    }
}

pub(super) struct World<'a> {
    pub(super) random: Random,
    pub(super) disk: Disk,
    model: Arc<Mutex<Model>>,
    pub(super) process: Option<Process>,
    /// The number of changes of the trail's key, including the one under way.
    keys: u64,
    /// An opening with the newest key has not succeeded yet.
    changing: bool,
    /// `None` before the first successful opening.
    origin: Option<String>,
    /// Checkpoints copied out of segments without a name before failed openings.
    copied: Vec<Checkpoint>,
    /// The same, before a successful opening.
    kept: Vec<Checkpoint>,
    place: &'a Path,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, place: &'a Path) -> Self {
        let mut random = Random(seed);
        Self {
            disk: Disk::new(random.next()),
            random,
            model: Arc::default(),
            process: None,
            keys: 0,
            origin: None,
            copied: Vec::new(),
            kept: Vec::new(),
            changing: false,
            place,
        }
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Returns whether nothing fails and nothing ends from here on.
    fn is_healthy(&self) -> bool {
        let state = self.disk.state();
        state.failing == 0 && state.calls_left.is_none()
    }

    fn until(&mut self) -> Instant {
        let now = Instant::now();
        if self.random.chance(800) {
            now + LONG
        } else {
            now
        }
    }

    pub(super) fn open(&mut self) {
        for bytes in self.disk.unfinished_files().values() {
            self.copied.extend(model::checkpoints_in(bytes));
        }
        let worker = "w".parse().unwrap();
        if self.origin.is_some() && !self.changing && self.random.chance(150) {
            self.keys += 1;
            self.changing = true;
        }
        let builder = TrailBuilder::new(Arc::new(Plain), worker, "/simulated", self.key(self.keys))
            .queue_records(16)
            .reserved_records(8)
            .segment_bytes(4096)
            .critical_deadline(LONG)
            .anchor_every_records(1)
            .anchor(AskedOnce(self.model().anchored.clone()));
        let builder = match self.keys {
            0 => builder,
            key => builder.previous_key(self.key(key - 1)),
        };
        match builder.prepare(self.disk.clone(), Presence::Either) {
            Ok((writer, shared)) => {
                let mut model = self.model();
                model.run += 1;
                model.opened = true;
                model.closed = Some(false);
                drop(model);
                self.kept.append(&mut self.copied);
                self.origin = Some(shared.verifier.name().to_owned());
                self.changing = false;
                self.process = Some(Process { writer, shared });
                self.watch();
            }
            Err(error) => {
                assert!(!self.is_healthy(), "an honest trail is refused: {error}");
                assert!(matches!(error, OpenError::Io { .. }), "{error}");
                let mut model = self.model();
                model.closed = model.closed.filter(|closed| !closed);
            }
        }
    }

    fn key(&self, number: u64) -> TrailKey {
        TrailKey::open_or_create(self.place.join(format!("key-{number}"))).unwrap()
    }

    pub(super) fn note(&mut self) {
        let length = self.random.index(300);
        let process = self.process.as_ref().unwrap();
        self.model().give(&process.shared, false, length);
    }

    pub(super) fn violation(&mut self) {
        let (length, until) = (self.random.index(900), self.until());
        let healthy = self.is_healthy() && until > Instant::now();
        let mut process = self.process.take().unwrap();
        // Records that a failing disk has left in the queue may be in the way.
        let has_room = process.shared.queue.backlog().records == 0;
        let seq = self.model().give(&process.shared, true, length);
        process.drain(until, healthy);
        let queue = &process.shared.queue;
        let result = seq.map(|seq| queue.wait_durable(seq, Duration::ZERO));
        match result {
            Some(Ok(receipt)) => {
                let mut model = self.model();
                model.acknowledge(receipt.seq().0);
                model.receive(receipt.checkpoint());
            }
            None if !has_room => {}
            other => assert!(!healthy, "a healthy disk gives no receipt: {other:?}"),
        }
        self.process = Some(process);
    }

    fn flush(&mut self) {
        let until = self.until();
        let healthy = self.is_healthy() && until > Instant::now();
        let mut process = self.process.take().unwrap();
        match process.shared.queue.hurry() {
            None => self.model().acknowledge(u64::MAX),
            Some(last) => {
                process.drain(until, healthy);
                match process.shared.queue.wait_durable(last, Duration::ZERO) {
                    Ok(receipt) => {
                        let mut model = self.model();
                        model.acknowledge(last.0);
                        model.receive(receipt.checkpoint());
                    }
                    Err(error) => assert!(!healthy, "a healthy disk does not flush: {error}"),
                }
            }
        }
        self.process = Some(process);
    }

    /// Closes the trail. The records stay, or their loss is reported.
    pub(super) fn close(&mut self) {
        let healthy = self.is_healthy();
        let process = self.process.take().unwrap();
        let shared = Arc::clone(&process.shared);
        let deadline = Instant::now() + if healthy { LONG } else { Duration::ZERO };
        process.shared.queue.close(deadline);
        match process.writer.close(deadline) {
            Ok(receipt) => {
                let mut model = self.model();
                model.acknowledge(u64::MAX);
                model.receive(receipt.checkpoint());
                model.closed = Some(true);
            }
            Err(error) => {
                assert!(!healthy, "a healthy disk does not close: {error}");
                self.model().closed = None;
            }
        }
        self.model().anchor(&shared);
        drop(shared);
        self.end();
    }

    /// Ends the process or the machine, and checks the trail.
    pub(super) fn end(&mut self) {
        self.leave();
        if self.random.chance(400) {
            self.disk.kill();
        } else {
            self.disk.cut_power();
            self.copied.clear();
        }
        // Signatures take most of the time, and most faults found now would still be found at the
        // end.
        if self.random.chance(300) {
            self.check();
        }
    }

    /// Ends the process. Only the anchor's checkpoints remain.
    pub(super) fn leave(&mut self) {
        if let Some(process) = self.process.take() {
            self.model().anchor(&process.shared);
        }
        self.disk.meanwhile(None);
    }

    /// Lets an anchor take its checkpoint at the worst time: the writer is in the storage.
    fn watch(&mut self) {
        let process = self.process.as_ref().unwrap();
        let (shared, model) = (Arc::clone(&process.shared), Arc::clone(&self.model));
        self.disk.meanwhile(Some(Box::new(move || {
            model.lock().unwrap().anchor(&shared);
        })));
    }

    /// Makes the writer's calls hang: other threads record meanwhile, and callers that wait for a
    /// receipt give up.
    fn meanwhile(&mut self) {
        let process = self.process.as_ref().unwrap();
        let (shared, model) = (Arc::clone(&process.shared), Arc::clone(&self.model));
        let mut random = self.random.fork();
        self.disk.meanwhile(Some(Box::new(move || {
            model.lock().unwrap().anchor(&shared);
            let notes = random.below(30).saturating_sub(20);
            for _ in 0..notes {
                let (critical, length) = (random.chance(200), random.index(200));
                model.lock().unwrap().give(&shared, critical, length);
            }
            model.lock().unwrap().give_up_waiting(&shared);
        })));
    }

    pub(super) fn step(&mut self) {
        if self.process.is_none() {
            self.open();
            if self.process.is_none() {
                self.end();
                self.trouble();
            }
            return;
        }
        match self.random.below(100) {
            0..30 => self.note(),
            30..36 => (0..self.random.below(25)).for_each(|_| self.note()),
            36..60 => self.violation(),
            60..66 => self.flush(),
            66..68 => {
                let memory = [
                    Memory::Lines,
                    Memory::Checkpoint,
                    Memory::Position,
                    Memory::Tree,
                ];
                self.disk.flip(memory[self.random.index(4)]);
            }
            68..73 => self.disk.fail([100, 300, 800, 1000][self.random.index(4)]),
            73..79 => self.disk.fail(0),
            79..84 => self.disk.end_after(self.random.below(12)),
            84..88 => self.meanwhile(),
            88..90 => self.process.as_mut().unwrap().writer.tick(),
            90..95 => self.close(),
            _ => self.end(),
        }
        if self.disk.state().ended {
            self.end();
        }
        if self.process.is_none() {
            self.trouble();
        }
    }

    /// Makes the next opening fail or die, too.
    fn trouble(&mut self) {
        if self.random.chance(250) {
            self.disk.fail(150);
        }
        if self.random.chance(250) {
            self.disk.end_after(self.random.below(14));
        }
    }

    pub(super) fn check(&self) {
        let contents = self.disk.contents();
        let model = self.model();
        let Some(origin) = &self.origin else {
            assert!(!model.opened);
            return;
        };
        let directory = self.place.join("trail");
        let _none_before = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        for (segment, bytes) in &contents {
            std::fs::write(directory.join(format!("{segment:06}.jsonl")), bytes).unwrap();
        }
        let kept = model.anchored.iter().map(|kept| Checkpoint::clone(kept));
        let mut anchors: Vec<Checkpoint> = model.newest.iter().cloned().chain(kept).collect();
        let honest = anchors.len();
        anchors.extend(model::signed_in_void(&contents));
        anchors.extend(self.kept.iter().cloned());
        let keys = (0..=self.keys).map(|number| {
            VerifierKey::new(origin.as_str().into(), self.key(number).verifying_key())
        });
        let report = verify(&directory, &keys.collect::<Vec<_>>(), &anchors);
        model.agrees(&report, honest, &contents);
    }
}
