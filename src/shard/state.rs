//! The states of a shard: structs with exactly the data of that state.
//!
//! No code outside can make a state. Inside, [`Verified`] requires a [`Match`], the proof that the
//! device's bytes equal the seal. This module does not know how a shard gets from one state into
//! another.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use vram_digest::{Digest, StreamDigest, Tree};
use vram_trail::clock::Time;

use crate::event::History;
use crate::registry::LastCheck;
use crate::seal::{Match, Seal};

/// A state of a [`Shard`](super::Shard).
///
/// This trait is sealed: there are four states, and no others.
pub trait State: private::Facts + fmt::Debug + Send + Sync + 'static {}

/// The state of a shard that is being filled. It can be written and loaded, but not read.
#[derive(Debug)]
pub struct Allocated {
    pub(super) content: Content,
}

/// The state of a sealed shard. It cannot be read, because its bytes may have changed since.
#[derive(Debug)]
pub struct Sealed {
    pub(super) seal: Seal,
    pub(super) tree: Tree,
    /// The sealing, and the last whole verification if there was one.
    pub(super) history: History,
}

/// The state of a shard that was read back from the device and equals its seal. It can be read.
#[derive(Debug)]
pub struct Verified {
    sealed: Sealed,
    last: LastCheck,
    _proof: Match,
}

/// The state of a shard that failed a verification. It can only be released.
#[derive(Debug)]
pub struct Quarantined {
    pub(super) facts: StateFacts,
}

/// The content written into a shard so far.
#[derive(Debug)]
pub(super) enum Content {
    /// One whole stream, from the first byte to the last.
    Streamed {
        tree: Tree,
        sha256: Option<StreamDigest>,
    },
    /// Pieces.
    Written(Coverage),
}

/// The written bytes, as a map from start to end of disjoint ranges that do not touch.
#[derive(Debug, Default)]
pub(super) struct Coverage(BTreeMap<u64, u64>);

/// The public facts about a shard's state.
#[derive(Clone, Copy, Debug)]
pub struct StateFacts {
    pub(super) state: &'static str,
    pub(super) digest: Option<Digest>,
    pub(super) sealed: Option<Time>,
    pub(super) verified: Option<Time>,
}

pub(super) mod private {
    use super::StateFacts;

    pub trait Facts {
        fn facts(&self) -> StateFacts;
    }
}

use private::Facts;

impl State for Allocated {}
impl State for Sealed {}
impl State for Verified {}
impl State for Quarantined {}

impl Allocated {
    pub(super) fn empty() -> Self {
        Self {
            content: Content::Written(Coverage::default()),
        }
    }
}

impl Verified {
    /// Creates the state, from the proof of a comparison. There is no other way to be verified.
    pub(super) fn new(proof: Match, sealed: Sealed, last: LastCheck) -> Self {
        Self {
            sealed,
            last,
            _proof: proof,
        }
    }

    pub(super) fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    pub(super) fn last(&self) -> LastCheck {
        self.last
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn dangerous_tree(&mut self) -> &mut Tree {
        &mut self.sealed.tree
    }

    /// Gives up the proof.
    pub(super) fn into_parts(self) -> (Sealed, LastCheck, Match) {
        (self.sealed, self.last, self._proof)
    }
}

impl Quarantined {
    /// Keeps only the facts of a state.
    pub(super) fn after(state: &impl Facts) -> Self {
        Self {
            facts: StateFacts {
                state: "quarantined",
                ..state.facts()
            },
        }
    }
}

impl Facts for Allocated {
    fn facts(&self) -> StateFacts {
        StateFacts {
            state: "allocated",
            digest: None,
            sealed: None,
            verified: None,
        }
    }
}

impl Facts for Sealed {
    fn facts(&self) -> StateFacts {
        StateFacts {
            state: "sealed",
            digest: Some(self.seal.digest()),
            sealed: Some(self.seal.sealed()),
            verified: self.history.last_verified_time,
        }
    }
}

impl Facts for Verified {
    fn facts(&self) -> StateFacts {
        StateFacts {
            state: "verified",
            ..self.sealed.facts()
        }
    }
}

impl Facts for Quarantined {
    fn facts(&self) -> StateFacts {
        self.facts
    }
}

impl Coverage {
    /// Adds a range, and joins it with ranges that it overlaps or touches.
    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            start = start.min(first);
            end = end.max(last);
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// Returns the first range of a shard of `len` bytes that was not written.
    pub(super) fn gap(&self, len: u64) -> Option<Range<u64>> {
        let mut ranges = self.0.iter();
        let (covered, next) = match ranges.next() {
            Some((&0, &end)) => (end, ranges.next()),
            first => (0, first),
        };
        let end = next.map_or(len, |(&start, _)| start);
        (covered < end).then_some(covered..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares with a model that has one flag for each byte.
        #[test]
        fn coverage_knows_the_first_gap(
            writes in proptest::collection::vec((0u64..48, 0u64..16), 0..12),
        ) {
            let mut coverage = Coverage::default();
            let mut written = [false; 64];
            for (start, len) in writes {
                coverage.add(start..start + len);
                written[start as usize..(start + len) as usize].fill(true);
            }
            let start = written.iter().position(|byte| !byte);
            let gap = start.map(|start| {
                let len = written[start..].iter().take_while(|byte| !**byte).count();
                start as u64..(start + len) as u64
            });
            prop_assert_eq!(coverage.gap(64), gap);
            for pair in coverage.0.iter().collect::<Vec<_>>().windows(2) {
                prop_assert!(pair[0].1 < pair[1].0, "ranges touch: {:?}", pair);
            }
        }
    }

    #[test]
    fn the_states_differ_in_size_so_that_none_passes_for_another() {
        let sizes = [
            size_of::<Allocated>(),
            size_of::<Sealed>(),
            size_of::<Verified>(),
            size_of::<Quarantined>(),
        ];
        for (i, a) in sizes.iter().enumerate() {
            assert!(!sizes[i + 1..].contains(a), "{sizes:?}");
        }
    }
}
