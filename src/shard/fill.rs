//! Filling a shard: writing pieces, or loading a stream from its first byte to its last.
//!
//! A shard can be sealed only after every byte was written. Loading computes the tree of the
//! stream, so sealing finds a copy that went wrong on its way into the device. This module does not
//! know which digest is expected.

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

/// The digests of a stream, computed while it was loaded.
///
/// Sealing checks that the device holds the same bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Loaded {
    /// The fs-verity digest of the stream.
    pub digest: Digest,
    /// The plain SHA-256 of the stream, if requested.
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
    /// After a load, the shard no longer counts as the loaded stream: its tree and its SHA-256 are
    /// discarded.
    ///
    /// # Errors
    ///
    /// - [`WriteError::OutOfBounds`]: the bytes do not fit, and nothing was written.
    /// - [`WriteError::Device`]: the device failed. The failure is recorded, and earlier writes do
    ///   not count as written either: write the shard again from the start, or release it.
    /// - [`WriteError::Forked`]: the call was made in a forked child.
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
    /// The calling thread reads. Other cores copy into the device and hash. The calling thread does so
    /// too while it cannot continue reading.
    ///
    /// # Errors
    ///
    /// After any error nothing counts as written: load again, or release the shard. The trail has
    /// the failure (`DeviceFailed`, operation `load`), except for `Forked`.
    ///
    /// - [`LoadError::Reader`]: the reader failed.
    /// - [`LoadError::TooShort`] or [`LoadError::TooLong`]: the reader does not yield exactly the
    ///   shard's length.
    /// - [`LoadError::Device`]: the device failed.
    /// - [`LoadError::Forked`]: the call was made in a forked child.
    pub fn load_from(&mut self, reader: impl Read, stream: Stream) -> Result<Loaded, LoadError> {
        self.load_from_with_progress(reader, stream, go_on)
    }

    /// As [`load_from`](Self::load_from). The calling thread calls `progress` with the number of bytes
    /// read.
    ///
    /// # Errors
    ///
    /// Also [`LoadError::Stopped`]: `progress` returned [`ControlFlow::Break`].
    pub fn load_from_with_progress(
        &mut self,
        reader: impl Read,
        stream: Stream,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        self.load(Source::Reader(reader, stream), &mut progress)
    }

    /// Loads bytes that lie in memory, on all cores.
    ///
    /// All cores copy and hash, and no single thread has to read. With [`Stream::WithSha256`], this
    /// is [`load_from`](Self::load_from), because one core computes that digest.
    ///
    /// Not for mapped files: if the file is truncated meanwhile, or its file system fails, the
    /// kernel ends the process with SIGBUS. There is neither an error nor a record then, while
    /// `load_from` returns an error. Requires, for a mapped file: nothing changes, truncates or
    /// replaces its contents while the slice lives.
    ///
    /// # Errors
    ///
    /// As [`load_from`](Self::load_from), without [`LoadError::Reader`].
    pub fn load_slice(&mut self, bytes: &[u8], stream: Stream) -> Result<Loaded, LoadError> {
        self.load_slice_with_progress(bytes, stream, go_on)
    }

    /// As [`load_slice`](Self::load_slice). The calling thread calls `progress` with the number of bytes
    /// done.
    ///
    /// # Errors
    ///
    /// Also [`LoadError::Stopped`]: `progress` returned [`ControlFlow::Break`].
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
        // The old content is void from the first byte on, even if the reader panics.
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

    /// Takes the coverage so far, and leaves the shard as not written.
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
