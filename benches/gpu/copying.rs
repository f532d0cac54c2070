//! Traffic on the bus: loading, and the copy back for a hash on the CPU, which the GPU's digest
//! replaces.

use std::hint::black_box;
use std::sync::Arc;

use cudarc::driver::{CudaStream, PinnedHostSlice};
use vram_residency::digest::Tree;
use vram_residency::{ModelRef, Stream};

use crate::kernels::user;
use crate::table::{Samples, Table};
use crate::world::{Outcome, World, go, seconds};

const GB: f64 = 1e9;

/// Rates in bytes per second.
pub struct Rates {
    pub load: f64,
    /// First the copy back, then the hash on all cores.
    pub one_after_the_other: Samples,
    /// The slower of the two, as if they overlapped perfectly.
    pub overlapped: Samples,
}

pub fn measure(table: &mut Table, world: &World) -> Outcome<Rates> {
    let stream = user();
    let mut pinned = pinned(&stream, world.bytes.len())?;
    pinned.as_mut_slice()?.copy_from_slice(&world.bytes);
    let load = loading(table, world, &stream, &pinned)?;
    let (one_after_the_other, overlapped) = copying_back(world, &stream, &mut pinned)?;
    Ok(Rates {
        load,
        one_after_the_other,
        overlapped,
    })
}

/// Measures `load_slice` of bytes in memory and `load_from` of them as a reader, beside their hash
/// and a plain copy from pinned memory.
fn loading(
    table: &mut Table,
    world: &World,
    stream: &Arc<CudaStream>,
    pinned: &PinnedHostSlice<u8>,
) -> Outcome<f64> {
    let len = world.bytes.len();
    let manager = world.manager(|builder| builder)?;
    let mut plain = stream.alloc_zeros::<u8>(len)?;
    stream.synchronize()?;
    let (mut loads, mut reads, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut copies, mut hashes) = (Vec::new(), Vec::new());
    for round in 0..=world.sizes.samples {
        let model = ModelRef::new("bench", 0, 1)?;
        let mut shard = manager.allocate("loaded".parse()?, model, len as u64)?;
        let (load, loaded) = seconds(|| Ok(shard.load_slice(&world.bytes, Stream::TreeOnly)?))?;
        let (read, again) = seconds(|| Ok(shard.load_from(&world.bytes[..], Stream::TreeOnly)?))?;
        let (copy, ()) = seconds(|| {
            stream.memcpy_htod(pinned, &mut plain)?;
            Ok(stream.synchronize()?)
        })?;
        let (hash, tree) = seconds(|| Ok(Tree::of_slice(&world.bytes, go)?))?;
        if [loaded.digest, again.digest] != [tree.digest(); 2] {
            table.wrong("loading has hashed something else than the CPU".into());
        }
        shard.release()?;
        if round > 0 {
            let rate = |seconds: f64| len as f64 / seconds / GB;
            loads.push(rate(load));
            reads.push(rate(read));
            copies.push(rate(copy));
            hashes.push(rate(hash));
            ratios.push(copy.max(hash) / load);
        }
    }
    let (loads, copies) = (Samples::new(loads), Samples::new(copies));
    let hashes = Samples::new(hashes);
    table.tell("loading, `load_slice`", "GB/s", &loads, "see below");
    let limit = "one thread copies out of the reader";
    table.tell("loading, `load_from`", "GB/s", &Samples::new(reads), limit);
    table.tell("plain copy from pinned memory", "GB/s", &copies, "-");
    table.tell("this crate's digest on all CPU cores", "GB/s", &hashes, "-");
    let limit = "the slower of copy and hash, each the round's own";
    table.judge(
        "loading with `load_slice` against that",
        "times",
        &Samples::new(ratios),
        0.9,
        limit,
    );
    Ok(loads.median() * GB)
}

fn copying_back(
    world: &World,
    stream: &Arc<CudaStream>,
    pinned: &mut PinnedHostSlice<u8>,
) -> Outcome<(Samples, Samples)> {
    let len = world.bytes.len();
    let manager = world.manager(|builder| builder)?;
    let shard = world
        .sealed(&manager, "copied-back", len as u64)?
        .verify()?;
    let (mut sums, mut slower) = (Vec::new(), Vec::new());
    for round in 0..=world.sizes.samples {
        let (copy, ()) = seconds(|| {
            stream.memcpy_dtoh(&shard.view(), pinned)?;
            Ok(stream.synchronize()?)
        })?;
        stream.context().check_err()?;
        let bytes = pinned.as_slice()?;
        let (hash, tree) = seconds(|| Ok(Tree::of_slice(black_box(bytes), go)?))?;
        if tree.digest() != shard.digest() {
            return Err("the CPU's digest of what was copied back is not the GPU's".into());
        }
        if round > 0 {
            sums.push(len as f64 / (copy + hash));
            slower.push(len as f64 / copy.max(hash));
        }
    }
    Ok((Samples::new(sums), Samples::new(slower)))
}

/// Compares the GPU's digest (in GB/s) with these rates.
pub fn compare(table: &mut Table, rates: &Rates, whole: f64) {
    let against = |samples: &Samples| samples.map(|rate| whole * GB / rate);
    let limit = "the large shard's rate, spot checks off";
    let ratios = against(&rates.one_after_the_other);
    table.judge(
        "against copying back, then hashing on all cores",
        "times",
        &ratios,
        20.0,
        limit,
    );
    let ratios = against(&rates.overlapped);
    let figure = "the same, if copying and hashing overlapped perfectly";
    table.judge(figure, "times", &ratios, 20.0, limit);
}

fn pinned(stream: &Arc<CudaStream>, len: usize) -> Outcome<PinnedHostSlice<u8>> {
    const CACHED: u32 = 0; // write-combined memory is slow to read
    // SAFETY: any byte is a valid `u8`, and all are written before they are read.
    Ok(unsafe { stream.context().alloc_pinned_with_flags(len, CACHED) }?)
}
