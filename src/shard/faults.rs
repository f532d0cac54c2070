//! Fault injection into shards, for tests and demonstrations.
//!
//! Exists only under the feature `fault-injection`. Every function here marks the shard: a later
//! incident says `injected: true`.

use super::state::{Sealed, Verified};
use super::{Core, Shard, Shared};
use crate::device::{Device, DeviceError};
use crate::event::History;
use crate::seal::Tamper;

impl<D: Device> Core<D> {
    /// Opens a verification that is recorded as interrupted when the value is dropped.
    fn dangerous_open(&self, history: History) -> impl Sized + Send + use<D> + 'static {
        self.region.mark_injected();
        self.begin("verify", history)
    }
}

impl<D: Device> Shard<Sealed, D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::OutOfRange`] if the shard has no such byte, or the failure of the
    /// device.
    pub fn dangerous_flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.core.region.flip_bit(offset, bit)
    }

    /// Flips one bit (0 to 7) of a byte of the kept tree.
    pub fn dangerous_flip_tree_bit(&mut self, byte: usize, bit: u8) {
        self.core.region.mark_injected();
        self.state.tree.dangerous_flip(byte, bit);
    }

    /// Returns the size of the kept tree in bytes.
    pub fn dangerous_tree_bytes(&self) -> usize {
        self.state.tree.kept_bytes()
    }

    /// Changes one thing that the seal covers.
    pub fn dangerous_tamper(&mut self, tamper: Tamper) {
        self.core.region.mark_injected();
        self.state.seal.tamper(&self.core.context(), tamper);
    }

    /// Opens a verification and leaves it open; it is recorded as interrupted when the value is
    /// dropped.
    pub fn dangerous_open_verification(&self) -> impl Sized + Send + use<D> + 'static {
        self.core.dangerous_open(self.state.history)
    }
}

impl<D: Device> Shard<Verified, D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::OutOfRange`] if the shard has no such byte, or the failure of the
    /// device.
    pub fn dangerous_flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.core.region.flip_bit(offset, bit)
    }

    /// Flips one bit (0 to 7) of a byte of the kept tree.
    pub fn dangerous_flip_tree_bit(&mut self, byte: usize, bit: u8) {
        self.core.region.mark_injected();
        self.state.dangerous_tree().dangerous_flip(byte, bit);
    }

    /// Returns the size of the kept tree in bytes.
    pub fn dangerous_tree_bytes(&self) -> usize {
        self.state.sealed().tree.kept_bytes()
    }
}

impl<D: Device> Shared<D> {
    /// Flips one bit (0 to 7) of the byte at `offset`, as failing memory would.
    ///
    /// # Errors
    ///
    /// Returns [`DeviceError::OutOfRange`] if the shard has no such byte, or the failure of the
    /// device.
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
