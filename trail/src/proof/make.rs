//! Makes proofs from a trail's files.
//!
//! There are two passes. The first finds the record, and what matching checkpoints cover behind it.
//! The second hashes the leaves from there on. Memory is a few hundred bytes for each segment.
//! Nothing is trusted that no given key has signed, and each proof is checked before it is
//! returned.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::super::checkpoint::{Checkpoint, VerifierKey};
use super::super::files::{list, make_durable, may_be_held, open, stated_end};
use super::super::merkle::{AuditPath, Frontier, leaf_hash};
use super::super::segment::{self, Line, Seen};
use super::super::storage::segment_name;

use super::Proof;

/// The reason why a trail yields no proof or checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The trail changed between two readings of the same bytes. Retry.
    #[error("{path} changed while it was read: verify the trail, and look for who writes to it")]
    #[non_exhaustive]
    Changed {
        /// The trail's directory.
        path: PathBuf,
    },
    /// The trail could not be read, or could not be made durable first.
    #[error("{path} cannot be read")]
    #[non_exhaustive]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No matching checkpoint was found in the last segment.
    #[error(
        "the last segment in {path} has no checkpoint that matches and that a given key signed (the newest one does not count while a worker writes): verify the trail"
    )]
    #[non_exhaustive]
    NoCheckpoint {
        /// The trail's directory.
        path: PathBuf,
    },
    /// No record with that number is acknowledged by a checkpoint.
    #[error(
        "no record that a given key signed for has the number {seq}: it was lost, is not acknowledged yet, or stands in a part that is absent or damaged"
    )]
    #[non_exhaustive]
    NoRecord {
        /// The number.
        seq: u64,
    },
    /// The directory holds no segment.
    #[error("{path} holds no segment of a trail: give the directory of a trail")]
    #[non_exhaustive]
    NoTrail {
        /// The directory.
        path: PathBuf,
    },
}

/// Proves that the trail in `dir` holds the record numbered `seq`. The proof is against the newest
/// checkpoint that matches the trail's leaves and that one of `keys` has signed.
///
/// If the trail is damaged behind the record, the checkpoint is the newest one before the damage: a
/// proof covers nothing behind it. Reads the trail from its beginning, and from the record's
/// segment a second time.
///
/// A proof that was handed out is an anchor, too, so it covers only what is durable. While a
/// process writes to the trail, the newest checkpoint is not used: only the writer knows whether
/// its sync succeeded.
///
/// # Errors
///
/// * [`ProveError::NoRecord`]: there is no such record, or it is not acknowledged.
/// * [`ProveError::NoTrail`]: the directory holds no segment.
/// * [`ProveError::NoCheckpoint`]: no checkpoint matches under a given key.
/// * [`ProveError::Changed`]: the trail changed while it was read. Retry.
/// * [`ProveError::Io`]: the trail could not be read or synced.
pub fn prove(dir: impl AsRef<Path>, keys: &[VerifierKey], seq: u64) -> Result<Proof, ProveError> {
    prove_in(dir.as_ref(), keys, seq)
}

fn prove_in(dir: &Path, keys: &[VerifierKey], seq: u64) -> Result<Proof, ProveError> {
    let numbers = segments(dir)?;
    let mut search = Search::new(seq, settle(dir, &numbers)?);
    for (index, number) in numbers.iter().copied().enumerate() {
        let next = numbers.get(index.saturating_add(1)).copied();
        if !search.segment(dir, keys, number, next)? {
            break;
        }
    }
    let Search { found, parts, .. } = search;
    let (Some(found), Some(last)) = (found, parts.last()) else {
        return Err(ProveError::NoRecord { seq });
    };
    let changed = || ProveError::Changed { path: dir.into() };
    let (record, path) = read_path(dir, &found, &parts)?.ok_or_else(changed)?;
    let proof = Proof {
        record,
        index: found.leaf,
        path: path.finish(),
        checkpoint: last.checkpoint.clone(),
    };
    if proof.is_included() {
        Ok(proof)
    } else {
        Err(changed())
    }
}

/// Returns the newest checkpoint of the trail in `dir` that matches its leaves and that one of
/// `keys` has signed. This is the one to keep elsewhere, as an anchor.
///
/// Only the last segment is read. An anchor must not know more than a disk after a power cut, so
/// the segment is made durable first. While a process writes to the trail, the result is the
/// checkpoint before the newest one: only the writer knows whether the newest one's sync succeeded.
///
/// # Errors
///
/// [`ProveError::NoCheckpoint`] if the last segment holds none. [`ProveError::Io`] if the trail
/// could not be read or synced.
pub fn newest_checkpoint(
    dir: impl AsRef<Path>,
    keys: &[VerifierKey],
) -> Result<Checkpoint, ProveError> {
    newest_checkpoint_in(dir.as_ref(), keys)
}

fn newest_checkpoint_in(dir: &Path, keys: &[VerifierKey]) -> Result<Checkpoint, ProveError> {
    let numbers = segments(dir)?;
    let none = || ProveError::NoCheckpoint { path: dir.into() };
    let last = *numbers.last().ok_or_else(none)?;
    let live = settle(dir, &numbers)?.is_some();
    let read = |end| {
        open(dir, last)
            .and_then(|file| segment::read(file, last, keys, end, &mut |_| {}))
            .map_err(|source| at(dir, last, source))
    };
    let mut summary = read(None)?;
    if live && summary.settled > 0 {
        summary = read(Some(summary.settled))?;
    } else if live {
        // The header names the last checkpoint of the segment before.
        let previous = summary.header.and_then(|header| header.previous);
        summary.checkpoint = previous
            .and_then(|previous| previous.checkpoint.parse().ok())
            .filter(|checkpoint: &Checkpoint| checkpoint.is_signed_by_one_of(keys));
    }
    summary.checkpoint.ok_or_else(none)
}

/// Makes durable what is read from now on. Returns the last segment's number if a process may be
/// writing to it. Only that process knows whether its last batch is on disk.
fn settle(dir: &Path, numbers: &[u64]) -> Result<Option<u64>, ProveError> {
    let Some(last) = numbers.last().copied() else {
        return Ok(None);
    };
    if may_be_held(dir) {
        return Ok(Some(last));
    }
    make_durable(dir, last).map_err(|source| at(dir, last, source))?;
    Ok(None)
}

/// Returns the verifier keys that the segments of the trail in `dir` name as their own, each once.
///
/// They prove nothing, since the trail's author chose them. A reviewer needs the key from another
/// source.
///
/// # Errors
///
/// [`ProveError::NoTrail`] if there is no segment.
pub fn stated_keys(dir: impl AsRef<Path>) -> Result<Vec<VerifierKey>, ProveError> {
    stated_keys_in(dir.as_ref())
}

fn stated_keys_in(dir: &Path) -> Result<Vec<VerifierKey>, ProveError> {
    let mut keys: Vec<VerifierKey> = Vec::new();
    for number in segments(dir)? {
        let header = open(dir, number).and_then(segment::read_header);
        let header = header.map_err(|source| at(dir, number, source))?;
        let key = header.and_then(|header| header.key.parse().ok());
        keys.extend(key.filter(|key| !keys.contains(key)));
    }
    Ok(keys)
}

/// The place of the record.
struct Found {
    /// The tree at the beginning of its segment.
    start: Frontier,
    leaf: u64,
}

/// The acknowledged part of one segment.
struct Part {
    segment: u64,
    end: u64,
    checkpoint: Checkpoint,
    tree: Frontier,
}

/// The first pass.
struct Search {
    seq: u64,
    /// The segment that a process may be writing to.
    live: Option<u64>,
    found: Option<Found>,
    /// The parts from the record's segment on, without a gap.
    parts: Vec<Part>,
}

impl Search {
    fn new(seq: u64, live: Option<u64>) -> Self {
        Self {
            seq,
            live,
            found: None,
            parts: Vec::new(),
        }
    }

    /// Reads one segment. Returns false if nothing behind it can belong to the proof.
    fn segment(
        &mut self,
        dir: &Path,
        keys: &[VerifierKey],
        number: u64,
        next: Option<u64>,
    ) -> Result<bool, ProveError> {
        let (mut start, mut seen, mut acknowledged) = (Frontier::default(), None, None);
        let failed = |source| at(dir, number, source);
        let mut end = stated_end(dir, number, next);
        if self.live == Some(number) {
            let file = open(dir, number).map_err(failed)?;
            let whole = segment::read(file, number, keys, None, &mut |_| {}).map_err(failed)?;
            end = Some(whole.settled).filter(|end| *end > 0);
            if end.is_none() {
                return Ok(false);
            }
        }
        let file = open(dir, number).map_err(failed)?;
        let summary = segment::read(file, number, keys, end, &mut |line| match line {
            Seen::Start(tree) => start.clone_from(tree),
            Seen::Record(place, record, _) if record.seq == self.seq => seen = Some(place.leaf),
            Seen::Record(..) => {}
            Seen::Acknowledged(_) => acknowledged = acknowledged.or(seen),
        })
        .map_err(failed)?;
        if self.found.is_some() {
            let continues =
                |last: &Part| Some(number) == last.segment.checked_add(1) && start == last.tree;
            if !self.parts.last().is_some_and(continues) {
                return Ok(false);
            }
        }
        if self.found.is_none() {
            self.found = acknowledged.map(|leaf| Found { start, leaf });
        }
        let (Some(checkpoint), true) = (summary.checkpoint, self.found.is_some()) else {
            return Ok(self.found.is_none());
        };
        self.parts.push(Part {
            segment: number,
            end: summary.end,
            checkpoint,
            tree: summary.frontier,
        });
        Ok(true)
    }
}

/// The second pass: returns the record's line and its path, or `None` if the leaves have changed.
fn read_path(
    dir: &Path,
    found: &Found,
    parts: &[Part],
) -> Result<Option<(String, AuditPath)>, ProveError> {
    let mut tree = found.start.clone();
    let mut proven: Option<(Vec<u8>, AuditPath)> = None;
    for part in parts {
        let mut visit = |line: Line<&[u8]>| {
            let Line::Record(_, leaf) = line else {
                return ControlFlow::Continue(());
            };
            match &mut proven {
                Some((_, path)) => path.push(leaf_hash(leaf)),
                None if tree.size() < found.leaf => tree.push(leaf_hash(leaf)),
                None => proven = Some((leaf.to_vec(), AuditPath::new(&tree))),
            }
            ControlFlow::Continue(())
        };
        open(dir, part.segment)
            .and_then(|file| segment::each_line(file, Some(part.end), &mut visit))
            .map_err(|source| at(dir, part.segment, source))?;
    }
    Ok(proven.and_then(|(record, path)| Some((String::from_utf8(record).ok()?, path))))
}

fn segments(dir: &Path) -> Result<Vec<u64>, ProveError> {
    let numbers = list(dir).map_err(|source| ProveError::Io {
        path: dir.into(),
        source,
    })?;
    if numbers.is_empty() {
        return Err(ProveError::NoTrail { path: dir.into() });
    }
    Ok(numbers)
}

fn at(dir: &Path, segment: u64, source: io::Error) -> ProveError {
    ProveError::Io {
        path: dir.join(segment_name(segment)),
        source,
    }
}
