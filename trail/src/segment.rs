//! One segment of a trail, read from its first line to its last.
//!
//! The verifier uses it for every segment, and opening a trail uses it for the last one. Memory is
//! constant: a few chunks of lines, the tree's frontier, a bounded list of damage. Which lines a
//! checkpoint acknowledges is known only when it has been read, so the caller sees records first
//! and [`Seen::Acknowledged`] later. This module does not compare segments with each other, and
//! knows nothing of numbers except the highest.
//!
//! A line that is neither a record nor a checkpoint is not a leaf. So if a checkpoint line was
//! damaged, the leaves around it still match, and only the line is reported.

mod chunk;
mod form;
mod line;
mod parallel;
mod plain;
mod summary;
mod walk;

use std::io::{self, Read};
use std::ops::ControlFlow;

use super::checkpoint::{Checkpoint, VerifierKey};
use super::merkle::{Frontier, Node};

use chunk::{CHUNK_BYTES, Chunk, Cutter};
use line::Rules;
pub(crate) use line::{
    CHECKPOINT_START, Fact, Header, Line, Lost, MAX_LINE_BYTES, MAX_SEQ, Opening, Record,
    Recovered, Stamp, parse_checkpoint,
};
pub(crate) use summary::{Behind, Place, SegmentSummary};
use walk::Walk;

/// A line that was read, in the order of the file. Lines behind the end that the next segment
/// states (void bytes) are counted and not shown.
pub(crate) enum Seen<'a> {
    /// A checkpoint matches: all records shown since the last one are acknowledged.
    Acknowledged(&'a Checkpoint),
    /// A record, and the tree with it as its last leaf.
    Record(Place, &'a Record, &'a Frontier),
    /// The tree at the segment's start.
    Start(&'a Frontier),
}

/// Reads segment `number`. Its checkpoints count if the key that its header names is one of `keys`
/// and has signed them.
///
/// `acknowledged` is the end that the next segment's header states. Without one (the last segment),
/// the bytes behind the last matching checkpoint are an unacknowledged tail if they are at most one
/// batch.
///
/// # Errors
///
/// Errors of `source`. Damage is no error: it is in the summary.
pub(crate) fn read(
    source: impl Read,
    number: u64,
    keys: &[VerifierKey],
    acknowledged: Option<u64>,
    visit: &mut dyn FnMut(Seen<'_>),
) -> io::Result<SegmentSummary> {
    let mut walk = Walk::new(number, keys, acknowledged, visit);
    parallel::for_each_line(source, keys, |line, length| walk.step(line, length))?;
    Ok(walk.finish())
}

/// Reads as [`read`] does, without helpers, for a caller that has other work for the cores.
///
/// # Errors
///
/// Errors of `source`.
pub(crate) fn read_alone(
    source: impl Read,
    number: u64,
    keys: &[VerifierKey],
    acknowledged: Option<u64>,
    visit: &mut dyn FnMut(Seen<'_>),
) -> io::Result<SegmentSummary> {
    let mut walk = Walk::new(number, keys, acknowledged, visit);
    parallel::for_each_line_alone(source, keys, |line, length| walk.step(line, length))?;
    Ok(walk.finish())
}

/// Shows the leaves that begin before `end`, in their order, hashed on all cores. Checks no
/// signature, and skips lines that are not records.
///
/// # Errors
///
/// Errors of `source`.
pub(crate) fn each_leaf(
    source: impl Read,
    end: u64,
    visit: &mut dyn FnMut(Node),
) -> io::Result<()> {
    parallel::for_each_line(source.take(end), &[], |line, _| {
        if let Line::Record(_, leaf) = line {
            visit(leaf);
        }
    })
}

/// Reads only the header. Nothing in it is proven yet.
///
/// # Errors
///
/// Errors of `source`.
pub(crate) fn read_header(source: impl Read) -> io::Result<Option<Header>> {
    let limit = MAX_LINE_BYTES.saturating_add(1) as u64;
    let mut found = None;
    each_line(source.take(limit), None, &mut |line| {
        if let Line::Record(record, _) = line
            && let Fact::Header(header) = record.fact
        {
            found = Some(*header);
        }
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Shows the lines that begin before `end` unchanged, without any check. Without an `end`, shows
/// all of them.
///
/// # Errors
///
/// Errors of `source`.
pub(crate) fn each_line(
    source: impl Read,
    end: Option<u64>,
    visit: &mut dyn FnMut(Line<&[u8]>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut cutter = Cutter::new(source, CHUNK_BYTES);
    let mut chunk = Chunk::default();
    let mut rules = Rules::default();
    let mut offset = 0u64;
    let is_over = |offset| end.is_some_and(|end| offset >= end);
    while !is_over(offset) && cutter.cut(&mut chunk)? {
        while !is_over(offset)
            && let Some((line, length)) = chunk.next_line()
        {
            offset = offset.saturating_add(length);
            if visit(rules.apply(line)).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
