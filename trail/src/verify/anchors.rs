//! Compares the anchors with the tree while it grows.
//!
//! An anchor is a checkpoint that was kept where the process cannot rewrite it. It counts for a
//! trail only if a given key has signed it and it names the trail's origin. This module knows sizes
//! and roots. It does not know where a checkpoint stands in a segment.

use std::io;
use std::thread;

use super::super::checkpoint::{Checkpoint, VerifierKey};
use super::super::merkle::{Frontier, Node};
use super::report::{AnchorReport, AnchorState, Finding, Report};

/// The least number of signatures for which another thread is worth it.
const LEAST_FOR_A_THREAD: usize = 256;

/// Anchors, compared with the tree while it grows.
pub(super) struct Anchors<'a> {
    anchors: &'a [Checkpoint],
    states: Vec<Option<AnchorState>>,
    /// The anchors that equal a checkpoint of the trail: a given key has signed them.
    signed: Vec<bool>,
    /// All anchors, by size.
    by_size: Vec<(u64, usize)>,
    /// The anchors compared since the last matching checkpoint.
    seen: Vec<(usize, AnchorState)>,
    /// The segment whose header declares an anchor void.
    declared: Vec<Option<u64>>,
    /// The same, since the last matching checkpoint.
    declared_lately: Vec<(usize, u64)>,
}

impl<'a> Anchors<'a> {
    pub(super) fn new(anchors: &'a [Checkpoint]) -> Self {
        let sizes = anchors.iter().map(Checkpoint::size);
        let mut by_size: Vec<_> = sizes.zip(0..).collect();
        by_size.sort_unstable();
        Self {
            anchors,
            states: vec![None; anchors.len()],
            signed: vec![false; anchors.len()],
            by_size,
            seen: Vec::new(),
            declared: vec![None; anchors.len()],
            declared_lately: Vec::new(),
        }
    }

    /// Notes the checkpoints that the header of `segment` declares void: signed before it and never
    /// acknowledged.
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

    /// Notes that the trail's next checkpoint matches.
    pub(super) fn acknowledge(&mut self, checkpoint: &Checkpoint) {
        for (index, segment) in self.declared_lately.drain(..) {
            if let Some(known) = self.declared.get_mut(index) {
                known.get_or_insert(segment);
            }
        }
        for (index, state) in self.seen.drain(..) {
            if self.anchors.get(index) == Some(checkpoint)
                && let Some(signed) = self.signed.get_mut(index)
            {
                *signed = true;
            }
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

    /// Writes the anchors into the report, and returns whether one confirms the last checkpoint.
    pub(super) fn finish(
        &mut self,
        keys: &[VerifierKey],
        report: &mut Report,
        last_segment_checked: bool,
    ) -> bool {
        self.verify_signatures(keys);
        let mut vouched = false;
        let anchors = self.anchors.iter().zip(&self.states).zip(&self.declared);
        for ((anchor, state), declared) in anchors {
            let size = anchor.size();
            let ours = report.origin.as_deref();
            let state = match state {
                // The given keys may belong to several trails.
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
            report.anchor(AnchorReport {
                origin: anchor.origin().to_owned(),
                size,
                state,
                voided_by,
            });
        }
        // A holder of the key can declare any checkpoint void. So with a voided anchor, nothing
        // vouches for the rest.
        vouched && report.voided_anchors == 0
    }

    /// Verifies the signatures of the anchors; one that no given key has signed is foreign. Most
    /// were verified where they stand in the trail. The others take far longer than all other work,
    /// so all cores help.
    fn verify_signatures(&mut self, keys: &[VerifierKey]) {
        let unknown = |(index, signed): (usize, &bool)| (!signed).then_some(index);
        let unknown: Vec<usize> = self.signed.iter().enumerate().filter_map(unknown).collect();
        let anchors: &[Checkpoint] = self.anchors;
        let foreign = move |part: &[usize]| -> Vec<usize> {
            let signed = |index: usize| {
                anchors
                    .get(index)
                    .is_some_and(|anchor| anchor.is_signed_by_one_of(keys))
            };
            let part = part.iter().copied();
            part.filter(|index| !signed(*index)).collect()
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let length = unknown.len().div_ceil(cores).max(LEAST_FOR_A_THREAD);
        let found: Vec<usize> = thread::scope(|scope| {
            let start = |part| {
                let builder = thread::Builder::new().name("vram-verify".into());
                (part, builder.spawn_scoped(scope, move || foreign(part)))
            };
            let started: Vec<_> = unknown.chunks(length).map(start).collect();
            let end = |(part, thread): (_, io::Result<thread::ScopedJoinHandle<'_, _>>)| {
                // If a thread cannot be started, its work is done without it.
                let found = thread.ok().and_then(|thread| thread.join().ok());
                found.unwrap_or_else(|| foreign(part))
            };
            started.into_iter().flat_map(end).collect()
        });
        for index in found {
            if let Some(state) = self.states.get_mut(index) {
                *state = Some(AnchorState::Foreign);
            }
        }
    }
}
