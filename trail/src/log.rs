//! The end of a trail, and its two moves: a batch in the open segment, or a new segment.
//!
//! Either a whole batch becomes the new end, or the end stays where it was and the segment is given
//! up. After a failed write or sync it is unknown which bytes the disk has. This module knows
//! lines, checkpoints and the order of the steps. It does not know which callers wait for them.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::builder::Retention;
use super::checkpoint::{Checkpoint, VerifierKey};
use super::clock::Uptime;
use super::event::{FORMAT, Header};
use super::merkle::{Frontier, leaf_hash};
use super::open::OpenError;
use super::position::Position;
use super::queue::WriteFailure;
use super::record::Record;
use super::segment::MAX_LINE_BYTES;
use super::storage::{SegmentFile, SegmentReader, Storage};
use crate::application::Application;
use crate::foreign;
use crate::id::WorkerId;
use crate::key::{SignError, TrailKey};

use readback::Batch;

mod readback;

/// The end of a trail, and the means to move it.
#[derive(Debug)]
pub(crate) struct Log<S: Storage> {
    storage: S,
    key: TrailKey,
    verifier: VerifierKey,
    boot: Arc<str>,
    worker: WorkerId,
    retention: Retention,
    /// `None` before the first segment of a trail.
    pub(crate) position: Option<Position>,
    file: Option<S::File>,
    /// When the open segment was begun.
    begun: Uptime,
    /// The file of the next segment, if it exists already. It is empty and has no name.
    next: Option<S::File>,
    /// The file of the last attempt to begin a segment, if that attempt failed.
    refused: Option<S::File>,
    buffer: Vec<u8>,
}

/// The failed operation, its place and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {cause}")]
pub(crate) struct LogError {
    operation: &'static str,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Encode(#[from] serde_json::Error),
    #[error(
        "another file has the name of the next segment: another writer has taken this one's place, or a file was put there"
    )]
    Displaced,
    #[error(transparent)]
    Disturbed(#[from] Disturbed),
    #[error(
        "what is in this process's memory is not what was put there: a bit has flipped; check the machine's memory"
    )]
    Memory,
    #[error("no segment is open")]
    NotOpen,
    #[error("a record's line has {0} bytes, and no line may have more than {MAX_LINE_BYTES}")]
    TooLong(usize),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Storage(#[from] std::io::Error),
}

/// What another process has done to the open segment.
#[derive(Debug, thiserror::Error)]
enum Disturbed {
    #[error(
        "its file was changed by somebody else: it has {found} bytes, and {written} were written"
    )]
    Changed { found: u64, written: u64 },
    #[error("its file was removed or renamed by somebody else")]
    Removed,
    #[error("another file was put in its place by somebody else")]
    Replaced,
}

fn failed<E: Into<Cause>>(operation: &'static str) -> impl FnOnce(E) -> LogError {
    move |cause| LogError {
        operation,
        cause: cause.into(),
    }
}

fn not_open() -> LogError {
    failed("append")(Cause::NotOpen)
}

impl<S: Storage> Log<S> {
    pub(crate) fn new(
        storage: S,
        key: TrailKey,
        verifier: VerifierKey,
        boot: Arc<str>,
        worker: WorkerId,
        retention: Retention,
        position: Option<Position>,
    ) -> Self {
        Self {
            storage,
            key,
            verifier,
            boot,
            worker,
            retention,
            position,
            file: None,
            begun: Uptime::now(),
            next: None,
            refused: None,
            buffer: Vec::new(),
        }
    }

    /// Returns the fields of the header that the next segment begins with.
    pub(crate) fn next_header(&self, numbers_below: u64) -> Header {
        Header {
            format: FORMAT,
            numbers_below,
            segment: self.next_segment(),
            first_leaf: self.frontier().size(),
            origin: self.verifier.name().into(),
            key: self.verifier.to_string().into(),
            retention: self.retention.clone(),
            previous: self
                .position
                .as_ref()
                .map(|position| position.previous(self.void(position))),
        }
    }

    /// Returns how many bytes may stand behind the end: those of failed writes, and those there
    /// now.
    fn void(&self, position: &Position) -> u64 {
        let found = self.storage.find(position.segment).ok().flatten();
        let behind = found.map_or(0, |found| found.length.saturating_sub(position.end));
        position.void.max(behind)
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

    /// Returns whether there is a segment that can be appended to.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the size in bytes of the open segment, and its age.
    pub(super) fn extent(&self) -> (u64, Duration) {
        let bytes = self.position.as_ref().map_or(0, |position| position.end);
        (bytes, Uptime::now().since(self.begun))
    }

    /// Signs with another key from here on. The next segment must be begun.
    pub(super) fn change_key(&mut self, key: TrailKey, verifier: VerifierKey) {
        self.key = key;
        self.verifier = verifier;
        self.file = None;
    }

    /// Makes the file of the next segment, so that beginning it fails less often.
    pub(super) fn prepare_segment(&mut self) -> Result<(), LogError> {
        if self.next.is_none() {
            // The next attempt's header declares this file's checkpoint void. An opening that found the
            // file under the segment's name would continue the trail behind it.
            if let Some(refused) = &self.refused {
                let discarded = self.storage.discard(self.next_segment(), refused);
                discarded.map_err(failed("remove an unfinished segment"))?;
                self.refused = None;
            }
            let file = self.storage.create(self.next_segment());
            self.next = Some(file.map_err(failed("create segment"))?);
        }
        Ok(())
    }

    /// Compares the trail's end with its digest, before anything is built on it. If a bit has
    /// flipped in it, the end is read again from disk, and the open segment is given up; the result
    /// is the reason.
    ///
    /// # Errors
    ///
    /// The end could not be read. The trail cannot go on until it can.
    pub(super) fn check_memory(&mut self) -> Result<Option<LogError>, LogError> {
        #[cfg(feature = "fault-injection")]
        self.flip_end();
        let Some(damaged) = self.position.take_if(|position| !position.is_intact()) else {
            return Ok(None);
        };
        self.file = None;
        match damaged.restore(&self.storage, &self.verifier) {
            Ok(position) => {
                self.position = Some(position);
                Ok(Some(failed("check memory")(Cause::Memory)))
            }
            Err(error) => {
                self.position = Some(damaged);
                Err(failed("read the trail's end again")(error))
            }
        }
    }

    /// Removes segments that never got a name. Best effort, since they no longer matter.
    pub(crate) fn remove_unfinished(&self) {
        if let Err(error) = self.storage.remove_unfinished() {
            foreign::log(move || {
                tracing::warn!(target: crate::LOG, %error, "segments without a name cannot be removed from the audit trail's directory");
            });
        }
    }

    /// Gives up the open segment. The next one must be begun.
    pub(super) fn give_up(&mut self) {
        self.file = None;
    }

    /// Returns the key that signs the open segment.
    pub(super) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Returns a reader of segments for other threads.
    pub(super) fn reader(&self) -> std::io::Result<SegmentReader> {
        self.storage.reader()
    }

    /// Appends records and a checkpoint to the open segment and syncs them. On failure the segment
    /// is given up.
    pub(super) fn append<'a, A: Application>(
        &mut self,
        records: impl Iterator<Item = &'a Record<A>> + Clone,
    ) -> Result<(), LogError> {
        let (Some(mut file), Some(position)) = (self.file.take(), &self.position) else {
            return Err(not_open());
        };
        let (segment, start) = (position.segment, position.end);
        let batch = self.encode(start, records);
        let (frontier, checkpoint) = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // Nothing was written, so the segment is intact.
                self.file = Some(file);
                return Err(error);
            }
        };
        let length = self.buffer.len() as u64;
        let end = start.saturating_add(length);
        if let Err(error) = self.write(&mut file, segment, end) {
            self.leave(&file, length);
            return Err(error);
        }
        self.file = Some(file);
        self.position = Some(Position::new(segment, end, 0, frontier, checkpoint));
        Ok(())
    }

    /// Appends the buffer to a named segment, which then has `end` bytes, and syncs it.
    fn write(&self, file: &mut S::File, segment: u64, end: u64) -> Result<(), LogError> {
        file.append(&self.buffer).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.check(file, segment, end)
    }

    /// Checks that the segment's name leads to `file`, and that the file has as many bytes as were
    /// written. A file without a name still takes writes, but they can never be read again.
    fn check(&self, file: &S::File, segment: u64, written: u64) -> Result<(), LogError> {
        let found = self.storage.find(segment);
        let disturbed = match found.map_err(failed("check segment"))? {
            None => Disturbed::Removed,
            Some(found) if found.id != file.id() => Disturbed::Replaced,
            Some(found) if found.length != written => Disturbed::Changed {
                found: found.length,
                written,
            },
            Some(_) => return Ok(()),
        };
        Err(failed("check segment")(disturbed))
    }

    /// Gives up the open segment, `file`, into which `length` bytes were written in vain.
    fn leave(&mut self, file: &S::File, length: u64) {
        if let Some(position) = &mut self.position {
            let found = file.length().unwrap_or(0).saturating_sub(position.end);
            position.void = length.max(found);
        }
    }

    /// Checks the open segment. Gives it up if it differs from what was written.
    pub(super) fn inspect(&mut self) -> Result<(), LogError> {
        let (Some(file), Some(position)) = (self.file.take(), &self.position) else {
            return Ok(());
        };
        match self.check(&file, position.segment, position.end) {
            Err(error) if matches!(error.cause, Cause::Disturbed(_)) => {
                self.leave(&file, 0);
                Err(error)
            }
            // If it cannot be checked, the next write reports the reason.
            Ok(()) | Err(_) => {
                self.file = Some(file);
                Ok(())
            }
        }
    }

    /// Begins the next segment with `header`, the records and a checkpoint. It gets its name only
    /// when all of that is synced; until then nothing has happened.
    pub(crate) fn begin_segment<'a, A: Application>(
        &mut self,
        header: &'a Record<A>,
        records: impl Iterator<Item = &'a Record<A>> + Clone,
    ) -> Result<(), LogError> {
        // Whatever the result, the previous segment has ended: the header states its end.
        self.file = None;
        let segment = self.next_segment();
        // The file comes first, so that nothing is signed that could not be written anyway.
        self.prepare_segment()?;
        let (frontier, checkpoint) = self.encode(0, std::iter::once(header).chain(records))?;
        let mut file = self.next.take().ok_or_else(not_open)?;
        if let Err(error) = self.publish(&mut file, segment) {
            self.refused = Some(file);
            return Err(error);
        }
        self.file = Some(file);
        self.begun = Uptime::now();
        let end = self.buffer.len() as u64;
        self.position = Some(Position::new(segment, end, 0, frontier, checkpoint));
        Ok(())
    }

    /// Writes the buffer into the segment's file, syncs it and gives it its name.
    fn publish(&mut self, file: &mut S::File, segment: u64) -> Result<(), LogError> {
        file.append(&self.buffer).map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.storage.publish(segment, file).map_err(|error| {
            let is_taken = error.kind() == ErrorKind::AlreadyExists;
            failed("rename segment")(if is_taken {
                Cause::Displaced
            } else {
                error.into()
            })
        })?;
        self.storage
            .sync_names()
            .map_err(failed("sync directory"))?;
        self.check(file, segment, self.buffer.len() as u64)
    }

    /// Puts lines that start at `offset` of their segment, and their checkpoint, into the buffer.
    /// They are compared there once more before anything is written.
    fn encode<'a, A: Application>(
        &mut self,
        offset: u64,
        records: impl Iterator<Item = &'a Record<A>> + Clone,
    ) -> Result<(Frontier, Arc<Checkpoint>), LogError> {
        let mut batch = self.fill(offset, records.clone())?;
        if !self.is_as_hashed(offset, &batch) {
            foreign::log(|| {
                tracing::error!(target: crate::LOG,
                    "a bit has flipped in a batch of the audit trail before it was written; it is made again: check the machine's memory"
                );
            });
            batch = self.fill(offset, records)?;
            if !self.is_as_hashed(offset, &batch) {
                return Err(failed("check memory")(Cause::Memory));
            }
        }
        // Valid until the batch is acknowledged; then there is a new position.
        if let Some(position) = &mut self.position {
            let checkpoint = &batch.checkpoint;
            position.voided.push(checkpoint.size(), checkpoint.root());
        }
        Ok((batch.tree, Arc::new(batch.checkpoint)))
    }

    fn fill<'a, A: Application>(
        &mut self,
        offset: u64,
        records: impl Iterator<Item = &'a Record<A>>,
    ) -> Result<Batch, LogError> {
        let mut tree = self.frontier();
        let mut parity = 0;
        let mut leaves = Vec::new();
        self.buffer.clear();
        for record in records {
            let start = self.buffer.len();
            let offset = offset.saturating_add(start as u64);
            record
                .write_to(&self.boot, &self.worker, offset, &mut self.buffer)
                .map_err(failed("encode"))?;
            let line = self.buffer.get(start..).unwrap_or_default();
            if line.len() > MAX_LINE_BYTES {
                return Err(failed("encode")(Cause::TooLong(line.len())));
            }
            parity ^= readback::parity(line);
            let leaf = leaf_hash(line);
            leaves.push(leaf);
            tree.push(leaf);
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
        #[cfg(feature = "fault-injection")]
        self.flip_batch();
        Ok(Batch {
            tree,
            leaves,
            parity,
            checkpoint,
        })
    }
}

impl LogError {
    /// Converts to the error of opening a trail.
    pub(crate) fn into_open_error(self, path: &Path) -> OpenError {
        let source = match self.cause {
            Cause::Sign(error) => return OpenError::Sign(error),
            Cause::Storage(error) => error,
            other => std::io::Error::other(other),
        };
        OpenError::io(path, self.operation, source)
    }

    /// Returns whether another process has changed, removed or replaced the open segment.
    pub(super) fn is_disturbance(&self) -> bool {
        matches!(self.cause, Cause::Disturbed(_))
    }

    /// Returns whether another process's file has the name of the next segment.
    pub(super) fn is_displacement(&self) -> bool {
        matches!(self.cause, Cause::Displaced)
    }

    pub(super) fn to_failure(&self) -> WriteFailure {
        WriteFailure {
            operation: self.operation,
            cause: foreign::words(&self.cause).into(),
        }
    }
}
