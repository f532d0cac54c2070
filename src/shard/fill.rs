//! Filling a shard: writing pieces, or loading a stream from its first byte to its last.
//!
//! Every byte must have been written before a shard can be sealed. While a stream is loaded, its own
//! tree is computed, so that a copy that goes wrong on its way into the device is found at sealing.

use std::io::Read;
use std::ops::ControlFlow;

use vram_digest::{
    Digest, Progress, Stopped, Stream, StreamDigest, StreamError, Streamed, read_slice, read_stream,
};
use vram_trail::process;

use super::Shard;
use super::state::{Allocated, Content, Coverage};
use crate::device::{Device, DeviceError};
use crate::error::{LoadError, WriteError};

/// What a stream was while it was loaded. That the device got the same is found out at sealing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Loaded {
    /// The fs-verity digest of the stream.
    pub digest: Digest,
    /// Its plain SHA-256, if that was asked for.
    pub sha256: Option<StreamDigest>,
}

/// Where a load takes its bytes from.
pub(super) enum Source<'a, R> {
    Reader(R, Stream),
    /// Without its plain SHA-256.
    Slice(&'a [u8]),
}

/// Writes a chunk to the device at an offset.
pub(super) type Sink<'a> = dyn Fn(u64, &[u8]) -> Result<(), DeviceError> + Sync + 'a;

impl<D: Device> Shard<Allocated, D> {
    /// Writes `bytes` at `offset` (both in bytes).
    ///
    /// After a load this makes the shard something else than the stream that was loaded: neither its
    /// tree nor its SHA-256 counts any more. A failure of the device is recorded, and nothing that
    /// was written before it counts as written.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        process::check()?;
        let (len, shard_len) = (bytes.len() as u64, self.len());
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= shard_len)
            .ok_or(WriteError::OutOfBounds {
                offset,
                len,
                shard_len,
            })?;
        if len == 0 {
            return Ok(());
        }
        let mut coverage = self.take_coverage();
        if let Err(fault) = self.core.region.write(offset, bytes) {
            self.core.region.record_failure("write", &fault);
            return Err(WriteError::Device(fault));
        }
        coverage.add(offset..end);
        self.state.content = Content::Written(coverage);
        Ok(())
    }

    /// Loads exactly the shard's length from `reader`, in fixed memory.
    ///
    /// The calling thread reads; other cores copy into the device and hash. The calling thread helps them when
    /// it cannot read on.
    ///
    /// # Errors
    ///
    /// A reader that ends earlier or goes on fails the load, and so does a device that cannot be written. After
    /// any error nothing counts as written: load again, or release the shard. The failure is recorded
    /// (`DeviceFailed`, operation `load`).
    pub fn load_from(&mut self, reader: impl Read, stream: Stream) -> Result<Loaded, LoadError> {
        self.load_from_with_progress(reader, stream, go_on)
    }

    /// As [`load_from`](Self::load_from); the calling thread calls `progress` with the bytes read so far.
    ///
    /// # Errors
    ///
    /// [`ControlFlow::Break`] from `progress` ends the load with [`LoadError::Stopped`].
    pub fn load_from_with_progress(
        &mut self,
        reader: impl Read,
        stream: Stream,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        self.load(Source::Reader(reader, stream), &mut progress)
    }

    /// Loads bytes that lie in memory: all cores copy and hash, and no thread is the only one that reads.
    /// Otherwise as [`load_from`](Self::load_from), which it is with [`Stream::WithSha256`]: that digest is one
    /// core's work.
    ///
    /// Not for mapped files. If one is truncated meanwhile, or its file system fails, the kernel ends the
    /// process with SIGBUS, and there is neither an error nor a record; `load_from` returns an error. Requires
    /// of a caller who maps a file all the same: nothing can change, truncate or replace its contents while
    /// the slice lives.
    ///
    /// # Errors
    ///
    /// As [`load_from`](Self::load_from).
    pub fn load_slice(&mut self, bytes: &[u8], stream: Stream) -> Result<Loaded, LoadError> {
        self.load_slice_with_progress(bytes, stream, go_on)
    }

    /// As [`load_slice`](Self::load_slice); `progress` is called with the bytes done so far.
    ///
    /// # Errors
    ///
    /// [`ControlFlow::Break`] from `progress` ends the load with [`LoadError::Stopped`].
    pub fn load_slice_with_progress(
        &mut self,
        bytes: &[u8],
        stream: Stream,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        let source = match stream {
            Stream::TreeOnly => Source::Slice(bytes),
            stream => Source::Reader(bytes, stream),
        };
        self.load(source, &mut progress)
    }

    fn load(
        &mut self,
        source: Source<'_, impl Read>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        process::check()?;
        // What was there is void from the first byte on, even if the reader panics.
        self.state = Allocated::empty();
        let region = &mut self.core.region;
        let streamed = region
            .load(source, progress)
            .map_err(LoadError::from)
            .inspect_err(|error| region.record_failure("load", error))?;
        let loaded = Loaded {
            digest: streamed.tree.digest(),
            sha256: streamed.sha256,
        };
        self.state.content = Content::Streamed {
            tree: streamed.tree,
            sha256: streamed.sha256,
        };
        Ok(loaded)
    }

    /// What is covered so far; the shard is left as if nothing were.
    fn take_coverage(&mut self) -> Coverage {
        let len = self.len();
        match std::mem::replace(&mut self.state, Allocated::empty()).content {
            Content::Written(coverage) => coverage,
            Content::Streamed { .. } => {
                let mut whole = Coverage::default();
                whole.add(0..len);
                whole
            }
        }
    }
}

impl<R: Read> Source<'_, R> {
    /// Hands `len` bytes to `sink`, chunk by chunk with their offset, on several threads.
    pub(super) fn pour(
        self,
        len: u64,
        sink: &Sink<'_>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Streamed, StreamError<DeviceError>> {
        match self {
            Self::Reader(reader, stream) => read_stream(reader, len, stream, sink, progress),
            Self::Slice(bytes) => read_slice(bytes, len, sink, progress),
        }
    }
}

/// The progress callback of a load without one.
fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl From<StreamError<DeviceError>> for LoadError {
    fn from(error: StreamError<DeviceError>) -> Self {
        match error {
            StreamError::Read(source) => Self::Reader(source),
            StreamError::Sink(source) => Self::Device(source),
            StreamError::Stopped => Self::Stopped(Stopped::by_callback()),
            StreamError::TooLong { expected } => Self::TooLong { expected },
            StreamError::TooShort { expected, got } => Self::TooShort { expected, got },
        }
    }
}
