//! The manager: allocates shards on one device, within limits, and says what is left.
//!
//! It is built from what it cannot do without: a device, the worker's token, an open trail. Shards
//! hold what they need of it, so it may go before they do, and a shard cannot meet the wrong manager.
//! This module knows limits and accounts; what happens to a shard afterwards is the shard's business.

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
use crate::key::{KeyError, KeyId, SealKey, WorkerToken};
use crate::registry::Recorder;
use crate::seal::Context;
use crate::shard::{Allocated, Batch, Shard};

pub use crate::verification::Assurance;

mod allocate;
mod device;

/// The most bytes that one shard may have unless the builder says otherwise: 100 GB.
pub const DEFAULT_SHARD_LIMIT: u64 = 100_000_000_000;

/// Allocates shards on one device.
///
/// Its destructor waits until everything recorded so far is durable, and logs at ERROR if that
/// fails; [`close`](Self::close) tells the caller instead.
#[derive(Debug)]
pub struct VramManager<D: Device> {
    home: Arc<Home<D>>,
    closed: bool,
}

/// What a [`VramManager`] is built from.
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

/// How much memory a manager may use, and how much it does, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Capacity {
    /// The most bytes that all shards together may have; `None` without a
    /// [`limit`](VramManagerBuilder::limit).
    pub limit: Option<u64>,
    /// What the shards have now, with what is leaked.
    pub used: u64,
    /// What shards had that are gone and whose memory could not be given back: on record as
    /// `VramDeallocated` with `freed: false`, and used for ever.
    pub leaked: u64,
    /// What could be allocated now: the least of what the limit leaves and what the device has. In
    /// the memory of this machine, what loading one shard takes beside it (buffers of 8 MiB, helping
    /// threads, page tables, trees) is not part of it, nor is what shards have that nobody has filled
    /// yet: Linux and the cgroup count memory only once it is touched. Where nothing says how much memory there is (no `/proc/meminfo`, no cgroup) and no limit was given, this
    /// is all that can be addressed, and records say `unknown`.
    pub available: u64,
    /// The most bytes that one shard may have.
    pub shard_limit: u64,
    /// How many shards live.
    pub live: u64,
}

/// What a manager and its shards share.
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

/// How many bytes are given out.
#[derive(Debug)]
pub(crate) struct Account {
    limit: Option<u64>,
    used: AtomicU64,
    leaked: AtomicU64,
    live: AtomicU64,
}

impl<D: Device> VramManager<D> {
    /// Begins to build a manager for `device`, whose seals are authenticated with a key derived from
    /// `token`, and whose records go into `trail`.
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
    /// Every allocation that fails is recorded. `id` must not be the name of a shard that lives.
    pub fn allocate(
        &self,
        id: ShardId,
        model: ModelRef,
        len: u64,
    ) -> Result<Shard<Allocated, D>, AllocateError> {
        self.home.allocate(&id, model, len)
    }

    /// Allocates memory for many shards that will be sealed together, or for none of them.
    ///
    /// That is for small ones, a model's tensors for example: in a GPU, where a shard that is sealed by
    /// itself takes a multiple of 2 MiB, those of a batch that have at most 1 MiB lie together. Once sealed
    /// each is a shard of its own. A failure is recorded for the shard at which it was found.
    pub fn allocate_all(
        &self,
        shards: impl IntoIterator<Item = NewShard>,
    ) -> Result<Batch<D>, AllocateAllError> {
        self.home.allocate_all(shards.into_iter().collect())
    }

    /// What this manager may use and does use.
    pub fn capacity(&self) -> Capacity {
        self.home.capacity()
    }

    /// The name of the key that authenticates this manager's seals.
    pub fn key_id(&self) -> KeyId {
        self.home.key.id()
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.home.device
    }

    /// Waits until everything recorded so far is durable, at most the trail's critical deadline.
    ///
    /// Shards that still live stay usable, and so does the trail.
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

    /// The most bytes that one shard may have; without this, [`DEFAULT_SHARD_LIMIT`].
    pub fn shard_limit(mut self, bytes: u64) -> Self {
        self.options.shard_limit = bytes;
        self
    }

    /// The most bytes that all shards together may have; without this, what the device has. What counts is
    /// what was asked for: in a GPU each shard takes a multiple of 2 MiB, unless it is a small one of a
    /// [`Batch`].
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// How sure operations must be of their records; without this, [`Assurance::Queued`].
    pub fn assurance(mut self, assurance: Assurance) -> Self {
        self.options.assurance = assurance;
        self
    }

    /// How old the last check of a shared shard may be. When it is older, leases are refused until a
    /// check passes, and `VerificationOverdue` is recorded.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.options.max_age = Some(max_age);
        self
    }

    /// How long a check of a shared shard may take. Without this it may take any time, and a check whose callback
    /// never returns leaves leases as they were.
    ///
    /// When the time is over, that is put on record while the check still runs:
    ///
    /// - with a [`max_age`](Self::max_age) as `VerificationInconclusive`. Leases end when the last check that
    ///   passed is too old.
    /// - without one as `SealVerificationFailed`, reason `deadline_exceeded`. Once the trail has answered, leases
    ///   are refused for ever.
    ///
    /// A match that comes later changes nothing, and is an error for its caller. A mismatch that comes later is
    /// an incident with a record of its own. The time counts from the call of `check`, `check_window` or
    /// [`check_all`](crate::Shared::check_all).
    ///
    /// The trail's writer looks at the time twice in each durability interval, and every 5 seconds at least. It
    /// does not after the trail was closed, nor while the disk hangs; `max_age` ends leases all the same.
    pub fn check_deadline(mut self, limit: Duration) -> Self {
        self.options.check_deadline = Some(limit);
        self
    }

    /// Builds the manager.
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

    /// For records.
    pub(crate) fn token_custody(&self) -> Custody {
        self.key.token_custody()
    }

    /// Hexadecimal, for records.
    pub(crate) fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// Hexadecimal, for records.
    pub(crate) fn epoch(&self) -> &Arc<str> {
        &self.epoch_hex
    }

    /// What a shard's seal covers besides the seal.
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

    /// Puts on record that this manager's policy was violated.
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

    /// What could be allocated when the shards have `used` bytes, and what sets that limit.
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
    /// Takes `len` bytes, if the limit allows: one step, so that two callers cannot both have the
    /// last bytes. Says whether it does.
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

    /// One shard less, whose bytes can be used again. Returns what is used now.
    pub(crate) fn give_back(&self, len: u64) -> u64 {
        self.live.fetch_sub(1, Ordering::AcqRel);
        let before = self.used.fetch_sub(len, Ordering::AcqRel);
        before.saturating_sub(len)
    }

    /// One shard less, whose bytes can never be used again. Returns what is used now.
    pub(crate) fn leak(&self, len: u64) -> u64 {
        self.live.fetch_sub(1, Ordering::AcqRel);
        self.leaked.fetch_add(len, Ordering::AcqRel);
        self.used.load(Ordering::Acquire)
    }
}
