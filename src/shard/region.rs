//! The memory of one shard, and its release.
//!
//! A region owns its memory. On release and on drop it waits for the device, wipes, frees, records
//! `VramDeallocated`, and returns capacity and name. A leaked region is never freed, and stays in
//! the list of live shards. This module does not know seals and states.

use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
#[cfg(feature = "fault-injection")]
use std::sync::PoisonError;

use vram_digest::{Node, Progress, StreamError, Streamed, Tree};
use vram_trail::process;

use super::fill::Source;
use crate::device::backend::{DigestFailure, Facts, Reading};
use crate::device::{Culpability, Device, DeviceError};
#[cfg(feature = "fault-injection")]
use crate::device::{Operation, Struck};
use crate::error::{NoAnswer, ReleaseError};
use crate::event::{Event, Subject};
use crate::manager::Home;

/// One allocation on a device.
#[derive(Debug)]
pub(crate) struct Region<D: Device> {
    home: Arc<Home<D>>,
    memory: D::Memory,
    subject: Subject,
    len: u64,
    gone: bool,
    #[cfg(feature = "fault-injection")]
    injected: std::sync::atomic::AtomicBool,
}

/// Tells whether a failure condemns the bytes.
trait Condemns {
    fn condemns(&self) -> bool;
}

impl Condemns for DeviceError {
    fn condemns(&self) -> bool {
        self.culpability() == Culpability::Broken
    }
}

impl Condemns for DigestFailure {
    fn condemns(&self) -> bool {
        match self {
            Self::Device(error) => error.condemns(),
            Self::Stopped => false,
        }
    }
}

impl<D: Device> Region<D> {
    /// Takes over memory that was allocated and accounted for, under an admitted name.
    pub(crate) fn new(home: Arc<Home<D>>, memory: D::Memory, subject: Subject, len: u64) -> Self {
        Self {
            home,
            memory,
            subject,
            len,
            gone: false,
            #[cfg(feature = "fault-injection")]
            injected: false.into(),
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Returns the device's knowledge about the memory.
    pub(crate) fn facts(&self) -> Facts {
        self.home.device().facts(&self.memory)
    }

    pub(super) fn home(&self) -> &Home<D> {
        &self.home
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        let struck = self.strike(Operation::Write)?;
        let written = self.home.device().write(&mut self.memory, offset, bytes);
        #[cfg(feature = "fault-injection")]
        if written.is_ok() && struck == Struck::Corrupt {
            return self.home.device().flip_bit(&self.memory, offset, 0);
        }
        self.noticed(written)
    }

    /// Copies the bytes of `source` into the device, chunk by chunk, on several threads.
    pub(super) fn load(
        &mut self,
        source: Source<'_, impl Read>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Streamed, StreamError<DeviceError>> {
        let device = self.home.device();
        let notice = |error: &DeviceError| notice(&self.home, &self.subject, error);
        #[cfg(feature = "fault-injection")]
        let corrupt = std::sync::Mutex::new(Vec::new());
        let filler = device.filler(&mut self.memory).inspect_err(notice);
        let filler = filler.map_err(StreamError::Sink)?;
        let write = |offset: u64, chunk: &[u8]| {
            #[cfg(feature = "fault-injection")]
            if strike(device, Operation::Write)? == Struck::Corrupt {
                let mut corrupt = corrupt.lock().unwrap_or_else(PoisonError::into_inner);
                corrupt.push(offset);
            }
            device.fill(&filler, offset, chunk).inspect_err(notice)
        };
        let loaded = source.pour(self.len, &write, progress)?;
        drop(filler);
        #[cfg(feature = "fault-injection")]
        for offset in corrupt.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let flipped = device.flip_bit(&self.memory, offset, 0);
            flipped.map_err(StreamError::Sink)?;
        }
        Ok(loaded)
    }

    /// Returns the reason if the whole device is lost.
    pub(super) fn lost(&self) -> Option<Arc<str>> {
        self.home.device().lost()
    }

    /// Waits until the device has completed all requests for this memory.
    pub(super) fn settle(&self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Synchronize)?;
        self.noticed(self.home.device().synchronize(&self.memory))
    }

    pub(super) fn protect(&mut self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Protect)?;
        let protected = self.home.device().protect(&mut self.memory);
        self.noticed(protected)
    }

    pub(super) fn unprotect(&mut self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Unprotect)?;
        let unprotected = self.home.device().unprotect(&mut self.memory);
        self.noticed(unprotected)
    }

    /// Reads all bytes back from the device, and returns the tree.
    pub(super) fn tree(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Tree, NoAnswer> {
        self.ready_to_read().map_err(NoAnswer::of_device)?;
        Ok(self.noticed(self.home.device().tree(&self.memory, progress))?)
    }

    /// Reads all bytes back from the device, which may return only the digest.
    pub(super) fn digest(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Reading, NoAnswer> {
        self.ready_to_read().map_err(NoAnswer::of_device)?;
        Ok(self.noticed(self.home.device().digest(&self.memory, progress))?)
    }

    /// Does the same for many regions, at once where they are on one device.
    ///
    /// A failure of a device counts against all regions that were read with it.
    pub(super) fn digests(regions: &[&Self]) -> Vec<Result<Reading, NoAnswer>> {
        Self::read(regions, |device, memories| device.digests(memories))
    }

    /// Returns the [`tree`](Self::tree) of many regions in the same way.
    pub(super) fn trees(regions: &[&Self]) -> Vec<Result<Tree, NoAnswer>> {
        Self::read(regions, |device, memories| device.trees(memories))
    }

    fn read<T>(
        regions: &[&Self],
        read: impl Fn(&D, &[&D::Memory]) -> Result<Vec<T>, DeviceError>,
    ) -> Vec<Result<T, NoAnswer>> {
        let mut answers = Vec::with_capacity(regions.len());
        for group in regions.chunk_by(|one, next| Arc::ptr_eq(&one.home, &next.home)) {
            let ready: Vec<Result<(), DeviceError>> =
                group.iter().map(|region| region.ready_to_read()).collect();
            let memories: Vec<&D::Memory> = group
                .iter()
                .zip(&ready)
                .filter(|(_, ready)| ready.is_ok())
                .map(|(region, _)| &region.memory)
                .collect();
            let read = group
                .first()
                .map(|first| first.noticed(read(first.home.device(), &memories)));
            let (mut readings, failure) = match read {
                Some(Ok(readings)) => (readings.into_iter(), None),
                Some(Err(error)) => (Vec::new().into_iter(), Some(error)),
                None => (Vec::new().into_iter(), None),
            };
            answers.extend(ready.into_iter().map(|ready| {
                ready.map_err(NoAnswer::of_device)?;
                let failure = || {
                    failure
                        .clone()
                        .map_or_else(NoAnswer::missing, NoAnswer::of_device)
                };
                readings.next().ok_or_else(failure)
            }));
        }
        answers
    }

    fn ready_to_read(&self) -> Result<(), DeviceError> {
        self.settle()?;
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Digest)?;
        Ok(())
    }

    /// Reads some windows back from the device.
    pub(super) fn windows(&self, windows: Range<u64>) -> Result<Vec<Node>, NoAnswer> {
        self.settle().map_err(NoAnswer::of_device)?;
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Windows)
            .map_err(NoAnswer::of_device)?;
        self.noticed(self.home.device().windows(&self.memory, windows))
            .map_err(NoAnswer::of_device)
    }

    /// Returns the number of windows that this process must hash a second time.
    pub(super) fn spot_checks(&self) -> usize {
        self.home.device().spot_checks()
    }

    /// Returns the node of a window, hashed by this process and not by the device.
    pub(super) fn window_hashed_here(&self, window: u64) -> Result<Node, NoAnswer> {
        let node = self.home.device().window_hashed_here(&self.memory, window);
        self.noticed(node).map_err(NoAnswer::of_device)
    }

    pub(super) fn view(&self) -> D::View<'_> {
        self.home.device().view(&self.memory)
    }

    /// Records that an operation of the device on this memory failed.
    pub(super) fn record_failure(&self, operation: &'static str, cause: &dyn std::fmt::Display) {
        self.home.recorder().emit(Event::DeviceFailed {
            subject: self.subject.clone(),
            operation,
            cause: cause.to_string().into(),
        });
    }

    /// Returns whether the `fault-injection` feature was used on this memory or its device.
    pub(super) fn injected(&self) -> bool {
        #[cfg(feature = "fault-injection")]
        return self.injected.load(std::sync::atomic::Ordering::Relaxed)
            || self
                .home
                .device()
                .faults()
                .is_some_and(crate::device::Faults::were_used);
        #[cfg(not(feature = "fault-injection"))]
        return false;
    }

    /// Wipes and frees now, and returns the outcome.
    pub(super) fn release(mut self) -> Result<(), ReleaseError> {
        self.dispose()
    }

    /// Wipes and frees once.
    ///
    /// In a forked child nothing is touched: the copy may be borrowed, and the worker did not free
    /// it.
    fn dispose(&mut self) -> Result<(), ReleaseError> {
        process::check().map_err(ReleaseError::Forked)?;
        if self.gone {
            return Ok(());
        }
        self.gone = true;
        let wiped = self.wipe();
        // After wiping: a child forked meanwhile may have a copy of bytes that were not wiped yet.
        let inherited = self.facts().inherited;
        let freed = self.free();
        let account = self.home.account();
        let used = match freed {
            Ok(()) => account.give_back(self.len),
            Err(_) => account.leak(self.len),
        };
        self.home.recorder().emit(Event::VramDeallocated {
            subject: self.subject.clone(),
            freed_bytes: if freed.is_ok() { self.len } else { 0 },
            used_bytes: used,
            wiped: wiped.is_ok(),
            freed: freed.is_ok(),
            inherited,
        });
        self.home.recorder().application().retire(&self.subject);
        freed.and(wiped)
    }

    /// Tries twice: the first failure may have passed, and after the release the memory cannot be
    /// wiped.
    fn wipe(&mut self) -> Result<(), ReleaseError> {
        self.try_to_wipe().or_else(|_on_record| self.try_to_wipe())
    }

    /// Waits and wipes. Wipes even if the wait failed: that costs nothing, and only the wait may
    /// have failed.
    fn try_to_wipe(&mut self) -> Result<(), ReleaseError> {
        let waited = self.settle();
        let wiped = self.wipe_once();
        waited.and(wiped).map_err(|source| {
            self.record_failure("wipe", &source);
            ReleaseError::NotWiped { source }
        })
    }

    fn wipe_once(&mut self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Wipe)?;
        let wiped = self.home.device().wipe(&mut self.memory);
        self.noticed(wiped)
    }

    fn free_once(&mut self) -> Result<(), DeviceError> {
        #[cfg(feature = "fault-injection")]
        self.strike(Operation::Free)?;
        let freed = self.home.device().free(&mut self.memory);
        self.noticed(freed)
    }

    fn noticed<T, E: Condemns>(&self, outcome: Result<T, E>) -> Result<T, E> {
        outcome.inspect_err(|error| notice(&self.home, &self.subject, error))
    }

    fn free(&mut self) -> Result<(), ReleaseError> {
        self.free_once().map_err(|source| {
            self.record_failure("free", &source);
            ReleaseError::NotFreed { source }
        })
    }
}

/// Checks after a failure whether the whole device is lost.
///
/// A failure that condemns the bytes ends in an incident of this shard. Any other failure says
/// nothing about the shard, so a lost device ends it like all its other shards.
fn notice<D: Device>(home: &Home<D>, subject: &Subject, error: &impl Condemns) {
    home.notice_loss(error.condemns().then_some(subject));
}

impl<D: Device> Drop for Region<D> {
    fn drop(&mut self) {
        // The failure is recorded; a destructor has no caller to inform.
        let _disposed = self.dispose();
    }
}

#[cfg(feature = "fault-injection")]
impl<D: Device> Region<D> {
    fn strike(&self, operation: Operation) -> Result<Struck, DeviceError> {
        strike(self.home.device(), operation)
    }

    pub(super) fn mark_injected(&self) {
        self.injected
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub(super) fn flip_bit(&self, offset: u64, bit: u8) -> Result<(), DeviceError> {
        self.mark_injected();
        self.home.device().flip_bit(&self.memory, offset, bit)
    }
}

/// Lets an armed fault strike before the call to the device.
#[cfg(feature = "fault-injection")]
fn strike(device: &impl Device, operation: Operation) -> Result<Struck, DeviceError> {
    match device.faults() {
        None => Ok(Struck::No),
        Some(faults) => faults.strike(operation),
    }
}
