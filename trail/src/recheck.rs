//! Reads each finished segment once more, as a verifier does, in parallel to the writer.
//!
//! The writer hashes a record in memory, and then writes it. If a bit flips in between, the segment
//! does not hold what was signed, and only reading it back shows that. So a thread reads the
//! acknowledged part and compares it with the checkpoint that acknowledged it. It does so whenever
//! the writer has left a segment, and before the trail is closed.
//!
//! It reads from the page cache, since it checks what this process has written, and not what the
//! medium made of it. The thread rests for three quarters of the time unless a caller waits, and
//! lives as long as there are segments to read. This module does not know how a finding is handled.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::checkpoint::VerifierKey;
use super::event::Text;
use super::position::Position;
use super::segment;
use super::storage::SegmentReader;
use super::threads::{self, Condvar, Instant, JoinHandle, Mutex, MutexGuard};
use crate::{foreign, process};

/// The most waiting segments: as many as a writer at full speed makes in some minutes.
const MAX_WAITING: usize = 1024;

/// How long the thread rests after a piece, as a multiple of the time for that piece. The
/// application needs the cores.
const REST: u32 = 3;

/// Reads finished segments again, one after the other.
pub(super) struct Recheck(Arc<Desk>);

struct Desk {
    reader: SegmentReader,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Finished>,
    is_working: bool,
    /// A caller waits, so there is no rest.
    hurried: bool,
    stopped: bool,
    found: Vec<Unsound>,
    /// The last thread that was started.
    thread: Option<JoinHandle<()>>,
}

/// The acknowledged part of a segment, and the key that signs there.
struct Finished {
    position: Position,
    key: VerifierKey,
}

/// A segment that does not hold the records acknowledged there.
#[derive(Clone, Debug)]
pub(super) struct Unsound {
    pub(super) segment: u64,
    pub(super) words: Text,
}

impl Recheck {
    pub(super) fn new(reader: SegmentReader) -> Self {
        Self(Arc::new(Desk {
            reader,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }))
    }

    /// Queues the records acknowledged up to `position` to be read again. Never waits.
    pub(super) fn add(&self, position: Position, key: VerifierKey) {
        let mut state = self.0.lock();
        if state.waiting.len() >= MAX_WAITING {
            let segment = position.segment;
            drop(state);
            foreign::log(move || {
                tracing::warn!(target: crate::LOG,
                    segment,
                    "a finished segment of the audit trail is not read again: too many wait for that"
                );
            });
            return;
        }
        state.waiting.push_back(Finished { position, key });
        if std::mem::replace(&mut state.is_working, true) {
            return;
        }
        drop(state);
        let desk = Arc::clone(&self.0);
        let started = threads::Builder::new()
            .name("vram-recheck".into())
            .spawn(move || desk.work());
        match started {
            Ok(thread) => self.0.lock().thread = Some(thread),
            Err(error) => {
                foreign::log(move || {
                    tracing::warn!(target: crate::LOG, %error, "finished segments of the audit trail wait to be read again: no thread can be started");
                });
                self.0.lock().is_working = false;
            }
        }
    }

    /// Waits until all is read, at most until `deadline`. Returns false if it is not.
    pub(super) fn wait(&self, deadline: Instant) -> bool {
        let mut state = self.0.lock();
        state.hurried = true;
        self.0.changed.notify_all();
        while state.is_working {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .0
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let all = state.waiting.is_empty();
        let thread = state.thread.take();
        drop(state);
        // The thread is about to end, and holds the directory open until then: a caller that closes
        // a trail may want to unmount it. A panic in the thread leaves its segment unread.
        thread.is_none_or(|thread| thread.join().is_ok()) && all
    }

    /// Returns the findings since the last call.
    pub(super) fn take_found(&self) -> Vec<Unsound> {
        std::mem::take(&mut self.0.lock().found)
    }
}

impl Drop for Recheck {
    fn drop(&mut self) {
        // In a forked child the lock may be held for ever.
        if process::check().is_ok() {
            self.0.lock().stopped = true;
            self.0.changed.notify_all();
        }
    }
}

impl fmt::Debug for Recheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recheck").finish_non_exhaustive()
    }
}

impl Desk {
    /// No code panics while it holds the lock, so a poisoned lock protects consistent data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the thread.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let next = state.waiting.pop_front().filter(|_| !state.stopped);
            state.is_working = next.is_some();
            drop(state);
            let Some(finished) = next else {
                self.changed.notify_all();
                return;
            };
            let outcome = self.read(&finished);
            let mut state = self.lock();
            if let Err(words) = outcome
                && !state.stopped
            {
                let segment = finished.position.segment;
                state.found.push(Unsound { segment, words });
            }
        }
    }

    /// Rests after a piece of work, unless a caller waits. Returns false if there is nothing more
    /// to do.
    fn rest(&self, work: Duration) -> bool {
        let state = self.lock();
        if state.hurried || state.stopped || work.is_zero() {
            return !state.stopped;
        }
        let rest = work.saturating_mul(REST);
        let rested = self.changed.wait_timeout(state, rest);
        !rested.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    fn read(&self, finished: &Finished) -> Result<(), Text> {
        let Finished { position, key } = finished;
        let segment = position.segment;
        let source = (self.reader)(segment).map(|source| Paced {
            source,
            desk: self,
            begun: None,
        });
        let keys = std::slice::from_ref(key);
        let end = Some(position.end);
        let summary = source
            .and_then(|source| segment::read_alone(source, segment, keys, end, &mut |_| {}))
            .map_err(|error| Text::from(format!("it cannot be read again: {error}")))?;
        if let Some(damage) = summary.damage.first() {
            let line = damage.place.line;
            return Err(format!("line {line}: {}", damage.words).into());
        }
        if summary.checkpoint.as_ref() != Some(&*position.checkpoint) {
            return Err("it ends with another checkpoint than was written".into());
        }
        Ok(())
    }
}

/// A reader that rests between pieces, and ends early when the trail does.
struct Paced<'a, R> {
    source: R,
    desk: &'a Desk,
    /// When the last piece was requested.
    begun: Option<Instant>,
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let work = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        if !self.desk.rest(work) {
            return Err(io::Error::other("the trail is closed"));
        }
        self.begun = Some(Instant::now());
        self.source.read(out)
    }
}
