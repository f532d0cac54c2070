//! The writer: one thread that makes records durable.
//!
//! It takes what is queued, writes the lines and a checkpoint with one write and one sync, and only
//! then tells those who wait. If a write or a sync fails, the file is given up: after a failed sync
//! nobody knows which bytes are on the disk, and a second sync would claim that they are. A new
//! segment is opened behind the last checkpoint that *was* synced, and all records since then are
//! written again from memory. If that fails too, the records stay in memory, the callers learn it,
//! and the next attempt comes with the next critical record or the next tick.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpoint, Frontier, VerifierKey, encode_base64, leaf_hash};
use super::event::{Event, Header, Lost, Previous, Record, Time, Uptime};
use super::open::OpenError;
use super::queue::{Wake, WriteFailure};
use super::storage::{SegmentFile, Storage};
use super::{CloseError, Receipt, Shared};
use crate::id::WorkerId;
use crate::key::TrailKey;

/// The most records in one write.
const MAX_BATCH: usize = 4096;

/// The most records in the first write after a failure: with little room, some may still fit.
const CAUTIOUS_BATCH: usize = 64;

/// The smallest difference between wall clock and uptime that is called a step.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// The longest cause of a failure in a record.
const MAX_CAUSE_CHARS: usize = 256;

/// Where the acknowledged part of the trail ends.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    /// The offset just behind the last acknowledged checkpoint line.
    pub(crate) end: u64,
    pub(crate) frontier: Frontier,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

/// The end of a trail, and the means to move it.
#[derive(Debug)]
pub(crate) struct Log<S: Storage> {
    pub(crate) storage: S,
    pub(crate) key: TrailKey,
    pub(crate) verifier: VerifierKey,
    pub(crate) boot: Arc<str>,
    pub(crate) worker: WorkerId,
    /// None before the first segment of a trail.
    pub(crate) position: Option<Position>,
    file: Option<S::File>,
    buffer: Vec<u8>,
}

/// What failed, where.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub(crate) struct LogError {
    pub(crate) operation: &'static str,
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    operation: &'static str,
) -> impl FnOnce(E) -> LogError {
    move |source| LogError {
        operation,
        source: source.into(),
    }
}

impl<S: Storage> Log<S> {
    pub(crate) fn new(
        storage: S,
        key: TrailKey,
        verifier: VerifierKey,
        boot: Arc<str>,
        worker: WorkerId,
        position: Option<Position>,
    ) -> Self {
        Self {
            storage,
            key,
            verifier,
            boot,
            worker,
            position,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// The fields of the header that the next segment begins with.
    pub(crate) fn next_header(&self) -> Header {
        Header {
            segment: self.next_segment(),
            first_leaf: self.frontier().size(),
            origin: self.verifier.name().into(),
            key: self.verifier.to_string().into(),
            previous: self.position.as_ref().map(|position| Previous {
                segment: position.segment,
                end: position.end,
                checkpoint: position.checkpoint.to_string(),
                frontier: position
                    .frontier
                    .nodes()
                    .iter()
                    .map(|node| encode_base64(node))
                    .collect(),
            }),
        }
    }

    fn next_segment(&self) -> u64 {
        self.position
            .as_ref()
            .map_or(0, |position| position.segment.saturating_add(1))
    }

    fn frontier(&self) -> Frontier {
        self.position
            .as_ref()
            .map(|position| position.frontier.clone())
            .unwrap_or_default()
    }

    /// Whether there is a segment that can be appended to.
    fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Appends records and a checkpoint to the open segment and syncs them. On failure the segment
    /// is given up.
    fn append<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<(), LogError> {
        let (Some(mut file), Some(position)) = (self.file.take(), self.position.clone()) else {
            return Err(failed("append")("no segment is open"));
        };
        let batch = self.encode(records);
        let (frontier, checkpoint) = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // Nothing was written: the segment is as good as before.
                self.file = Some(file);
                return Err(error);
            }
        };
        file.append(&self.buffer).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.file = Some(file);
        self.position = Some(Position {
            segment: position.segment,
            end: position.end.saturating_add(self.buffer.len() as u64),
            frontier,
            checkpoint,
        });
        Ok(())
    }

    /// Begins the next segment with `header`, the records and a checkpoint. It gets its name only
    /// when all of that is synced; until then nothing has happened.
    pub(crate) fn begin_segment<'a>(
        &mut self,
        header: &'a Record,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), LogError> {
        let segment = self.next_segment();
        let (frontier, checkpoint) = self.encode(std::iter::once(header).chain(records))?;
        let mut file = self
            .storage
            .create(segment)
            .map_err(failed("create segment"))?;
        file.append(&self.buffer).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.storage
            .publish(segment)
            .map_err(failed("rename segment"))?;
        self.storage
            .sync_names()
            .map_err(failed("sync directory"))?;
        self.file = Some(file);
        self.position = Some(Position {
            segment,
            end: self.buffer.len() as u64,
            frontier,
            checkpoint,
        });
        Ok(())
    }

    /// Puts lines and their checkpoint into the buffer.
    fn encode<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(Frontier, Arc<Checkpoint>), LogError> {
        let mut tree = self.frontier();
        self.buffer.clear();
        for record in records {
            let start = self.buffer.len();
            record
                .write_to(&self.boot, &self.worker, &mut self.buffer)
                .map_err(failed("encode"))?;
            tree.push(leaf_hash(self.buffer.get(start..).unwrap_or_default()));
            self.buffer.push(b'\n');
        }
        let body = Checkpoint::body(self.verifier.name(), &tree);
        let signature = self
            .key
            .sign(body.as_bytes())
            .map_err(failed("sign checkpoint"))?;
        let checkpoint = Checkpoint::sign_with(&self.verifier, &tree, &body, signature);
        let line = checkpoint.to_line().map_err(failed("encode"))?;
        self.buffer.extend_from_slice(line.as_bytes());
        Ok((tree, Arc::new(checkpoint)))
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer<S: Storage> {
    log: Log<S>,
    shared: Arc<Shared>,
    /// Taken from the queue and not durable yet, in the order of the numbers.
    pending: VecDeque<Record>,
    /// The trail's own events that have no number yet.
    own: Vec<Event>,
    /// The header of the segment that could not be begun yet. It keeps its number.
    header: Option<Record>,
    clock: ClockWatch,
    /// The receipt of `TrailClosed`.
    closed: Option<Receipt>,
}

impl<S: Storage> Writer<S> {
    pub(crate) fn new(log: Log<S>, shared: Arc<Shared>) -> Self {
        Self {
            log,
            pending: VecDeque::with_capacity(shared.queue.room()),
            own: Vec::new(),
            header: None,
            clock: ClockWatch::new(),
            closed: None,
            shared,
        }
    }

    /// Runs until the trail is closed; the receipt is that of `TrailClosed`.
    pub(crate) fn run(mut self) -> Result<Receipt, CloseError> {
        let _stopped = StopOnDrop(Arc::clone(&self.shared));
        let tick = self.shared.durable_within / 2;
        let mut next_tick = Instant::now();
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            let wake = self.shared.queue.wait_for_work(wait);
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now().checked_add(tick).unwrap_or(next_tick);
            }
            if let Wake::Close(deadline) = wake {
                return self.close(deadline, tick);
            }
            self.drain();
        }
    }

    /// What is due about twice in each durability interval.
    fn tick(&mut self) {
        if let Some(step_ns) = self.clock.step() {
            tracing::warn!(step_ns, "the wall clock was stepped");
            self.own.push(Event::ClockStepped { step_ns });
        }
        self.shared.tick_watched();
        self.shared.publish_counters();
    }

    /// Writes until nothing is left, or the disk refuses.
    fn drain(&mut self) {
        loop {
            for gap in self.shared.queue.gaps_to_log() {
                log_gap(&gap);
            }
            self.shared.queue.take(&mut self.pending, &mut self.own);
            if self.pending.is_empty() || self.commit().is_err() {
                return;
            }
        }
    }

    /// Makes the first records of `pending` durable.
    fn commit(&mut self) -> Result<(), LogError> {
        let limit = if self.shared.queue.is_failing() {
            CAUTIOUS_BATCH
        } else {
            MAX_BATCH
        };
        let mut count = self.pending.len().min(limit);
        let mut outcome = if self.log.is_open() {
            self.log.append(self.pending.iter().take(count))
        } else {
            self.begin_segment(count)
        };
        if let Err(error) = &outcome
            && !self.log.is_open()
            && self.header.is_none()
        {
            self.poison(error);
            count = self.pending.len().min(CAUTIOUS_BATCH.max(count));
            outcome = self.begin_segment(count);
        }
        match outcome {
            Ok(()) => self.settle(count),
            Err(error) => {
                self.report(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The open segment was given up: says so in a record of its own, once for each segment.
    fn poison(&mut self, error: &LogError) {
        let segment = self
            .log
            .position
            .as_ref()
            .map_or(0, |position| position.segment);
        tracing::error!(segment, %error, "the audit trail's segment is given up; its unsynced records are written again");
        let WriteFailure { operation, cause } = error.to_failure();
        self.own.push(Event::SegmentPoisoned {
            segment,
            operation,
            cause,
        });
        self.shared.queue.take(&mut self.pending, &mut self.own);
    }

    fn begin_segment(&mut self, count: usize) -> Result<(), LogError> {
        let header = match self.header.take() {
            Some(header) => header,
            None => self.shared.queue.number(Event::SegmentOpened {
                header: Box::new(self.log.next_header()),
            }),
        };
        let outcome = self
            .log
            .begin_segment(&header, self.pending.iter().take(count));
        if outcome.is_err() {
            self.header = Some(header);
        }
        outcome
    }

    /// The first `count` records are durable.
    fn settle(&mut self, count: usize) {
        let Some(checkpoint) = self.log.position.as_ref().map(|end| &end.checkpoint) else {
            return;
        };
        let checkpoint = Arc::clone(checkpoint);
        let settled = self.pending.drain(..count);
        let mut last = None;
        let mut anchor = false;
        for record in settled {
            last = Some(record.seq);
            anchor |= record.is_worth_anchoring();
            if matches!(record.event, Event::TrailClosed { .. }) {
                self.closed = Some(Receipt::new(record.seq, Arc::clone(&checkpoint)));
            }
        }
        self.shared
            .queue
            .settle(last, Arc::clone(&checkpoint), self.pending.len());
        if anchor {
            announce(&checkpoint);
        }
    }

    fn report(&self, error: &LogError) {
        if !self.shared.queue.is_failing() {
            tracing::error!(%error, records = self.pending.len(), "the audit trail cannot be written; its records stay in memory and are tried again");
        }
        self.shared.queue.report_failure(error.to_failure());
    }

    /// Writes what is left, then `TrailClosed`; tries again until the deadline.
    fn close(mut self, deadline: Instant, pause: Duration) -> Result<Receipt, CloseError> {
        let mut closing = Some(self.shared.closing_event());
        loop {
            self.drain();
            if self.pending.is_empty() {
                match closing.take() {
                    Some(event) => {
                        self.own.push(event);
                        continue;
                    }
                    None => break,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.abandon());
            }
            std::thread::sleep(left.min(pause));
        }
        self.shared.publish_counters();
        self.closed.ok_or(CloseError::WriterStopped)
    }

    /// The disk refused until the deadline: what is left is lost, and counted.
    fn abandon(&self) -> CloseError {
        let outside = self
            .pending
            .iter()
            .filter(|record| record.is_from_outside());
        let records = u64::try_from(outside.count()).unwrap_or(u64::MAX);
        let records = self.shared.queue.stop(records);
        tracing::error!(
            records,
            "the audit trail was closed while it could not be written; these records are lost"
        );
        self.shared.publish_counters();
        let failure = self.shared.queue.failure();
        CloseError::NotWritten {
            records,
            operation: failure.operation,
            cause: failure.cause,
        }
    }
}

impl LogError {
    /// What it means while the trail is being opened.
    pub(crate) fn into_open_error(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        OpenError::Io {
            path,
            operation: self.operation,
            source: std::io::Error::other(self.source),
        }
    }

    fn to_failure(&self) -> WriteFailure {
        WriteFailure {
            operation: self.operation,
            cause: shorten(&self.source.to_string()),
        }
    }
}

/// Gives a checkpoint to whoever collects logs: an anchor for nothing.
fn announce(checkpoint: &Checkpoint) {
    tracing::info!(
        target: "vram_residency::checkpoint",
        size = checkpoint.size(),
        checkpoint = %checkpoint,
        "checkpoint"
    );
}

fn log_gap(gap: &Lost) {
    tracing::error!(
        first = gap.first.value(),
        count = gap.count,
        since = %gap.first_time,
        "the audit trail has no room: records are lost"
    );
}

/// A cause as it may stand in a record.
fn shorten(text: &str) -> Arc<str> {
    text.chars()
        .take(MAX_CAUSE_CHARS)
        .collect::<String>()
        .into()
}

/// Notices when the wall clock jumps against the uptime.
#[derive(Debug)]
struct ClockWatch {
    offset: i64,
}

impl ClockWatch {
    fn new() -> Self {
        Self {
            offset: Self::offset(),
        }
    }

    fn offset() -> i64 {
        Time::now().0.saturating_sub(Uptime::now().nanoseconds())
    }

    /// The step since the last look, in nanoseconds.
    fn step(&mut self) -> Option<i64> {
        let offset = Self::offset();
        let step = offset.saturating_sub(self.offset);
        self.offset = offset;
        (u128::from(step.unsigned_abs()) >= CLOCK_STEP.as_nanos()).then_some(step)
    }
}

/// Whatever ends the thread, those who wait learn it.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.queue.stop(0);
    }
}

#[cfg(test)]
mod tests;
