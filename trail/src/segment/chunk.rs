//! A segment's bytes in chunks of whole lines, so that each chunk can be parsed independently.
//!
//! Any writer of the disk chooses these bytes, and a chunk is bounded for all of them. Of a line
//! that is too long only the beginning is kept, and of very short lines only some are parsed at a
//! time. This module knows where lines end. It does not know what they mean.

use std::io::{self, Read};
use std::mem;

use memchr::{memchr, memrchr};

use super::super::checkpoint::VerifierKey;
use super::super::merkle::Node;
use super::line::{Line, MAX_LINE_BYTES};

/// The most lines that are parsed ahead in one chunk: some 0.5 MB.
const MAX_LINES: usize = 4096;

/// The bytes that are read at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Consecutive lines, the first of them parsed.
#[derive(Default)]
pub(super) struct Chunk {
    /// Whole lines. The last one lacks its newline if the file ends there or if it is too long.
    bytes: Vec<u8>,
    /// The number of bytes of the last line that were not kept, its newline included.
    omitted: u64,
    /// The number of bytes that have been parsed.
    parsed: usize,
    /// The worker in the last record among them.
    worker: Option<Box<str>>,
    /// Lines that were parsed and not yet handed over, with their lengths, newlines included.
    lines: Vec<(Line<Node>, u64)>,
}

impl Chunk {
    /// Parses the next line and returns it with its length.
    pub(super) fn next_line(&mut self) -> Option<(Line<&[u8]>, u64)> {
        let rest = self
            .bytes
            .get(self.parsed..)
            .filter(|rest| !rest.is_empty())?;
        let (line, kept, omitted) = match memchr(b'\n', rest) {
            Some(end) => (
                Line::parse(rest.get(..end)?, &mut self.worker),
                end.saturating_add(1),
                0,
            ),
            None => (Line::parse_unended(rest), rest.len(), self.omitted),
        };
        self.parsed = self.parsed.saturating_add(kept);
        Some((line, omitted.saturating_add(kept as u64)))
    }

    /// Parses lines ahead, with hashes and signatures, unless that is done already.
    pub(super) fn parse(&mut self, keys: &[VerifierKey]) {
        if !self.lines.is_empty() {
            return;
        }
        let mut lines = mem::take(&mut self.lines);
        while lines.len() < MAX_LINES
            && let Some((line, length)) = self.next_line()
        {
            lines.push((line.checked(keys), length));
        }
        self.lines = lines;
    }

    /// Hands all lines over, in order, with their lengths.
    pub(super) fn for_each_line(
        &mut self,
        keys: &[VerifierKey],
        each: &mut impl FnMut(Line<Node>, u64),
    ) {
        while self.parsed < self.bytes.len() || !self.lines.is_empty() {
            self.parse(keys);
            for (line, length) in self.lines.drain(..) {
                each(line, length);
            }
        }
    }

    /// Returns the number of bytes in memory.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.bytes.capacity()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.omitted = 0;
        self.parsed = 0;
        self.worker = None;
        self.lines.clear();
    }
}

/// Cuts a stream into chunks.
pub(super) struct Cutter<R> {
    source: R,
    chunk_bytes: usize,
    /// The beginning of a line whose end was not read yet.
    rest: Vec<u8>,
    /// The reason why nothing can be read any more.
    failed: Option<io::Error>,
}

impl<R: Read> Cutter<R> {
    /// Cuts into chunks of about `chunk_bytes` bytes, at most one line more.
    pub(super) fn new(source: R, chunk_bytes: usize) -> Self {
        Self {
            source,
            chunk_bytes,
            rest: Vec::new(),
            failed: None,
        }
    }

    /// Puts the next lines into `chunk`. Returns false if there are none. An error is returned
    /// after the whole lines before it.
    pub(super) fn cut(&mut self, chunk: &mut Chunk) -> io::Result<bool> {
        chunk.clear();
        let bytes = &mut chunk.bytes;
        mem::swap(bytes, &mut self.rest);
        while self.failed.is_none() {
            match self.read(bytes) {
                Ok(0) => return Ok(!bytes.is_empty()),
                Ok(_) => {}
                Err(error) => self.failed = Some(error),
            }
            if let Some(newline) = memrchr(b'\n', bytes) {
                self.rest.extend(bytes.drain(newline.saturating_add(1)..));
                return Ok(true);
            }
            if self.failed.is_none() && bytes.len() > MAX_LINE_BYTES {
                chunk.omitted = self.skip_line()?;
                return Ok(true);
            }
        }
        self.failed.take().map_or(Ok(false), Err)
    }

    /// Skips up to and including the next newline. Returns the number of bytes.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut bytes = mem::take(&mut self.rest);
        let mut skipped = 0_u64;
        loop {
            bytes.clear();
            let got = self.read(&mut bytes)?;
            if let Some(newline) = memchr(b'\n', &bytes) {
                bytes.drain(..=newline);
                self.rest = bytes;
                return Ok(skipped.saturating_add(newline as u64).saturating_add(1));
            }
            if got == 0 {
                return Ok(skipped);
            }
            skipped = skipped.saturating_add(got as u64);
        }
    }

    /// Appends up to a chunk to `bytes`, also before a later error. Returns the number of bytes.
    fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        bytes.reserve(self.chunk_bytes);
        let limit = self.chunk_bytes as u64;
        self.source.by_ref().take(limit).read_to_end(bytes)
    }
}
