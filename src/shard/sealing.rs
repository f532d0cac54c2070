//! Sealing: from written bytes to an authenticated digest.
//!
//! The order of the steps is fixed:
//!
//! 1. Wait for the device.
//! 2. Make the memory read-only.
//! 3. Compute the digest of the bytes that the device holds.
//! 4. Compare it with the loaded stream and with the provenance.
//! 5. Tag.
//! 6. Record.
//!
//! The source's buffers take no part. This module does not know how the device hashes.

use std::ops::ControlFlow;

use vram_digest::{Progress, Tree};
use vram_trail::clock::Time;
use vram_trail::{NotDurable, process};

use super::outcome::{Failed, Found, Queued, Unproven, at_the_end, on_the_way};
use super::state::{Allocated, Content, Sealed};
use super::{Core, Shard};
use crate::device::{Device, DeviceError};
use crate::error::{Broken, NoAnswer, NotSealed, SealError};
use crate::event::{AnyDigest, History, Reason, Sealing, Violation};
use crate::seal::{Provenance, Seal};
use crate::verification::{Findings, Incident, OpenVerification};

pub(super) const OPERATION: &str = "seal";

impl<D: Device> Shard<Allocated, D> {
    /// Seals the shard.
    ///
    /// Makes it read-only, computes its digest from the device's bytes, compares the digest with
    /// `provenance`, and authenticates it.
    ///
    /// # Errors
    ///
    /// Every error but `Broken` returns the shard ([`into_shard`](SealError::into_shard)).
    ///
    /// - [`SealError::Broken`]: the bytes do not match the stream or the provenance, or the device
    ///   failed. The shard is quarantined: release it, and load from a source that is right.
    /// - [`SealError::Incomplete`]: some bytes were never written. Write them.
    /// - [`SealError::NoStreamDigest`]: `provenance` is a plain SHA-256, and none was computed.
    ///   Load with [`Stream::WithSha256`](crate::digest::Stream::WithSha256).
    /// - [`SealError::Unpinned`]: the manager refuses [`Provenance::UnpinnedFirstUse`]. Give the
    ///   expected digest.
    /// - [`SealError::Inconclusive`]: there is no answer. Try again.
    /// - [`SealError::Unrecorded`]: the record is not durable. Seal again once the trail can write.
    /// - [`SealError::Forked`]: the call was made in a forked child.
    pub fn seal(self, provenance: Provenance) -> Result<Shard<Sealed, D>, SealError<D>> {
        self.seal_with_progress(provenance, |_| ControlFlow::Continue(()))
    }

    /// Seals the shard as [`seal`](Self::seal) does, and calls `progress` while the digest is
    /// computed.
    ///
    /// [`ControlFlow::Break`] stops, and returns the shard. The final call comes after the
    /// comparison, and only if the comparison found nothing bad.
    ///
    /// # Errors
    ///
    /// As [`seal`](Self::seal); a stop is [`SealError::Inconclusive`].
    pub fn seal_with_progress(
        mut self,
        provenance: Provenance,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Shard<Sealed, D>, SealError<D>> {
        if let Some(objection) = self.objection(&provenance) {
            return Err(objection.of(self));
        }
        let open = self.core.begin(OPERATION, History::default());
        let found = self
            .protect()
            .and_then(|()| self.core.region.tree(&mut on_the_way(&mut progress)))
            .map_err(Failed::from)
            .and_then(|tree| self.compare(tree, &provenance))
            .and_then(|tree| at_the_end(tree, self.len(), &mut progress))
            .map_err(|failed| self.unseal(failed));
        let recorded = Queued::new(open, found).settle().and_then(|(open, tree)| {
            let recorded = self.put_on_record(open, &tree, provenance);
            let (seal, history) = recorded.map_err(Unproven::Unrecorded)?;
            Ok((seal, tree, history))
        });
        match recorded {
            Ok((seal, tree, history)) => Ok(self.sealed(seal, tree, history)),
            Err(unproven) => Err(self.unsealed(unproven)),
        }
    }

    /// Returns an unmet requirement on the caller. Such a refusal is not a verification.
    pub(super) fn objection(&self, provenance: &Provenance) -> Option<NotSealed> {
        if let Err(forked) = process::check() {
            return Some(NotSealed::Forked(forked));
        }
        if let Some(missing) = self.state.content.gap(self.len()) {
            return Some(NotSealed::Incomplete { missing });
        }
        let has_sha256 = matches!(
            self.state.content,
            Content::Streamed {
                sha256: Some(_),
                ..
            }
        );
        match provenance {
            Provenance::Sha256(_) if !has_sha256 => Some(NotSealed::NoStreamDigest),
            Provenance::UnpinnedFirstUse if self.core.region.home().options().require_pinned => {
                Some(self.refuse_unpinned())
            }
            _ => None,
        }
    }

    fn refuse_unpinned(&self) -> NotSealed {
        let record = self.core.region.home().record_violation(Violation {
            shard: Some(self.id().clone()),
            policy: "require_pinned".into(),
            violation: "sealing with provenance unpinned_first_use".into(),
            details: format!("allocation {}", self.allocation()).into(),
            action: "refused".into(),
        });
        NotSealed::Unpinned { record }
    }

    /// Makes the memory read-only.
    pub(super) fn protect(&mut self) -> Result<(), NoAnswer> {
        let region = &mut self.core.region;
        region.settle().map_err(NoAnswer::of_device)?;
        region.protect().map_err(NoAnswer::of_device)
    }

    /// Compares the tree of the memory with the stream, with the provenance, and with the windows
    /// that are copied back.
    pub(super) fn compare(&self, tree: Tree, provenance: &Provenance) -> Found<Tree> {
        if let Some(findings) = self.state.content.differs_from(&tree, provenance) {
            return Err(Failed::Broken(Reason::ProvenanceMismatch, findings));
        }
        match self.core.spot_check(&tree)? {
            None => Ok(tree),
            Some(findings) => Err(Failed::Broken(Reason::SpotCheckMismatch, findings)),
        }
    }

    /// Tags and records the seal.
    ///
    /// If the record must be durable and is not, a second record says that the sealing was
    /// abandoned.
    pub(super) fn put_on_record(
        &self,
        open: OpenVerification,
        tree: &Tree,
        provenance: Provenance,
    ) -> Result<(Seal, History), NotDurable> {
        let sealed = Time::now();
        let seal = Seal::new(&self.core.context(), tree.digest(), provenance, sealed);
        let mark = open.sealed(self.core.sealing(&seal, provenance))?;
        let history = History {
            sealed_seq: mark.seq,
            sealed_time: Some(sealed),
            ..History::default()
        };
        Ok((seal, history))
    }

    pub(super) fn sealed(self, seal: Seal, tree: Tree, history: History) -> Shard<Sealed, D> {
        Shard {
            core: self.core,
            state: Sealed {
                seal,
                tree,
                history,
            },
        }
    }

    /// Makes the memory writable again if there is no answer.
    ///
    /// If that fails, the shard can neither be filled nor be sealed, so it fails.
    fn unseal(&mut self, failed: Failed) -> Failed {
        match failed {
            Failed::NoAnswer(cause) => match self.make_writable() {
                Ok(()) => Failed::NoAnswer(cause),
                Err(error) => Failed::Broken(Reason::DeviceError, Findings::of_device(&error)),
            },
            broken @ Failed::Broken(..) => broken,
        }
    }

    fn unsealed(mut self, unproven: Unproven) -> SealError<D> {
        match unproven {
            Unproven::Broken(incident) => self.broken(incident).into(),
            Unproven::Inconclusive(cause) => NotSealed::Inconclusive(cause).of(self),
            // The memory is still read-only, as during sealing.
            Unproven::Unrecorded(source) => match self.make_writable() {
                Ok(()) => NotSealed::Unrecorded(source).of(self),
                Err(error) => {
                    let open = self.core.begin(OPERATION, History::default());
                    let findings = Findings::of_device(&error);
                    let incident = open.broken(Reason::DeviceError, findings);
                    self.broken(Box::new(incident)).into()
                }
            },
        }
    }

    pub(super) fn make_writable(&mut self) -> Result<(), DeviceError> {
        self.core.region.unprotect()
    }

    pub(super) fn broken(self, incident: Box<Incident>) -> Broken<D> {
        let Self { core, state } = self;
        Broken::new(incident, core.quarantine(&state))
    }
}

impl<D: Device> Core<D> {
    /// Returns the fields of the record.
    fn sealing(&self, seal: &Seal, provenance: Provenance) -> Sealing {
        let home = self.region.home();
        Sealing {
            model: self.model.clone(),
            bytes: self.region.len(),
            digest: seal.digest(),
            provenance: provenance.name(),
            stream_sha256: match provenance {
                Provenance::Sha256(digest) => Some(digest),
                Provenance::FsVerity(_) | Provenance::UnpinnedFirstUse => None,
            },
            sealed_time: seal.sealed(),
            key_id: home.key_id().clone(),
            token_access: home.token_custody(),
            epoch: home.epoch().clone(),
            read_only: self.region.facts().read_only,
        }
    }
}

impl Content {
    /// Returns the first range that was not written, if any.
    fn gap(&self, len: u64) -> Option<std::ops::Range<u64>> {
        match self {
            Self::Streamed { .. } => None,
            Self::Written(coverage) => coverage.gap(len),
        }
    }

    /// Returns how the device's bytes differ from the stream, or else from the provenance.
    fn differs_from(&self, tree: &Tree, provenance: &Provenance) -> Option<Findings> {
        let actual = tree.digest();
        if let Self::Streamed { tree: stream, .. } = self
            && stream.digest() != actual
        {
            return Some(Findings {
                expected: Some(AnyDigest::FsVerity(stream.digest())),
                actual: Some(AnyDigest::FsVerity(actual)),
                damaged: stream.damaged(tree),
                detail: Some("a bad copy: the device does not hold what the stream was".into()),
            });
        }
        let (expected, actual) = match (provenance, self) {
            (Provenance::FsVerity(expected), _) if *expected != actual => {
                (AnyDigest::FsVerity(*expected), AnyDigest::FsVerity(actual))
            }
            (
                Provenance::Sha256(expected),
                Self::Streamed {
                    sha256: Some(stream),
                    ..
                },
            ) if expected != stream => (AnyDigest::Sha256(*expected), AnyDigest::Sha256(*stream)),
            _ => return None,
        };
        Some(Findings {
            expected: Some(expected),
            actual: Some(actual),
            ..Findings::default()
        })
    }
}
