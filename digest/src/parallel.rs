//! The nodes of many windows, computed on all cores.
//!
//! Threads take chunks from one queue until it is empty. Each thread hashes its chunk and hands it
//! to a sink, which writes it into a device. The calling thread takes chunks too, and reports
//! progress. If the callback stops or panics, or the sink fails, the other threads end after their
//! current chunk.

use std::convert::Infallible;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::block::window_node;
use super::{CHUNK_BYTES, NODE_BYTES, Node, Progress, WINDOW_BYTES};

/// The number of windows in a chunk.
pub(super) const CHUNK_WINDOWS: usize = CHUNK_BYTES / WINDOW_BYTES;

/// The reason why there are no nodes.
#[derive(Debug)]
pub(super) enum Ended<E> {
    /// The progress callback stopped the work.
    Stopped,
    /// The sink failed.
    Sink(E),
}

/// Computes the nodes of all windows of `bytes`.
///
/// Every chunk also goes into `sink` with its offset, in any order and on several threads.
pub(super) fn nodes_of_slice<E: Send>(
    bytes: &[u8],
    sink: impl Fn(u64, &[u8]) -> Result<(), E> + Sync,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Node>, Ended<E>> {
    hash_windows(0, bytes, sink, progress)
}

/// Computes the nodes of some windows of `bytes`, counted from 0. Returns `None` if a window does
/// not exist.
pub fn nodes_of_windows(bytes: &[u8], windows: Range<u64>) -> Option<Vec<Node>> {
    let offset = |window: u64| window.checked_mul(WINDOW_BYTES as u64);
    let len = bytes.len() as u64;
    if windows.end > len.div_ceil(WINDOW_BYTES as u64) {
        return None;
    }
    let start = usize::try_from(offset(windows.start)?).ok()?;
    let end = usize::try_from(offset(windows.end)?.min(len)).ok()?;
    hash_windows(windows.start, bytes.get(start..end)?, nowhere, &mut |_| {
        ControlFlow::Continue(())
    })
    .ok()
}

/// A sink that discards its bytes, for data that is only hashed.
pub(super) fn nowhere(_offset: u64, _bytes: &[u8]) -> Result<(), Infallible> {
    Ok(())
}

/// Returns the number of useful threads: one for each core that this process may use.
///
/// Reads the limits of the process's cgroups.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns a builder that names the thread, so that a profile of the worker shows its purpose.
pub fn helper() -> thread::Builder {
    thread::Builder::new().name("vram-digest".into())
}

/// Sets a flag on drop, on a panic as well.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hash_windows<E: Send>(
    first: u64,
    bytes: &[u8],
    sink: impl Fn(u64, &[u8]) -> Result<(), E> + Sync,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Node>, Ended<E>> {
    let total = bytes.len() as u64;
    let mut nodes = vec![[0; NODE_BYTES]; bytes.len().div_ceil(WINDOW_BYTES)];
    let chunks = bytes.chunks(CHUNK_BYTES);
    // One chunk needs no helper, so the kernel is not asked for the number of cores.
    let helpers = match chunks.len() {
        0 | 1 => 0,
        chunks => threads().min(chunks).saturating_sub(1),
    };
    let starts = (first..).step_by(CHUNK_WINDOWS);
    let queue = Mutex::new(starts.zip(chunks.zip(nodes.chunks_mut(CHUNK_WINDOWS))));
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failed = Mutex::new(None);
    // The lock is held for one step of the iterator.
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_on_one = || match take() {
        None => false,
        Some((window, (chunk, nodes))) => {
            // Hash first: hashing waits less for memory than copying, and leaves the chunk in the
            // cache.
            hash_chunk(window, chunk, nodes);
            if let Err(error) = sink(window.saturating_mul(WINDOW_BYTES as u64), chunk) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
                return false;
            }
            done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            !stop.load(Ordering::Relaxed)
        }
    };
    let ended = thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for _ in 0..helpers {
            // Best effort: if the thread cannot be spawned, the others do its work.
            let _helper = helper().spawn_scoped(scope, || while work_on_one() {});
        }
        while work_on_one() {
            let done = done.load(Ordering::Relaxed);
            // The final progress is reported once, after the helpers have ended.
            if done < total && progress(Progress { done, total }).is_break() {
                return Err(Ended::Stopped);
            }
        }
        Ok(())
    });
    // A failure of the sink takes precedence over a stop by the callback.
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(Ended::Sink(error));
    }
    ended?;
    let done = total;
    match progress(Progress { done, total }) {
        ControlFlow::Continue(()) => Ok(nodes),
        ControlFlow::Break(()) => Err(Ended::Stopped),
    }
}

/// Computes the nodes of the windows in one chunk, the first of which is `window`.
pub(super) fn hash_chunk(window: u64, chunk: &[u8], nodes: &mut [Node]) {
    for ((window, bytes), node) in (window..).zip(chunk.chunks(WINDOW_BYTES)).zip(nodes) {
        *node = window_node(window, bytes);
    }
}
