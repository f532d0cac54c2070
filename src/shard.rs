//! Shards: memory on a device whose bytes cannot be used before they are proven.
//!
//! A [`Shard`] is in one of four [states](State). What can be done with it depends on the state, and
//! every transition takes the shard by value: a view exists only of a `Shard<Verified, D>` (or of a
//! [`Lease`] from a [`Shared`], which is made of one), and a shard that failed a verification can only
//! be released. This file holds what is the same in every state; the transitions are below, one
//! step a file. It does not know where the memory lies or how records reach the disk.
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
/// Dropping a shard in any state wipes and frees its memory and records that;
/// [`release`](Self::release) does the same and says whether it worked.
#[must_use = "dropping a shard wipes and frees its memory"]
pub struct Shard<S: State, D: Device> {
    core: Core<D>,
    state: S,
}

/// What a shard is in every state.
#[derive(Debug)]
struct Core<D: Device> {
    region: Region<D>,
    model: ModelRef,
}

/// What may be told about a shard, for the API of a worker: names, sizes, digest and times. No
/// secrets, no addresses, no bytes of the model.
///
/// As JSON: `shard`, `allocation`, `device`, `bytes`, `model`, `model_index`, `model_total`,
/// `state` (`allocated`, `sealed`, `verified`, `shared`, `revoked` or `quarantined`), and where they
/// exist `digest`, `sealed_time` and `verified_time` (RFC 3339).
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
    /// The shard's name.
    pub fn id(&self) -> &ShardId {
        &self.core.region.subject().shard
    }

    /// The number of the allocation: no two allocations of a trail's process have the same.
    pub fn allocation(&self) -> u64 {
        self.core.region.subject().allocation
    }

    /// The part of the model that the shard holds.
    pub fn model(&self) -> &ModelRef {
        &self.core.model
    }

    /// The length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no shard is empty")]
    pub fn len(&self) -> u64 {
        self.core.region.len()
    }

    /// What may be told about the shard.
    pub fn handle(&self) -> ShardHandle {
        self.core.handle(self.state.facts())
    }

    /// Wipes and frees the memory; returns when it is gone. The error says what did not work; it is
    /// on record as well (`VramDeallocated`, `DeviceFailed`).
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
    /// The digest of the bytes that were sealed.
    pub fn digest(&self) -> Digest {
        self.state.seal.digest()
    }
}

impl<D: Device> Shard<Verified, D> {
    /// The bytes, read-only. In a forked child, host memory has the bytes of the moment of the fork,
    /// until the child ends or calls `exec`.
    pub fn view(&self) -> D::View<'_> {
        self.core.region.view()
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.state.sealed().seal.digest()
    }

    /// When all of the shard was last found equal to its seal. A check of some windows does not
    /// change it.
    pub fn verified_at(&self) -> SystemTime {
        self.state.last().mark.time.to_system_time()
    }

    /// Shares the shard, so that it can be read from many places for weeks, and checked meanwhile.
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

    /// Opens a verification: from here on, leaving without an outcome is recorded.
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
    /// Name, allocation, length and state; nothing of where the bytes lie.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("id", self.id())
            .field("allocation", &self.allocation())
            .field("len", &self.len())
            .field("state", &self.state.facts().state)
            .finish_non_exhaustive()
    }
}
