//! The tree over a stream, and its plain SHA-256 if requested, in one pass and in fixed memory.
//!
//! The calling thread reads chunks into a fixed set of buffers and queues them. Helpers hash the
//! queued chunks and hand them to a sink, which writes them into a device, while the next chunk is
//! read. When no buffer is free, the calling thread works on the queue as well. A buffer is free
//! again after its last user. Bytes that already lie in memory need neither reader nor buffers.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::parallel::{CHUNK_WINDOWS, Ended, hash_chunk, helper, nodes_of_slice, threads};
use super::{CHUNK_BYTES, NODE_BYTES, Node, Progress, Stream, StreamDigest, Tree, WINDOW_BYTES};

#[cfg(test)]
mod tests;

/// The maximum number of buffers in use at a time: 8 MiB in all.
pub const BUFFERS: usize = 8;

/// The digests computed over a stream.
#[derive(Debug)]
pub struct Streamed {
    /// The tree of all that was read.
    pub tree: Tree,
    /// The plain SHA-256, if it was asked for.
    pub sha256: Option<StreamDigest>,
}

/// The reason why a stream was not read to its end.
#[derive(Debug)]
pub enum StreamError<E> {
    /// The reader failed.
    Read(io::Error),
    /// The sink failed.
    Sink(E),
    /// The progress callback stopped the work.
    Stopped,
    /// The reader has more bytes than expected.
    TooLong {
        /// Bytes expected.
        expected: u64,
    },
    /// The reader ended before the expected length.
    TooShort {
        /// Bytes expected.
        expected: u64,
        /// Bytes read.
        got: u64,
    },
}

impl<E> From<io::Error> for StreamError<E> {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads exactly `len` bytes, hands them to `sink`, and computes the tree over them.
///
/// The sink gets chunk by chunk with its offset, in any order and on several threads. The function
/// tries to read one byte more, to notice a longer stream.
///
/// # Errors
///
/// - [`StreamError::Read`]: the reader failed.
/// - [`StreamError::Sink`]: the sink failed, which takes precedence over the other reasons.
/// - [`StreamError::Stopped`]: `progress` returned [`ControlFlow::Break`].
/// - [`StreamError::TooLong`] or [`StreamError::TooShort`]: the reader does not yield exactly `len`
///   bytes.
pub fn read_stream<E: Send>(
    mut reader: impl Read,
    len: u64,
    stream: Stream,
    sink: impl Fn(u64, &[u8]) -> Result<(), E> + Sync,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Streamed, StreamError<E>> {
    let sink = |offset, bytes: &[u8]| sink(offset, bytes).map_err(StreamError::Sink);
    let streamed = pump(&mut reader, len, stream, sink, |done| {
        match progress(Progress { done, total: len }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StreamError::Stopped),
        }
    })?;
    let got = streamed.tree.len();
    if got < len {
        return Err(StreamError::TooShort { expected: len, got });
    }
    match fill(&mut reader, &mut [0])? {
        0 => Ok(streamed),
        _ => Err(StreamError::TooLong { expected: len }),
    }
}

/// Does the same as [`read_stream`] for bytes in memory, without their plain SHA-256.
///
/// # Errors
///
/// As [`read_stream`], without [`StreamError::Read`].
pub fn read_slice<E: Send>(
    bytes: &[u8],
    len: u64,
    sink: impl Fn(u64, &[u8]) -> Result<(), E> + Sync,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Streamed, StreamError<E>> {
    match bytes.len() as u64 {
        got if got < len => return Err(StreamError::TooShort { expected: len, got }),
        got if got > len => return Err(StreamError::TooLong { expected: len }),
        _ => {}
    }
    let nodes = nodes_of_slice(bytes, sink, &mut progress).map_err(|ended| match ended {
        Ended::Stopped => StreamError::Stopped,
        Ended::Sink(error) => StreamError::Sink(error),
    })?;
    Ok(Streamed {
        tree: Tree::from_nodes(len, nodes),
        sha256: None,
    })
}

/// Computes the digests of everything that a reader yields.
pub(super) fn whole_reader(mut reader: impl Read, stream: Stream) -> io::Result<Streamed> {
    pump(&mut reader, u64::MAX, stream, |_, _| Ok(()), |_| Ok(()))
}

/// A chunk and the number of its first window.
struct Chunk {
    window: u64,
    bytes: Zeroizing<Vec<u8>>,
}

/// A piece of work that any thread can do.
enum Job {
    Nodes(Arc<Chunk>),
    Serial(Box<Sha256>, Arc<Chunk>),
}

/// The state shared by the threads.
struct Pool<E, S> {
    stream: Stream,
    /// The destination of every chunk.
    sink: S,
    state: Mutex<State<E>>,
    changed: Condvar,
}

struct State<E> {
    /// Chunks without nodes yet.
    chunks: VecDeque<Arc<Chunk>>,
    /// Chunks that the plain SHA-256 has yet to hash, in order.
    serial: VecDeque<Arc<Chunk>>,
    /// The plain SHA-256 so far. Empty while a thread works on it, and if it was not requested.
    sha256: Option<Box<Sha256>>,
    nodes: Vec<Node>,
    free: Vec<Zeroizing<Vec<u8>>>,
    /// The number of buffers that may still be allocated.
    unmade: usize,
    /// Set when no more work will be queued: a thread that finds no work ends.
    closed: bool,
    /// Set after an error or a panic: all threads end at once.
    abandoned: bool,
    /// The first error of the sink.
    failed: Option<E>,
}

/// Abandons the work on drop while armed.
///
/// An error or a panic of the reader or the sink ends the helpers. A panic in a helper ends the
/// caller's wait.
struct Abandon<'a, E, S> {
    pool: &'a Pool<E, S>,
    armed: bool,
}

impl<E, S> Drop for Abandon<'_, E, S> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.lock().abandoned = true;
            self.pool.changed.notify_all();
        }
    }
}

/// Reads to the end of the reader, or `limit` bytes, and calls `each` with the number of bytes read
/// so far.
fn pump<E: From<io::Error> + Send>(
    reader: &mut impl Read,
    limit: u64,
    stream: Stream,
    sink: impl Fn(u64, &[u8]) -> Result<(), E> + Sync,
    mut each: impl FnMut(u64) -> Result<(), E>,
) -> Result<Streamed, E> {
    let pool = Pool::new(stream, sink);
    let fed = thread::scope(|scope| {
        let mut guard = pool.guard();
        let len = pool.feed(scope, reader, limit, &mut each)?;
        pool.close();
        guard.armed = false;
        Ok::<_, E>(len)
    });
    pool.finish(fed)
}

impl<E, S> Pool<E, S> {
    fn new(stream: Stream, sink: S) -> Self {
        Self {
            stream,
            sink,
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                serial: VecDeque::new(),
                sha256: match stream {
                    Stream::TreeOnly => None,
                    Stream::WithSha256 => Some(Box::default()),
                },
                nodes: Vec::new(),
                free: Vec::new(),
                unmade: BUFFERS,
                closed: false,
                abandoned: false,
                failed: None,
            }),
            changed: Condvar::new(),
        }
    }

    fn guard(&self) -> Abandon<'_, E, S> {
        Abandon {
            pool: self,
            armed: true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<E>>) -> MutexGuard<'a, State<E>> {
        let state = self.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Send, S: Fn(u64, &[u8]) -> Result<(), E> + Sync> Pool<E, S> {
    /// Reads and queues chunk after chunk, and returns the number of bytes.
    fn feed<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        reader: &mut impl Read,
        limit: u64,
        each: &mut impl FnMut(u64) -> Result<(), E>,
    ) -> Result<u64, E>
    where
        E: From<io::Error>,
    {
        let mut offset = 0u64;
        let mut helpers = 0;
        let mut most = None;
        while offset < limit {
            let wanted = limit.saturating_sub(offset).min(CHUNK_BYTES as u64) as usize;
            let Some(mut bytes) = self.buffer(wanted) else {
                break;
            };
            let got = fill(reader, &mut bytes)?;
            bytes.truncate(got);
            if got > 0 {
                // One chunk is not worth a helper; each further chunk may add one.
                if offset > 0 && helpers < *most.get_or_insert_with(|| threads().saturating_sub(1))
                {
                    helpers = usize::saturating_add(helpers, 1);
                    let _helper = helper().spawn_scoped(scope, || self.help());
                }
                self.queue(bytes);
                offset = offset.saturating_add(got as u64);
                each(offset)?;
            }
            if got < wanted {
                break;
            }
        }
        Ok(offset)
    }

    /// Returns a buffer of `len` bytes, and works on the queue until one is free.
    ///
    /// Returns `None` if the work was abandoned.
    fn buffer(&self, len: usize) -> Option<Zeroizing<Vec<u8>>> {
        let mut state = self.lock();
        while !state.abandoned {
            if let Some(mut buffer) = state.free.pop() {
                buffer.resize(len, 0);
                return Some(buffer);
            }
            if let Some(left) = state.unmade.checked_sub(1) {
                state.unmade = left;
                return Some(Zeroizing::new(vec![0; len]));
            }
            state = match state.take() {
                None => self.wait(state),
                Some(job) => {
                    drop(state);
                    self.perform(job);
                    self.lock()
                }
            };
        }
        None
    }

    fn queue(&self, bytes: Zeroizing<Vec<u8>>) {
        let mut state = self.lock();
        let window = state.nodes.len();
        let end = window.saturating_add(bytes.len().div_ceil(WINDOW_BYTES));
        state.nodes.resize(end, [0; NODE_BYTES]);
        let chunk = Arc::new(Chunk {
            window: window as u64,
            bytes,
        });
        if self.stream == Stream::WithSha256 {
            state.serial.push_back(Arc::clone(&chunk));
        }
        state.chunks.push_back(chunk);
        drop(state);
        self.changed.notify_all();
    }

    /// Works on the queue until it is closed and empty.
    fn help(&self) {
        let mut guard = self.guard();
        let mut state = self.lock();
        while !state.abandoned {
            state = match state.take() {
                Some(job) => {
                    drop(state);
                    self.perform(job);
                    self.lock()
                }
                None if state.closed => break,
                None => self.wait(state),
            };
        }
        guard.armed = false;
    }

    /// Works until the queue is empty, then closes it so that the helpers end.
    fn close(&self) {
        loop {
            let mut state = self.lock();
            let Some(job) = state.take().filter(|_| !state.abandoned) else {
                state.closed = true;
                break;
            };
            drop(state);
            self.perform(job);
        }
        self.changed.notify_all();
    }

    fn perform(&self, job: Job) {
        match job {
            Job::Nodes(chunk) => {
                let mut nodes = [[0; NODE_BYTES]; CHUNK_WINDOWS];
                hash_chunk(chunk.window, &chunk.bytes, &mut nodes);
                let sunk = (self.sink)(chunk.offset(), &chunk.bytes);
                let mut state = self.lock();
                if let Err(error) = sunk {
                    state.failed.get_or_insert(error);
                    state.abandoned = true;
                }
                let places = state.nodes.iter_mut().skip(chunk.window as usize);
                for (place, node) in places.zip(nodes).take(chunk.windows()) {
                    *place = node;
                }
                state.release(chunk);
            }
            Job::Serial(mut sha256, chunk) => {
                sha256.update(chunk.bytes.as_slice());
                let mut state = self.lock();
                state.sha256 = Some(sha256);
                state.release(chunk);
            }
        }
        self.changed.notify_all();
    }

    /// Collects the result, after all threads have ended.
    ///
    /// Without an error, all `fed` bytes are hashed. A failure of the sink takes precedence over
    /// the reason why reading ended.
    fn finish(self, fed: Result<u64, E>) -> Result<Streamed, E> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(error) => Err(error),
            None => Ok(Streamed {
                tree: Tree::from_nodes(fed?, state.nodes),
                sha256: state
                    .sha256
                    .map(|sha256| StreamDigest::from_bytes(sha256.finalize().into())),
            }),
        }
    }
}

impl<E> State<E> {
    /// Takes the next piece of work. The plain SHA-256 goes first, because it takes longest.
    fn take(&mut self) -> Option<Job> {
        if !self.serial.is_empty()
            && let Some(sha256) = self.sha256.take()
        {
            let chunk = self.serial.pop_front()?;
            return Some(Job::Serial(sha256, chunk));
        }
        self.chunks.pop_front().map(Job::Nodes)
    }

    /// Takes the buffer back after its last user.
    fn release(&mut self, chunk: Arc<Chunk>) {
        if let Some(chunk) = Arc::into_inner(chunk) {
            self.free.push(chunk.bytes);
        }
    }
}

impl Chunk {
    fn offset(&self) -> u64 {
        self.window.saturating_mul(WINDOW_BYTES as u64)
    }

    fn windows(&self) -> usize {
        self.bytes.len().div_ceil(WINDOW_BYTES)
    }
}

/// Reads until `bytes` is full or the reader ends, and returns the number of bytes read.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0usize;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(got) if got > rest.len() => {
                return Err(io::Error::other("the reader claims more bytes than fit"));
            }
            Ok(got) => filled = filled.saturating_add(got),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
