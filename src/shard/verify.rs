//! Verifying: reading the device's bytes again and comparing them with the seal.
//!
//! The tag is checked first, against what the shard is now. Then all bytes, or some windows, are
//! read back and the digest compared. There are exactly three answers: equal, not equal, and no
//! answer. Only no answer returns the shard for another attempt. This module does not know how the
//! device reads and hashes.

use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use vram_digest::{Digest, Node, Progress, Tree, WINDOW_BYTES};
use vram_trail::clock::Uptime;
use vram_trail::process;

use super::outcome::{Failed, Found, Queued, Unproven, at_the_end, on_the_way};
use super::state::{Sealed, Verified};
use super::{Core, Region, Shard};
use crate::device::Device;
use crate::device::backend::Reading;
use crate::error::{Broken, NoAnswer, VerifyError};
use crate::event::{AnyDigest, Reason};
use crate::registry::LastCheck;
use crate::seal::{Authentic, Match, Seal};
use crate::verification::{Failing, Findings, OpenVerification, Together};

mod spot;

/// The result of a whole verification that passed.
pub(super) struct Whole {
    pub(super) proof: Match,
    /// The tree read just now, if the kept tree is damaged or the bytes were hashed here anyway.
    pub(super) tree: Option<Tree>,
    pub(super) last: LastCheck,
}

/// A whole verification that has begun.
pub(super) struct Started<'a> {
    /// The time before the first byte was read.
    began: Uptime,
    authentic: Queued<Authentic<'a>>,
}

/// A whole verification with a finding.
pub(super) struct Compared {
    began: Uptime,
    queued: Queued<Good>,
}

/// A whole verification that passed and is not recorded yet.
pub(super) struct Passed {
    began: Uptime,
    open: OpenVerification,
    good: Good,
}

/// The proof, the digest that was read, and the tree to keep if it replaces the kept one.
type Good = (Match, Digest, Option<Tree>);

impl<D: Device> Shard<Sealed, D> {
    /// Reads the whole shard back from the device and compares it with the seal.
    ///
    /// # Errors
    ///
    /// Every error but `Broken` returns the shard ([`into_shard`](VerifyError::into_shard)).
    ///
    /// - [`VerifyError::Broken`]: the tag is wrong, the bytes differ, or the device failed in a way
    ///   that condemns the bytes. The error has the incident and the quarantined shard. Stop using
    ///   results computed from it, release it, and load it again.
    /// - [`VerifyError::Inconclusive`]: there is no answer. Try again.
    /// - [`VerifyError::Unrecorded`]: the record is not durable. Verify again once the trail can
    ///   write.
    /// - [`VerifyError::Forked`]: the call was made in a forked child.
    pub fn verify(self) -> Result<Shard<Verified, D>, VerifyError<D>> {
        self.verify_with_progress(|_| ControlFlow::Continue(()))
    }

    /// Verifies the shard as [`verify`](Self::verify) does, and calls `progress` meanwhile.
    ///
    /// [`ControlFlow::Break`] stops, is recorded as inconclusive, and returns the shard. The final
    /// call comes after the comparison, and only if the comparison found nothing bad. So no answer
    /// of the callback hides a finding.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify); a stop is [`VerifyError::Inconclusive`].
    pub fn verify_with_progress(
        self,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Shard<Verified, D>, VerifyError<D>> {
        self.attempt("verify", progress)
    }

    /// Verifies many shards as [`verify`](Self::verify) does, reading them at once where they are
    /// on one device.
    ///
    /// A GPU hashes many small shards in as few launches as a single one. The results have the
    /// order of `shards`. A failure of the device itself counts for all shards that were read with
    /// it.
    pub fn verify_all(shards: Vec<Self>) -> Vec<Result<Shard<Verified, D>, VerifyError<D>>> {
        if process::check().is_err() {
            return shards.into_iter().map(Self::verify).collect();
        }
        let open = |shard: &Self| Ok(shard.core.begin("verify", shard.state.history));
        let all = shards.iter().map(|shard| (&shard.core, &shard.state));
        let settled = settle_all::<_, Unproven>(all.collect(), shards.iter().map(open).collect());
        let answer = |(shard, settled): (Self, Result<Passed, _>)| match settled
            .and_then(|passed| shard.core.pass(passed))
        {
            Ok(whole) => Ok(shard.proven(whole)),
            Err(unproven) => Err(shard.unproven(unproven)),
        };
        shards.into_iter().zip(settled).map(answer).collect()
    }

    fn attempt(
        self,
        operation: &'static str,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Shard<Verified, D>, VerifyError<D>> {
        let shard = self.outside_of_a_fork()?;
        let open = shard.core.begin(operation, shard.state.history);
        match shard.core.verify_whole(&shard.state, open, &mut progress) {
            Ok(whole) => Ok(shard.proven(whole)),
            Err(unproven) => Err(shard.unproven(unproven)),
        }
    }

    pub(super) fn outside_of_a_fork(self) -> Result<Self, VerifyError<D>> {
        match process::check() {
            Ok(()) => Ok(self),
            Err(source) => Err(VerifyError::Forked {
                shard: Box::new(self),
                source,
            }),
        }
    }

    pub(super) fn proven(self, whole: Whole) -> Shard<Verified, D> {
        let sealed = Sealed {
            tree: whole.tree.unwrap_or(self.state.tree),
            history: whole.last.after(self.state.history),
            seal: self.state.seal,
        };
        Shard {
            core: self.core,
            state: Verified::new(whole.proof, sealed, whole.last),
        }
    }

    pub(super) fn unproven(self, unproven: Unproven) -> VerifyError<D> {
        match unproven {
            Unproven::Broken(incident) => {
                let Self { core, state } = self;
                VerifyError::Broken(Broken::new(incident, core.quarantine(&state)))
            }
            Unproven::Inconclusive(source) => VerifyError::Inconclusive {
                shard: Box::new(self),
                source,
            },
            Unproven::Unrecorded(source) => VerifyError::Unrecorded {
                shard: Box::new(self),
                source,
            },
        }
    }
}

impl<D: Device> Shard<Verified, D> {
    /// Verifies the shard again. The compiler ensures that no view lives meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Shard::verify`]; a returned shard is sealed and no longer verified.
    pub fn reverify(self) -> Result<Self, VerifyError<D>> {
        self.reverify_with_progress(|_| ControlFlow::Continue(()))
    }

    /// Verifies again as [`reverify`](Self::reverify) does, and calls `progress` meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Shard::verify_with_progress`]; a returned shard is sealed and no longer verified.
    pub fn reverify_with_progress(
        self,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, VerifyError<D>> {
        self.into_sealed().0.attempt("reverify", progress)
    }

    /// Verifies some windows (of 512 KiB, numbered from 0) against the seal, using the kept tree.
    ///
    /// [`verified_at`](Self::verified_at) does not change.
    ///
    /// # Errors
    ///
    /// - [`VerifyError::NoSuchWindow`]: the range is empty or out of bounds.
    /// - Otherwise as [`Shard::verify`]. A returned shard is sealed and no longer verified.
    pub fn verify_window(self, windows: Range<u64>) -> Result<Self, VerifyError<D>> {
        let (shard, last) = self.into_sealed();
        let shard = shard.outside_of_a_fork()?;
        if let Err(count) = shard.core.check_windows(&windows) {
            return Err(VerifyError::NoSuchWindow {
                shard: Box::new(shard),
                windows,
                count,
            });
        }
        let open = shard.core.begin("verify_window", shard.state.history);
        match shard.core.verify_windows(&shard.state, open, windows) {
            Ok(proof) => Ok(Shard {
                core: shard.core,
                state: Verified::new(proof, shard.state, last),
            }),
            Err(unproven) => Err(shard.unproven(unproven)),
        }
    }

    /// Gives up the proof: the shard has to be verified again.
    fn into_sealed(self) -> (Shard<Sealed, D>, LastCheck) {
        let (state, last, _proof) = self.state.into_parts();
        let core = self.core;
        (Shard { core, state }, last)
    }
}

impl Started<'_> {
    /// Returns whether there is an authentic seal to compare with.
    pub(super) fn is_authentic(&self) -> bool {
        matches!(self.authentic, Queued::Good(..))
    }

    pub(super) fn leave(self) -> Failing {
        self.authentic.leave()
    }
}

/// Verifies many shards, reading them at once where they are on one device.
///
/// All shards are compared, and the records of all failures queued, before the first record is
/// waited for. Failed shards are no longer served before the records of the others are made. A
/// verification that could not be opened keeps its error.
pub(super) fn settle_all<D: Device, E: From<Unproven>>(
    shards: Vec<(&Core<D>, &Sealed)>,
    open: Vec<Result<OpenVerification, E>>,
) -> Vec<Result<Passed, E>> {
    let started = shards.iter().zip(open);
    let started = started.map(|((core, sealed), open)| Ok(core.start(sealed, open?)));
    let started = Together::new(started.collect(), |started: Result<Started<'_>, E>| {
        Some(started.ok()?.leave())
    });
    let regions: Vec<_> = shards
        .iter()
        .zip(started.iter())
        .filter(|(_, started)| started.as_ref().is_ok_and(Started::is_authentic))
        .map(|((core, _), _)| &core.region)
        .collect();
    let mut readings = Region::digests(&regions).into_iter();
    let compare = |((core, sealed), started): ((&Core<D>, &Sealed), Result<Started<'_>, E>)| {
        let mut reading = || readings.next().unwrap_or_else(|| Err(NoAnswer::missing()));
        let go_on = &mut |_| ControlFlow::Continue(());
        Ok(core.compare(started?, sealed, |_| reading(), go_on))
    };
    let started = started.part();
    let compared: Vec<Result<Compared, E>> = shards.into_iter().zip(started).map(compare).collect();
    let settle = |compared: Result<Compared, E>| Ok(compared?.settle()?);
    compared.into_iter().map(settle).collect()
}

impl Compared {
    /// Waits for the record of a failure, and for nothing else.
    pub(super) fn settle(self) -> Result<Passed, Unproven> {
        let (open, good) = self.queued.settle()?;
        let began = self.began;
        Ok(Passed { began, open, good })
    }
}

impl<D: Device> Core<D> {
    /// Returns the number of windows as an error if the range is empty or out of bounds.
    pub(super) fn check_windows(&self, windows: &Range<u64>) -> Result<(), u64> {
        let count = self.windows();
        if windows.is_empty() || windows.end > count {
            return Err(count);
        }
        Ok(())
    }

    fn windows(&self) -> u64 {
        self.region.len().div_ceil(WINDOW_BYTES as u64)
    }

    /// Reads all bytes back and compares them.
    pub(super) fn verify_whole(
        &self,
        sealed: &Sealed,
        open: OpenVerification,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Whole, Unproven> {
        let started = self.start(sealed, open);
        let compared = self.compare(
            started,
            sealed,
            |progress| self.region.digest(&mut on_the_way(progress)),
            progress,
        );
        self.pass(compared.settle()?)
    }

    /// Checks the tag before the first byte is read.
    pub(super) fn start<'a>(&self, sealed: &'a Sealed, open: OpenVerification) -> Started<'a> {
        Started {
            began: Uptime::now(),
            authentic: Queued::early(open, self.authenticate(&sealed.seal)),
        }
    }

    /// Reads and compares, if the seal is authentic. Waits for no record.
    pub(super) fn compare(
        &self,
        started: Started<'_>,
        sealed: &Sealed,
        read: impl FnOnce(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Reading, NoAnswer>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Compared {
        let Started { began, authentic } = started;
        let queued = authentic.then(|authentic| {
            self.compare_whole(authentic, sealed, read(progress)?)
                .and_then(|good| at_the_end(good, self.region.len(), progress))
        });
        Compared { began, queued }
    }

    /// Records that the shard was found good.
    pub(super) fn pass(&self, passed: Passed) -> Result<Whole, Unproven> {
        let Passed { began, open, good } = passed;
        let (proof, digest, tree) = good;
        let mark = open
            .verified(digest, 0..self.windows(), self.region.len())
            .map_err(Unproven::Unrecorded)?;
        let last = LastCheck { mark, began };
        Ok(Whole { proof, tree, last })
    }

    fn compare_whole(
        &self,
        authentic: Authentic<'_>,
        sealed: &Sealed,
        reading: Reading,
    ) -> Found<Good> {
        let digest = reading.digest();
        let Some(proof) = authentic.compare(&digest) else {
            let damaged = self.damaged(sealed, reading);
            return Err(mismatch(sealed, Some(digest), damaged));
        };
        let tree = self.tree_to_keep(sealed, reading)?;
        let kept = tree.as_ref().unwrap_or(&sealed.tree);
        match self.spot_check(kept)? {
            None => Ok((proof, digest, tree)),
            Some(findings) => Err(Failed::Broken(Reason::SpotCheckMismatch, findings)),
        }
    }

    /// Reads some windows back, and compares the digest that follows from them and the kept tree.
    pub(super) fn verify_windows(
        &self,
        sealed: &Sealed,
        open: OpenVerification,
        windows: Range<u64>,
    ) -> Result<Match, Unproven> {
        let found = self
            .authenticate(&sealed.seal)
            .and_then(|authentic| self.compare_windows(authentic, sealed, &windows));
        let (open, (proof, digest)) = Queued::new(open, found).settle()?;
        open.verified(digest, windows.clone(), self.bytes_of(&windows))
            .map_err(Unproven::Unrecorded)?;
        Ok(proof)
    }

    fn compare_windows(
        &self,
        authentic: Authentic<'_>,
        sealed: &Sealed,
        windows: &Range<u64>,
    ) -> Found<(Match, Digest)> {
        let nodes = self.region.windows(windows.clone())?;
        // Too many or too few nodes do not fit the tree, and have no digest.
        let digest = sealed.tree.digest_with(windows.start, &nodes);
        let equal = digest.and_then(|digest| Some((authentic.compare(&digest)?, digest)));
        let Some((proof, digest)) = equal else {
            let damaged = sealed.damaged(windows, &nodes);
            return Err(mismatch(sealed, digest, damaged));
        };
        match self.spot_check_nodes(windows.start, &nodes, digest)? {
            None => Ok((proof, digest)),
            Some(findings) => Err(Failed::Broken(Reason::SpotCheckMismatch, findings)),
        }
    }

    /// Returns the windows that differ from the seal.
    ///
    /// A device that returned only its digest is asked once more for the tree. If it does not
    /// answer, answers well this time, or panics, only the mismatch is known.
    fn damaged(&self, sealed: &Sealed, reading: Reading) -> Vec<Range<u64>> {
        let read = || self.region.tree(&mut |_| ControlFlow::Continue(()));
        let tree = match reading {
            Reading::Tree(tree) => Some(tree),
            Reading::Digest(_) => catch_unwind(AssertUnwindSafe(read))
                .ok()
                .and_then(Result::ok),
        };
        tree.map_or_else(Vec::new, |tree| sealed.tree.damaged(&tree))
    }

    /// Returns the tree that replaces the kept one, if the kept one may be damaged.
    ///
    /// The bytes are known to be good.
    fn tree_to_keep(&self, sealed: &Sealed, reading: Reading) -> Result<Option<Tree>, NoAnswer> {
        match reading {
            Reading::Tree(tree) => Ok(Some(tree)),
            Reading::Digest(digest) if sealed.tree.is_intact(&digest) => Ok(None),
            Reading::Digest(_) => self
                .region
                .tree(&mut |_| ControlFlow::Continue(()))
                .map(Some),
        }
    }

    fn authenticate<'a>(&self, seal: &'a Seal) -> Found<Authentic<'a>> {
        seal.authenticate(&self.context()).map_err(|bad_tag| {
            let detail = Some(bad_tag.to_string().into());
            let findings = Findings {
                detail,
                ..Findings::default()
            };
            Failed::Broken(Reason::SignatureInvalid, findings)
        })
    }

    fn bytes_of(&self, windows: &Range<u64>) -> u64 {
        let offset = |window: u64| {
            window
                .saturating_mul(WINDOW_BYTES as u64)
                .min(self.region.len())
        };
        offset(windows.end).saturating_sub(offset(windows.start))
    }
}

impl Sealed {
    /// Returns the checked windows that differ from the seal, each tried alone among kept siblings.
    ///
    /// Returns all checked windows if the kept tree is damaged.
    fn damaged(&self, windows: &Range<u64>, nodes: &[Node]) -> Vec<Range<u64>> {
        let sealed = self.seal.digest();
        let damaged: Vec<_> = windows
            .clone()
            .zip(nodes)
            .filter(|(window, node)| self.tree.digest_with(*window, &[**node]) != Some(sealed))
            .map(|(window, _)| window..window.saturating_add(1))
            .collect();
        match damaged.is_empty() {
            true => vec![windows.clone()],
            false => damaged,
        }
    }
}

fn mismatch(sealed: &Sealed, actual: Option<Digest>, damaged: Vec<Range<u64>>) -> Failed {
    let findings = Findings {
        expected: Some(AnyDigest::FsVerity(sealed.seal.digest())),
        actual: actual.map(AnyDigest::FsVerity),
        damaged,
        detail: None,
    };
    Failed::Broken(Reason::DigestMismatch, findings)
}
