//! The setup of every figure: a trail, managers, bytes to load, and all sizes.

use std::error::Error;
use std::io::Read;
use std::ops::ControlFlow;
use std::time::Instant;

use tempfile::TempDir;
use vram_residency::device::{Cuda, CudaBuilder};
use vram_residency::digest::Progress;
use vram_residency::shard::Sealed;
use vram_residency::{
    AuditTrail, ModelRef, Provenance, Shard, Stream, TrailKey, VramManager, WorkerToken,
};

use crate::present::is_simulated;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

pub struct Sizes {
    /// The maximum size of the one large shard, in bytes.
    pub whole: u64,
    pub shards: usize,
    /// The size of each of the many shards, in bytes.
    pub shard: usize,
    /// The number of bytes that are loaded, copied back, and hashed by the CPU.
    pub part: usize,
    /// The size of each array of the kernel that runs beside checks, in bytes.
    pub array: usize,
    pub samples: usize,
    /// The length of a turn of the kernel, in seconds.
    pub turn: f64,
}

impl Sizes {
    fn new() -> Self {
        if is_simulated() {
            return Self {
                whole: 3 << 20,
                shards: 5,
                shard: 64 << 10,
                part: 1 << 20,
                array: 64 << 10,
                samples: 3,
                turn: 0.0,
            };
        }
        Self {
            whole: 16 << 30,
            shards: 1000,
            shard: 1 << 20,
            part: 1 << 30,
            array: 1 << 30,
            samples: 11,
            turn: 0.4,
        }
    }
}

pub struct World {
    _directory: TempDir,
    pub trail: AuditTrail,
    token: WorkerToken,
    pub sizes: Sizes,
    /// The bytes that are loaded repeatedly.
    pub bytes: Vec<u8>,
}

impl World {
    pub fn new() -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let key = TrailKey::open_or_create(directory.path().join("key.pem"))?;
        let trail = directory.path().join("trail");
        let sizes = Sizes::new();
        Ok(Self {
            trail: AuditTrail::builder("bench".parse()?, trail, key).open_or_create()?,
            token: WorkerToken::generate()?,
            bytes: random(sizes.part),
            sizes,
            _directory: directory,
        })
    }

    pub fn manager(
        &self,
        options: impl FnOnce(CudaBuilder) -> CudaBuilder,
    ) -> Outcome<VramManager<Cuda>> {
        let gpu = options(Cuda::builder(0)).open()?;
        Ok(VramManager::builder(gpu, &self.token, &self.trail)
            .shard_limit(u64::MAX)
            .build()?)
    }

    /// Returns a sealed shard of this size, whose pieces all differ. The CPU hashes it during the
    /// load, and sealing fails if the GPU holds other bytes.
    pub fn sealed(
        &self,
        manager: &VramManager<Cuda>,
        name: &str,
        len: u64,
    ) -> Outcome<Shard<Sealed, Cuda>> {
        let model = ModelRef::new("bench", 0, 1)?;
        let mut shard = manager.allocate(name.parse()?, model, len)?;
        let bytes = self.piece(
            len,
            name.len() + usize::from(name.bytes().last().unwrap_or(0)),
        );
        let loaded = shard.load_from(bytes, Stream::TreeOnly)?;
        let sealed = shard.seal(Provenance::UnpinnedFirstUse)?;
        if sealed.digest() != loaded.digest {
            return Err(format!(
                "{name}: the GPU says {}, the CPU {}",
                sealed.digest(),
                loaded.digest
            )
            .into());
        }
        Ok(sealed)
    }

    fn piece(&self, len: u64, start: usize) -> impl Read + '_ {
        let at = start.wrapping_mul(4099) % self.bytes.len();
        Cycle {
            bytes: &self.bytes,
            at,
        }
        .take(len)
    }
}

pub fn go(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub fn seconds<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let started = Instant::now();
    let done = work()?;
    Ok((started.elapsed().as_secs_f64(), done))
}

/// An endless reader of the same bytes. It leaves out one byte at the end of each round, so that no
/// two windows are alike.
struct Cycle<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Read for Cycle<'_> {
    fn read(&mut self, place: &mut [u8]) -> std::io::Result<usize> {
        let left = &self.bytes[self.at..self.bytes.len() - 1];
        let len = left.len().min(place.len());
        place[..len].copy_from_slice(&left[..len]);
        self.at = (self.at + len) % (self.bytes.len() - 1);
        Ok(len)
    }
}

/// Returns random bytes from SplitMix64, so that no two windows are alike.
fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 1_u64;
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes
}
