//! Opens a trail: a new one, or one that earlier runs have written.
//!
//! An existing trail is trusted only up to its last checkpoint that is signed by a given key and
//! fits its leaves. The bytes behind it were never acknowledged: they stay where they are, void,
//! and `TailRecovered` records them. A trail that is damaged before that point, or signed with
//! another key, is refused, since continuing it would bury the evidence. No byte of an old segment
//! is changed.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::anchor::{Anchors, Contradiction};
use super::builder::TrailBuilder;
use super::checkpoint::VerifierKey;
use super::clock::{Uptime, boot_id};
use super::event::{Event, Seq};
use super::keeper::{Keeper, Threads};
use super::log::{Log, LogError};
use super::position::Position;
use super::queue::Queue;
use super::record::Record;
use super::segment;
use super::storage::{Presence, Storage};
use super::threads;
use super::writer::Writer;
use super::{Shared, Trail};
use crate::application::Application;
use crate::foreign;
use crate::health::{Vitals, hook::Hook};
use crate::id::WorkerId;
use crate::key::{TrailKey, fill_random};

mod anchors;
mod error;
mod tail;
mod unacknowledged;

pub use error::OpenError;
use tail::Latest;

/// An open trail whose writer has no thread yet.
pub(super) type Prepared<A, S> = (Writer<A, S>, Arc<Shared<A>>);

impl<A: Application> TrailBuilder<A> {
    pub(super) fn open_on<S: Storage>(
        mut self,
        storage: S,
        presence: Presence,
    ) -> Result<Trail<A>, OpenError> {
        let path = self.dir.clone();
        let io = |operation| failed(&path, operation);
        let hook = self.hook.take().map(Hook::start).transpose();
        let (bell, hook) = hook.map_err(io("start the hook's thread of"))?.unzip();
        let medium = storage.medium().cloned();
        let (mut writer, shared) = self.prepare(storage, presence)?;
        writer.bell = bell;
        writer.recheck().map_err(io("read the segments in"))?;
        let writer = threads::Builder::new()
            .name("vram-audit".into())
            .spawn(move || writer.run())
            .map_err(io("start the writer of"))?;
        let threads = Threads { writer, hook };
        let trail = Trail {
            keeper: Arc::new(Keeper::new(Arc::clone(&shared), threads)),
            shared,
        };
        if let Some(medium) = medium {
            for objection in medium.objections() {
                let (path, file_system) = (path.clone(), medium.file_system());
                foreign::log(move || {
                    tracing::warn!(target: crate::LOG, path = %path.display(), %file_system, "{objection}");
                });
            }
        }
        Ok(trail)
    }

    /// Does everything but start the writer's thread: the trail is open, and `TrailOpened` is
    /// durable.
    pub(super) fn prepare<S: Storage>(
        mut self,
        storage: S,
        presence: Presence,
    ) -> Result<Prepared<A, S>, OpenError> {
        let path = self.dir.clone();
        let io = |operation| failed(&path, operation);
        let segments = storage.segments().map_err(io("list segments in"))?;
        presence.check(&path, &segments)?;
        let custody = self.key.custody();
        let end = match segments.last() {
            None => {
                // If a trail seems to be absent, its segments may have been renamed.
                self.signed_without_a_name(&storage, 0)?;
                End::new(&self.worker, &self.key)?
            }
            Some(&last) => self.find_end(&storage, last)?,
        };
        let boot = boot_id().map_err(|error| OpenError::Random(error.to_string()))?;
        let anchors = self.ask_anchors(&storage, segments, &end)?;
        let queue = Queue::new(
            end.next,
            Uptime::now(),
            self.settings.queue_records,
            self.settings.reserved_records,
        );
        let verifier = self.verifier(end.verifier.name());
        // The trail's present key announces the next one with its last checkpoint.
        let (signer, signed_as, successor) = match self.previous_key {
            Some(previous) if end.is_under_another_key => {
                (previous, end.verifier.clone(), Some(self.key))
            }
            _ => (self.key, verifier.clone(), None),
        };
        let medium = storage.medium().cloned();
        let mut log = Log::new(
            storage,
            signer,
            signed_as,
            boot,
            self.worker.clone(),
            self.settings.retention.clone(),
            end.position,
        );
        let header = Event::TrailOpened {
            header: Box::new(log.next_header(queue.bound_numbers())),
            opening: Box::new(self.application.opening()),
            configuration: Box::new(
                self.settings
                    .configuration(custody, medium, anchors.names()),
            ),
        };
        let changed = successor.is_some().then(|| Event::KeyChanged {
            previous_key: end.verifier.to_string().into(),
            key: verifier.to_string().into(),
        });
        let events = end.recovered.into_iter().chain(changed);
        begin(&mut log, &queue, &anchors, header, events)
            .map_err(|error| error.into_open_error(&path))?;
        if let Some(key) = successor {
            log.change_key(key, verifier.clone());
            let header = Event::SegmentOpened {
                header: Box::new(log.next_header(queue.bound_numbers())),
            };
            begin(&mut log, &queue, &anchors, header, [].into_iter())
                .map_err(|error| error.into_open_error(&path))?;
        }
        // Not earlier: a header names what was signed in these files.
        log.remove_unfinished();
        anchors.begin();
        let shared = Arc::new(Shared {
            queue,
            refused: AtomicBool::new(false),
            worker: self.worker,
            verifier,
            settings: self.settings,
            application: self.application,
            anchors,
            vitals: Vitals::default(),
        });
        Ok((Writer::new(log, Arc::clone(&shared)), shared))
    }

    /// Returns the key that a segment names, if it is the given key or the previous one. The
    /// segment's claim proves nothing; the proof is that its last checkpoint verifies under this
    /// key.
    fn key_of(&self, header: &segment::Header) -> Result<VerifierKey, OpenError> {
        if !header.origin.starts_with(&origin_prefix(&self.worker)) {
            return Err(OpenError::OtherWorker {
                path: self.dir.clone(),
                origin: header.origin.clone(),
            });
        }
        let ours = self.verifier(&header.origin);
        self.previous(&header.origin)
            .into_iter()
            .chain([ours])
            .find(|key| key.to_string() == header.key)
            .ok_or_else(|| self.other_key(&header.origin, &header.key))
    }

    /// Returns whether the trail, which ends under the key `verifier`, must still change to the
    /// given key.
    fn has_yet_to_change(
        &self,
        verifier: &VerifierKey,
        latest: &Latest,
    ) -> Result<bool, OpenError> {
        let ours = self.verifier(verifier.name());
        match latest {
            Latest::KeyChanged(key) if *key != ours.to_string() => {
                Err(self.other_key(verifier.name(), key))
            }
            Latest::KeyChanged(_) => Ok(false),
            Latest::Closed | Latest::Other => Ok(*verifier != ours),
        }
    }

    fn previous(&self, origin: &str) -> Option<VerifierKey> {
        let key = self.previous_key.as_ref()?;
        Some(VerifierKey::new(origin.into(), key.verifying_key()))
    }

    fn verifier(&self, origin: &str) -> VerifierKey {
        VerifierKey::new(origin.into(), self.key.verifying_key())
    }

    fn other_key(&self, origin: &str, theirs: &str) -> OpenError {
        OpenError::OtherKey {
            path: self.dir.clone(),
            theirs: theirs.to_owned(),
            ours: self.verifier(origin).to_string(),
        }
    }
}

/// Converts a failed system call on the trail's directory.
fn failed(
    path: &Path,
    operation: &'static str,
) -> impl FnOnce(std::io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::io(&path, operation, source)
}

/// Begins a segment with a header and further records, all of it durable on return.
fn begin<A: Application, S: Storage>(
    log: &mut Log<S>,
    queue: &Queue<A>,
    anchors: &Anchors,
    header: Event<A>,
    events: impl Iterator<Item = Event<A>>,
) -> Result<(), LogError> {
    let header = queue.number(header);
    let records: Vec<Record<A>> = events.map(|event| queue.number(event)).collect();
    log.begin_segment(&header, records.iter())?;
    if let Some(position) = &log.position {
        if let Some(below) = header.numbers_below() {
            queue.settle_numbers(below);
        }
        queue.settle(None, Arc::clone(&position.checkpoint), &VecDeque::new());
        let urgent = records.iter().any(Record::is_worth_anchoring);
        anchors.settled(&position.checkpoint, queue.made(&header), urgent);
    }
    Ok(())
}

/// The point behind which the trail continues.
struct End<A: Application> {
    next: Seq,
    verifier: VerifierKey,
    position: Option<Position>,
    /// `TailRecovered`, if the last run did not close the trail.
    recovered: Option<Event<A>>,
    /// The trail's present key must still announce the given one.
    is_under_another_key: bool,
}

impl<A: Application> End<A> {
    /// Returns the beginning of a new trail, under a unique name.
    fn new(worker: &WorkerId, key: &TrailKey) -> Result<Self, OpenError> {
        let mut name = [0; 8];
        fill_random(&mut name).map_err(|error| OpenError::Random(error.to_string()))?;
        let origin = format!("{}{}", origin_prefix(worker), hex::encode(name));
        Ok(Self {
            next: Seq(0),
            verifier: VerifierKey::new(origin.into(), key.verifying_key()),
            position: None,
            recovered: None,
            is_under_another_key: false,
        })
    }
}

fn origin_prefix(worker: &WorkerId) -> String {
    format!("vram-residency/{worker}/")
}
