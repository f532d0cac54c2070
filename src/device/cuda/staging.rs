//! Copies into a GPU, and of a few windows back, through a pool of pinned memory.
//!
//! While the device copies from one piece, a thread may fill another. All pieces are pinned when
//! the device is opened: a check must not fail for lack of host memory. This module knows when a
//! piece is free again. It does not know what the bytes are.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vram_digest::{CHUNK_BYTES, Node, WINDOW_BYTES, threads, window_node};
use vram_trail::process;

use super::context::{Context, Event};
use super::pinned::Pinned;
use crate::device::DeviceError;

#[cfg(test)]
mod tests;

/// Returns the number of pieces.
///
/// With two, one is filled while the device copies from the other; more than 16 do not make the bus
/// faster.
fn pieces() -> usize {
    threads().clamp(2, 16)
}

#[derive(Debug)]
pub(super) struct Staging {
    context: Arc<Context>,
    /// The pieces that no thread uses, the longest unused first.
    free: Mutex<VecDeque<Piece>>,
    given_back: Condvar,
}

#[derive(Debug)]
struct Piece {
    pinned: Pinned,
    /// Recorded when the device is done with the piece.
    done: Event,
    /// Whether a copy may be in flight that `done` does not cover.
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

    /// Waits until the device is done with the piece.
    fn settle(&mut self, context: &Context) -> Result<(), DeviceError> {
        let (done, is_stray, stream) = (self.done.handle(), self.is_stray, context.copies());
        context.within("wait for a copy", |driver| {
            if is_stray {
                // An earlier wait has failed, so only the whole stream tells when the piece is
                // free.
                driver.synchronize_stream(stream)?;
            }
            driver.synchronize_event(done)
        })?;
        self.is_stray = false;
        // SAFETY: copies are begun in `with_piece`; the event was recorded after them, or the
        // stream has been waited for.
        unsafe { self.pinned.settled() };
        Ok(())
    }
}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let pieces = (0..pieces()).map(|_| Piece::new(context));
        Ok(Self {
            context: Arc::clone(context),
            free: Mutex::new(pieces.collect::<Result<_, _>>()?),
            given_back: Condvar::new(),
        })
    }

    /// Begins to copy the bytes to a device address; the last pieces may still be in flight on
    /// return.
    pub(super) fn write(&self, mut to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        for bytes in bytes.chunks(CHUNK_BYTES) {
            self.with_piece(|context, piece| {
                let stream = context.copies();
                piece.is_stray = true;
                context.within("write", |driver| {
                    piece.pinned.write(0, bytes)?;
                    piece.pinned.upload(0..bytes.len(), to, stream)?;
                    driver.record_event(piece.done.handle(), stream)
                })?;
                piece.is_stray = false;
                Ok(())
            })?;
            to = to.saturating_add(bytes.len() as u64);
        }
        Ok(())
    }

    /// Copies a window of at most `len` bytes back, and hashes it here.
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
            let copied = context.within("copy back", |driver| {
                piece.pinned.download(0..len, from, stream)?;
                driver.synchronize_stream(stream)?;
                // SAFETY: the piece was settled before, and the stream has been waited for.
                unsafe { piece.pinned.settled() };
                Ok(window_node(window, piece.pinned.bytes(0..len)?))
            });
            piece.is_stray = copied.is_err();
            copied
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
                // SAFETY: the piece was settled before, and the stream has been waited for.
                unsafe { piece.pinned.settled() };
                let byte = piece.pinned.bytes(0..1)?.first().copied();
                let flipped = byte.unwrap_or_default() ^ 1u8.wrapping_shl(bit.into());
                piece.pinned.write(0, &[flipped])?;
                piece.pinned.upload(0..1, at, stream)?;
                driver.synchronize_stream(stream)
            })?;
            piece.is_stray = false;
            Ok(())
        })
    }

    /// Runs `work` with a piece that the device is done with. Waits while other threads use all
    /// pieces.
    fn with_piece<T>(
        &self,
        work: impl FnOnce(&Context, &mut Piece) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        process::check()?;
        let mut taken = Taken {
            staging: self,
            piece: Some(self.take()),
        };
        let Some(piece) = &mut taken.piece else {
            return Err(DeviceError::Busy {
                operation: "copy",
                cause: "no pinned memory".into(),
            });
        };
        piece.settle(&self.context)?;
        work(&self.context, piece)
    }

    fn take(&self) -> Piece {
        let mut free = self.free();
        loop {
            if let Some(piece) = free.pop_front() {
                return piece;
            }
            let waited = self.given_back.wait(free);
            free = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn free(&self) -> MutexGuard<'_, VecDeque<Piece>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece in use, which returns to the pool on drop.
struct Taken<'a> {
    staging: &'a Staging,
    /// Some until the drop.
    piece: Option<Piece>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.staging.free().extend(self.piece.take());
        self.staging.given_back.notify_one();
    }
}
