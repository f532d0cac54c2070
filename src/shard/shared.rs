//! Sharing: many readers for weeks, and checks beside them.
//!
//! A model keeps its weights in `'static` structures, where no borrow reaches. So a verified shard
//! can be shared: [`Lease`]s are owned, can be cloned and sent, and keep the memory alive. A check
//! re-reads the memory beside them; one that fails cannot take bytes out of anybody's hands, but
//! from then on every new lease is refused and none is current. That is checked at run time, by
//! whoever asks; only [`Shard::view`](super::Shard::view) is checked by the compiler.

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

/// A verified shard that is read from many places.
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
    /// That of the shard that was shared; given back when it is reclaimed and no check has failed.
    proof: Match,
}

/// The right to read a shared shard. Keeps its memory alive.
pub struct Lease<D: Device>(Arc<Served<D>>);

/// What a shared shard and its leases have in common.
#[derive(Debug)]
struct Served<D: Device> {
    core: Core<D>,
    /// Apart from the memory, so that the trail's writer can look at it without keeping that alive.
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
        // It may be lost already.
        home.notice_loss(None);
        Self {
            served: Arc::new(Served { core, standing }),
            sealed,
            proof,
        }
    }

    /// A lease, unless a check has failed or the last one is too old.
    pub fn lease(&self) -> Result<Lease<D>, Revoked> {
        self.served.standing.judge_on_record()?;
        Ok(Lease(Arc::clone(&self.served)))
    }

    /// Reads the whole shard back from the device, beside whoever reads it through leases, and
    /// compares it with the seal.
    ///
    /// If it fails, the incident is on record first, then leases are refused. If it panics (in a
    /// progress callback), the same with reason `interrupted`. A check that passes counts from its
    /// beginning, and never makes up for one that failed. One that passes later than within
    /// [`check_deadline`](crate::manager::VramManagerBuilder::check_deadline) does not count.
    pub fn check(&self) -> Result<(), CheckError> {
        self.check_with_progress(|_| ControlFlow::Continue(()))
    }

    /// [`check`](Self::check), calling `progress` on the way. [`ControlFlow::Break`] stops; that is
    /// recorded as inconclusive, and leases stay as they were. The last call, when all is done, comes after
    /// the comparison and only if that found nothing bad.
    pub fn check_with_progress(
        &self,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), CheckError> {
        let open = self.open(CHECK)?;
        let core = &self.served.core;
        let whole = core.verify_whole(&self.sealed, open, &mut progress)?;
        self.pass(whole)
    }

    /// [`check`](Self::check) of many, read at once where they are on one device: a GPU hashes many
    /// small shards in as few launches as a single one. The outcomes are in
    /// their order; a failure of the device itself is one of all that were read with it.
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

    /// Checks some windows (of 512 KiB, numbered from 0) against the seal, by way of the kept tree.
    ///
    /// A failure is a failure of the whole shard. A pass does not make the last check younger.
    pub fn check_window(&self, windows: Range<u64>) -> Result<(), CheckError> {
        if let Err(count) = self.served.core.check_windows(&windows) {
            return Err(CheckError::NoSuchWindow { windows, count });
        }
        let open = self.open("check_window")?;
        let core = &self.served.core;
        core.verify_windows(&self.sealed, open, windows)?;
        Ok(())
    }

    /// Takes the shard back, once no lease lives. It is as verified as the last check that passed.
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

    /// The shard's name.
    pub fn id(&self) -> &ShardId {
        &self.served.core.region.subject().shard
    }

    /// The length in bytes, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "no shard is empty")]
    pub fn len(&self) -> u64 {
        self.served.core.region.len()
    }

    /// The digest of the bytes that were sealed.
    pub fn digest(&self) -> Digest {
        self.sealed.seal.digest()
    }

    /// When all of the shard was last found equal to its seal.
    pub fn verified_at(&self) -> SystemTime {
        self.served.standing.verified().to_system_time()
    }

    /// What may be told about the shard: its state is `shared`, or `revoked` where leases are
    /// refused.
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

    /// How long a check may take. Where leases do not become too old, one that takes longer ends them.
    fn deadline(&self) -> Option<Deadline> {
        let options = self.served.core.region.home().options();
        let limit = options.check_deadline?;
        let missed = match options.max_age {
            Some(_) => Missed::Lapses,
            None => Missed::Fails,
        };
        Some(Deadline { limit, missed })
    }

    /// What every check begins with. An incident ends the leases, also one for leaving without an outcome.
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
    /// The bytes, read-only. They are there as long as the lease is, whatever a check found; whether
    /// they may be used is what [`is_current`](Self::is_current) tells. In a forked child, host memory
    /// has the bytes of the moment of the fork, until the child ends or calls `exec`.
    pub fn view(&self) -> D::View<'_> {
        self.0.core.region.view()
    }

    /// Whether no check has failed and the last one is not too old: ask before each batch. In a
    /// forked child, which no check reaches, no lease is current. A child that is made past the C library, by
    /// a bare `clone`, is not noticed where the kernel wipes no memory in children (`fork_guard` in
    /// `TrailOpened` is `at_fork`).
    pub fn is_current(&self) -> bool {
        self.0.standing.judge().is_ok()
    }

    /// The shard's name.
    pub fn id(&self) -> &ShardId {
        &self.0.core.region.subject().shard
    }

    /// The length in bytes, at least 1.
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
