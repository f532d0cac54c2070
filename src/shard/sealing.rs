//! Sealing: from what was written to what is authenticated.
//!
//! The order is fixed: wait for the device, protect, digest what the device holds, compare it with
//! the stream that was loaded and with the provenance, tag, record. The source's buffers take no part.

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
    /// Seals the shard: makes it read-only, computes its digest from what the device holds, compares
    /// that with `provenance`, and authenticates it.
    ///
    /// Bytes that are not what the stream or the provenance says are a failed verification:
    /// [`SealError::Broken`]. Every other error gives the shard back
    /// ([`into_shard`](SealError::into_shard)).
    pub fn seal(self, provenance: Provenance) -> Result<Shard<Sealed, D>, SealError<D>> {
        self.seal_with_progress(provenance, |_| ControlFlow::Continue(()))
    }

    /// [`seal`](Self::seal), calling `progress` while the digest is computed.
    /// [`ControlFlow::Break`] stops and gives the shard back. The last call, when all is done, comes after the
    /// comparison and only if that found nothing bad.
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

    /// What the caller must have done before; whatever it is, it is no verification.
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

    /// After this the memory is read-only.
    pub(super) fn protect(&mut self) -> Result<(), NoAnswer> {
        let region = &mut self.core.region;
        region.settle().map_err(NoAnswer::of_device)?;
        region.protect().map_err(NoAnswer::of_device)
    }

    /// Whether the tree of what the memory holds is that of the stream and the provenance, and that of what is
    /// copied back.
    pub(super) fn compare(&self, tree: Tree, provenance: &Provenance) -> Found<Tree> {
        if let Some(findings) = self.state.content.differs_from(&tree, provenance) {
            return Err(Failed::Broken(Reason::ProvenanceMismatch, findings));
        }
        match self.core.spot_check(&tree)? {
            None => Ok(tree),
            Some(findings) => Err(Failed::Broken(Reason::SpotCheckMismatch, findings)),
        }
    }

    /// Tag and record. If the record is not durable where it must be, another one says that the sealing was
    /// given up.
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

    /// What has no answer goes back to being filled. Memory that cannot be made writable again is no shard
    /// to be filled, and not sealed either.
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
            // The memory is still as it was while it was to be sealed.
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
    /// The fields of the record.
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
    /// The first bytes that were not written, if there are any.
    fn gap(&self, len: u64) -> Option<std::ops::Range<u64>> {
        match self {
            Self::Streamed { .. } => None,
            Self::Written(coverage) => coverage.gap(len),
        }
    }

    /// In what the device's bytes differ from the stream, or else from the provenance.
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
