//! Shards: memory on a device whose bytes cannot be used before they are verified.
//!
//! A [`Shard`] is in one of four [states](State), and its state decides which operations exist.
//! Every transition takes the shard by value. Only a `Shard<Verified, D>`, or a [`Lease`] from the
//! [`Shared`] made of it, has a view of the bytes. A shard that failed a verification can only be
//! released.
//!
//! This file holds what all states have in common; each transition has a file of its own below.
//! This module does not know where the memory lies or how records reach the disk.
//!
//! ```text
//! Shard<Allocated> --seal--> Shard<Sealed> --verify--> Shard<Verified> --share--> Shared --lease--> Lease
//! ```

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use vram_digest::Digest;
use vram_trail::clock::Time;

use crate::device::Device;
use crate::error::ReleaseError;
use crate::event::{History, Subject};
use crate::id::{ModelRef, ShardId};
use crate::seal::Context;
use crate::verification::OpenVerification;

mod batch;
mod fill;
mod outcome;
mod region;
mod sealing;
mod shared;
mod state;
mod verify;

#[cfg(feature = "fault-injection")]
mod faults;

pub use self::batch::{Batch, Member};
#[cfg(feature = "fault-injection")]
pub use self::faults::dangerous_swap_seals;
pub use self::fill::Loaded;
pub(crate) use self::region::Region;
pub use self::shared::{Lease, Shared};
pub use self::state::{Allocated, Quarantined, Sealed, State, Verified};

use self::state::StateFacts;

/// One contiguous allocation on a device, holding one part of a model.
///
/// Dropping a shard in any state wipes and frees its memory and records the outcome.
/// [`release`](Self::release) does the same and returns the outcome.
#[must_use = "dropping a shard wipes and frees its memory"]
pub struct Shard<S: State, D: Device> {
    core: Core<D>,
    state: S,
}

/// The data that a shard has in every state.
#[derive(Debug)]
struct Core<D: Device> {
    region: Region<D>,
    model: ModelRef,
}

/// A public description of a shard, for the API of a worker.
///
/// It holds names, sizes, digest and times. It holds no secrets, no addresses and no bytes of the
/// model.
///
/// As JSON: `shard`, `allocation`, `device`, `bytes`, `model`, `model_index`, `model_total`, and
/// `state` (`allocated`, `sealed`, `verified`, `shared`, `revoked` or `quarantined`). Where they
/// exist, also `digest`, `sealed_time` and `verified_time` (RFC 3339).
#[derive(Clone, Debug, Serialize)]
pub struct ShardHandle {
    #[serde(flatten)]
    subject: Subject,
    bytes: u64,
    #[serde(flatten)]
    model: ModelRef,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_time: Option<Time>,
}

impl<S: State, D: Device> Shard<S, D> {
    /// Returns the shard's name.
    pub fn id(&self) -> &ShardId {
        &self.core.region.subject().shard
    }

    /// Returns the number of the allocation, which is unique among the allocations of one open
    /// trail.
    pub fn allocation(&self) -> u64 {
        self.core.region.subject().allocation
    }

    /// Returns the part of the model that the shard holds.
    pub fn model(&self) -> &ModelRef {
        &self.core.model
    }

    /// Returns the length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no shard is empty")]
    pub fn len(&self) -> u64 {
        self.core.region.len()
    }

    /// Returns a public description of the shard.
    pub fn handle(&self) -> ShardHandle {
        self.core.handle(self.state.facts())
    }

    /// Wipes and frees the memory, and returns when it is freed.
    ///
    /// # Errors
    ///
    /// The shard is gone in every case, and the trail has the failure (`VramDeallocated`,
    /// `DeviceFailed`).
    ///
    /// - [`ReleaseError::NotWiped`]: the memory was freed, but may still hold the weights.
    /// - [`ReleaseError::NotFreed`]: the device kept the memory, which stays accounted for. Restart
    ///   the worker if the memory is needed.
    /// - [`ReleaseError::Forked`]: the call was made in a forked child, and nothing was touched.
    pub fn release(self) -> Result<(), ReleaseError> {
        self.core.region.release()
    }
}

impl<D: Device> Shard<Allocated, D> {
    pub(crate) fn allocated(region: Region<D>, model: ModelRef) -> Self {
        Self {
            core: Core { region, model },
            state: Allocated::empty(),
        }
    }
}

impl<D: Device> Shard<Sealed, D> {
    /// Returns the digest of the sealed bytes.
    pub fn digest(&self) -> Digest {
        self.state.seal.digest()
    }
}

impl<D: Device> Shard<Verified, D> {
    /// Returns the bytes, read-only.
    ///
    /// In a forked child, host memory keeps the bytes of the moment of the fork, until the child
    /// ends or calls `exec`.
    pub fn view(&self) -> D::View<'_> {
        self.core.region.view()
    }

    /// Returns the digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.state.sealed().seal.digest()
    }

    /// Returns the time when the whole shard was last found equal to its seal.
    ///
    /// A check of single windows does not change this time.
    pub fn verified_at(&self) -> SystemTime {
        self.state.last().mark.time.to_system_time()
    }

    /// Shares the shard with many readers for weeks, and allows checks beside them.
    pub fn share(self) -> Shared<D> {
        let (sealed, last, proof) = self.state.into_parts();
        Shared::new(self.core, sealed, last, proof)
    }
}

impl<D: Device> Core<D> {
    fn context(&self) -> Context<'_> {
        let region = &self.region;
        region
            .home()
            .context(region.subject(), region.len(), &self.model)
    }

    /// Opens a verification: from now on, leaving without an outcome is recorded.
    fn begin(&self, operation: &'static str, history: History) -> OpenVerification {
        let home = self.region.home();
        OpenVerification::begin(
            home.recorder(),
            home.options().assurance,
            self.region.subject().clone(),
            operation,
            history,
            self.region.injected(),
        )
    }

    fn quarantine(self, state: &impl state::private::Facts) -> Box<Shard<Quarantined, D>> {
        Box::new(Shard {
            core: self,
            state: Quarantined::after(state),
        })
    }

    fn handle(&self, facts: StateFacts) -> ShardHandle {
        ShardHandle {
            subject: self.region.subject().clone(),
            bytes: self.region.len(),
            model: self.model.clone(),
            state: facts.state,
            digest: facts.digest,
            sealed_time: facts.sealed,
            verified_time: facts.verified,
        }
    }
}

impl<S: State, D: Device> fmt::Debug for Shard<S, D> {
    /// Writes name, allocation, length and state, but no address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("id", self.id())
            .field("allocation", &self.allocation())
            .field("len", &self.len())
            .field("state", &self.state.facts().state)
            .finish_non_exhaustive()
    }
}
