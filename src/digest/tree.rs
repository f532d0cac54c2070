//! The tree above the data: 32 bytes for each window, and the few levels above them.
//!
//! Level 1 has one node for each window, every level above one node for 128 below, the last one the
//! root. The leaves (level 0) are never kept.

use std::ops::{ControlFlow, Range};

use sha2::{Digest as _, Sha256};

use super::block::{hash_blocks, padded_block};
use super::{BLOCK_BYTES, Digest, NODE_BYTES, Node, Progress, Stopped, parallel};

/// Nodes in a block of nodes.
const FAN_OUT: usize = BLOCK_BYTES / NODE_BYTES;

/// The kept part of the tree over some data, from level 1 up.
#[derive(Clone, Debug)]
pub struct Tree {
    len: u64,
    /// Level 1 first. The last level is one node, the root; data without bytes has no level.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// The tree over `bytes`, computed on all cores.
    ///
    /// `progress` is called for about each MiB that the calling thread has worked on, and once at
    /// the end; [`ControlFlow::Break`] stops.
    pub fn of_slice(
        bytes: &[u8],
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, Stopped> {
        let nodes = parallel::nodes_of_slice(bytes, &mut progress)?;
        Ok(Self::from_nodes(bytes.len() as u64, nodes))
    }

    /// The tree over `len` bytes of data whose windows have these nodes.
    pub(crate) fn from_nodes(len: u64, nodes: Vec<Node>) -> Self {
        let mut levels = Vec::new();
        let mut level = nodes;
        while level.len() > 1 {
            let above = level_above(&level);
            levels.push(level);
            level = above;
        }
        if !level.is_empty() {
            levels.push(level);
        }
        Self { len, levels }
    }

    /// The fs-verity digest of the data.
    pub fn digest(&self) -> Digest {
        let root = self.levels.last().and_then(|level| level.first());
        describe(self.len, root.unwrap_or(&[0; NODE_BYTES]))
    }

    /// The length of the data in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the data has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many windows the data has.
    pub fn windows(&self) -> u64 {
        self.nodes().len() as u64
    }

    /// The windows whose nodes differ between two trees, as half-open ranges; all windows of the
    /// longer one if the lengths differ.
    pub(crate) fn damaged(&self, other: &Self) -> Vec<Range<u64>> {
        if self.len != other.len {
            return vec![0..self.windows().max(other.windows())];
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (window, (one, two)) in (0..).zip(self.nodes().iter().zip(other.nodes())) {
            if one == two {
                continue;
            }
            let end = u64::saturating_add(window, 1);
            match ranges.last_mut() {
                Some(range) if range.end == window => range.end = end,
                _ => ranges.push(window..end),
            }
        }
        ranges
    }

    /// The digest that follows if the windows from `first` on have these nodes; none if there are
    /// no such windows.
    ///
    /// The path from the windows to the root is recomputed. Kept nodes take part only as siblings,
    /// none of the path itself, so kept nodes can make a check fail, never pass.
    pub(crate) fn digest_with(&self, first: u64, nodes: &[Node]) -> Option<Digest> {
        let mut first = usize::try_from(first).ok()?;
        let mut fresh = nodes.to_vec();
        let (_root, below) = self.levels.split_last()?;
        if fresh.is_empty() || first.checked_add(fresh.len())? > self.nodes().len() {
            return None;
        }
        for kept in below {
            fresh = parents(kept, first, &fresh)?;
            first /= FAN_OUT;
        }
        match fresh.as_slice() {
            [root] => Some(describe(self.len, root)),
            _ => None,
        }
    }

    /// Level 1.
    fn nodes(&self) -> &[Node] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }
}

/// Kept trees can be damaged on purpose, to show that they are not trusted.
#[cfg(any(test, feature = "fault-injection"))]
impl Tree {
    /// How many bytes of nodes are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Vec::len).sum();
        nodes.saturating_mul(NODE_BYTES)
    }

    /// Flips one bit of a kept byte. Nothing happens where there is no such byte.
    pub(crate) fn dangerous_flip(&mut self, byte: usize, bit: u8) {
        let bytes = self.levels.iter_mut().flatten().flatten();
        if let Some(byte) = bytes.into_iter().nth(byte) {
            *byte ^= 1u8.wrapping_shl(bit.into());
        }
    }
}

fn level_above(level: &[Node]) -> Vec<Node> {
    let mut above = vec![[0; NODE_BYTES]; level.len().div_ceil(FAN_OUT)];
    hash_blocks(level.as_flattened(), &mut above);
    above
}

/// The parents of a level's nodes from `first` on, which take the place of the kept ones.
fn parents(kept: &[Node], first: usize, fresh: &[Node]) -> Option<Vec<Node>> {
    let end = first.checked_add(fresh.len())?;
    let start_of_blocks = (first / FAN_OUT).checked_mul(FAN_OUT)?;
    let end_of_blocks = end.div_ceil(FAN_OUT).checked_mul(FAN_OUT)?.min(kept.len());
    let mut blocks = kept.get(start_of_blocks..first)?.to_vec();
    blocks.extend_from_slice(fresh);
    blocks.extend_from_slice(kept.get(end..end_of_blocks)?);
    Some(
        blocks
            .chunks(FAN_OUT)
            .map(|block| padded_block(block.as_flattened()))
            .collect(),
    )
}

/// The digest of the descriptor, `struct fsverity_descriptor` of the Linux kernel.
fn describe(len: u64, root: &Node) -> Digest {
    let digest = Sha256::new()
        .chain_update([1, 1, 12, 0]) // version, SHA-256, log2 of the block size, no salt
        .chain_update([0; 4])
        .chain_update(len.to_le_bytes())
        .chain_update(root)
        .chain_update([0; 32]) // the field for the root has room for SHA-512
        .chain_update([0; 32]) // salt
        .chain_update([0; 144])
        .finalize();
    Digest::from_bytes(digest.into())
}
