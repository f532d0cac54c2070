//! Batches: many shards that are allocated together, filled one by one, and sealed together.
//!
//! The shards of a batch may share memory that can only be made read-only as a whole. So no shard
//! can be taken out or replaced before all are sealed. A batch gives no `Shard<Allocated, D>` by
//! value or by mutable reference. After sealing, each shard stands alone, in read-only memory.

use std::fmt;
use std::io::Read;
use std::ops::{ControlFlow, Deref};

use vram_digest::{Progress, Stream, Tree};

use super::fill::Loaded;
use super::outcome::Failed;
use super::sealing::OPERATION;
use super::state::{Allocated, Sealed};
use super::{Region, Shard};
use crate::device::Device;
use crate::error::{
    Broken, LoadError, NoAnswer, NotSealed, ReleaseError, SealAllError, WriteError,
};
use crate::event::{History, Reason};
use crate::id::ShardId;
use crate::seal::{Provenance, Seal};
use crate::verification::{Failing, Findings, OpenVerification, Together};

/// A batch of shards that will be sealed together, from
/// [`VramManager::allocate_all`](crate::VramManager::allocate_all).
///
/// [`docs::serving`](crate::docs::serving) has an example.
#[must_use = "dropping a batch wipes and frees its memory"]
pub struct Batch<D: Device> {
    shards: Vec<Shard<Allocated, D>>,
}

/// A shard of a batch, to be filled.
///
/// It dereferences to `Shard<Allocated, D>` for everything that needs no mutable access.
pub struct Member<'a, D: Device>(&'a mut Shard<Allocated, D>);

/// A shard that is being sealed.
struct Candidate<D: Device> {
    shard: Shard<Allocated, D>,
    provenance: Provenance,
    open: OpenVerification,
}

/// Shards that will not be sealed, because one of them could not be.
struct Unsealed<D: Device> {
    /// The shards, with their verifications that still need an outcome on record.
    shards: Vec<(Shard<Allocated, D>, Option<OpenVerification>)>,
    /// The shard that could not be sealed.
    shard: ShardId,
    source: NotSealed,
}

impl<D: Device> Batch<D> {
    pub(crate) fn new(shards: Vec<Shard<Allocated, D>>) -> Self {
        Self { shards }
    }

    /// Returns the number of shards.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Returns whether the batch has no shards.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Returns the shards, in the order of the request.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Shard<Allocated, D>> {
        self.shards.iter()
    }

    /// Returns the shards for filling; several threads may each fill some.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = Member<'_, D>> {
        self.shards.iter_mut().map(Member)
    }

    /// Returns the shard with this name for filling. Searches linearly.
    pub fn get_mut(&mut self, id: &ShardId) -> Option<Member<'_, D>> {
        self.shards
            .iter_mut()
            .find(|shard| shard.id() == id)
            .map(Member)
    }

    /// Seals all shards, each as [`Shard::seal`] does.
    ///
    /// Makes all shards read-only first. Then computes the digest of each shard, compares it with
    /// the answer of `provenance` for it, authenticates and records it. Under
    /// [`Assurance::Durable`](crate::Assurance), waits for each record separately.
    ///
    /// # Errors
    ///
    /// - [`SealAllError::Broken`]: some shards failed this verification and are quarantined. All
    ///   others are sealed, unless one could not be sealed for another reason. A device that breaks
    ///   while it changes write access fails all shards.
    /// - [`SealAllError::NotSealed`]: one shard could not be sealed, and the reason says nothing
    ///   about its bytes. So none is sealed. If the trail already has records of sealed shards,
    ///   records `VerificationInconclusive` withdraw them. The error returns all shards: remove the
    ///   reason, and seal again.
    pub fn seal(
        self,
        provenance: impl FnMut(&Shard<Allocated, D>) -> Provenance,
    ) -> Result<Vec<Shard<Sealed, D>>, SealAllError<D>> {
        let provenances: Vec<Provenance> = self.iter().map(provenance).collect();
        for (shard, provenance) in self.shards.iter().zip(&provenances) {
            if let Some(source) = shard.objection(provenance) {
                return Err(SealAllError::NotSealed {
                    shard: shard.id().clone(),
                    batch: Box::new(self),
                    source,
                });
            }
        }
        let candidates = self.shards.into_iter().zip(provenances);
        let mut broken = Vec::new();
        let sealed = protect_all(candidates.map(Candidate::new).collect())
            .and_then(|candidates| read_all(candidates, &mut broken))
            .and_then(record_all);
        match sealed {
            Err(unsealed) => Err(unsealed.give_back(broken)),
            Ok(sealed) if broken.is_empty() => Ok(sealed),
            Ok(sealed) => Err(SealAllError::Broken {
                broken: conclude_all(broken),
                sealed,
                batch: Box::new(Self::new(Vec::new())),
            }),
        }
    }

    /// Wipes and frees the memory of all shards.
    ///
    /// # Errors
    ///
    /// Returns the first error; see [`Shard::release`]. The trail has the failures of each shard.
    pub fn release(self) -> Result<(), ReleaseError> {
        let mut outcome = Ok(());
        for shard in self.shards {
            outcome = outcome.and(shard.release());
        }
        outcome
    }
}

impl<D: Device> Member<'_, D> {
    /// Writes bytes as [`Shard::write_at`] does.
    ///
    /// # Errors
    ///
    /// As [`Shard::write_at`].
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.0.write_at(offset, bytes)
    }

    /// Loads a stream as [`Shard::load_from`] does.
    ///
    /// # Errors
    ///
    /// As [`Shard::load_from`].
    pub fn load_from(&mut self, reader: impl Read, stream: Stream) -> Result<Loaded, LoadError> {
        self.0.load_from(reader, stream)
    }

    /// As [`Shard::load_from_with_progress`].
    pub fn load_from_with_progress(
        &mut self,
        reader: impl Read,
        stream: Stream,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        self.0.load_from_with_progress(reader, stream, progress)
    }

    /// Loads bytes in memory as [`Shard::load_slice`] does.
    ///
    /// # Errors
    ///
    /// As [`Shard::load_slice`].
    pub fn load_slice(&mut self, bytes: &[u8], stream: Stream) -> Result<Loaded, LoadError> {
        self.0.load_slice(bytes, stream)
    }

    /// As [`Shard::load_slice_with_progress`].
    pub fn load_slice_with_progress(
        &mut self,
        bytes: &[u8],
        stream: Stream,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Loaded, LoadError> {
        self.0.load_slice_with_progress(bytes, stream, progress)
    }
}

impl<D: Device> Deref for Member<'_, D> {
    type Target = Shard<Allocated, D>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl<D: Device> Candidate<D> {
    fn new((shard, provenance): (Shard<Allocated, D>, Provenance)) -> Self {
        let open = shard.core.begin(OPERATION, History::default());
        Self {
            shard,
            provenance,
            open,
        }
    }
}

/// Makes all shards read-only before the first of them is read.
fn protect_all<D: Device>(
    mut candidates: Vec<Candidate<D>>,
) -> Result<Vec<Candidate<D>>, Unsealed<D>> {
    let protect = |candidate: &mut Candidate<D>| {
        let cause = candidate.shard.protect().err()?;
        Some((candidate.shard.id().clone(), NotSealed::Inconclusive(cause)))
    };
    match candidates.iter_mut().find_map(protect) {
        None => Ok(candidates),
        Some(stop) => Err(Unsealed::of(candidates.into_iter(), stop)),
    }
}

/// Reads all shards, and returns those with the expected tree.
///
/// A device that is lost meanwhile also fails the shards that it has already answered for.
fn read_all<D: Device>(
    candidates: Vec<Candidate<D>>,
    broken: &mut Vec<(Shard<Allocated, D>, Failing)>,
) -> Result<Vec<(Candidate<D>, Tree)>, Unsealed<D>> {
    let candidates = Together::new(candidates, |candidate| Some(candidate.open.interrupt()));
    let regions: Vec<_> = candidates
        .iter()
        .map(|one| &one.shard.core.region)
        .collect();
    let mut trees = Region::trees(&regions).into_iter();
    let candidates = candidates.part();
    let mut read = Vec::with_capacity(candidates.len());
    let mut left = candidates.into_iter();
    while let Some(candidate) = left.next() {
        let tree = trees.next().unwrap_or_else(|| Err(NoAnswer::missing()));
        let compare = |tree| candidate.shard.compare(tree, &candidate.provenance);
        match tree.map_err(Failed::from).and_then(compare) {
            Ok(tree) => read.push((candidate, tree)),
            Err(Failed::Broken(reason, findings)) => {
                let Candidate { shard, open, .. } = candidate;
                broken.push((shard, open.fail(reason, findings)));
            }
            Err(Failed::NoAnswer(cause)) => {
                let stop = (candidate.shard.id().clone(), NotSealed::Inconclusive(cause));
                let read = read.into_iter().map(|(candidate, _)| candidate);
                return Err(Unsealed::of(read.chain([candidate]).chain(left), stop));
            }
        }
    }
    let is_good = |(candidate, tree): (Candidate<D>, Tree)| {
        let Some(cause) = candidate.shard.core.region.lost() else {
            return Some((candidate, tree));
        };
        let Candidate { shard, open, .. } = candidate;
        let findings = Findings::of_device(&cause);
        broken.push((shard, open.fail(Reason::DeviceError, findings)));
        None
    };
    Ok(read.into_iter().filter_map(is_good).collect())
}

/// Waits for the records of all failures, no longer than for one.
fn conclude_all<D: Device>(broken: Vec<(Shard<Allocated, D>, Failing)>) -> Vec<Broken<D>> {
    broken
        .into_iter()
        .map(|(shard, failing)| shard.broken(Box::new(failing.conclude())))
        .collect()
}

/// Tags and records each shard.
fn record_all<D: Device>(
    read: Vec<(Candidate<D>, Tree)>,
) -> Result<Vec<Shard<Sealed, D>>, Unsealed<D>> {
    let mut recorded: Vec<(Shard<Allocated, D>, Seal, Tree, History)> = Vec::new();
    let mut left = read.into_iter();
    while let Some((candidate, tree)) = left.next() {
        let Candidate {
            shard,
            provenance,
            open,
        } = candidate;
        match shard.put_on_record(open, &tree, provenance) {
            Ok((seal, history)) => recorded.push((shard, seal, tree, history)),
            Err(source) => {
                let stop = (shard.id().clone(), NotSealed::Unrecorded(source));
                let recorded = recorded.into_iter().map(|(shard, ..)| {
                    let open = shard.core.begin(OPERATION, History::default());
                    (shard, Some(open))
                });
                let left = left.map(|(Candidate { shard, open, .. }, _)| (shard, Some(open)));
                // The trail already says that this shard is not sealed.
                let shards = recorded.chain([(shard, None)]).chain(left).collect();
                return Err(Unsealed::new(shards, stop));
            }
        }
    }
    let sealed = recorded
        .into_iter()
        .map(|(shard, seal, tree, history)| shard.sealed(seal, tree, history));
    Ok(sealed.collect())
}

impl<D: Device> Unsealed<D> {
    fn new(
        shards: Vec<(Shard<Allocated, D>, Option<OpenVerification>)>,
        (shard, source): (ShardId, NotSealed),
    ) -> Self {
        Self {
            shards,
            shard,
            source,
        }
    }

    fn of(candidates: impl Iterator<Item = Candidate<D>>, stop: (ShardId, NotSealed)) -> Self {
        let shards = candidates.map(|Candidate { shard, open, .. }| (shard, Some(open)));
        Self::new(shards.collect(), stop)
    }

    /// Makes all shards writable again, and records that they are not sealed.
    ///
    /// If that fails, or the device broke, it is unknown which memory is writable, so all shards
    /// fail.
    fn give_back(mut self, mut broken: Vec<(Shard<Allocated, D>, Failing)>) -> SealAllError<D> {
        let mut failure = match &self.source {
            NotSealed::Inconclusive(cause) if cause.is_broken() => Some(cause.to_string()),
            _ => None,
        };
        for (shard, _) in &mut self.shards {
            if failure.is_none() {
                let lost = shard.core.region.lost().map(|cause| cause.to_string());
                failure = lost.or_else(|| Some(shard.make_writable().err()?.to_string()));
                if failure.is_some() {
                    // From now on, this shard is the reason why the others are not sealed.
                    self.shard = shard.id().clone();
                }
            }
        }
        if let Some(failure) = failure {
            broken.extend(self.all_broken(&failure));
            return SealAllError::Broken {
                broken: conclude_all(broken),
                sealed: Vec::new(),
                batch: Box::new(Batch::new(Vec::new())),
            };
        }
        let batch = Box::new(self.all_back());
        let Self { shard, source, .. } = self;
        if broken.is_empty() {
            return SealAllError::NotSealed {
                batch,
                shard,
                source,
            };
        }
        SealAllError::Broken {
            broken: conclude_all(broken),
            sealed: Vec::new(),
            batch,
        }
    }

    fn all_back(&mut self) -> Batch<D> {
        let cause = match &self.source {
            NotSealed::Inconclusive(cause) => cause.to_string(),
            other => other.to_string(),
        };
        let mut back = Vec::with_capacity(self.shards.len());
        for (shard, open) in self.shards.drain(..) {
            if let Some(open) = open {
                open.inconclusive(together(&shard, &self.shard, &cause).into());
            }
            back.push(shard);
        }
        Batch::new(back)
    }

    fn all_broken(&mut self, failure: &str) -> Vec<(Shard<Allocated, D>, Failing)> {
        let stopped = &self.shard;
        let condemn = |(shard, open): (Shard<Allocated, D>, Option<OpenVerification>)| {
            let begin = || shard.core.begin(OPERATION, History::default());
            let open = open.unwrap_or_else(begin);
            let findings = Findings::of_device(&together(&shard, stopped, failure));
            (shard, open.fail(Reason::DeviceError, findings))
        };
        self.shards.drain(..).map(condemn).collect()
    }
}

/// Returns the cause to record for `shard`, which names the shard `stopped` if that is another one.
fn together<D: Device>(shard: &Shard<Allocated, D>, stopped: &ShardId, cause: &str) -> String {
    if shard.id() == stopped {
        cause.to_owned()
    } else {
        format!("to be sealed together with {stopped}: {cause}")
    }
}

impl<D: Device> fmt::Debug for Batch<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.shards).finish()
    }
}

impl<D: Device> fmt::Debug for Member<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
