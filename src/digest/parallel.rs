//! The nodes of many windows at once, on all cores.
//!
//! Threads take chunks from one queue until it is empty; the calling thread works along and reports
//! progress. If the callback stops or panics, the others end after the chunk that they have.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::block::window_node;
use super::{CHUNK_BYTES, NODE_BYTES, Node, Progress, Stopped, WINDOW_BYTES};

/// Windows in a chunk.
pub(super) const CHUNK_WINDOWS: usize = CHUNK_BYTES / WINDOW_BYTES;

/// The nodes of all windows of `bytes`.
pub(super) fn nodes_of_slice(
    bytes: &[u8],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Node>, Stopped> {
    hash_windows(0, bytes, progress)
}

/// The nodes of some windows of `bytes`, counted from 0; none if there are no such windows.
pub(crate) fn nodes_of_windows(bytes: &[u8], windows: Range<u64>) -> Option<Vec<Node>> {
    let offset = |window: u64| window.checked_mul(WINDOW_BYTES as u64);
    let len = bytes.len() as u64;
    if windows.end > len.div_ceil(WINDOW_BYTES as u64) {
        return None;
    }
    let start = usize::try_from(offset(windows.start)?).ok()?;
    let end = usize::try_from(offset(windows.end)?.min(len)).ok()?;
    hash_windows(windows.start, bytes.get(start..end)?, &mut |_| {
        ControlFlow::Continue(())
    })
    .ok()
}

/// How many threads are worth having: one for each core that this process may use.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A name for the threads made here, so that a profile of the worker tells what they are.
pub(crate) fn helper() -> thread::Builder {
    thread::Builder::new().name("vram-digest".into())
}

/// Sets a flag when it goes out of scope, whatever the reason.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hash_windows(
    first: u64,
    bytes: &[u8],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Node>, Stopped> {
    let total = bytes.len() as u64;
    let mut nodes = vec![[0; NODE_BYTES]; bytes.len().div_ceil(WINDOW_BYTES)];
    let chunks = bytes.chunks(CHUNK_BYTES);
    let helpers = threads().min(chunks.len()).saturating_sub(1);
    let starts = (first..).step_by(CHUNK_WINDOWS);
    let queue = Mutex::new(starts.zip(chunks.zip(nodes.chunks_mut(CHUNK_WINDOWS))));
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // The lock is held for one step of the iterator.
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_on_one = || match take() {
        None => false,
        Some((window, (chunk, nodes))) => {
            hash_chunk(window, chunk, nodes);
            done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            true
        }
    };
    thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        for _ in 0..helpers {
            // A thread that cannot be had is one that does not help.
            let _helper = helper().spawn_scoped(scope, || {
                let mut busy = true;
                while busy && !stop.load(Ordering::Relaxed) {
                    busy = work_on_one();
                }
            });
        }
        while work_on_one() {
            let done = done.load(Ordering::Relaxed);
            // The end is reported once, when the helpers have come to theirs.
            if done < total && progress(Progress { done, total }).is_break() {
                return Err(Stopped);
            }
        }
        Ok(())
    })?;
    let done = total;
    match progress(Progress { done, total }) {
        ControlFlow::Continue(()) => Ok(nodes),
        ControlFlow::Break(()) => Err(Stopped),
    }
}

/// The nodes of the windows in one chunk, the first of which is `window`.
pub(super) fn hash_chunk(window: u64, chunk: &[u8], nodes: &mut [Node]) {
    for ((window, bytes), node) in (window..).zip(chunk.chunks(WINDOW_BYTES)).zip(nodes) {
        *node = window_node(window, bytes);
    }
}
