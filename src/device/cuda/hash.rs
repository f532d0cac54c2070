//! The fs-verity digest, computed in the GPU by the kernel of `digest.cu`.
//!
//! One launch hashes a level of the tree: every block of some byte ranges. The next launch hashes
//! the result, until 32 bytes are left. Many small shards are hashed together, and finished ones
//! are passed on.
//!
//! A shard larger than the scratch memory is hashed in slices, by two lanes in turns. The last
//! blocks and few upper nodes of one lane use only a part of the GPU, and the leaves of the other
//! lane fill the rest. All GPU memory that hashing needs besides the data is reserved when the
//! device is opened.

use std::ffi::{c_int, c_void};
use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;
use std::sync::{Arc, mpsc};
use std::thread;

use vram_digest::{BLOCK_BYTES, NODE_BYTES, Node, Progress, WINDOW_BYTES, helper};

use self::kernel::Kernel;
use self::lanes::{Lane, Lanes, MAX_RANGES, OPERATION, RANGE_BYTES, RESULTS, TABLE_BYTES};
use super::CudaError;
use super::code::NOT_READY;
use super::context::Context;
use super::driver::{Called, Driver, Failed};
use super::share::{Partition, Share};
use crate::device::DeviceError;
use crate::device::backend::DigestFailure;

pub(super) use self::kernel::PTX;
pub(super) use self::lanes::MAX_LEN;

mod kernel;
mod lanes;
#[cfg(test)]
mod tests;
mod trees;

/// The number of threads in a block of the kernel (`__launch_bounds__` in digest.cu).
const THREADS: u32 = 128;

const BLOCK: u64 = BLOCK_BYTES as u64;
const NODE: u64 = NODE_BYTES as u64;
const WINDOW: u64 = WINDOW_BYTES as u64;

/// The number of nodes that are hashed into one node of the level above.
const FAN_OUT: u64 = 128;

/// The number of data blocks in a slice: 960 MiB.
///
/// A slice consists of whole nodes of level 2, so that slices share none. This file's tests use the
/// minimum, because a simulated GPU is slow.
const SLICE_BLOCKS: u64 = if cfg!(test) { 1 } else { 15 } * FAN_OUT * FAN_OUT;
const SLICE_BYTES: u64 = SLICE_BLOCKS * BLOCK;

/// A byte range in the GPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bytes {
    /// The address, a multiple of 16.
    pub(super) address: u64,
    /// The length in bytes, at least 1.
    pub(super) len: u64,
}

#[derive(Debug)]
pub(super) struct Hasher {
    kernel: Kernel,
    /// The maximum number of thread blocks in one launch.
    blocks: u32,
    /// The number of multiprocessors that launches are restricted to, if they are.
    held_to: Option<u32>,
    lanes: Lanes,
}

impl Hasher {
    /// Loads the kernel, and reserves the memory that it needs.
    pub(super) fn new(
        context: &Arc<Context>,
        device: c_int,
        multiprocessors: u32,
        share: Share,
    ) -> Result<Self, CudaError> {
        let kernel = Kernel::load(context)?;
        let function = kernel.function();
        let fitting = context.within("load the kernel", |driver| {
            driver.blocks_per_multiprocessor(function, THREADS as c_int)
        })?;
        let fitting = u32::try_from(fitting).unwrap_or(1);
        let mut hasher = Self {
            kernel,
            blocks: share.of(multiprocessors.saturating_mul(fitting)),
            held_to: None,
            lanes: Lanes::new(context, share)?,
        };
        if share != Share::ALL
            && let Some(part) = unless_lost(context, Partition::new(context, device, share))?
        {
            hasher.hold_to(context, &part, fitting)?;
        }
        Ok(hasher)
    }

    /// Has the driver restrict all launches to a part of the multiprocessors.
    ///
    /// A trial launch shows whether a kernel of the primary context runs on such a stream. If it
    /// does not, launches stay on their old streams.
    fn hold_to(
        &mut self,
        context: &Arc<Context>,
        part: &Arc<Partition>,
        fitting: u32,
    ) -> Result<(), DeviceError> {
        let streams = self.lanes.streams_in(part).map(Some);
        let Some(mut streams) = unless_lost(context, streams)? else {
            return Ok(());
        };
        self.lanes.exchange(&mut streams);
        let trial = Bytes {
            address: self.lanes.level_2(),
            len: NODE,
        };
        if unless_lost(context, self.roots(&[trial]).map(Some))?.is_none() {
            self.lanes.exchange(&mut streams);
            // No work of the trial may be in flight when the lanes are used again.
            return context.synchronize();
        }
        self.lanes.use_all();
        self.held_to = Some(part.multiprocessors());
        self.blocks = part.multiprocessors().saturating_mul(fitting);
        Ok(())
    }

    /// Returns the number of multiprocessors that launches are restricted to, if they are.
    pub(super) fn held_to(&self) -> Option<u32> {
        self.held_to
    }

    /// Computes the root of the tree over each shard.
    pub(super) fn roots(&self, shards: &[Bytes]) -> Result<Vec<Node>, DeviceError> {
        let mut roots = Vec::with_capacity(shards.len());
        let mut left = shards;
        while !left.is_empty() {
            let (small, rest) =
                left.split_at(left.iter().take_while(|shard| shard.is_small()).count());
            let mut turn = self.lanes.turn()?;
            turn.pipeline(
                groups(small),
                |driver, lane, group| self.climb(driver, lane, group.to_vec()),
                |_, nodes| {
                    roots.extend_from_slice(nodes);
                    Ok(())
                },
            )
            .map_err(DigestFailure::unstopped)?;
            drop(turn);
            let (large, rest) = rest.split_at(rest.len().min(1));
            for shard in large {
                let root = self.root_of_slices(*shard, &mut |_| ControlFlow::Continue(()));
                roots.push(root.map_err(DigestFailure::unstopped)?);
            }
            left = rest;
        }
        Ok(roots)
    }

    /// Computes the root of the tree over one shard.
    pub(super) fn root(
        &self,
        shard: Bytes,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Node, DigestFailure> {
        if !shard.is_small() {
            return aside(shard.len, progress, |progress| {
                self.root_of_slices(shard, progress)
            });
        }
        let roots = self.roots(&[shard]).map_err(DigestFailure::Device)?;
        report(progress, shard.len, shard.len)?;
        only(&roots)
    }

    fn root_of_slices(
        &self,
        shard: Bytes,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Node, DigestFailure> {
        if shard.len > MAX_LEN {
            return Err(DigestFailure::Device(DeviceError::Busy {
                operation: OPERATION,
                cause: format!("a shard has at most {MAX_LEN} bytes").into(),
            }));
        }
        let level_2 = self.lanes.level_2();
        let mut turn = self.lanes.turn().map_err(DigestFailure::Device)?;
        turn.pipeline(
            slices(shard).enumerate(),
            |driver, lane, (index, slice)| {
                const NODES_OF_SLICE: u64 = SLICE_BLOCKS / FAN_OUT / FAN_OUT * NODE;
                let above = level_2.saturating_add((index as u64).saturating_mul(NODES_OF_SLICE));
                let (leaves, nodes) = (lane.leaves, lane.nodes);
                let level = self.launch(driver, lane, &[slice.data()], leaves)?;
                let level = self.launch(driver, lane, &[level_of(&level)], nodes)?;
                self.launch(driver, lane, &[level_of(&level)], above)?;
                Ok(0)
            },
            |index, _| {
                let done = (index as u64).saturating_add(1).saturating_mul(SLICE_BYTES);
                report(progress, done.min(shard.len), shard.len)
            },
        )?;
        let nodes = shard.blocks().div_ceil(FAN_OUT).div_ceil(FAN_OUT);
        let level = Bytes {
            address: level_2,
            len: nodes.saturating_mul(NODE),
        };
        let mut roots = Vec::new();
        turn.pipeline(
            [level],
            |driver, lane, level| self.climb(driver, lane, vec![level]),
            |_, nodes| {
                roots.extend_from_slice(nodes);
                Ok(())
            },
        )?;
        only(&roots)
    }

    /// Computes the nodes of level 1 over some windows of a shard.
    pub(super) fn nodes(
        &self,
        shard: Bytes,
        windows: Range<u64>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Node>, DigestFailure> {
        let end = windows.end.saturating_mul(WINDOW).min(shard.len);
        let start = windows.start.saturating_mul(WINDOW).min(end);
        let part = Bytes {
            address: shard.address.saturating_add(start),
            len: end.saturating_sub(start),
        };
        // Data of at most one block has no level above its only digest.
        let has_levels = shard.len > BLOCK;
        if !part.is_small() {
            return aside(part.len, progress, |progress| {
                self.nodes_of_slices(part, has_levels, progress)
            });
        }
        let nodes = self.nodes_of_slices(part, has_levels, &mut |_| ControlFlow::Continue(()))?;
        report(progress, part.len, part.len)?;
        Ok(nodes)
    }

    fn nodes_of_slices(
        &self,
        part: Bytes,
        has_levels: bool,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Node>, DigestFailure> {
        let mut nodes = Vec::new();
        let mut turn = self.lanes.turn().map_err(DigestFailure::Device)?;
        turn.pipeline(
            slices(part),
            |driver, lane, slice| {
                let (below, above) = (lane.leaves, lane.nodes);
                let mut level = self.launch(driver, lane, &[slice.data()], below)?;
                if has_levels {
                    level = self.launch(driver, lane, &[level_of(&level)], above)?;
                }
                lane.fetch(&level)
            },
            |_, fresh| {
                nodes.extend_from_slice(fresh);
                let done = (nodes.len() as u64).saturating_mul(WINDOW);
                report(progress, done.min(part.len), part.len)
            },
        )?;
        Ok(nodes)
    }

    /// Hashes level after level, until only the root of each input is left, and fetches all roots.
    ///
    /// The first level is always hashed: however short, it is data and not a root.
    fn climb(&self, driver: &Driver, lane: &mut Lane, inputs: Vec<Bytes>) -> Called<usize> {
        let mut level: Vec<Input> = inputs.iter().map(|bytes| bytes.data()).collect();
        let mut areas = [lane.leaves, lane.nodes].into_iter().cycle();
        loop {
            let out = areas.next().unwrap_or(lane.leaves);
            let above = self.launch(driver, lane, &level, out)?;
            if above.iter().all(|bytes| bytes.len == NODE) {
                return lane.fetch(&above);
            }
            level = above.iter().map(|bytes| bytes.level()).collect();
        }
    }

    /// Queues the hashing of every block of the inputs. Returns the ranges of their digests, one
    /// input after another.
    fn launch(
        &self,
        driver: &Driver,
        lane: &mut Lane,
        inputs: &[Input],
        out: u64,
    ) -> Called<Vec<Bytes>> {
        let table = lane.launched.saturating_mul(TABLE_BYTES);
        let mut blocks: u32 = 0;
        let mut outputs = Vec::with_capacity(inputs.len());
        let mut entries = Vec::with_capacity(inputs.len().saturating_mul(RANGE_BYTES));
        for Input { bytes, is_root } in inputs {
            let count = if *is_root { 1 } else { bytes.blocks() };
            entries.extend_from_slice(&bytes.address.to_le_bytes());
            entries.extend_from_slice(&bytes.len.to_le_bytes());
            entries.extend_from_slice(&blocks.to_le_bytes());
            entries.extend_from_slice(&u32::from(*is_root).to_le_bytes());
            outputs.push(Bytes {
                address: out.saturating_add(u64::from(blocks).saturating_mul(NODE)),
                len: count.saturating_mul(NODE),
            });
            blocks = blocks.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
        let place = table..table.saturating_add(entries.len());
        if place.end > RESULTS {
            return Err(Failed {
                call: "more launches or ranges than there are tables",
                // An inconclusive code: our own mistake says nothing about the bytes.
                code: NOT_READY,
            });
        }
        lane.pinned.write(table, &entries)?;
        let mut ranges = lane.tables.saturating_add(table as u64);
        let stream = lane.stream.handle();
        lane.launched = lane.launched.saturating_add(1);
        lane.pinned.upload(place, ranges, stream)?;
        let mut count = u32::try_from(inputs.len()).unwrap_or(0);
        let mut out = out;
        let grid = blocks.div_ceil(THREADS).min(self.blocks).max(1);
        let mut parameters: [*mut c_void; 4] = [
            (&raw mut ranges).cast(),
            (&raw mut count).cast(),
            (&raw mut blocks).cast(),
            (&raw mut out).cast(),
        ];
        // SAFETY: the kernel has four parameters: an address, two numbers of 32 bits, an address.
        let launched = unsafe {
            driver.launch(
                self.kernel.function(),
                grid,
                THREADS,
                stream,
                &mut parameters,
            )
        };
        launched.map(|()| outputs)
    }
}

/// Converts a failure of an optional step into `None`, unless the GPU is lost.
fn unless_lost<T>(
    context: &Context,
    outcome: Result<Option<T>, DeviceError>,
) -> Result<Option<T>, DeviceError> {
    outcome.or_else(|error| match context.lost() {
        Some(_) => Err(error),
        None => Ok(None),
    })
}

/// The input of a launch.
struct Input {
    bytes: Bytes,
    is_root: bool,
}

impl Bytes {
    fn blocks(self) -> u64 {
        self.len.div_ceil(BLOCK)
    }

    /// Returns whether one lane can compute the root from all bytes.
    fn is_small(&self) -> bool {
        self.len <= SLICE_BYTES
    }

    /// Returns an input that is hashed, however short.
    fn data(self) -> Input {
        Input {
            bytes: self,
            is_root: false,
        }
    }

    /// Returns an input that is hashed, unless it is a single node and so the root.
    fn level(self) -> Input {
        Input {
            bytes: self,
            is_root: self.len == NODE,
        }
    }
}

/// Returns the only range of a level as the input of the next launch. The only node of a slice is
/// not yet the root.
fn level_of(level: &[Bytes]) -> Input {
    level
        .first()
        .copied()
        .unwrap_or(Bytes { address: 0, len: 1 })
        .data()
}

/// Splits a range into slices.
fn slices(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len).step_by(SLICE_BYTES as usize);
    starts.map(move |start| Bytes {
        address: bytes.address.saturating_add(start),
        len: bytes.len.saturating_sub(start).min(SLICE_BYTES),
    })
}

/// Splits small shards into groups that fit one lane.
fn groups(mut shards: &[Bytes]) -> impl Iterator<Item = &[Bytes]> {
    std::iter::from_fn(move || {
        let mut blocks = 0_u64;
        let fitting = shards
            .iter()
            .take(MAX_RANGES)
            .take_while(|shard| {
                blocks = blocks.saturating_add(shard.blocks());
                blocks <= SLICE_BLOCKS
            })
            .count();
        let (group, rest) = shards.split_at(fitting);
        shards = rest;
        (!group.is_empty()).then_some(group)
    })
}

/// Runs `work` on a thread of its own, and calls `progress` on this one.
///
/// A slow callback does not delay the work. The callback may wait for anything, even for another
/// use of the same GPU. Fallback without a free thread: the work runs here, and `progress` is
/// called at the end.
fn aside<T: Send>(
    len: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    work: impl Fn(&mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<T, DigestFailure> + Sync,
) -> Result<T, DigestFailure> {
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let work = &work;
        let working = helper().spawn_scoped(scope, move || {
            // The receiver is gone after the callback has stopped or panicked.
            work(&mut |progress| match tell.send(progress) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        let Ok(working) = working else {
            let done = work(&mut |_| ControlFlow::Continue(()))?;
            report(progress, len, len)?;
            return Ok(done);
        };
        let mut tells = told.iter();
        let answer = tells.try_for_each(|told: Progress| report(progress, told.done, told.total));
        drop(told);
        match working.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            // A failure of the device takes precedence over a stop by the callback.
            Err(DigestFailure::Device(error)) => Err(DigestFailure::Device(error)),
            outcome => answer.and(outcome),
        }
    })
}

fn report(
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    done: u64,
    total: u64,
) -> Result<(), DigestFailure> {
    match progress(Progress::new(done, total)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DigestFailure::Stopped),
    }
}

fn only(roots: &[Node]) -> Result<Node, DigestFailure> {
    roots.first().copied().ok_or_else(|| {
        DigestFailure::Device(DeviceError::Busy {
            operation: OPERATION,
            cause: "no root came back".into(),
        })
    })
}
