//! A storage that fails on command, behind the same trait as the real one.
//!
//! It is for tests and fuzzing only. Without the feature `fault-injection` none of it exists, and a
//! trail's `TrailOpened` states whether that is compiled in.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::storage::{Directory, FileId, Found, Medium, SegmentFile, SegmentReader, Storage};

/// A step of the storage that can fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// Creating a segment's file.
    Create,
    /// Giving a segment its name.
    Rename,
    /// Making written bytes durable.
    Sync,
    /// Making names durable.
    SyncNames,
    /// Writing bytes.
    Write,
}

/// The error of a failing step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StorageError {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EINVAL`, as from a file system that does not support the call.
    Unsupported,
}

/// A part of the writer's memory in which a bit can flip.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Memory {
    /// A record in a batch that is hashed and not written yet.
    Lines,
    /// The checkpoint of such a batch.
    Checkpoint,
    /// The offset at which the trail ends.
    Position,
    /// The hashes of the tree that are kept between two batches.
    Tree,
    /// A record of a batch, on its way to the disk.
    Written,
}

/// Controls the faults of a storage. Clones act on the same storage.
#[derive(Clone)]
pub struct StorageFaults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    plan: Mutex<Plan>,
    released: Condvar,
}

#[derive(Default)]
struct Plan {
    failing: Vec<Failing>,
    flipping: Vec<(Memory, u32)>,
    hanging: bool,
    reading_hangs: bool,
}

struct Failing {
    step: Step,
    error: StorageError,
    left: u32,
    /// The last of so many occurrences fails.
    every: u32,
    /// Occurrences since the last failure.
    passed: u32,
}

impl Failing {
    fn is_due(&mut self, step: Step) -> bool {
        if self.step != step || self.left == 0 {
            return false;
        }
        self.passed = self.passed.saturating_add(1);
        if self.passed < self.every {
            return false;
        }
        self.passed = 0;
        self.left = self.left.saturating_sub(1);
        true
    }
}

impl StorageFaults {
    /// Creates a control without faults.
    pub fn dangerous_new() -> Self {
        Self(Arc::default())
    }

    /// Makes the next `count` occurrences of a step fail. A failing write leaves half of its bytes.
    pub fn fail(&self, step: Step, error: StorageError, count: u32) {
        self.push(step, error, count, 1);
    }

    /// Makes every `period`th occurrence of a step fail, until [`heal`](Self::heal).
    pub fn fail_every(&self, step: Step, error: StorageError, period: u32) {
        self.push(step, error, u32::MAX, period);
    }

    fn push(&self, step: Step, error: StorageError, left: u32, every: u32) {
        self.plan().failing.push(Failing {
            step,
            error,
            left,
            every,
            passed: 0,
        });
    }

    /// Flips a bit in the writer's memory, the next `count` times that it uses this part.
    pub fn flip(&self, memory: Memory, count: u32) {
        self.plan().flipping.push((memory, count));
    }

    fn flips(&self, memory: Memory) -> bool {
        let mut plan = self.plan();
        let mut left = plan.flipping.iter_mut().map(|(part, left)| (*part, left));
        match left.find(|(part, left)| *part == memory && **left > 0) {
            Some((_, left)) => {
                *left = left.saturating_sub(1);
                true
            }
            None => false,
        }
    }

    /// Removes all faults and lets hanging calls return.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.failing.clear();
        plan.flipping.clear();
        plan.hanging = false;
        plan.reading_hangs = false;
        drop(plan);
        self.0.released.notify_all();
    }

    /// Makes every later write hang until [`heal`](Self::heal).
    pub fn hang(&self) {
        self.plan().hanging = true;
    }

    /// Makes readers of segments in other threads hang until [`heal`](Self::heal).
    pub fn hang_reading(&self) {
        self.plan().reading_hangs = true;
    }

    fn wait_to_read(&self) {
        let mut plan = self.plan();
        while plan.reading_hangs {
            plan = self
                .0
                .released
                .wait(plan)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn over(self, inner: Directory) -> Faulty {
        Faulty {
            inner,
            faults: self,
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut plan = self.plan();
        while plan.hanging && step == Step::Write {
            plan = self
                .0
                .released
                .wait(plan)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let fault = plan
            .failing
            .iter_mut()
            .find_map(|fault| fault.is_due(step).then_some(fault.error));
        match fault {
            None => Ok(()),
            Some(StorageError::Io) => Err(Errno::IO.into()),
            Some(StorageError::NoSpace) => Err(Errno::NOSPC.into()),
            Some(StorageError::Unsupported) => Err(Errno::INVAL.into()),
        }
    }
}

impl fmt::Debug for StorageFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageFaults").finish_non_exhaustive()
    }
}

/// The real directory with faults in front.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Directory,
    faults: StorageFaults,
}

/// A real file with faults in front.
#[derive(Debug)]
pub(crate) struct FaultyFile<F> {
    inner: F,
    faults: StorageFaults,
}

impl Storage for Faulty {
    type File = FaultyFile<<Directory as Storage>::File>;

    fn segments(&self) -> io::Result<Vec<u64>> {
        self.inner.segments()
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        self.faults.step(Step::Sync)?;
        self.inner.sync(segment)
    }

    fn read(&self, segment: u64) -> io::Result<Box<dyn Read>> {
        self.inner.read(segment)
    }

    fn reader(&self) -> io::Result<SegmentReader> {
        let (reader, faults) = (self.inner.reader()?, self.faults.clone());
        Ok(Box::new(move |segment| {
            faults.wait_to_read();
            reader(segment)
        }))
    }

    fn create(&self, segment: u64) -> io::Result<Self::File> {
        self.faults.step(Step::Create)?;
        Ok(FaultyFile {
            inner: self.inner.create(segment)?,
            faults: self.faults.clone(),
        })
    }

    fn publish(&self, segment: u64, file: &Self::File) -> io::Result<()> {
        self.faults.step(Step::Rename)?;
        self.inner.publish(segment, &file.inner)
    }

    fn find(&self, segment: u64) -> io::Result<Option<Found>> {
        self.inner.find(segment)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.faults.step(Step::SyncNames)?;
        self.inner.sync_names()
    }

    fn discard(&self, segment: u64, file: &Self::File) -> io::Result<()> {
        self.inner.discard(segment, &file.inner)
    }

    fn unfinished(&self) -> io::Result<Vec<String>> {
        self.inner.unfinished()
    }

    fn read_unfinished(&self, name: &str) -> io::Result<Box<dyn Read>> {
        self.inner.read_unfinished(name)
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        self.inner.remove_unfinished()
    }

    fn medium(&self) -> Option<&Medium> {
        self.inner.medium()
    }

    fn flips(&self, memory: Memory) -> bool {
        self.faults.flips(memory)
    }
}

impl<F: SegmentFile> SegmentFile for FaultyFile<F> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.faults.step(Step::Write) {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            self.inner.append(half)?;
            return Err(error);
        }
        if self.faults.flips(Memory::Written) {
            let mut bytes = bytes.to_vec();
            let at = bytes.len() / 3;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            return self.inner.append(&bytes);
        }
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.step(Step::Sync)?;
        self.inner.sync()
    }

    fn id(&self) -> FileId {
        self.inner.id()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}
