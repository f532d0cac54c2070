//! A segment's bytes in chunks of whole lines, so that each chunk can be parsed by itself.
//!
//! Whoever can write to the disk chooses these bytes. A chunk is bounded whatever they are: of a line
//! that is too long only the beginning is kept, and of very short lines only some are parsed at a
//! time. This module knows where lines end; it does not know what they say.

use std::io::{self, Read};
use std::mem;

use memchr::{memchr, memrchr};

use super::super::checkpoint::VerifierKey;
use super::super::merkle::Node;
use super::line::{Line, MAX_LINE_BYTES};

/// The most lines that are parsed ahead in one chunk: some 0.5 MB.
const MAX_LINES: usize = 4096;

/// Bytes that are read at a time.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Some lines one after the other, and what the first of them say.
#[derive(Default)]
pub(super) struct Chunk {
    /// Whole lines. The last one lacks its newline if the file ends there or if it is too long.
    bytes: Vec<u8>,
    /// Bytes of the last line that were not kept, its newline included.
    omitted: u64,
    /// How many of the bytes have been parsed.
    parsed: usize,
    /// The worker of the last record among them.
    worker: Option<Box<str>>,
    /// Lines that were parsed and not handed over, with their lengths, newlines included.
    lines: Vec<(Line<Node>, u64)>,
}

impl Chunk {
    /// Parses the next line; returns it with its length.
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

    /// Parses lines ahead, with hashes and signatures, unless that was done before.
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

    /// Bytes in memory.
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
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
    /// Why nothing can be read any more.
    failed: Option<io::Error>,
}

impl<R: Read> Cutter<R> {
    /// Chunks have about `chunk_bytes` bytes, at most a line more.
    pub(super) fn new(source: R, chunk_bytes: usize) -> Self {
        Self {
            source,
            chunk_bytes,
            rest: Vec::new(),
            failed: None,
        }
    }

    /// Puts the next lines into `chunk`; false if there are none. An error comes behind the whole
    /// lines before it.
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

    /// Skips up to and including the next newline; returns the number of bytes.
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

    /// Appends up to a chunk to `bytes`, also if an error comes behind; returns how many bytes.
    fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        bytes.reserve(self.chunk_bytes);
        let limit = self.chunk_bytes as u64;
        self.source.by_ref().take(limit).read_to_end(bytes)
    }
}
