//! The bytes of a mapping while several threads fill it, each a chunk of its own.
//!
//! This module knows chunks and their users; it does not know where the bytes come from.

use std::sync::{Mutex, PoisonError};

use vram_digest::CHUNK_BYTES;

use super::super::DeviceError;
use super::{Marks, range};

/// The bytes of a mapping that is being filled. One thread at a time can use each chunk.
#[derive(Debug)]
pub struct HostFiller<'a> {
    len: u64,
    chunks: Vec<Mutex<&'a mut [u8]>>,
    marks: &'a Marks,
}

impl<'a> HostFiller<'a> {
    pub(super) fn new(bytes: &'a mut [u8], marks: &'a Marks) -> Self {
        Self {
            len: bytes.len() as u64,
            chunks: bytes.chunks_mut(CHUNK_BYTES).map(Mutex::new).collect(),
            marks,
        }
    }

    pub(super) fn fill(&self, offset: u64, chunk: &[u8]) -> Result<(), DeviceError> {
        const CHUNK: u64 = CHUNK_BYTES as u64;
        let end = offset.saturating_add(chunk.len() as u64);
        let outside = || DeviceError::OutOfRange {
            offset,
            end,
            len: self.len,
        };
        let index = usize::try_from(offset / CHUNK).map_err(|_| outside())?;
        let place = self.chunks.get(index).ok_or_else(outside)?;
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset % CHUNK;
        let part = range(start, start.saturating_add(chunk.len() as u64));
        let part = part.and_then(|part| place.get_mut(part));
        let part = part.ok_or_else(outside)?;
        self.marks.written(chunk.len());
        part.copy_from_slice(chunk);
        Ok(())
    }
}
