//! The manager: allocates shards on one device, within limits, and reports the remaining capacity.
//!
//! A manager is built from its requirements: a device, the worker's token, an open trail. Shards
//! hold the parts of it that they need. So a shard may outlive its manager, and cannot meet the
//! wrong one. This module knows limits and accounts; it does not know what happens to a shard after
//! its allocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vram_trail::key::{Custody, fill_random};
use vram_trail::{NotDurable, Receipt, foreign, process};

use crate::audit::AuditTrail;
use crate::device::{Available, Bound, Device};
use crate::error::{AllocateAllError, AllocateError, BuildError};
use crate::event::{Event, Subject, Violation};
use crate::id::{ModelRef, ShardId};
use crate::key::{KeyError, KeyId, WorkerToken};
use crate::registry::Recorder;
use crate::seal::Context;
use crate::seal::SealKey;
use crate::shard::{Allocated, Batch, Shard};

pub use crate::verification::Assurance;

mod allocate;
mod device;

/// The default limit of one shard, in bytes: 100 GB.
pub const DEFAULT_SHARD_LIMIT: u64 = 100_000_000_000;

/// The allocator of shards on one device.
///
/// Its destructor waits until all earlier records are durable, and logs at ERROR if that fails.
/// [`close`](Self::close) returns the failure to the caller instead.
#[derive(Debug)]
pub struct VramManager<D: Device> {
    home: Arc<Home<D>>,
    closed: bool,
}

/// The builder of a [`VramManager`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct VramManagerBuilder<D: Device> {
    device: D,
    key: SealKey,
    recorder: Recorder,
    options: Options,
    limit: Option<u64>,
}

/// One of many shards to allocate: see [`VramManager::allocate_all`].
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NewShard {
    /// Its name, which no other living shard has.
    pub id: ShardId,
    /// The part of a model that it will hold.
    pub model: ModelRef,
    /// Its length in bytes.
    pub len: u64,
}

impl NewShard {
    /// A shard of `len` bytes that will hold a part of `model`.
    pub fn new(id: ShardId, model: ModelRef, len: u64) -> Self {
        Self { id, model, len }
    }
}

/// The limits of a manager and its current use, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Capacity {
    /// The most bytes that all shards together may have; `None` without a
    /// [`limit`](VramManagerBuilder::limit).
    pub limit: Option<u64>,
    /// The bytes of all shards now, including leaked bytes.
    pub used: u64,
    /// The bytes of shards that are gone but whose memory could not be freed. They count as used
    /// for ever. Recorded as `VramDeallocated` with `freed: false`.
    pub leaked: u64,
    /// The bytes that could be allocated now: the minimum of the rest of the limit and the device's
    /// free memory.
    ///
    /// For host memory, two things are subtracted. One is memory that loading one shard needs
    /// beside the shard: buffers of 8 MiB, helper threads, page tables, trees. The other is memory
    /// of shards that is not filled yet, because Linux and the cgroup count memory only once it is
    /// touched.
    ///
    /// Without any known bound (no `/proc/meminfo`, no cgroup, no limit), this is the address
    /// space, and records say `unknown`.
    pub available: u64,
    /// The limit of one shard.
    pub shard_limit: u64,
    /// The number of live shards.
    pub live: u64,
}

/// The data that a manager and its shards share.
#[derive(Debug)]
pub(crate) struct Home<D: Device> {
    device: D,
    device_name: Arc<str>,
    key: SealKey,
    key_id: Arc<str>,
    epoch: [u8; 16],
    epoch_hex: Arc<str>,
    recorder: Recorder,
    options: Options,
    account: Account,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) assurance: Assurance,
    pub(crate) max_age: Option<Duration>,
    pub(crate) check_deadline: Option<Duration>,
    pub(crate) require_pinned: bool,
    pub(crate) shard_limit: u64,
}

/// The account of allocated bytes.
#[derive(Debug)]
pub(crate) struct Account {
    limit: Option<u64>,
    used: AtomicU64,
    leaked: AtomicU64,
    live: AtomicU64,
}

impl<D: Device> VramManager<D> {
    /// Returns a builder of a manager for `device`.
    ///
    /// The seals are authenticated with a key derived from `token`, and the records go into
    /// `trail`.
    pub fn builder(device: D, token: &WorkerToken, trail: &AuditTrail) -> VramManagerBuilder<D> {
        let recorder = trail.recorder();
        VramManagerBuilder {
            device,
            key: SealKey::derive(token, recorder.worker()),
            recorder,
            options: Options {
                assurance: Assurance::default(),
                max_age: None,
                check_deadline: None,
                require_pinned: false,
                shard_limit: DEFAULT_SHARD_LIMIT,
            },
            limit: None,
        }
    }

    /// Allocates memory for a shard of `len` bytes that will hold a part of `model`.
    ///
    /// # Errors
    ///
    /// Every failed allocation is recorded, except in a forked child.
    ///
    /// - [`AllocateError::DuplicateId`]: a live shard is named `id`. Release it, or choose another
    ///   name.
    /// - [`AllocateError::NoRoom`]: there is not enough memory. Release a shard, or use smaller
    ///   ones.
    /// - [`AllocateError::TooLarge`] or [`AllocateError::ZeroLength`]: `len` is out of bounds.
    ///   Split the shard, or raise [`shard_limit`](VramManagerBuilder::shard_limit).
    /// - [`AllocateError::Device`]: the device failed.
    /// - [`AllocateError::Unrecorded`]: the record is not durable, and the memory was freed again.
    /// - [`AllocateError::Forked`]: the call was made in a forked child.
    pub fn allocate(
        &self,
        id: ShardId,
        model: ModelRef,
        len: u64,
    ) -> Result<Shard<Allocated, D>, AllocateError> {
        self.home.allocate(&id, model, len)
    }

    /// Allocates memory for many shards that will be sealed together: for all of them, or for none.
    ///
    /// Each item has a name, a part of a model, and a length in bytes. A batch suits small shards,
    /// for example a model's tensors. In a GPU, a shard that is sealed alone takes a multiple of 2
    /// MiB. Shards of a batch with at most 1 MiB share memory. Once sealed, each shard stands
    /// alone.
    ///
    /// # Errors
    ///
    /// Returns the shard that caused the failure, and the cause as in [`allocate`](Self::allocate).
    /// The failure is recorded for that shard.
    pub fn allocate_all(
        &self,
        shards: impl IntoIterator<Item = NewShard>,
    ) -> Result<Batch<D>, AllocateAllError> {
        self.home.allocate_all(shards.into_iter().collect())
    }

    /// Returns the limits and the current use of this manager.
    pub fn capacity(&self) -> Capacity {
        self.home.capacity()
    }

    /// Returns the id of the key that authenticates this manager's seals.
    pub fn key_id(&self) -> KeyId {
        self.home.key.id()
    }

    /// Returns the device.
    pub fn device(&self) -> &D {
        &self.home.device
    }

    /// Waits until all earlier records are durable, at most the trail's critical deadline.
    ///
    /// Live shards and the trail stay usable.
    ///
    /// # Errors
    ///
    /// Returns [`NotDurable`] if a record is not durable in time.
    pub fn close(mut self) -> Result<(), NotDurable> {
        self.closed = true;
        self.home.recorder.flush()
    }
}

impl<D: Device> Drop for VramManager<D> {
    fn drop(&mut self) {
        if self.closed || process::check().is_err() {
            return;
        }
        if let Err(error) = self.home.recorder.flush() {
            foreign::log(move || {
                tracing::error!(%error, "a manager was dropped, and its last records are not durable");
            });
            foreign::settle_briefly();
        }
    }
}

impl<D: Device> VramManagerBuilder<D> {
    /// Refuses to seal with [`Provenance::UnpinnedFirstUse`](crate::seal::Provenance).
    pub fn require_pinned(mut self) -> Self {
        self.options.require_pinned = true;
        self
    }

    /// Sets the limit of one shard, in bytes. The default is [`DEFAULT_SHARD_LIMIT`].
    pub fn shard_limit(mut self, bytes: u64) -> Self {
        self.options.shard_limit = bytes;
        self
    }

    /// Sets the limit of all shards together, in bytes. The default is the device's memory.
    ///
    /// Requested bytes count, not allocated ones. In a GPU each shard takes a multiple of 2 MiB,
    /// unless it is a small shard of a [`Batch`].
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// Sets the assurance that operations need about their records. The default is
    /// [`Assurance::Queued`].
    pub fn assurance(mut self, assurance: Assurance) -> Self {
        self.options.assurance = assurance;
        self
    }

    /// Sets the maximum age of the last check of a shared shard. There is none by default.
    ///
    /// When the check is older, leases are refused until a check passes, and `VerificationOverdue`
    /// is recorded.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.options.max_age = Some(max_age);
        self
    }

    /// Sets the deadline of a check of a shared shard. There is none by default: a check whose
    /// callback never returns leaves leases as they were.
    ///
    /// A missed deadline is recorded while the check still runs:
    ///
    /// - With a [`max_age`](Self::max_age), as `VerificationInconclusive`. Leases end when the last
    ///   passed check is too old.
    /// - Without one, as `SealVerificationFailed`, reason `deadline_exceeded`. Once the trail has
    ///   answered, leases are refused for ever.
    ///
    /// A later match changes nothing, and is an error for its caller. A later mismatch is an
    /// incident with a record of its own. The time counts from the call of `check`, `check_window`
    /// or [`check_all`](crate::Shared::check_all).
    ///
    /// The trail's writer looks at the time twice in each durability interval, and at least every 5
    /// seconds. It stops after the trail was closed, and while the disk hangs; `max_age` ends
    /// leases even then.
    pub fn check_deadline(mut self, limit: Duration) -> Self {
        self.options.check_deadline = Some(limit);
        self
    }

    /// Builds the manager, and records its device.
    ///
    /// # Errors
    ///
    /// - [`BuildError::NotResident`]: the device's memory cannot be shown to be its own. The
    ///   refusal is recorded.
    /// - [`BuildError::Random`]: the system's random generator failed.
    /// - [`BuildError::Forked`]: the call was made in a forked child.
    pub fn build(self) -> Result<VramManager<D>, BuildError> {
        process::check()?;
        let mut epoch = [0; 16];
        fill_random(&mut epoch).map_err(|error| match error {
            KeyError::Random { source, .. } => BuildError::Random(source),
            other => BuildError::Random(std::io::Error::other(other)),
        })?;
        let device_name = Arc::clone(self.device.name());
        let home = Home {
            device: self.device,
            device_name,
            key_id: self.key.id().to_string().into(),
            key: self.key,
            epoch,
            epoch_hex: hex::encode(epoch).into(),
            recorder: self.recorder,
            options: self.options,
            account: Account {
                limit: self.limit,
                used: AtomicU64::new(0),
                leaked: AtomicU64::new(0),
                live: AtomicU64::new(0),
            },
        };
        home.announce_device()?;
        Ok(VramManager {
            home: Arc::new(home),
            closed: false,
        })
    }
}

impl<D: Device> Home<D> {
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the custody of the token, for records.
    pub(crate) fn token_custody(&self) -> Custody {
        self.key.token_custody()
    }

    /// Returns the id of the key in hexadecimal, for records.
    pub(crate) fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// Returns the epoch in hexadecimal, for records.
    pub(crate) fn epoch(&self) -> &Arc<str> {
        &self.epoch_hex
    }

    /// Returns the part of a shard's identity that its seal covers but does not keep.
    pub(crate) fn context<'a>(
        &'a self,
        subject: &'a Subject,
        len: u64,
        model: &'a ModelRef,
    ) -> Context<'a> {
        Context {
            key: &self.key,
            worker: self.recorder.worker(),
            subject,
            device: self.device.identity(),
            len,
            model,
            epoch: &self.epoch,
        }
    }

    /// Records that this manager's policy was violated.
    pub(crate) fn record_violation(&self, violation: Violation) -> Result<Receipt, NotDurable> {
        let violation = Box::new(violation);
        self.recorder.commit(Event::PolicyViolation { violation }).1
    }

    fn capacity(&self) -> Capacity {
        let used = self.account.used.load(Ordering::Acquire);
        Capacity {
            limit: self.account.limit,
            used,
            leaked: self.account.leaked.load(Ordering::Acquire),
            available: self.available_beside(used).bytes,
            shard_limit: self.options.shard_limit,
            live: self.account.live.load(Ordering::Acquire),
        }
    }

    /// Returns the bytes that could be allocated while shards use `used` bytes, and the bound that
    /// applies.
    fn available_beside(&self, used: u64) -> Available {
        let device = self.device.available();
        self.notice_loss(None);
        let Some(limit) = self.account.limit else {
            return device;
        };
        let left = Available {
            bytes: limit.saturating_sub(used),
            bound: Bound::ManagerLimit,
        };
        if left.bytes <= device.bytes {
            left
        } else {
            device
        }
    }
}

impl Account {
    /// Takes `len` bytes and returns true, if the limit allows it.
    ///
    /// This is one atomic step, so that two callers cannot both get the last bytes.
    fn take(&self, len: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(len)
                    .filter(|sum| self.limit.is_none_or(|limit| *sum <= limit))
            });
        if taken.is_ok() {
            self.live.fetch_add(1, Ordering::AcqRel);
        }
        taken.is_ok()
    }

    /// Removes one shard and frees its bytes. Returns the bytes in use now.
    pub(crate) fn give_back(&self, len: u64) -> u64 {
        self.live.fetch_sub(1, Ordering::AcqRel);
        let before = self.used.fetch_sub(len, Ordering::AcqRel);
        before.saturating_sub(len)
    }

    /// Removes one shard whose bytes stay in use for ever. Returns the bytes in use now.
    pub(crate) fn leak(&self, len: u64) -> u64 {
        self.live.fetch_sub(1, Ordering::AcqRel);
        self.leaked.fetch_add(len, Ordering::AcqRel);
        self.used.load(Ordering::Acquire)
    }
}
