//! Sealing: from what was written to what is authenticated.
//!
//! The order is fixed: wait for the device, protect, digest what the device holds, compare it with
//! the stream that was loaded and with the provenance, tag, record. The source's buffers take no part.

use std::ops::ControlFlow;

use super::state::{Allocated, Content, Sealed};
use super::{Core, Shard};
use crate::audit::clock::Time;
use crate::audit::event::{AnyDigest, History, Reason, Sealing, Violation};
use crate::audit::guard::{Findings, Incident, OpenVerification};
use crate::device::{Device, DeviceError};
use crate::digest::{Progress, Tree};
use crate::error::{NoAnswer, SealError};
use crate::process;
use crate::seal::{Provenance, Seal};

const OPERATION: &str = "seal";

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
    /// [`ControlFlow::Break`] stops and gives the shard back.
    pub fn seal_with_progress(
        self,
        provenance: Provenance,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Shard<Sealed, D>, SealError<D>> {
        let shard = self.admit_to_sealing(&provenance)?;
        let open = shard.core.begin(OPERATION, History::default());
        let (shard, tree, open) = shard.protect_and_read(open, &mut progress)?;
        if let Some(findings) = shard.state.content.differs_from(&tree, &provenance) {
            return Err(shard.broken(open.broken(Reason::ProvenanceMismatch, findings)));
        }
        match shard.core.spot_check(&tree) {
            Ok(None) => shard.complete(open, tree, provenance),
            Ok(Some(findings)) => {
                Err(shard.broken(open.broken(Reason::SpotCheckMismatch, findings)))
            }
            Err(cause) => Err(shard.unanswered(open, cause)),
        }
    }

    /// What the caller must have done before: these are no verifications, and give the shard back.
    fn admit_to_sealing(self, provenance: &Provenance) -> Result<Self, SealError<D>> {
        if let Err(source) = process::check() {
            let shard = Box::new(self);
            return Err(SealError::Forked { shard, source });
        }
        if let Some(missing) = self.state.content.gap(self.len()) {
            let shard = Box::new(self);
            return Err(SealError::Incomplete { shard, missing });
        }
        match (provenance, &self.state.content) {
            (
                Provenance::Sha256(_),
                Content::Written(_) | Content::Streamed { sha256: None, .. },
            ) => {
                let shard = Box::new(self);
                Err(SealError::NoStreamDigest { shard })
            }
            (Provenance::UnpinnedFirstUse, _)
                if self.core.region.home().options().require_pinned =>
            {
                Err(self.refuse_unpinned())
            }
            _ => Ok(self),
        }
    }

    fn refuse_unpinned(self) -> SealError<D> {
        let record = self.core.region.home().record_violation(Violation {
            shard: Some(self.id().clone()),
            policy: "require_pinned".into(),
            violation: "sealing with provenance unpinned_first_use".into(),
            details: format!("allocation {}", self.allocation()).into(),
            action: "refused".into(),
        });
        SealError::Unpinned {
            shard: Box::new(self),
            record,
        }
    }

    /// After this the memory is read-only, and the tree is that of what it holds.
    fn protect_and_read(
        mut self,
        open: OpenVerification,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Self, Tree, OpenVerification), SealError<D>> {
        let region = &mut self.core.region;
        let read = region
            .settle()
            .and_then(|()| region.protect())
            .map_err(NoAnswer::from)
            .and_then(|()| region.tree(progress));
        match read {
            Ok(tree) => Ok((self, tree, open)),
            Err(cause) => Err(self.unanswered(open, cause)),
        }
    }

    /// Tag and record.
    fn complete(
        mut self,
        open: OpenVerification,
        tree: Tree,
        provenance: Provenance,
    ) -> Result<Shard<Sealed, D>, SealError<D>> {
        let sealed = Time::now();
        let seal = Seal::new(&self.core.context(), tree.digest(), provenance, sealed);
        match open.sealed(self.core.sealing(&seal, provenance)) {
            Ok(mark) => Ok(Shard {
                core: self.core,
                state: Sealed {
                    seal,
                    tree,
                    history: History {
                        sealed_seq: mark.seq,
                        sealed_time: Some(sealed),
                        ..History::default()
                    },
                },
            }),
            Err(source) => match self.core.region.unprotect() {
                Ok(()) => Err(SealError::Unrecorded {
                    shard: Box::new(self),
                    source,
                }),
                Err(error) => {
                    let open = self.core.begin(OPERATION, History::default());
                    Err(self.stuck(open, &error))
                }
            },
        }
    }

    fn unanswered(self, open: OpenVerification, cause: NoAnswer) -> SealError<D> {
        if cause.is_broken() {
            return self.broken(open.broken(Reason::DeviceError, Findings::of_device(&cause)));
        }
        self.inconclusive(open, cause)
    }

    /// There is no answer: the shard goes back to being filled, which it must be writable for.
    fn inconclusive(mut self, open: OpenVerification, cause: NoAnswer) -> SealError<D> {
        match self.core.region.unprotect() {
            Ok(()) => {
                open.inconclusive(cause.to_string().into());
                SealError::Inconclusive {
                    shard: Box::new(self),
                    source: cause,
                }
            }
            Err(error) => self.stuck(open, &error),
        }
    }

    /// Memory that cannot be made writable again is no shard to be filled, and not sealed either.
    fn stuck(self, open: OpenVerification, error: &DeviceError) -> SealError<D> {
        self.broken(open.broken(Reason::DeviceError, Findings::of_device(error)))
    }

    fn broken(self, incident: Incident) -> SealError<D> {
        let Self { core, state } = self;
        SealError::Broken {
            incident: Box::new(incident),
            shard: core.quarantine(&state),
        }
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
