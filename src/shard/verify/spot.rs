//! Spot checks: this process hashes some windows again that the device has hashed.
//!
//! This module does not know how the windows are copied back.

use std::collections::BTreeSet;

use vram_digest::{Digest, Node, Tree};
use vram_trail::key::fill_random;

use crate::device::{Device, DeviceError};
use crate::error::NoAnswer;
use crate::event::AnyDigest;
use crate::shard::Core;
use crate::verification::Findings;

#[cfg(test)]
mod tests;

impl<D: Device> Core<D> {
    /// Hashes some windows here that the device has hashed, and computes the path from each to the
    /// root.
    ///
    /// Returns a finding if the path does not lead to the tree's own digest.
    pub(in crate::shard) fn spot_check(&self, tree: &Tree) -> Result<Option<Findings>, NoAnswer> {
        let digest = tree.digest();
        for window in sample(self.windows(), self.region.spot_checks())? {
            let node = self.region.window_hashed_here(window)?;
            let actual = tree.digest_with(window, &[node]);
            if actual != Some(digest) {
                return Ok(Some(disagreement(digest, actual, window)));
            }
        }
        Ok(None)
    }

    /// Does the same for the nodes of some windows, from `first` on, which are known to lead to the
    /// digest.
    pub(super) fn spot_check_nodes(
        &self,
        first: u64,
        nodes: &[Node],
        digest: Digest,
    ) -> Result<Option<Findings>, NoAnswer> {
        for index in sample(nodes.len() as u64, self.region.spot_checks())? {
            let window = first.saturating_add(index);
            let node = self.region.window_hashed_here(window)?;
            if nodes.get(index as usize) != Some(&node) {
                return Ok(Some(disagreement(digest, None, window)));
            }
        }
        Ok(None)
    }
}

/// Chooses `count` of `windows` windows at random, each at most once, in order; all of them if they
/// are few.
fn sample(windows: u64, count: usize) -> Result<BTreeSet<u64>, NoAnswer> {
    if u64::try_from(count).is_ok_and(|count| count >= windows) {
        return Ok((0..windows).collect());
    }
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        let mut random = [0; 8];
        fill_random(&mut random).map_err(|error| {
            NoAnswer::of_device(DeviceError::Busy {
                operation: "choosing windows to check",
                cause: error.to_string().into(),
            })
        })?;
        // The bias is below 2^-20 for anything that fits a device.
        chosen.insert(u64::from_le_bytes(random).checked_rem(windows).unwrap_or(0));
    }
    Ok(chosen)
}

/// Describes a mismatch between the device's digest and a window hashed here.
fn disagreement(expected: Digest, actual: Option<Digest>, window: u64) -> Findings {
    Findings {
        expected: Some(AnyDigest::FsVerity(expected)),
        actual: actual.map(AnyDigest::FsVerity),
        damaged: vec![window..window.saturating_add(1)],
        detail: Some("the device's digest and the bytes that it copies back differ".into()),
    }
}
