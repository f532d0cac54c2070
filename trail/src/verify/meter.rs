//! How far a check has come, and whether it should go on.
//!
//! Counts the bytes that are read through it. It does not know what is read.

use std::io::{self, Read};
use std::ops::ControlFlow;

/// How far a check has come, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
}

/// Counts the bytes read, and asks whether to go on.
pub(super) struct Meter<'a> {
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    at: Progress,
    stopped: bool,
}

/// A segment that is read under a meter.
pub(super) struct Metered<'a, 'b, R> {
    source: R,
    meter: &'a mut Meter<'b>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>) -> Self {
        Self {
            progress,
            at: Progress { done: 0, total: 0 },
            stopped: false,
        }
    }

    /// Adds the lengths of all segments that will be read.
    pub(super) fn expect(&mut self, lengths: impl Iterator<Item = u64>) {
        self.at.total = lengths.fold(0, u64::saturating_add);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn over<R: Read>(&mut self, source: R) -> Metered<'_, 'a, R> {
        Metered {
            source,
            meter: self,
        }
    }

    /// A segment that grows meanwhile must not count beyond the total.
    fn advance(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.at.done = self.at.done.saturating_add(bytes).min(self.at.total);
        self.stopped |= (self.progress)(self.at).is_break();
        if self.stopped {
            return Err(io::Error::other("the check was stopped"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        self.meter.advance(bytes)?;
        Ok(bytes)
    }
}
