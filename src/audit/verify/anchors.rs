//! The anchors, compared with the tree while it grows.
//!
//! An anchor is a checkpoint that was kept where the worker cannot rewrite it. It says something about
//! a trail only if a given key has signed it and it names the trail's origin. This module knows sizes
//! and roots; it does not know where a checkpoint stands in a segment.

use super::super::checkpoint::{Checkpoint, VerifierKey};
use super::super::merkle::{Frontier, Node};
use super::report::{AnchorReport, AnchorState, Finding, Report, push};

/// Anchors, compared with the tree while it grows.
pub(super) struct Anchors<'a> {
    anchors: &'a [Checkpoint],
    states: Vec<Option<AnchorState>>,
    /// Those signed by a given key, by size.
    by_size: Vec<(u64, usize)>,
    /// Compared since the last matching checkpoint.
    seen: Vec<(usize, AnchorState)>,
    /// The segment whose header declares an anchor void.
    declared: Vec<Option<u64>>,
    /// The same since the last matching checkpoint.
    declared_lately: Vec<(usize, u64)>,
}

impl<'a> Anchors<'a> {
    pub(super) fn new(anchors: &'a [Checkpoint], keys: &[VerifierKey]) -> Self {
        let signed = |anchor: &Checkpoint| anchor.is_signed_by_one_of(keys);
        let mut by_size = Vec::new();
        let mut states = Vec::new();
        for (index, anchor) in anchors.iter().enumerate() {
            if signed(anchor) {
                by_size.push((anchor.size(), index));
                states.push(None);
            } else {
                states.push(Some(AnchorState::Foreign));
            }
        }
        by_size.sort_unstable();
        Self {
            anchors,
            states,
            by_size,
            seen: Vec::new(),
            declared: vec![None; anchors.len()],
            declared_lately: Vec::new(),
        }
    }

    /// The header of `segment` says what was signed before it and never acknowledged.
    pub(super) fn declare(&mut self, segment: u64, voided: &[(u64, Node)]) {
        for (size, root) in voided {
            let from = self.by_size.partition_point(|(other, _)| other < size);
            for (_, index) in self
                .by_size
                .iter()
                .skip(from)
                .take_while(|(other, _)| other == size)
            {
                if self.anchors.get(*index).map(Checkpoint::root) == Some(*root) {
                    self.declared_lately.push((*index, segment));
                }
            }
        }
    }

    pub(super) fn see(&mut self, tree: &Frontier) {
        let from = self
            .by_size
            .partition_point(|(size, _)| *size < tree.size());
        for (size, index) in self.by_size.iter().skip(from) {
            if *size != tree.size() {
                break;
            }
            let root = self.anchors.get(*index).map(Checkpoint::root);
            self.seen.push((
                *index,
                if root == Some(tree.root()) {
                    AnchorState::Confirmed
                } else {
                    AnchorState::Contradicts
                },
            ));
        }
    }

    pub(super) fn acknowledge(&mut self) {
        for (index, segment) in self.declared_lately.drain(..) {
            if let Some(known) = self.declared.get_mut(index) {
                known.get_or_insert(segment);
            }
        }
        for (index, state) in self.seen.drain(..) {
            if let Some(known) = self.states.get_mut(index)
                && *known != Some(AnchorState::Contradicts)
            {
                *known = Some(state);
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.declared_lately.clear();
    }

    /// Writes the anchors into the report, and says whether one confirms the last checkpoint.
    pub(super) fn finish(&self, report: &mut Report, last_segment_checked: bool) -> bool {
        let mut vouched = false;
        let anchors = self.anchors.iter().zip(&self.states).zip(&self.declared);
        for ((anchor, state), declared) in anchors {
            let size = anchor.size();
            let ours = report.origin.as_deref();
            let state = match state {
                // The keys that were given may be those of several trails.
                _ if ours.is_some_and(|origin| origin != anchor.origin()) => AnchorState::Foreign,
                Some(state) => *state,
                None if size > report.leaves && last_segment_checked => AnchorState::Contradicts,
                None => AnchorState::NotComparable,
            };
            let voided_by = declared.filter(|_| state == AnchorState::Contradicts);
            let state = voided_by.map_or(state, |_| AnchorState::Voided);
            if state == AnchorState::Voided {
                report.voided_anchors = report.voided_anchors.saturating_add(1);
            }
            if state == AnchorState::Contradicts {
                report.find(Finding {
                    words: format!(
                        "the anchor at {size} leaves contradicts the trail, which has {} leaves \
                         or another root there",
                        report.leaves
                    ),
                    ..Finding::default()
                });
            }
            vouched |= state == AnchorState::Confirmed && size == report.leaves;
            push(
                &mut report.anchors,
                AnchorReport {
                    origin: anchor.origin().to_owned(),
                    size,
                    state,
                    voided_by,
                },
            );
        }
        // Whoever holds the key can declare anything void: with that, nobody vouches for the rest.
        vouched && report.voided_anchors == 0
    }
}
