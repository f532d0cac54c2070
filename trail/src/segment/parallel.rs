//! Parses a segment's lines on all cores, with hashes and signatures, and hands them over in their
//! order.
//!
//! The calling thread cuts the stream into chunks, keeps a window of them ahead, and hands over the
//! lines of the first one. Helpers parse the chunks in the window. If the first chunk is not parsed
//! yet, the calling thread parses it itself, or, if a helper has it, parses a later one meanwhile.
//! So everything works without a helper, and no thread waits while there is work. The thread that
//! holds a chunk's lock parses it. Memory is the window, however long the segment.
//!
//! Helpers end when the calling thread closes the queue, for whatever reason: the end, an error, a
//! panic. This module does not know what a line means.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::mem;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::super::checkpoint::VerifierKey;
use super::super::merkle::Node;
use super::chunk::{CHUNK_BYTES, Chunk, Cutter};
use super::line::Line;

#[cfg(test)]
mod tests;

/// The most helpers. Handing over takes about a sixth of the work, so further ones would wait.
const MAX_HELPERS: usize = 5;

/// Calls `each` with every line and its length, newline included.
///
/// # Errors
///
/// Errors of `source`. The lines before the error have been handed over.
pub(super) fn for_each_line(
    source: impl Read,
    keys: &[VerifierKey],
    each: impl FnMut(Line<Node>, u64),
) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let helpers = cores.saturating_sub(1).min(MAX_HELPERS);
    for_each_line_with(helpers, CHUNK_BYTES, source, keys, each)
}

/// Does the same without helpers.
///
/// # Errors
///
/// Errors of `source`.
pub(super) fn for_each_line_alone(
    source: impl Read,
    keys: &[VerifierKey],
    each: impl FnMut(Line<Node>, u64),
) -> io::Result<()> {
    for_each_line_with(0, CHUNK_BYTES, source, keys, each)
}

/// A chunk in the window. The holder of the lock parses it.
type Slot = Arc<Mutex<Chunk>>;

fn for_each_line_with(
    helpers: usize,
    chunk_bytes: usize,
    source: impl Read,
    keys: &[VerifierKey],
    mut each: impl FnMut(Line<Node>, u64),
) -> io::Result<()> {
    let ahead = helpers.saturating_mul(2).saturating_add(1);
    let (queue, queued) = sync_channel::<Slot>(ahead);
    let queued = Mutex::new(queued);
    thread::scope(|scope| {
        // Moved in here, so that it is closed before the scope waits for the helpers.
        let queue = queue;
        let mut cutter = Cutter::new(source, chunk_bytes);
        let mut window: VecDeque<Slot> = VecDeque::new();
        let mut spare = Chunk::default();
        let mut spawned = 0_usize;
        let mut end = None;
        while end.is_none() || !window.is_empty() {
            if end.is_some() || window.len() >= ahead {
                if let Some(first) = window.pop_front() {
                    spare = take_first(&first, &window, keys);
                    spare.for_each_line(keys, &mut each);
                }
                continue;
            }
            match cutter.cut(&mut spare) {
                Ok(true) => {}
                Ok(false) => {
                    end = Some(Ok(()));
                    continue;
                }
                Err(error) => {
                    end = Some(Err(error));
                    continue;
                }
            }
            // One chunk is not worth a thread; each further one allows one more thread. If a thread
            // cannot be started, the work is done without it.
            if spawned < helpers && !window.is_empty() {
                spawned = spawned.saturating_add(1);
                let helper = thread::Builder::new().name("vram-verify".into());
                let _helper = helper.spawn_scoped(scope, || help(&queued, keys));
            }
            let chunk = Arc::new(Mutex::new(mem::take(&mut spare)));
            // If the queue is full, the calling thread will find the chunk unparsed.
            let _full = queue.try_send(Arc::clone(&chunk));
            window.push_back(chunk);
        }
        end.unwrap_or(Ok(()))
    })
}

/// Parses what is queued, until the queue is closed.
fn help(queued: &Mutex<Receiver<Slot>>, keys: &[VerifierKey]) {
    loop {
        let next = lock(queued).recv();
        let Ok(chunk) = next else {
            return;
        };
        // If it is locked, another thread parses it.
        if let Ok(mut chunk) = chunk.try_lock() {
            chunk.parse(keys);
        }
    }
}

/// Takes the first chunk out of the window. While a helper has it, parses others.
fn take_first(first: &Mutex<Chunk>, later: &VecDeque<Slot>, keys: &[VerifierKey]) -> Chunk {
    for other in later {
        if let Ok(mut chunk) = first.try_lock() {
            return mem::take(&mut chunk);
        }
        if let Ok(mut chunk) = other.try_lock() {
            chunk.parse(keys);
        }
    }
    mem::take(&mut lock(first))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
