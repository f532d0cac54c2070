//! The fs-verity digest, computed in the GPU by the kernel of `digest.cu`.
//!
//! A level of the tree is one launch that hashes every block of some byte ranges; the next one hashes what
//! that wrote, until 32 bytes are left. Many small shards climb together, those that are done are passed
//! on. A shard that is larger than the scratch memory is hashed in slices, by two lanes in turns: while
//! one lane's last blocks and few upper nodes keep a part of the GPU busy, the other's leaves fill the
//! rest. Everything in the GPU that is needed besides the data is reserved when the device is opened.

use std::ffi::{CStr, c_void};
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::Share;
use super::context::{Context, Event, Pinned, Stream};
use super::driver::{Called, Driver, Failed, Handle};
use crate::device::DeviceError;
use crate::device::backend::DigestFailure;
use crate::digest::{BLOCK_BYTES, NODE_BYTES, Node, Progress, WINDOW_BYTES};

/// The kernel, as it ships.
pub(super) const PTX: &str = include_str!("digest.ptx");

const KERNEL: &CStr = c"fsverity_blocks";

/// Threads in a block of the kernel (`__launch_bounds__` in digest.cu).
const THREADS: u32 = 128;

const BLOCK: u64 = BLOCK_BYTES as u64;
const NODE: u64 = NODE_BYTES as u64;
const WINDOW: u64 = WINDOW_BYTES as u64;

/// Nodes that are hashed into one of the level above.
const FAN_OUT: u64 = 128;

/// Blocks of data in a slice: 960 MiB. A multiple of what makes whole nodes of level 2, so that slices
/// do not share one.
const SLICE_BLOCKS: u64 = 15 * FAN_OUT * FAN_OUT;
const SLICE_BYTES: u64 = SLICE_BLOCKS * BLOCK;

/// Ranges in one launch.
const MAX_RANGES: usize = 2048;

/// Launches that are queued for a lane before it is waited for: from the blocks of a slice to its root.
const LAUNCHES: usize = 4;

/// `struct Range` of digest.cu: address, length, number of the first block, whether it is a root.
const RANGE_BYTES: usize = 24;

const TABLE_BYTES: usize = MAX_RANGES * RANGE_BYTES;

// What a lane has in the GPU: the digests of a slice's blocks; nodes of the level above, one for each
// range more than there would be of a single one; and a table of ranges for each launch.
const LEAVES: u64 = SLICE_BLOCKS * NODE;
const NODES: u64 = 2 * MAX_RANGES as u64 * NODE;
const TABLES: u64 = (LAUNCHES * TABLE_BYTES) as u64;
const LANE: u64 = LEAVES + NODES + TABLES;

const LANES: usize = 2;

/// What is reserved in the GPU, whatever the size of shards.
pub(super) const SCRATCH: u64 = 16 << 20;

/// The rest is for the nodes of level 2 of a shard with more than one slice: 64 MiB of data each.
const LEVEL_2: u64 = SCRATCH - LANES as u64 * LANE;

/// The largest shard in bytes, 768 GiB.
pub(super) const MAX_LEN: u64 = LEVEL_2 / NODE * FAN_OUT * FAN_OUT * BLOCK;

const _: () = assert!(SLICE_BLOCKS / FAN_OUT + MAX_RANGES as u64 <= 2 * MAX_RANGES as u64);

const OPERATION: &str = "digest";

/// Some bytes in the GPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bytes {
    /// A multiple of 16.
    pub(super) address: u64,
    /// At least 1.
    pub(super) len: u64,
}

pub(super) struct Hasher {
    context: Arc<Context>,
    module: Handle,
    function: Handle,
    /// The most blocks of threads in one launch.
    blocks: u32,
    scratch: u64,
    lanes: Mutex<[Lane; LANES]>,
    /// Who has the lanes.
    holder: Mutex<Option<ThreadId>>,
}

// SAFETY: the handles are used with the context current, from whatever thread (see `Context`).
unsafe impl Send for Hasher {}

// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Hasher {}

/// A stream with the memory that its launches write to.
struct Lane {
    stream: Stream,
    leaves: u64,
    nodes: u64,
    tables: u64,
    /// The tables on their way into the GPU, then the nodes on their way back.
    pinned: Pinned,
    done: Event,
    /// Launches queued since it was last waited for.
    launched: usize,
}

/// Where the nodes that come back from a lane begin in its pinned memory.
const RESULTS: usize = LAUNCHES * TABLE_BYTES;

impl Hasher {
    /// Loads the kernel, and reserves what it needs.
    pub(super) fn new(
        context: &Arc<Context>,
        multiprocessors: u32,
        share: Share,
    ) -> Result<Self, DeviceError> {
        let mut text = PTX.as_bytes().to_vec();
        text.push(0);
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        let (module, function, fitting, priority) =
            context.within("load the kernel", |driver| {
                let module = driver.load_module(text)?;
                let function = driver.function(module, KERNEL)?;
                let fitting = driver.blocks_per_multiprocessor(function, THREADS as i32)?;
                Ok((module, function, fitting, driver.lowest_priority()?))
            })?;
        let most = multiprocessors.saturating_mul(u32::try_from(fitting).unwrap_or(1));
        let scratch = context.allocating(SCRATCH, |driver| driver.allocate(SCRATCH as usize))?;
        let lane = |index: u64| {
            let start = scratch.saturating_add(LANE.saturating_mul(index));
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
            module,
            function,
            blocks: share.of(most),
            scratch,
            lanes: Mutex::new([lane(0)?, lane(1)?]),
            holder: Mutex::new(None),
            context: Arc::clone(context),
        })
    }

    /// The root of the tree over each of the shards.
    pub(super) fn roots(&self, shards: &[Bytes]) -> Result<Vec<Node>, DeviceError> {
        let mut roots = Vec::with_capacity(shards.len());
        let mut left = shards;
        while !left.is_empty() {
            let (small, rest) =
                left.split_at(left.iter().take_while(|shard| shard.is_small()).count());
            let mut turn = self.turn()?;
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

    /// The root of the tree over one shard.
    pub(super) fn root(
        &self,
        shard: Bytes,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Node, DigestFailure> {
        if !shard.is_small() {
            return self.root_of_slices(shard, progress);
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
        let level_2 = self
            .scratch
            .saturating_add((LANES as u64).saturating_mul(LANE));
        let mut turn = self.turn().map_err(DigestFailure::Device)?;
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

    /// The nodes of level 1 over some windows of a shard.
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
        let mut nodes = Vec::new();
        let mut turn = self.turn().map_err(DigestFailure::Device)?;
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

    /// Hashes level upon level, until of each of the inputs there is the root alone; all of these come
    /// back. The first level is hashed in any case: it is no root, however short.
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

    /// Queues the hashing of every block of the inputs. Returns where their digests will be, one input's
    /// behind the other's.
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
        let room = lane.pinned.bytes().get_mut(..RESULTS);
        let Some(room) = room.and_then(|tables| tables.get_mut(place.clone())) else {
            return Err(Failed {
                call: "more launches or ranges than there are tables",
                code: 1,
            });
        };
        room.copy_from_slice(&entries);
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
        let launched =
            unsafe { driver.launch(self.function, grid, THREADS, stream, &mut parameters) };
        launched.map(|()| outputs)
    }

    /// Waits for the lanes. A thread that has them, and asks from a progress callback, would wait for
    /// itself.
    fn turn(&self) -> Result<Turn<'_>, DeviceError> {
        let me = thread::current().id();
        if *self.holder() == Some(me) {
            return Err(DeviceError::Busy {
                operation: OPERATION,
                cause: "called from a progress callback of a digest on the same GPU".into(),
            });
        }
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        *self.holder() = Some(me);
        Ok(Turn {
            hasher: self,
            lanes,
        })
    }

    fn holder(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a launch reads.
struct Input {
    bytes: Bytes,
    is_root: bool,
}

impl Bytes {
    fn blocks(self) -> u64 {
        self.len.div_ceil(BLOCK)
    }

    /// Whether one lane can climb from all of it to the root.
    fn is_small(&self) -> bool {
        self.len <= SLICE_BYTES
    }

    /// To be hashed, however short.
    fn data(self) -> Input {
        Input {
            bytes: self,
            is_root: false,
        }
    }

    /// To be hashed, unless it is one node and so the root.
    fn level(self) -> Input {
        Input {
            bytes: self,
            is_root: self.len == NODE,
        }
    }
}

/// The only range of a level, as it goes into the next launch. A node that is alone in its slice is not
/// yet the root.
fn level_of(level: &[Bytes]) -> Input {
    level
        .first()
        .copied()
        .unwrap_or(Bytes { address: 0, len: 1 })
        .data()
}

/// Exclusive use of the lanes. When it ends, however that happens, nothing is queued in them any more:
/// their memory can be used again.
struct Turn<'a> {
    hasher: &'a Hasher,
    lanes: MutexGuard<'a, [Lane; LANES]>,
}

impl Turn<'_> {
    /// Does the jobs, one in each lane at a time. `begin` queues one and says how many nodes will come
    /// back; `collect` gets its number and these, in the order of the jobs.
    fn pipeline<J>(
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
            for (lane, begun) in self.lanes.iter_mut().zip(&mut begun) {
                if let Some((job, nodes)) = begun.take() {
                    lane.wait(&self.hasher.context)
                        .map_err(DigestFailure::Device)?;
                    collect(job, lane.fetched(nodes))?;
                    is_idle = false;
                }
                if let Some(job) = jobs.next() {
                    let nodes = self
                        .hasher
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
        for lane in self.lanes.iter_mut().filter(|lane| lane.launched > 0) {
            let stream = lane.stream.handle();
            let waited = self
                .hasher
                .context
                .within(OPERATION, |driver| driver.synchronize_stream(stream));
            if waited.is_ok() {
                lane.launched = 0;
            }
        }
        *self.hasher.holder() = None;
    }
}

impl Lane {
    fn wait(&mut self, context: &Context) -> Result<(), DeviceError> {
        let done = self.done.handle();
        context.within(OPERATION, |driver| driver.synchronize_event(done))?;
        self.launched = 0;
        Ok(())
    }

    /// Queues the way back of nodes that lie one behind the other. Returns how many they are.
    fn fetch(&mut self, level: &[Bytes]) -> Called<usize> {
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

    /// So many nodes that came back.
    fn fetched(&mut self, nodes: usize) -> &[Node] {
        let results = self.pinned.bytes().get(RESULTS..).unwrap_or_default();
        results.as_chunks().0.get(..nodes).unwrap_or_default()
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        if self.context.synchronize().is_err() {
            return;
        }
        let (scratch, module) = (self.scratch, self.module);
        let _nobody_to_tell = self.context.within("free the kernel", |driver| {
            driver.free(scratch)?;
            driver.unload_module(module)
        });
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

/// The pieces that are hashed at a time.
fn slices(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len).step_by(SLICE_BYTES as usize);
    starts.map(move |start| Bytes {
        address: bytes.address.saturating_add(start),
        len: bytes.len.saturating_sub(start).min(SLICE_BYTES),
    })
}

/// Small shards, in groups that fit one lane.
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

fn report(
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    done: u64,
    total: u64,
) -> Result<(), DigestFailure> {
    match progress(Progress { done, total }) {
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
