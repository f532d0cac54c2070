//! The tree above the data: 32 bytes for each window, and the few levels above.
//!
//! Level 1 has one node for each window. Every level above has one node for 128 nodes below, and
//! the last level is the root. The leaves (level 0) are never kept.

use std::ops::{ControlFlow, Range};

use sha2::{Digest as _, Sha256};

use super::block::{hash_blocks, padded_block};
use super::parallel::{Ended, nodes_of_slice, nowhere};
use super::{BLOCK_BYTES, Digest, NODE_BYTES, Node, Progress, Stopped};

/// The number of nodes in a block of nodes.
const FAN_OUT: usize = BLOCK_BYTES / NODE_BYTES;

/// The kept part of the tree over some data, from level 1 up.
#[derive(Clone, Debug)]
pub struct Tree {
    len: u64,
    /// The levels, from level 1 up. The last level is one node, the root. Empty data has no level.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// Computes the tree over `bytes`, on all cores.
    ///
    /// Calls `progress` for about each MiB that the calling thread has hashed, and once at the end.
    ///
    /// # Errors
    ///
    /// Returns [`Stopped`] if `progress` returned [`ControlFlow::Break`].
    pub fn of_slice(
        bytes: &[u8],
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, Stopped> {
        match nodes_of_slice(bytes, nowhere, &mut progress) {
            Ok(nodes) => Ok(Self::from_nodes(bytes.len() as u64, nodes)),
            Err(Ended::Stopped) => Err(Stopped),
            Err(Ended::Sink(never)) => match never {},
        }
    }

    /// Builds the tree over `len` bytes of data from the nodes of its windows.
    pub fn from_nodes(len: u64, nodes: Vec<Node>) -> Self {
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

    /// Builds the tree over `len` zeros.
    pub fn of_zeros(len: u64) -> Self {
        const WINDOW: u64 = super::WINDOW_BYTES as u64;
        let whole = usize::try_from(len / WINDOW).unwrap_or(usize::MAX);
        let zeros = [0; super::WINDOW_BYTES];
        let tail = usize::try_from(len % WINDOW).unwrap_or(0);
        let tail = zeros.get(..tail).filter(|tail| !tail.is_empty());
        let mut nodes = vec![super::window_node(1, &zeros); whole];
        nodes.extend(tail.map(|tail| super::window_node(whole as u64, tail)));
        Self::from_nodes(len, nodes)
    }

    /// Returns the fs-verity digest of `len` bytes of data whose tree has this root.
    pub fn digest_of(len: u64, root: &Node) -> Digest {
        describe(len, root)
    }

    /// Returns the fs-verity digest of the data.
    pub fn digest(&self) -> Digest {
        describe(self.len, &self.root())
    }

    /// Returns the root; zeros if the data is empty.
    pub fn root(&self) -> Node {
        let root = self.levels.last().and_then(|level| level.first());
        root.copied().unwrap_or([0; NODE_BYTES])
    }

    /// Returns whether the kept levels still lead to `digest`. If they do, level 1 is as
    /// trustworthy as `digest`.
    pub fn is_intact(&self, digest: &Digest) -> bool {
        let again = Self::from_nodes(self.len, self.nodes().to_vec());
        again.levels == self.levels && again.digest() == *digest
    }

    /// Returns the length of the data in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the data is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of windows of the data.
    pub fn windows(&self) -> u64 {
        self.nodes().len() as u64
    }

    /// Returns the windows whose nodes differ between two trees, as half-open ranges.
    ///
    /// If the lengths differ, returns all windows of the longer tree.
    pub fn damaged(&self, other: &Self) -> Vec<Range<u64>> {
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

    /// Computes the digest of the data if the windows from `first` on had these nodes.
    ///
    /// Returns `None` if a window does not exist. The path from the windows to the root is
    /// recomputed. Kept nodes take part only as siblings, never as nodes of the path. So damaged
    /// kept nodes can make a check fail, but never pass.
    pub fn digest_with(&self, first: u64, nodes: &[Node]) -> Option<Digest> {
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

    /// Returns level 1.
    fn nodes(&self) -> &[Node] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }
}

/// Deliberate damage to kept trees, which shows that they are not trusted.
#[cfg(any(test, feature = "fault-injection"))]
impl Tree {
    /// Returns the size of all kept nodes, in bytes.
    pub fn kept_bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Vec::len).sum();
        nodes.saturating_mul(NODE_BYTES)
    }

    /// Flips one bit of a kept byte, or does nothing if the byte does not exist.
    pub fn dangerous_flip(&mut self, byte: usize, bit: u8) {
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

/// Computes the parents of a level's nodes, where `fresh` replaces the kept nodes from `first` on.
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

/// Computes the digest of the descriptor, `struct fsverity_descriptor` of the Linux kernel.
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

#[cfg(test)]
mod tests {
    use super::super::{WINDOW_BYTES, nodes_of_windows};
    use super::*;

    /// A length with three levels: 130 windows, two blocks of nodes, the root. The last window has
    /// one byte.
    const LEN: usize = 129 * WINDOW_BYTES + 1;

    fn data() -> Vec<u8> {
        data_of(LEN)
    }

    fn data_of(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 5 % 251) as u8).collect()
    }

    fn tree(bytes: &[u8]) -> Tree {
        Tree::of_slice(bytes, |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn the_path_of_good_windows_leads_to_the_digest_and_of_bad_ones_elsewhere() {
        let mut bytes = data();
        let tree = tree(&bytes);
        let expected = tree.digest();
        let some = [0..1, 3..9, 120..130, 127..129, 128..130, 129..130, 0..130];
        for windows in some.clone() {
            let nodes = nodes_of_windows(&bytes, windows.clone()).unwrap();
            let found = tree.digest_with(windows.start, &nodes);
            assert_eq!(found, Some(expected), "{windows:?}");
        }
        for windows in some {
            let place = (windows.end as usize * WINDOW_BYTES).min(LEN) - 1;
            bytes[place] ^= 1;
            let nodes = nodes_of_windows(&bytes, windows.clone()).unwrap();
            let found = tree.digest_with(windows.start, &nodes).unwrap();
            assert_ne!(found, expected, "{windows:?}");
            bytes[place] ^= 1;
        }
    }

    #[test]
    fn a_window_of_data_of_one_block_and_of_one_window_leads_to_the_digest() {
        let lens = [1, 4096, 4097, WINDOW_BYTES];
        let tried = if cfg!(miri) { 1 } else { lens.len() };
        for len in lens.into_iter().take(tried) {
            let bytes = data_of(len);
            let nodes = nodes_of_windows(&bytes, 0..1).unwrap();
            let tree = tree(&bytes);
            assert_eq!(tree.digest_with(0, &nodes), Some(tree.digest()));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn windows_that_do_not_exist_have_no_digest() {
        let tree = tree(&data()[..2 * WINDOW_BYTES]);
        assert_eq!(tree.digest_with(0, &[]), None);
        assert_eq!(tree.digest_with(2, &[[0; 32]]), None);
        assert_eq!(tree.digest_with(u64::MAX, &[[0; 32]]), None);
        assert_eq!(tree.digest_with(1, &[[0; 32]; 2]), None);
        assert_eq!(nodes_of_windows(&[1; 5], 0..2), None);
        assert_eq!(nodes_of_windows(&[1; 5], 1..u64::MAX), None);
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = nodes_of_windows(&[1; 5], 1..0);
        assert_eq!(reversed, None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_changed_byte_of_a_kept_tree_never_makes_bad_windows_pass() {
        let mut bytes = data();
        let good = tree(&bytes);
        let expected = good.digest();
        let node_of_good = nodes_of_windows(&bytes, 129..130).unwrap();
        bytes[LEN - 1] ^= 4;
        let node_of_bad = nodes_of_windows(&bytes, 129..130).unwrap();
        for byte in 0..good.kept_bytes() {
            let mut kept = good.clone();
            kept.dangerous_flip(byte, (byte % 8) as u8);
            assert_ne!(kept.digest_with(129, &node_of_bad), Some(expected));
            // The path of window 129 has two siblings: node 128, and above it the first block of
            // nodes. Its own node, its parent and the root are not read.
            let node = byte / NODE_BYTES;
            let sibling = [128, 130].contains(&node);
            let passes = kept.digest_with(129, &node_of_good) == Some(expected);
            assert_eq!(passes, !sibling, "byte {byte}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn damage_is_located_in_half_open_ranges() {
        let mut bytes = data();
        let good = tree(&bytes);
        for window in [0, 5, 6, 7, 129] {
            bytes[window * WINDOW_BYTES] ^= 0x10;
        }
        let bad = tree(&bytes);
        assert_eq!(good.damaged(&bad), [0..1, 5..8, 129..130]);
        assert_eq!(good.damaged(&good), []);
        assert_eq!(good.damaged(&tree(&bytes[..LEN - 1])), [0..130]);
    }
}
