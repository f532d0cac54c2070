//! Two lanes: streams with the scratch memory of their launches, used in turns by one caller at a
//! time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vram_digest::{NODE_BYTES, Node};

use super::{BLOCK, Bytes, FAN_OUT, NODE, SLICE_BLOCKS};
use crate::device::DeviceError;
use crate::device::backend::DigestFailure;
use crate::device::cuda::context::{Context, Event, Stream};
use crate::device::cuda::driver::{Called, Driver};
use crate::device::cuda::pinned::Pinned;
use crate::device::cuda::share::{Partition, Share};

/// The maximum number of ranges in one launch.
pub(super) const MAX_RANGES: usize = 2048;

/// The maximum number of launches queued in a lane before a wait: from the blocks of a slice to its
/// root.
const LAUNCHES: usize = 4;

/// The size of `struct Range` of digest.cu: address, length, number of the first block, root flag.
pub(super) const RANGE_BYTES: usize = 24;

pub(super) const TABLE_BYTES: usize = MAX_RANGES * RANGE_BYTES;

// The memory of a lane in the GPU:
// - the digests of a slice's blocks;
// - nodes of the level above, with one more for each range than a single range would need;
// - a table of ranges for each launch.
const LEAVES: u64 = SLICE_BLOCKS * NODE;
const NODES: u64 = 2 * MAX_RANGES as u64 * NODE;
const TABLES: u64 = (LAUNCHES * TABLE_BYTES) as u64;
const LANE: u64 = LEAVES + NODES + TABLES;

const LANES: usize = 2;

/// The GPU memory reserved in all, whatever the size of shards.
const SCRATCH: u64 = 16 << 20;

/// The rest, for nodes of level 2 of a shard with more than one slice. Each node covers 64 MiB of
/// data.
const LEVEL_2: u64 = SCRATCH - LANES as u64 * LANE;

/// The maximum length of a shard in bytes: 768 GiB.
pub(in super::super) const MAX_LEN: u64 = LEVEL_2 / NODE * FAN_OUT * FAN_OUT * BLOCK;

const _: () = assert!(SLICE_BLOCKS / FAN_OUT + MAX_RANGES as u64 <= 2 * MAX_RANGES as u64);

pub(super) const OPERATION: &str = "digest";

#[derive(Debug)]
pub(super) struct Lanes {
    context: Arc<Context>,
    /// The number of lanes that work at a time.
    used: usize,
    lanes: Mutex<[Lane; LANES]>,
    /// Dropped last: queued launches of the lanes write to it.
    scratch: Scratch,
}

/// A stream with the memory that its launches write to.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) stream: Stream,
    /// The address of the digests of a slice's blocks, then the address of the level above.
    pub(super) leaves: u64,
    pub(super) nodes: u64,
    /// The address of the tables of ranges.
    pub(super) tables: u64,
    /// Pinned memory for tables on their way into the GPU, followed by nodes on their way back.
    pub(super) pinned: Pinned,
    done: Event,
    /// The number of launches queued since the last wait.
    pub(super) launched: usize,
}

/// The offset of returning nodes in the pinned memory.
pub(super) const RESULTS: usize = LAUNCHES * TABLE_BYTES;

/// Reserved memory in the GPU.
#[derive(Debug)]
struct Scratch {
    context: Arc<Context>,
    address: u64,
}

impl Scratch {
    fn reserve(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let address = context.allocating(SCRATCH, |driver| driver.allocate(SCRATCH as usize))?;
        Ok(Self {
            context: Arc::clone(context),
            address,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let address = self.address;
        if self.context.synchronize().is_ok() {
            let _nobody_to_tell = self
                .context
                .within("free scratch memory", |driver| driver.free(address));
        }
    }
}

impl Lanes {
    /// Creates the lanes.
    ///
    /// Two lanes at work have twice the blocks of one launch. So if only the number of blocks
    /// limits a share, one lane works.
    pub(super) fn new(context: &Arc<Context>, share: Share) -> Result<Self, DeviceError> {
        let priority = context.within("create a stream", Driver::lowest_priority)?;
        let scratch = Scratch::reserve(context)?;
        let lane = |index: u64| {
            let start = scratch.address.saturating_add(LANE.saturating_mul(index));
            Ok::<_, DeviceError>(Lane {
                stream: Stream::new(context, priority)?,
                leaves: start,
                nodes: start.saturating_add(LEAVES),
                tables: start.saturating_add(LEAVES).saturating_add(NODES),
                pinned: Pinned::new(context, RESULTS.saturating_add(NODES as usize))?,
                done: Event::new(context)?,
                launched: 0,
            })
        };
        Ok(Self {
            used: if share == Share::ALL { LANES } else { 1 },
            lanes: Mutex::new([lane(0)?, lane(1)?]),
            context: Arc::clone(context),
            scratch,
        })
    }

    /// Creates a stream for each lane, restricted to a part of the multiprocessors.
    pub(super) fn streams_in(&self, part: &Arc<Partition>) -> Result<[Stream; LANES], DeviceError> {
        let context = &self.context;
        let priority = context.within("create a stream", Driver::lowest_priority)?;
        Ok([part.stream(priority)?, part.stream(priority)?])
    }

    /// Exchanges the streams of the lanes with `streams`.
    pub(super) fn exchange(&mut self, streams: &mut [Stream; LANES]) {
        let lanes = self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (lane, stream) in lanes.iter_mut().zip(streams) {
            std::mem::swap(&mut lane.stream, stream);
        }
    }

    /// Lets all lanes work at a time.
    pub(super) fn use_all(&mut self) {
        self.used = LANES;
    }

    /// Returns the address where the nodes of level 2 of a shard with many slices are collected.
    pub(super) fn level_2(&self) -> u64 {
        let lanes = (LANES as u64).saturating_mul(LANE);
        self.scratch.address.saturating_add(lanes)
    }

    /// Waits for exclusive use of the lanes.
    pub(super) fn turn(&self) -> Result<Turn<'_>, DeviceError> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = Turn { owner: self, lanes };
        // Completes a wait that failed in an earlier turn.
        turn.settle()?;
        Ok(turn)
    }
}

/// Exclusive use of the lanes.
///
/// When it ends, on a panic as well, it waits until nothing is queued, so that the memory can be
/// reused.
pub(super) struct Turn<'a> {
    owner: &'a Lanes,
    lanes: MutexGuard<'a, [Lane; LANES]>,
}

#[cfg(test)]
impl Turn<'_> {
    pub(super) fn lanes(&mut self) -> &mut [Lane; LANES] {
        &mut self.lanes
    }
}

impl Turn<'_> {
    /// Waits for all work queued in the lanes.
    fn settle(&mut self) -> Result<(), DeviceError> {
        let mut outcome = Ok(());
        for lane in self.lanes.iter_mut().filter(|lane| lane.launched > 0) {
            let stream = lane.stream.handle();
            let context = &self.owner.context;
            let waited = context.within(OPERATION, |driver| driver.synchronize_stream(stream));
            match waited {
                Ok(()) => {
                    lane.launched = 0;
                    // SAFETY: all copies with it are in the lane's stream, which has been waited
                    // for.
                    unsafe { lane.pinned.settled() };
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Runs the jobs, one in each lane at a time.
    ///
    /// `begin` queues a job, and returns the number of nodes that will come back. `collect` gets
    /// the job's number and its nodes, in the order of the jobs.
    pub(super) fn pipeline<J>(
        &mut self,
        jobs: impl IntoIterator<Item = J>,
        mut begin: impl FnMut(&Driver, &mut Lane, J) -> Called<usize>,
        mut collect: impl FnMut(usize, &[Node]) -> Result<(), DigestFailure>,
    ) -> Result<(), DigestFailure> {
        let mut jobs = jobs.into_iter();
        let mut begun: [Option<(usize, usize)>; LANES] = [None; LANES];
        let mut number = 0_usize;
        loop {
            let mut is_idle = true;
            let lanes = self.lanes.iter_mut().take(self.owner.used);
            for (lane, begun) in lanes.zip(&mut begun) {
                if let Some((job, nodes)) = begun.take() {
                    lane.wait(&self.owner.context)
                        .map_err(DigestFailure::Device)?;
                    collect(job, lane.fetched(nodes))?;
                    is_idle = false;
                }
                if let Some(job) = jobs.next() {
                    let nodes = self
                        .owner
                        .context
                        .within(OPERATION, |driver| {
                            let nodes = begin(driver, lane, job)?;
                            driver.record_event(lane.done.handle(), lane.stream.handle())?;
                            Ok(nodes)
                        })
                        .map_err(DigestFailure::Device)?;
                    *begun = Some((number, nodes));
                    number = number.saturating_add(1);
                    is_idle = false;
                }
            }
            if is_idle {
                return Ok(());
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // If the wait fails, the next turn begins with it.
        let _settled = self.settle();
    }
}

impl Lane {
    fn wait(&mut self, context: &Context) -> Result<(), DeviceError> {
        let done = self.done.handle();
        context.within(OPERATION, |driver| driver.synchronize_event(done))?;
        self.launched = 0;
        // SAFETY: all copies with it are in the lane's stream, before the event that has been
        // waited for.
        unsafe { self.pinned.settled() };
        Ok(())
    }

    /// Queues the copy of consecutive nodes back to the host. Returns the number of nodes.
    pub(super) fn fetch(&mut self, level: &[Bytes]) -> Called<usize> {
        let from = level.first().map_or(0, |first| first.address);
        let len: u64 = level
            .iter()
            .fold(0, |sum, bytes| sum.saturating_add(bytes.len));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let stream = self.stream.handle();
        self.pinned
            .download(RESULTS..RESULTS.saturating_add(len), from, stream)?;
        Ok(len / NODE_BYTES)
    }

    /// Returns the first `nodes` nodes that came back.
    fn fetched(&self, nodes: usize) -> &[Node] {
        let end = RESULTS.saturating_add(NODES as usize);
        let results = self.pinned.bytes(RESULTS..end).unwrap_or_default();
        results.as_chunks().0.get(..nodes).unwrap_or_default()
    }
}
