//! The kept levels of many shards at once, for sealing them together.

use std::ops::ControlFlow;

use vram_digest::Node;

use super::{BLOCK, Bytes, Hasher, Input, WINDOW, groups};
use crate::device::DeviceError;
use crate::device::backend::DigestFailure;

impl Hasher {
    /// Computes the nodes of level 1 over each shard. Small shards are hashed in groups, with two
    /// launches for each group.
    pub(in super::super) fn trees(&self, shards: &[Bytes]) -> Result<Vec<Vec<Node>>, DeviceError> {
        let mut trees = Vec::with_capacity(shards.len());
        for run in shards.chunk_by(|one, next| one.is_small() && next.is_small()) {
            match run {
                [large] if !large.is_small() => {
                    let go_on = &mut |_| ControlFlow::Continue(());
                    let nodes = self.nodes(*large, 0..windows(*large), go_on);
                    trees.push(nodes.map_err(DigestFailure::unstopped)?);
                }
                small => trees.append(&mut self.trees_of_small(small)?),
            }
        }
        Ok(trees)
    }

    fn trees_of_small(&self, shards: &[Bytes]) -> Result<Vec<Vec<Node>>, DeviceError> {
        let mut trees = Vec::with_capacity(shards.len());
        let mut left = shards.iter();
        let mut turn = self.lanes.turn()?;
        turn.pipeline(
            groups(shards),
            |driver, lane, group| {
                let (below, above) = (lane.leaves, lane.nodes);
                let blocks: Vec<Input> = group.iter().map(|shard| shard.data()).collect();
                let leaves = self.launch(driver, lane, &blocks, below)?;
                let level = leaves.into_iter().zip(group);
                // Data of at most one block has no level above its only digest, which is passed on.
                let level: Vec<Input> = level
                    .map(|(bytes, shard)| Input {
                        bytes,
                        is_root: shard.len <= BLOCK,
                    })
                    .collect();
                let nodes = self.launch(driver, lane, &level, above)?;
                lane.fetch(&nodes)
            },
            |_, mut nodes| {
                while let Some((first, rest)) = left.as_slice().split_first()
                    && !nodes.is_empty()
                {
                    let count = usize::try_from(windows(*first)).unwrap_or(usize::MAX);
                    let (own, others) = nodes.split_at_checked(count).unwrap_or((nodes, &[]));
                    trees.push(own.to_vec());
                    (nodes, left) = (others, rest.iter());
                }
                Ok(())
            },
        )
        .map_err(DigestFailure::unstopped)?;
        drop(turn);
        Ok(trees)
    }
}

fn windows(shard: Bytes) -> u64 {
    shard.len.div_ceil(WINDOW)
}
