//! The way of bytes into a GPU, and of few windows back: two pieces of pinned memory by turns.
//!
//! While the device copies from one, the other is filled. This module knows when a piece is free again.

use std::sync::Arc;

use super::context::{Context, Event, Pinned};
use crate::device::DeviceError;
use crate::digest::{Node, WINDOW_BYTES, window_node};

/// Bytes in a piece: two windows.
const PIECE: usize = 2 * WINDOW_BYTES;

#[derive(Debug)]
pub(super) struct Staging {
    context: Arc<Context>,
    pieces: [Piece; 2],
    next: usize,
}

#[derive(Debug)]
struct Piece {
    pinned: Pinned,
    /// The device has done what it was to do with the piece.
    done: Event,
    /// Something may be on its way that `done` does not tell of.
    is_stray: bool,
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let piece = || {
            Ok::<_, DeviceError>(Piece {
                pinned: Pinned::new(context, PIECE)?,
                done: Event::new(context)?,
                is_stray: false,
            })
        };
        Ok(Self {
            context: Arc::clone(context),
            pieces: [piece()?, piece()?],
            next: 0,
        })
    }

    /// Begins to copy the bytes to a device address; the last pieces may still be on their way.
    pub(super) fn write(&mut self, mut to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        for bytes in bytes.chunks(PIECE) {
            let context = Arc::clone(&self.context);
            let piece = self.take(&context)?;
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
            to = to.saturating_add(len as u64);
        }
        Ok(())
    }

    /// Copies a window of at most so many bytes back, and hashes it here.
    pub(super) fn hash_window(
        &mut self,
        window: u64,
        from: u64,
        len: usize,
    ) -> Result<Node, DeviceError> {
        let context = Arc::clone(&self.context);
        let piece = self.take(&context)?;
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
    }

    /// Flips a bit of a byte in the device.
    #[cfg(feature = "fault-injection")]
    pub(super) fn flip(&mut self, at: u64, bit: u8) -> Result<(), DeviceError> {
        let context = Arc::clone(&self.context);
        let piece = self.take(&context)?;
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
    }

    /// The piece whose turn it is, free.
    fn take(&mut self, context: &Context) -> Result<&mut Piece, DeviceError> {
        let [first, second] = &mut self.pieces;
        let piece = if self.next == 0 { first } else { second };
        self.next ^= 1;
        let (done, is_stray, stream) = (piece.done.handle(), piece.is_stray, context.copies());
        context.within("wait for a copy", |driver| {
            if is_stray {
                // An earlier wait has failed, and nobody knows when the piece is free.
                driver.synchronize_stream(stream)?;
            }
            driver.synchronize_event(done)
        })?;
        piece.is_stray = false;
        Ok(piece)
    }
}
