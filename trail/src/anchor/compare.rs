//! Compares what an anchor remembers with the trail on disk.
//!
//! A checkpoint fixes the first records of a trail by their number and their Merkle root. The trail
//! continues it if it has at least as many acknowledged records, and the same root at that size.
//!
//! [`Walk`] compares any number of checkpoints, in ascending order, in one pass over the segments
//! and in constant memory. It hashes the leaves and checks no signature of the trail. The end of
//! the trail is verified already, and each segment must lead to the header of the next one. A root
//! that fits confirms itself; a signature is verified only where a root does not fit. Segments of
//! earlier runs never change, so the comparison can run at any time, in parallel to the writer.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::super::checkpoint::{Checkpoint, VerifierKey, decode_base64};
use super::super::merkle::Frontier;
use super::super::position::Position;
use super::super::segment::{self, Header};
use super::super::storage::SegmentReader;

/// A trail as earlier runs have left it.
pub(in super::super) struct Earlier {
    /// The keys under which the trail's checkpoints were signed.
    pub(in super::super) keys: Vec<VerifierKey>,
    /// The numbers of the existing segments, in ascending order.
    pub(in super::super) segments: Vec<u64>,
    /// The end of its acknowledged part.
    pub(in super::super) end: Position,
    pub(in super::super) reader: SegmentReader,
}

/// How a trail contradicts a checkpoint that its own key has signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Contradiction {
    /// Some records that the checkpoint covers were replaced.
    Different,
    /// Records that the checkpoint covers are missing at the end.
    Shorter {
        /// The number of leaves that exist.
        leaves: u64,
    },
}

/// The result of a comparison with a checkpoint that does not fit the trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Misfit {
    /// One of the trail's keys has signed the checkpoint.
    Contradicts(Checkpoint),
    /// The size of the first checkpoint that no given key has signed.
    Unverifiable(u64),
}

impl Contradiction {
    /// Returns one word for it.
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
    /// Returns the number of acknowledged records.
    pub(super) fn leaves(&self) -> u64 {
        self.end.frontier.size()
    }

    /// Returns whether one of this trail's keys has signed the checkpoint. Nothing else counts,
    /// wherever it is kept.
    pub(super) fn has_signed(&self, checkpoint: &Checkpoint) -> bool {
        checkpoint.is_signed_by_one_of(&self.keys)
    }

    fn header(&self, segment: u64) -> io::Result<Option<Header>> {
        segment::read_header((self.reader)(segment)?)
    }

    /// Returns the last segment whose header knows the tree of this size. If older segments are
    /// gone, returns the least size that an existing segment knows.
    fn first_segment_for(&self, size: u64) -> io::Result<Result<u64, u64>> {
        let mut least = u64::MAX;
        for &segment in self.segments.iter().rev() {
            let header = self.header(segment)?;
            least = least.min(header.map_or(u64::MAX, |header| header.first_leaf));
            if least <= size {
                return Ok(Ok(segment));
            }
        }
        Ok(Err(least))
    }

    /// Returns the existing segment that follows this one.
    fn segment_behind(&self, segment: u64) -> Option<u64> {
        let place = self.segments.partition_point(|there| *there <= segment);
        self.segments.get(place).copied()
    }

    /// Returns where the acknowledged part of a segment ends, as the next segment states it.
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
}

/// Returns the tree that a header states for the leaves before its segment.
fn stated_tree(header: &Header) -> Option<Frontier> {
    let nodes = header.previous.iter().flat_map(|before| &before.frontier);
    let nodes = nodes.map(|node| decode_base64(node)?.try_into().ok());
    Frontier::from_nodes(header.first_leaf, nodes.collect::<Option<_>>()?)
}

/// The source of the checkpoints. It returns those of at least so many leaves, in ascending order,
/// as many as fit into a page. An empty page means that there are no more.
pub(super) type Pages<'a, E> = dyn FnMut(u64) -> Result<Vec<Checkpoint>, E> + 'a;

/// The checkpoints to be compared next, none larger than the trail.
struct Due {
    page: VecDeque<Checkpoint>,
    /// The least size on the next page. `None` if there is no next page.
    from: Option<u64>,
    leaves: u64,
}

impl Due {
    /// Returns the next checkpoint without removing it.
    fn first<E>(&mut self, pages: &mut Pages<'_, E>) -> Result<Option<&Checkpoint>, E> {
        while self.page.is_empty()
            && let Some(from) = self.from
        {
            let page = pages(from)?;
            let last = page.last().map(Checkpoint::size);
            let is_over = last.is_none_or(|last| last >= self.leaves);
            self.from = last.filter(|_| !is_over).map(|last| last.saturating_add(1));
            let leaves = self.leaves;
            self.page = page.into();
            // A larger checkpoint is one that this run gave to the anchor meanwhile, so it is not
            // compared.
            self.page.retain(|checkpoint| checkpoint.size() <= leaves);
        }
        Ok(self.page.front())
    }

    fn skip_to<E>(&mut self, least: u64, pages: &mut Pages<'_, E>) -> Result<(), E> {
        while self.first(pages)?.is_some_and(|first| first.size() < least) {
            self.page.pop_front();
        }
        Ok(())
    }
}

/// One pass over a trail, a segment at a time.
pub(super) struct Walk {
    earlier: Arc<Earlier>,
    due: Due,
    /// The segment to be read next. `None` before the first.
    next: Option<u64>,
    /// The tree behind the segments that were read.
    tree: Option<Frontier>,
    /// The last checkpoint that fitted the tree.
    fitted: Option<Checkpoint>,
    unverifiable: Option<u64>,
    misfit: Option<Checkpoint>,
}

/// The reason why a walk stops.
pub(super) enum Stop<E> {
    /// A page could not be obtained.
    Pages(E),
    /// A segment could not be read.
    Read(io::Error),
}

impl<E> From<io::Error> for Stop<E> {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Walk {
    /// Creates a walk along all the checkpoints that pages return.
    pub(super) fn new(earlier: Arc<Earlier>) -> Self {
        Self::along(earlier, VecDeque::new(), Some(0))
    }

    /// Creates a walk to one checkpoint, not larger than the trail, and on to the end.
    pub(super) fn to(earlier: Arc<Earlier>, checkpoint: Checkpoint) -> Self {
        Self::along(earlier, [checkpoint].into(), None)
    }

    fn along(earlier: Arc<Earlier>, page: VecDeque<Checkpoint>, from: Option<u64>) -> Self {
        let leaves = earlier.leaves();
        Self {
            earlier,
            due: Due { page, from, leaves },
            next: None,
            tree: None,
            fitted: None,
            unverifiable: None,
            misfit: None,
        }
    }

    /// Reads the next segment that is needed. Returns the overall result once it is known: the
    /// checkpoint that does not fit, or whether there was anything to compare.
    ///
    /// # Errors
    ///
    /// A segment could not be read, or a page could not be obtained.
    pub(super) fn step<E>(
        &mut self,
        pages: &mut Pages<'_, E>,
    ) -> Result<Option<Result<bool, Misfit>>, Stop<E>> {
        let segment = match self.next {
            Some(segment) => segment,
            None => match self.start(pages)? {
                Some(segment) => segment,
                None => return Ok(Some(self.outcome())),
            },
        };
        self.read(segment, pages)?;
        self.next = self.earlier.segment_behind(segment);
        if self.misfit.is_some() || self.next.is_none() {
            return Ok(Some(self.outcome()));
        }
        if self.next != segment.checked_add(1) {
            self.way_is_broken();
        }
        Ok(None)
    }

    /// Returns the segment to which the first checkpoint leads. Checkpoints before the oldest
    /// existing segment cannot be compared, and those of the trail's end need no reading.
    fn start<E>(&mut self, pages: &mut Pages<'_, E>) -> Result<Option<u64>, Stop<E>> {
        while let Some(first) = self.due.first(pages).map_err(Stop::Pages)? {
            let size = first.size();
            if size == self.due.leaves {
                let end = self.earlier.end.frontier.clone();
                self.see(&end, pages).map_err(Stop::Pages)?;
                continue;
            }
            match self.earlier.first_segment_for(size)? {
                Ok(segment) => return Ok(Some(segment)),
                Err(least) => self.due.skip_to(least, pages).map_err(Stop::Pages)?,
            }
        }
        Ok(None)
    }

    fn outcome(&mut self) -> Result<bool, Misfit> {
        match (self.misfit.take(), self.unverifiable) {
            (Some(checkpoint), _) => Err(Misfit::Contradicts(checkpoint)),
            (None, Some(size)) => Err(Misfit::Unverifiable(size)),
            (None, None) => Ok(self.fitted.is_some()),
        }
    }

    /// Reads one segment, and compares on the way.
    fn read<E>(&mut self, segment: u64, pages: &mut Pages<'_, E>) -> Result<(), Stop<E>> {
        let earlier = Arc::clone(&self.earlier);
        let start = earlier.header(segment)?.as_ref().and_then(stated_tree);
        let end = earlier.acknowledged_end(segment)?;
        let before = self.tree.take();
        if before.is_some() && before != start {
            self.way_is_broken();
        }
        let (Some(mut tree), Some(end)) = (start, end) else {
            self.way_is_broken();
            return Ok(());
        };
        let mut seen = self.see(&tree, pages);
        segment::each_leaf((earlier.reader)(segment)?, end, &mut |leaf| {
            tree.push(leaf);
            if seen.is_ok() {
                seen = self.see(&tree, pages);
            }
        })?;
        seen.map_err(Stop::Pages)?;
        if segment == earlier.end.segment && tree != earlier.end.frontier {
            self.way_is_broken();
        }
        self.tree = Some(tree);
        Ok(())
    }

    /// Compares the checkpoints that are due at the size of this tree.
    fn see<E>(&mut self, tree: &Frontier, pages: &mut Pages<'_, E>) -> Result<(), E> {
        while self.misfit.is_none()
            && let Some(first) = self.due.first(pages)?
            && first.size() <= tree.size()
        {
            let Some(checkpoint) = self.due.page.pop_front() else {
                break;
            };
            // A checkpoint of another size lies where the chain of segments is broken.
            if checkpoint.size() == tree.size() && checkpoint.root() == tree.root() {
                self.fitted = Some(checkpoint);
            } else {
                self.misfit(checkpoint);
            }
        }
        Ok(())
    }

    /// Notes that no chain leads from the segments read to the trail's end, so the end does not
    /// continue the checkpoint.
    fn way_is_broken(&mut self) {
        if let Some(checkpoint) = self.fitted.take() {
            self.misfit(checkpoint);
        }
    }

    fn misfit(&mut self, checkpoint: Checkpoint) {
        if self.earlier.has_signed(&checkpoint) {
            self.misfit.get_or_insert(checkpoint);
        } else {
            self.unverifiable.get_or_insert(checkpoint.size());
        }
    }
}
