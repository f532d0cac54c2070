//! The way of bytes into a GPU, and of few windows back: pieces of pinned memory by turns.
//!
//! While the device copies from one, another is filled, maybe by another thread. This module knows when a
//! piece is free again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Context, Event, Pinned};
use crate::device::DeviceError;
use crate::digest::{CHUNK_BYTES, Node, WINDOW_BYTES, window_node};

/// Pieces that there are from the beginning: one is filled while the device copies from the other.
const AT_FIRST: usize = 2;

#[derive(Debug)]
pub(super) struct Staging {
    context: Arc<Context>,
    /// Those that no thread has, the one first that was given back first. A thread that finds none makes
    /// one, so there are never more than threads.
    pieces: Mutex<VecDeque<Piece>>,
}

#[derive(Debug)]
struct Piece {
    pinned: Pinned,
    /// The device has done what it was to do with the piece.
    done: Event,
    /// Something may be on its way that `done` does not tell of.
    is_stray: bool,
}

impl Piece {
    fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        Ok(Self {
            pinned: Pinned::new(context, CHUNK_BYTES)?,
            done: Event::new(context)?,
            is_stray: false,
        })
    }

    /// Waits until the device is done with it.
    fn settle(&mut self, context: &Context) -> Result<(), DeviceError> {
        let (done, is_stray, stream) = (self.done.handle(), self.is_stray, context.copies());
        context.within("wait for a copy", |driver| {
            if is_stray {
                // An earlier wait has failed, and nobody knows when the piece is free.
                driver.synchronize_stream(stream)?;
            }
            driver.synchronize_event(done)
        })?;
        self.is_stray = false;
        Ok(())
    }
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let pieces = (0..AT_FIRST).map(|_| Piece::new(context));
        Ok(Self {
            context: Arc::clone(context),
            pieces: Mutex::new(pieces.collect::<Result<_, _>>()?),
        })
    }

    /// Begins to copy the bytes to a device address; the last pieces may still be on their way.
    pub(super) fn write(&self, mut to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        for bytes in bytes.chunks(CHUNK_BYTES) {
            self.with_piece(|context, piece| {
                let len = bytes.len();
                if let Some(place) = piece.pinned.bytes().get_mut(..len) {
                    place.copy_from_slice(bytes);
                }
                let stream = context.copies();
                piece.is_stray = true;
                context.within("write", |driver| {
                    piece.pinned.upload(0..len, to, stream)?;
                    driver.record_event(piece.done.handle(), stream)
                })?;
                piece.is_stray = false;
                Ok(())
            })?;
            to = to.saturating_add(bytes.len() as u64);
        }
        Ok(())
    }

    /// Copies a window of at most so many bytes back, and hashes it here.
    pub(super) fn hash_window(
        &self,
        window: u64,
        from: u64,
        len: usize,
    ) -> Result<Node, DeviceError> {
        self.with_piece(|context, piece| {
            let len = len.min(WINDOW_BYTES);
            let stream = context.copies();
            piece.is_stray = true;
            context.within("copy back", |driver| {
                piece.pinned.download(0..len, from, stream)?;
                driver.synchronize_stream(stream)
            })?;
            piece.is_stray = false;
            let bytes = piece.pinned.bytes().get(..len).unwrap_or_default();
            Ok(window_node(window, bytes))
        })
    }

    /// Flips a bit of a byte in the device.
    #[cfg(feature = "fault-injection")]
    pub(super) fn flip(&self, at: u64, bit: u8) -> Result<(), DeviceError> {
        self.with_piece(|context, piece| {
            let stream = context.copies();
            piece.is_stray = true;
            context.within("flip a bit", |driver| {
                piece.pinned.download(0..1, at, stream)?;
                driver.synchronize_stream(stream)?;
                if let Some(byte) = piece.pinned.bytes().first_mut() {
                    *byte ^= 1u8.wrapping_shl(bit.into());
                }
                piece.pinned.upload(0..1, at, stream)?;
                driver.synchronize_stream(stream)
            })?;
            piece.is_stray = false;
            Ok(())
        })
    }

    /// Does the work with a piece that the device is done with.
    fn with_piece<T>(
        &self,
        work: impl FnOnce(&Context, &mut Piece) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let oldest = self.pieces().pop_front();
        let mut piece = oldest.map_or_else(|| Piece::new(&self.context), Ok)?;
        let settled = piece.settle(&self.context);
        let outcome = settled.and_then(|()| work(&self.context, &mut piece));
        self.pieces().push_back(piece);
        outcome
    }

    fn pieces(&self) -> MutexGuard<'_, VecDeque<Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
