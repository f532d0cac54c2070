//! Opening a trail: a new one, or one that earlier runs of the worker have written.
//!
//! An existing trail is trusted only as far as its last checkpoint that our own key signed and that
//! fits its leaves. What stands behind it was never acknowledged: it stays where it is, void, and
//! `TailRecovered` says so. A trail that is damaged before that point, or signed with another key,
//! is refused: going on would bury the evidence. No byte of an old segment is changed.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::builder::{AuditTrailBuilder, RESERVED_RECORDS};
use super::checkpoint::VerifierKey;
use super::clock::Uptime;
use super::event::{Event, Seq};
use super::log::{Log, Position};
use super::queue::Queue;
use super::segment::{self, Seen};
use super::storage::{Storage, segment_name};
use super::writer::{Writer, announce};
use super::{AuditTrail, Live, Shared};
use crate::id::WorkerId;
use crate::key::{SignError, TrailKey, fill_random};
use crate::process::Forked;

/// The highest number a record can have: beyond it `jq` and JavaScript would round.
const MAX_SEQ: u64 = 1 << 53;

/// Why a trail could not be opened. No segment of it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting makes no sense.
    #[error("{setting} must be {allowed}")]
    Configuration {
        /// Which one.
        setting: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The trail is damaged before its last checkpoint.
    #[error(
        "the trail in {path} is damaged in {segment} ({detail}): keep it as it is for the investigation and start a trail in a new directory"
    )]
    Damaged {
        /// The trail's directory.
        path: PathBuf,
        /// The segment's file.
        segment: String,
        /// What is wrong.
        detail: String,
    },
    /// The call was made in a forked child of a process that has opened a trail.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// A system call failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process has the trail open, or this one has.
    #[error("{path} is open already: a trail has one writer; use a directory for each worker")]
    Locked {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The path does not lead to a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The trail is that of another worker.
    #[error(
        "{path} holds the trail `{origin}`, which is not this worker's: use a directory for each worker"
    )]
    OtherWorker {
        /// The trail's directory.
        path: PathBuf,
        /// The trail's origin.
        origin: String,
    },
    /// The trail is signed with another key.
    #[error(
        "the trail in {path} belongs to the key {theirs}, and the key given is {ours}: give the key that the trail was created with, or start a trail in a new directory"
    )]
    OtherKey {
        /// The trail's directory.
        path: PathBuf,
        /// The verifier key that the trail names.
        theirs: String,
        /// The verifier key of the key given.
        ours: String,
    },
    /// The directory belongs to somebody else.
    #[error("{path} belongs to user {owner}: use a directory that belongs to the worker's user")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// Others can reach the directory.
    #[error("{path} has mode {mode:04o}, so others can reach it: chmod 0700 {path}")]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system's random number generator failed.
    #[error("no random numbers for the trail's name: {0}")]
    Random(String),
    /// The key could not sign the first checkpoint.
    #[error("the trail's key does not sign: {0}")]
    Sign(#[from] SignError),
    /// The path is a symbolic link.
    #[error(
        "{path} is a symbolic link: give the directory itself, so that nobody can redirect the trail"
    )]
    SymbolicLink {
        /// The link.
        path: PathBuf,
    },
}

impl AuditTrailBuilder {
    pub(super) fn open_on<S: Storage>(self, storage: S) -> Result<AuditTrail, OpenError> {
        let path = self.dir.clone();
        let (writer, shared) = self.prepare(storage)?;
        let writer = std::thread::Builder::new()
            .name("vram-audit".into())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io {
                path,
                operation: "start the writer of",
                source,
            })?;
        Ok(AuditTrail {
            shared,
            writer: Some(writer),
        })
    }

    /// Everything but the writer's thread: the trail is open, and `TrailOpened` is durable.
    pub(super) fn prepare<S: Storage>(
        self,
        storage: S,
    ) -> Result<(Writer<S>, Arc<Shared>), OpenError> {
        let path = self.dir.clone();
        let io = |operation| {
            let path = path.clone();
            move |source| OpenError::Io {
                path,
                operation,
                source,
            }
        };
        storage
            .remove_unfinished()
            .map_err(io("remove unfinished segment in"))?;
        let segments = storage.segments().map_err(io("list segments in"))?;
        let end = match segments.last() {
            None => End::new(&self.worker, &self.key)?,
            Some(&last) => self.find_end(&storage, last)?,
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(io("read the boot id for"))?;
        let configuration = self.settings.configuration();
        let queue = Queue::new(
            end.next,
            Uptime::now(),
            self.settings.queue_records,
            RESERVED_RECORDS,
        );
        let mut log = Log::new(
            storage,
            self.key,
            end.verifier.clone(),
            boot.trim().into(),
            self.worker.clone(),
            end.position,
        );
        let header = queue.number(Event::TrailOpened {
            header: Box::new(log.next_header()),
            configuration: Box::new(configuration),
        });
        let recovered = end.recovered.map(|event| queue.number(event));
        log.begin_segment(&header, recovered.iter())
            .map_err(|error| error.into_open_error(&path))?;
        if let Some(position) = &log.position {
            queue.settle(None, Arc::clone(&position.checkpoint), 0);
            if recovered.is_some() {
                announce(&position.checkpoint);
            }
        }
        let shared = Arc::new(Shared {
            queue,
            refused: AtomicBool::new(false),
            worker: self.worker,
            verifier: end.verifier,
            settings: self.settings,
            live: Mutex::new(Live::default()),
            watched: Mutex::new(Vec::new()),
        });
        Ok((Writer::new(log, Arc::clone(&shared)), shared))
    }

    /// Reads the last segment and finds the point behind which the trail goes on.
    fn find_end<S: Storage>(&self, storage: &S, last: u64) -> Result<End, OpenError> {
        let damaged = |detail: &str| OpenError::Damaged {
            path: self.dir.clone(),
            segment: segment_name(last),
            detail: detail.to_owned(),
        };
        let io = |source| OpenError::Io {
            path: self.dir.join(segment_name(last)),
            operation: "read",
            source,
        };
        // The run that wrote this may have been killed before its last sync. What follows will rest on
        // it, so it must be on the disk, and not in the page cache alone.
        let durable = storage.sync(last).and_then(|()| storage.sync_names());
        durable.map_err(|source| OpenError::Io {
            path: self.dir.join(segment_name(last)),
            operation: "sync",
            source,
        })?;
        let header = segment::read_header(storage.read(last).map_err(io)?)
            .map_err(io)?
            .ok_or_else(|| damaged("its first line is not the header of a segment"))?;
        let verifier = self.own_key(&header)?;
        let mut closed = false;
        let mut last_event_closes = false;
        let summary = segment::read(
            storage.read(last).map_err(io)?,
            last,
            std::slice::from_ref(&verifier),
            None,
            &mut |seen| match seen {
                Seen::Record(_, record, _) => last_event_closes = record.event == "TrailClosed",
                Seen::Acknowledged => closed = last_event_closes,
                Seen::Start(_) => {}
            },
        )
        .map_err(io)?;
        if let Some(damage) = summary.damage.first() {
            return Err(damaged(&format!(
                "line {}: {}",
                damage.place.line, damage.words
            )));
        }
        let next = summary
            .highest_seq
            .and_then(|highest| highest.checked_add(1))
            .filter(|next| *next <= MAX_SEQ)
            .ok_or_else(|| damaged("its numbers are not those of a trail"))?;
        let checkpoint = summary
            .checkpoint
            .ok_or_else(|| damaged("it has no checkpoint that this key signed and that fits"))?;
        let clean = closed && summary.behind.bytes == 0;
        let recovered = (!clean).then_some(Event::TailRecovered {
            segment: last,
            void_from: summary.end,
            void_bytes: summary.behind.bytes,
            void_records: summary.behind.records,
            highest_seq: Seq(next.saturating_sub(1)),
        });
        Ok(End {
            next: Seq(next),
            verifier,
            position: Some(Position {
                segment: last,
                end: summary.end,
                frontier: summary.frontier,
                checkpoint: Arc::new(checkpoint),
            }),
            recovered,
        })
    }

    /// Our own key under the trail's name, if the trail says that it is ours. That it says so
    /// proves nothing; that its last checkpoint verifies under this key does.
    fn own_key(&self, header: &segment::Header) -> Result<VerifierKey, OpenError> {
        if !header.origin.starts_with(&origin_prefix(&self.worker)) {
            return Err(OpenError::OtherWorker {
                path: self.dir.clone(),
                origin: header.origin.clone(),
            });
        }
        let ours = VerifierKey::new(header.origin.as_str().into(), self.key.verifying_key());
        if header.key != ours.to_string() {
            return Err(OpenError::OtherKey {
                path: self.dir.clone(),
                theirs: header.key.clone(),
                ours: ours.to_string(),
            });
        }
        Ok(ours)
    }
}

/// The point behind which the trail goes on.
struct End {
    next: Seq,
    verifier: VerifierKey,
    position: Option<Position>,
    /// `TailRecovered`, if the last run did not close the trail.
    recovered: Option<Event>,
}

impl End {
    /// The beginning of a new trail, under a name that no other trail has.
    fn new(worker: &WorkerId, key: &TrailKey) -> Result<Self, OpenError> {
        let mut name = [0; 8];
        fill_random(&mut name).map_err(|error| OpenError::Random(error.to_string()))?;
        let origin = format!("{}{}", origin_prefix(worker), hex::encode(name));
        Ok(Self {
            next: Seq(0),
            verifier: VerifierKey::new(origin.into(), key.verifying_key()),
            position: None,
            recovered: None,
        })
    }
}

fn origin_prefix(worker: &WorkerId) -> String {
    format!("vram-residency/{worker}/")
}
