//! Faults that a shard can be given, for tests and demonstrations.
//!
//! Exists only under the feature `fault-injection`. Whatever is done here marks the shard: an incident
//! that follows says `injected: true`.

use super::state::{Sealed, Verified};
use super::{Core, Shard, Shared};
use crate::device::{Device, DeviceError};
use crate::event::History;
use crate::seal::Tamper;

impl<D: Device> Core<D> {
    /// A verification that is open until the value goes, and then on record as interrupted.
    fn dangerous_open(&self, history: History) -> impl Sized + Send + use<D> + 'static {
        self.region.mark_injected();
        self.begin("verify", history)
    }
}

impl<D: Device> Shard<Sealed, D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    pub fn dangerous_flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.core.region.flip_bit(offset, bit)
    }

    /// Flips one bit of a byte of the kept tree.
    pub fn dangerous_flip_tree_bit(&mut self, byte: usize, bit: u8) {
        self.core.region.mark_injected();
        self.state.tree.dangerous_flip(byte, bit);
    }

    /// How many bytes of the tree are kept.
    pub fn dangerous_tree_bytes(&self) -> usize {
        self.state.tree.kept_bytes()
    }

    /// Changes something that the seal covers.
    pub fn dangerous_tamper(&mut self, tamper: Tamper) {
        self.core.region.mark_injected();
        self.state.seal.tamper(&self.core.context(), tamper);
    }

    /// Opens a verification and leaves it open: when the value goes, it is recorded as interrupted.
    pub fn dangerous_open_verification(&self) -> impl Sized + Send + use<D> + 'static {
        self.core.dangerous_open(self.state.history)
    }
}

impl<D: Device> Shard<Verified, D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    pub fn dangerous_flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.core.region.flip_bit(offset, bit)
    }

    /// Flips one bit of a byte of the kept tree.
    pub fn dangerous_flip_tree_bit(&mut self, byte: usize, bit: u8) {
        self.core.region.mark_injected();
        self.state.dangerous_tree().dangerous_flip(byte, bit);
    }

    /// How many bytes of the tree are kept.
    pub fn dangerous_tree_bytes(&self) -> usize {
        self.state.sealed().tree.kept_bytes()
    }
}

impl<D: Device> Shared<D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    pub fn dangerous_flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.dangerous_region().flip_bit(offset, bit)
    }
}

/// Exchanges the seals of two shards, and nothing else.
pub fn dangerous_swap_seals<D: Device>(a: &mut Shard<Sealed, D>, b: &mut Shard<Sealed, D>) {
    a.core.region.mark_injected();
    b.core.region.mark_injected();
    std::mem::swap(&mut a.state.seal, &mut b.state.seal);
}
