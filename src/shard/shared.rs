//! Sharing: many readers for weeks, and checks beside them.
//!
//! A model keeps its weights in `'static` structures, which a borrow cannot reach. So a verified
//! shard can be shared: a [`Lease`] is owned, can be cloned and sent, and keeps the memory alive. A
//! check reads the memory again beside the readers.
//!
//! A failed check cannot take the bytes away from readers. From then on every new lease is refused,
//! and no lease is current. Readers must ask for this at run time; the compiler enforces only
//! [`Shard::view`](super::Shard::view).

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::SystemTime;

use vram_digest::{Digest, Progress};
use vram_trail::process;

use super::outcome::Unproven;
use super::state::{Sealed, StateFacts, Verified, private::Facts};
use super::verify::{Passed, Whole, settle_all};
use super::{Core, Shard, ShardHandle};
use crate::device::Device;
use crate::error::{CheckError, ReclaimError, Revoked};
use crate::id::ShardId;
use crate::registry::{LastCheck, Standing};
use crate::seal::Match;
use crate::verification::{Deadline, Missed, OpenVerification};

const CHECK: &str = "check";

/// A verified shard that many readers share.
///
/// ```text
/// let shared = verified.share();
/// let lease = shared.lease()?;       // for each layer of the model, for weeks
/// shared.check()?;                   // now and then, beside the readers
/// lease.is_current();                // before each batch: one atomic load
/// ```
#[must_use = "dropping it leaves leases that nobody can check any more"]
pub struct Shared<D: Device> {
    served: Arc<Served<D>>,
    sealed: Sealed,
    /// The proof of the shared shard, returned by a reclaim if no check has failed.
    proof: Match,
}

/// The right to read a shared shard. It keeps the memory alive.
pub struct Lease<D: Device>(Arc<Served<D>>);

/// The data that a shared shard and its leases have in common.
#[derive(Debug)]
struct Served<D: Device> {
    core: Core<D>,
    /// Separate from the memory: the trail's writer looks at it without keeping the memory alive.
    standing: Arc<Standing>,
}

impl<D: Device> Shared<D> {
    pub(super) fn new(core: Core<D>, sealed: Sealed, check: LastCheck, proof: Match) -> Self {
        let home = core.region.home();
        let max_age = home.options().max_age;
        let standing = Arc::new(Standing::new(
            home.recorder().clone(),
            core.region.subject().clone(),
            check,
            sealed.history,
            max_age,
        ));
        home.recorder()
            .application()
            .share(core.region.subject(), &standing);
        // The device may be lost already.
        home.notice_loss(None);
        Self {
            served: Arc::new(Served { core, standing }),
            sealed,
            proof,
        }
    }

    /// Returns a lease.
    ///
    /// # Errors
    ///
    /// - [`Revoked::Failed`]: a check has failed. Stop serving, and load the weights into a new
    ///   shard.
    /// - [`Revoked::Overdue`]: the last passed check is too old. Call [`check`](Self::check).
    /// - [`Revoked::Forked`]: the call was made in a forked child.
    pub fn lease(&self) -> Result<Lease<D>, Revoked> {
        self.served.standing.judge_on_record()?;
        Ok(Lease(Arc::clone(&self.served)))
    }

    /// Reads the whole shard back from the device, beside its readers, and compares it with the
    /// seal.
    ///
    /// A passed check counts from its beginning, and never makes up for a failed one. A check that
    /// passes after its [`check_deadline`](crate::manager::VramManagerBuilder::check_deadline) does
    /// not count. A panic (in a progress callback) is a failure with reason `interrupted`.
    ///
    /// # Errors
    ///
    /// - [`CheckError::Broken`]: the check failed. The incident is recorded first, then leases are
    ///   refused. Stop using results computed from the shard, and load it again.
    /// - [`CheckError::AlreadyFailed`]: an earlier check failed.
    /// - [`CheckError::Inconclusive`]: there is no answer, or it was too late. Leases stay as they
    ///   were: try again.
    /// - [`CheckError::Unrecorded`]: the record is not durable, and the check does not count. Check
    ///   again once the trail can write.
    /// - [`CheckError::Forked`]: the call was made in a forked child.
    pub fn check(&self) -> Result<(), CheckError> {
        self.check_with_progress(|_| ControlFlow::Continue(()))
    }

    /// Checks the shard as [`check`](Self::check) does, and calls `progress` meanwhile.
    ///
    /// [`ControlFlow::Break`] stops. The stop is recorded as inconclusive, and leases stay as they
    /// were. The final call comes after the comparison, and only if the comparison found nothing
    /// bad.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); a stop is [`CheckError::Inconclusive`].
    pub fn check_with_progress(
        &self,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), CheckError> {
        let open = self.open(CHECK)?;
        let core = &self.served.core;
        let whole = core.verify_whole(&self.sealed, open, &mut progress)?;
        self.pass(whole)
    }

    /// Checks many shards as [`check`](Self::check) does, reading them at once where they are on
    /// one device.
    ///
    /// A GPU hashes many small shards in as few launches as a single one. The results have the
    /// order of `shared`. A failure of the device itself counts for all shards that were read with
    /// it.
    pub fn check_all(shared: &[&Self]) -> Vec<Result<(), CheckError>> {
        let open = shared.iter().map(|shared| shared.open(CHECK));
        let all = shared
            .iter()
            .map(|shared| (&shared.served.core, &shared.sealed));
        let settled = settle_all(all.collect(), open.collect());
        let pass = |(shared, passed): (&&Self, Result<Passed, CheckError>)| {
            shared.pass(shared.served.core.pass(passed?)?)
        };
        shared.iter().zip(settled).map(pass).collect()
    }

    fn pass(&self, whole: Whole) -> Result<(), CheckError> {
        self.served.standing.pass(whole.last);
        Ok(())
    }

    /// Checks some windows (of 512 KiB, numbered from 0) against the seal, using the kept tree.
    ///
    /// A pass does not renew the last check.
    ///
    /// # Errors
    ///
    /// - [`CheckError::NoSuchWindow`]: the range is empty or out of bounds.
    /// - Otherwise as [`check`](Self::check). A failure is a failure of the whole shard.
    pub fn check_window(&self, windows: Range<u64>) -> Result<(), CheckError> {
        if let Err(count) = self.served.core.check_windows(&windows) {
            return Err(CheckError::NoSuchWindow { windows, count });
        }
        let open = self.open("check_window")?;
        let core = &self.served.core;
        core.verify_windows(&self.sealed, open, windows)?;
        Ok(())
    }

    /// Takes the shard back, once no lease is left. It keeps the time of the last passed check.
    ///
    /// # Errors
    ///
    /// - [`ReclaimError::Failed`]: a check failed while the shard was shared. The shard is
    ///   quarantined: release it.
    /// - [`ReclaimError::Leased`]: leases are left. Drop them first.
    /// - [`ReclaimError::Forked`]: the call was made in a forked child.
    pub fn reclaim(self) -> Result<Shard<Verified, D>, ReclaimError<D>> {
        if let Err(source) = process::check() {
            let shared = Box::new(self);
            return Err(ReclaimError::Forked { shared, source });
        }
        let Self {
            served,
            mut sealed,
            proof,
        } = self;
        let Served { core, standing } = match Arc::try_unwrap(served) {
            Ok(served) => served,
            Err(served) => {
                let shared = Box::new(Self {
                    served,
                    sealed,
                    proof,
                });
                return Err(ReclaimError::Leased { shared });
            }
        };
        let last = *standing.last();
        sealed.history = last.history;
        if standing.judge() == Err(Revoked::Failed) {
            let shard = core.quarantine(&sealed);
            return Err(ReclaimError::Failed { shard });
        }
        Ok(Shard {
            core,
            state: Verified::new(proof, sealed, last.check),
        })
    }

    /// Returns the shard's name.
    pub fn id(&self) -> &ShardId {
        &self.served.core.region.subject().shard
    }

    /// Returns the length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no shard is empty")]
    pub fn len(&self) -> u64 {
        self.served.core.region.len()
    }

    /// Returns the digest of the sealed bytes.
    pub fn digest(&self) -> Digest {
        self.sealed.seal.digest()
    }

    /// Returns the time when the whole shard was last found equal to its seal.
    pub fn verified_at(&self) -> SystemTime {
        self.served.standing.verified().to_system_time()
    }

    /// Returns a public description of the shard.
    ///
    /// Its state is `shared`, or `revoked` where leases are refused.
    pub fn handle(&self) -> ShardHandle {
        let standing = &self.served.standing;
        self.served.core.handle(StateFacts {
            state: match standing.judge() {
                Ok(()) => "shared",
                Err(_) => "revoked",
            },
            verified: Some(standing.verified()),
            ..self.sealed.facts()
        })
    }

    #[cfg(feature = "fault-injection")]
    pub(super) fn dangerous_region(&self) -> &super::Region<D> {
        &self.served.core.region
    }

    /// Returns the deadline of a check. Missing it ends the leases, unless a maximum age will end
    /// them.
    fn deadline(&self) -> Option<Deadline> {
        let options = self.served.core.region.home().options();
        let limit = options.check_deadline?;
        let missed = match options.max_age {
            Some(_) => Missed::Lapses,
            None => Missed::Fails,
        };
        Some(Deadline { limit, missed })
    }

    /// Begins a check. An incident ends the leases, as does leaving without an outcome.
    fn open(&self, operation: &'static str) -> Result<OpenVerification, CheckError> {
        process::check()?;
        let standing = &self.served.standing;
        if standing.judge() == Err(Revoked::Failed) {
            return Err(CheckError::AlreadyFailed);
        }
        let history = standing.last().history;
        let open = self.served.core.begin(operation, history);
        let open = open.of_served(Arc::clone(standing));
        Ok(match self.deadline() {
            Some(deadline) => open.within(deadline),
            None => open,
        })
    }
}

impl<D: Device> Lease<D> {
    /// Returns the bytes, read-only.
    ///
    /// The bytes exist as long as the lease, whatever a check found.
    /// [`is_current`](Self::is_current) returns whether they may be used. In a forked child, host
    /// memory keeps the bytes of the moment of the fork, until the child ends or calls `exec`.
    pub fn view(&self) -> D::View<'_> {
        self.0.core.region.view()
    }

    /// Returns whether no check has failed and the last one is not too old. Call it before each
    /// batch.
    ///
    /// In a forked child, which no check reaches, no lease is current. Not noticed: a child made
    /// past the C library, by a bare `clone`, if the kernel wipes no memory in children.
    /// `fork_guard` in `TrailOpened` is `at_fork` then.
    pub fn is_current(&self) -> bool {
        self.0.standing.judge().is_ok()
    }

    /// Returns the shard's name.
    pub fn id(&self) -> &ShardId {
        &self.0.core.region.subject().shard
    }

    /// Returns the length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no shard is empty")]
    pub fn len(&self) -> u64 {
        self.0.core.region.len()
    }
}

impl<D: Device> Clone for Lease<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl From<Unproven> for CheckError {
    fn from(unproven: Unproven) -> Self {
        match unproven {
            Unproven::Broken(incident) => Self::Broken { incident },
            Unproven::Inconclusive(source) => Self::Inconclusive { source },
            Unproven::Unrecorded(source) => Self::Unrecorded { source },
        }
    }
}

impl<D: Device> fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("id", self.id())
            .field("standing", &self.served.standing.judge())
            .finish_non_exhaustive()
    }
}

impl<D: Device> fmt::Debug for Lease<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", self.id())
            .field("standing", &self.0.standing.judge())
            .finish_non_exhaustive()
    }
}
