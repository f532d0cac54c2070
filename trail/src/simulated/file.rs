//! Open files of the simulated disk, for a writer and for a reader.

use std::io::{self, Read, Write};

use rustix::io::Errno;

use super::random::Random;
use super::{Disk, Fate, Unsynced};
use crate::storage::{FileId, SegmentFile};

/// A segment's file, opened for appending.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(super) disk: Disk,
    pub(super) id: usize,
    /// A write was already short. That happens once, so that the number of calls does not depend on
    /// how long the lines are.
    pub(super) was_short: bool,
}

impl OpenFile {
    fn meanwhile(&self) {
        if let Some(action) = &mut *self.disk.meanwhile.lock().unwrap() {
            action();
        }
    }
}

impl SegmentFile for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.meanwhile();
        self.was_short = false;
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.meanwhile();
        self.disk.state().sync(self.id)
    }

    fn id(&self) -> FileId {
        file_id(self.id)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.id].cached.len() as u64)
    }
}

pub(super) fn file_id(id: usize) -> FileId {
    FileId {
        device: 0,
        inode: id as u64,
    }
}

impl Write for OpenFile {
    /// May write less than asked.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let was_ended = state.ended;
        let fate = state.fate();
        let length = match fate {
            Fate::Done if state.failing > 0 && !self.was_short && state.random.chance(300) => {
                self.was_short = true;
                1 + state.random.index(bytes.len())
            }
            Fate::Done => bytes.len(),
            Fate::Ends(true) if !was_ended => state.random.index(bytes.len() + 1),
            Fate::Fails(..) | Fate::Ends(_) => 0,
        };
        if length > 0 {
            let file = &mut state.files[self.id];
            file.unsynced.push(Unsynced {
                offset: file.cached.len(),
                bytes: bytes[..length].to_vec(),
                clean: false,
            });
            file.cached.extend_from_slice(&bytes[..length]);
        }
        fate.answer().map(|()| length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the cached content as of opening, in pieces.
pub(crate) struct Reader {
    pub(super) random: Random,
    pub(super) failing: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.random.chance(self.failing / 4) {
            return Err([Errno::IO, Errno::INTR][self.random.index(2)].into());
        }
        let mut length = out.len().min(self.bytes.len() - self.at);
        if length > 1 && self.failing > 0 {
            length = 1 + self.random.index(length);
        }
        out[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
