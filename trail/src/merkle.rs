//! The Merkle tree over a trail's records, as RFC 6962 defines it.
//!
//! A leaf is `SHA-256(0x00 ‖ line)`, a node `SHA-256(0x01 ‖ left ‖ right)`. Only the roots of the
//! maximal complete subtrees are kept: enough to append and to compute the root. This module does
//! not know what a leaf means.

mod path;

use sha2::{Digest as _, Sha256};

pub(crate) use path::{AuditPath, MAX_PATH, root_of};

/// The hash of a leaf or a node.
pub(crate) type Node = [u8; 32];

/// Returns the hash of a record: of the exact bytes of its line, without the newline.
pub(crate) fn leaf_hash(line: &[u8]) -> Node {
    Sha256::new()
        .chain_update([0x00])
        .chain_update(line)
        .finalize()
        .into()
}

fn node_hash(left: &Node, right: &Node) -> Node {
    Sha256::new()
        .chain_update([0x01])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// A Merkle tree that keeps only the roots of its maximal complete subtrees, largest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Frontier {
    size: u64,
    nodes: Vec<Node>,
}

impl Frontier {
    /// Returns the frontier of a tree of `size` leaves, if `nodes` has the right length.
    pub(crate) fn from_nodes(size: u64, nodes: Vec<Node>) -> Option<Self> {
        (usize::try_from(size.count_ones()).ok()? == nodes.len()).then_some(Self { size, nodes })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a leaf. Trees end at 2^64 - 1 leaves, which no disk holds.
    pub(crate) fn push(&mut self, leaf: Node) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.nodes.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.nodes.push(node);
        self.size = self.size.saturating_add(1);
    }

    /// Flips a bit of the largest subtree's root.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn flip(&mut self) {
        if let Some([byte, ..]) = self.nodes.first_mut() {
            *byte ^= 1;
        }
    }

    /// Returns the root. The root of the empty tree is the SHA-256 of nothing.
    pub(crate) fn root(&self) -> Node {
        self.nodes
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| Sha256::digest([]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the root by the recursive definition of RFC 6962, which the frontier never uses.
    pub(super) fn recursive_root(leaves: &[Node]) -> Node {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node_hash(
                    &recursive_root(&leaves[..split]),
                    &recursive_root(&leaves[split..]),
                )
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn the_frontier_has_the_root_of_the_recursive_definition() {
        let leaves: Vec<Node> = (0..200u64).map(|i| leaf_hash(&i.to_le_bytes())).collect();
        let mut tree = Frontier::default();
        for size in 0..leaves.len() {
            assert_eq!(tree.root(), recursive_root(&leaves[..size]), "size {size}");
            assert_eq!(tree.nodes().len(), size.count_ones() as usize);
            tree.push(leaves[size]);
        }
    }

    /// Vectors of Google's certificate-transparency tests (RFC 6962): 8 leaves.
    #[test]
    fn the_tree_is_that_of_rfc_6962() {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let mut tree = Frontier::default();
        for leaf in leaves {
            tree.push(leaf_hash(&hex::decode(leaf).unwrap()));
        }
        assert_eq!(
            hex::encode(tree.root()),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }
}
