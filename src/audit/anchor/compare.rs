//! What an anchor remembers, compared with the trail that is there.
//!
//! A checkpoint fixes the first records of a trail by their number and their Merkle root. The trail
//! continues it if it has at least as many acknowledged records, and the same root at that size.
//! Usually that is the root of its end; otherwise the segments are read from the one that holds that
//! size, in constant memory. Segments of earlier runs never change, so this can be done at any time,
//! beside the writer.

use std::fmt;
use std::io;

use super::super::checkpoint::{Checkpoint, VerifierKey};
use super::super::merkle::Node;
use super::super::position::Position;
use super::super::segment::{self, Header, Seen};
use super::super::storage::SegmentReader;

/// A trail as earlier runs have left it.
pub(in super::super) struct Earlier {
    /// The keys under which the trail's checkpoints were signed.
    pub(in super::super) keys: Vec<VerifierKey>,
    /// The segments that are there, in ascending order.
    pub(in super::super) segments: Vec<u64>,
    /// Where its acknowledged part ends.
    pub(in super::super) end: Position,
    pub(in super::super) reader: SegmentReader,
}

/// How a trail contradicts a checkpoint that its own key has signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Contradiction {
    /// Among the records that the checkpoint covers there are other ones now.
    Different,
    /// Records that the checkpoint covers are missing at the end.
    Shorter {
        /// How many are there.
        leaves: u64,
    },
}

impl Contradiction {
    /// One word for it.
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::Shorter { .. } => "shorter",
        }
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Different => f.write_str("they are different ones"),
            Self::Shorter { leaves } => write!(f, "only {leaves} are there"),
        }
    }
}

impl Earlier {
    /// The trail's name.
    pub(super) fn origin(&self) -> &str {
        self.end.checkpoint.origin()
    }

    /// Whether this trail's key has signed it: nothing else counts, whoever keeps it.
    pub(super) fn has_signed(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.is_signed_by_one_of(&self.keys)
    }

    /// How the trail contradicts what an anchor keeps, if it does.
    ///
    /// # Errors
    ///
    /// A segment cannot be read.
    pub(super) fn contradiction(&self, kept: &Checkpoint) -> io::Result<Option<Contradiction>> {
        let leaves = self.end.frontier.size();
        if kept.size() > leaves {
            return Ok(Some(Contradiction::Shorter { leaves }));
        }
        let agrees = if kept.size() == leaves {
            kept.root() == self.end.frontier.root()
        } else {
            match self.first_segment_for(kept.size())? {
                Some(first) => self.root_at(kept.size(), first)? == Some(kept.root()),
                // Older segments may be removed when nobody needs them any more.
                None => true,
            }
        };
        Ok((!agrees).then_some(Contradiction::Different))
    }

    /// The last segment that knows the tree of this size.
    fn first_segment_for(&self, size: u64) -> io::Result<Option<u64>> {
        for &segment in self.segments.iter().rev() {
            if self
                .header(segment)?
                .is_some_and(|header| header.first_leaf <= size)
            {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// The root that the trail had at this size; nothing if no unbroken way leads from there to its
    /// end.
    fn root_at(&self, size: u64, first: u64) -> io::Result<Option<Node>> {
        let mut root = None;
        let mut before = None;
        for segment in first..=self.end.segment {
            let Some(end) = self.acknowledged_end(segment)? else {
                return Ok(None);
            };
            let mut start = None;
            let summary = segment::read(
                (self.reader)(segment)?,
                segment,
                &self.keys,
                Some(end),
                &mut |seen| match seen {
                    Seen::Start(tree) => {
                        if tree.size() == size {
                            root = Some(tree.root());
                        }
                        start = Some(tree.clone());
                    }
                    Seen::Record(_, _, tree) if tree.size() == size => root = Some(tree.root()),
                    Seen::Record(..) | Seen::Acknowledged => {}
                },
            )?;
            if before.is_some() && before != start {
                return Ok(None);
            }
            before = Some(summary.frontier);
        }
        Ok(root.filter(|_| before.as_ref() == Some(&self.end.frontier)))
    }

    /// Where the acknowledged part of a segment ends: the next one says it.
    fn acknowledged_end(&self, segment: u64) -> io::Result<Option<u64>> {
        if segment == self.end.segment {
            return Ok(Some(self.end.end));
        }
        let next = segment.saturating_add(1);
        if self.segments.binary_search(&next).is_err() {
            return Ok(None);
        }
        let header = self.header(next)?;
        Ok(header.and_then(|header| Some(header.previous?.end)))
    }

    fn header(&self, segment: u64) -> io::Result<Option<Header>> {
        segment::read_header((self.reader)(segment)?)
    }
}
