//! The path from one leaf to the root: the proof that a record is in a tree.
//!
//! The path is made in one pass over the leaves, in memory that grows only with the tree's height.
//! This module does not know what a leaf means, or which key vouches for the root.

use super::{Frontier, Node, node_hash};

/// The most hashes in a path: a tree of 2^64 leaves is 64 high.
pub(crate) const MAX_PATH: usize = 64;

/// The path of one leaf (RFC 6962, section 2.1.1), while the leaves behind it are read.
#[derive(Debug)]
pub(crate) struct AuditPath {
    index: u64,
    /// The level of the next sibling.
    level: u32,
    /// The siblings to the left that are not in the path yet, largest first.
    left: Vec<Node>,
    /// The growing sibling to the right.
    right: Frontier,
    hashes: Vec<Node>,
}

impl AuditPath {
    /// Begins the path of the leaf that follows `before`. The maximal complete subtrees before a
    /// leaf are all its siblings to the left.
    pub(crate) fn new(before: &Frontier) -> Self {
        let mut path = Self {
            index: before.size(),
            level: 0,
            left: before.nodes().to_vec(),
            right: Frontier::default(),
            hashes: Vec::new(),
        };
        path.take_left();
        path
    }

    /// Adds a leaf that stands behind the leaf of this path.
    pub(crate) fn push(&mut self, leaf: Node) {
        self.right.push(leaf);
        if 1u64.checked_shl(self.level) == Some(self.right.size()) {
            self.hashes.push(std::mem::take(&mut self.right).root());
            self.level = self.level.saturating_add(1);
            self.take_left();
        }
    }

    /// Returns the path in the tree that ends here, from the leaf's sibling up to the root's child.
    pub(crate) fn finish(mut self) -> Vec<Node> {
        if self.right.size() > 0 {
            self.hashes.push(self.right.root());
        }
        self.hashes.extend(self.left.drain(..).rev());
        self.hashes
    }

    /// If a bit of the leaf's index is 1, its sibling at that level is to the left.
    fn take_left(&mut self) {
        while self.index.checked_shr(self.level).unwrap_or(0) & 1 == 1 {
            self.hashes.extend(self.left.pop());
            self.level = self.level.saturating_add(1);
        }
    }
}

/// Returns the root of a tree of `size` leaves in which `leaf` is at `index` and has this path (RFC
/// 9162, section 2.1.3.2). `None` if no such tree has a path of that length there.
pub(crate) fn root_of(leaf: Node, index: u64, size: u64, path: &[Node]) -> Option<Node> {
    let mut last = size.checked_sub(1)?;
    let mut index = Some(index).filter(|index| *index <= last)?;
    let mut root = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if index & 1 == 1 || index == last {
            root = node_hash(sibling, &root);
            // A last leaf has no sibling at the levels where nothing stands beside it.
            let alone = if index & 1 == 1 {
                0
            } else {
                index.trailing_zeros()
            };
            index = index.checked_shr(alone).unwrap_or(0);
            last = last.checked_shr(alone).unwrap_or(0);
        } else {
            root = node_hash(&root, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

#[cfg(test)]
mod tests {
    use super::super::leaf_hash;
    use super::super::tests::recursive_root;
    use super::*;

    /// PATH(m, D[n]) as RFC 6962, section 2.1.1 defines it.
    fn recursive_path(index: usize, leaves: &[Node]) -> Vec<Node> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut path, other) = match index.checked_sub(left.len()) {
            None => (recursive_path(index, left), right),
            Some(index) => (recursive_path(index, right), left),
        };
        path.push(recursive_root(other));
        path
    }

    fn path(index: usize, leaves: &[Node]) -> Vec<Node> {
        let mut before = Frontier::default();
        for leaf in &leaves[..index] {
            before.push(*leaf);
        }
        let mut path = AuditPath::new(&before);
        for leaf in &leaves[index + 1..] {
            path.push(*leaf);
        }
        path.finish()
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn every_leaf_of_every_tree_has_the_path_of_the_recursive_definition() {
        let leaves: Vec<Node> = (0..70u64).map(|i| leaf_hash(&i.to_le_bytes())).collect();
        for size in 1..=leaves.len() {
            let tree = &leaves[..size];
            let root = recursive_root(tree);
            for (index, leaf) in tree.iter().enumerate() {
                let path = path(index, tree);
                assert_eq!(path, recursive_path(index, tree), "leaf {index} of {size}");
                let found = root_of(*leaf, index as u64, size as u64, &path);
                assert_eq!(found, Some(root), "leaf {index} of {size}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hashes too much")]
    fn a_path_leads_to_the_root_from_no_other_place() {
        let leaves: Vec<Node> = (0..33u64).map(|i| leaf_hash(&i.to_le_bytes())).collect();
        for size in 1..=leaves.len() {
            let tree = &leaves[..size];
            let root = Some(recursive_root(tree));
            for (index, leaf) in tree.iter().enumerate() {
                let path = path(index, tree);
                for other in (0..=size).filter(|other| *other != index) {
                    let found = root_of(*leaf, other as u64, size as u64, &path);
                    assert_ne!(found, root, "leaf {index} of {size} at {other}");
                }
                let mut longer = path.clone();
                longer.push([0; 32]);
                let at = |path: &[Node]| root_of(*leaf, index as u64, size as u64, path);
                assert_eq!(at(&longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_ne!(at(shorter), root);
                }
            }
        }
        assert_eq!(root_of([0; 32], 0, 0, &[]), None);
        assert_eq!(root_of([0; 32], u64::MAX, u64::MAX, &[[0; 32]; 65]), None);
    }
}
