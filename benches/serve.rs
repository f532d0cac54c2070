//! The cost of serving: reading through a view, taking a lease, and asking whether it is current.
//!
//! Run `cargo bench --bench serve`. `sum_view` and `sum_slice` are the same loop over a shard's
//! view and over a slice. Compare their machine code with `objdump -d --no-show-raw-insn
//! --disassemble=sum_view target/release/deps/serve-*`.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use vram_residency::shard::Verified;
use vram_residency::{
    AuditTrail, Host, ModelRef, Provenance, Shard, Stream, TrailKey, VramManager, WorkerToken,
};

const PAIRS: usize = 11;
const LEN: usize = 64 << 20;
const CALLS: u32 = 1_000_000;

/// The loop over a view.
#[unsafe(no_mangle)]
#[inline(never)]
fn sum_view(shard: &Shard<Verified, Host>) -> u64 {
    shard.view().iter().map(|byte| u64::from(*byte)).sum()
}

/// The loop over a slice.
#[unsafe(no_mangle)]
#[inline(never)]
fn sum_slice(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let key = TrailKey::open_or_create(dir.path().join("key.pem")).unwrap();
    let trail = AuditTrail::builder("bench".parse().unwrap(), dir.path().join("trail"), key)
        .open_or_create()
        .unwrap();
    let token = WorkerToken::generate().unwrap();
    let manager = VramManager::builder(Host::new(), &token, &trail)
        .build()
        .unwrap();
    let model = ModelRef::new("bench", 0, 1).unwrap();
    let mut shard = manager
        .allocate("bench".parse().unwrap(), model, LEN as u64)
        .unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    shard.load_from(bytes.as_slice(), Stream::TreeOnly).unwrap();
    let shard = shard
        .seal(Provenance::UnpinnedFirstUse)
        .unwrap()
        .verify()
        .unwrap();

    let (mut views, mut slices, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    assert_eq!(sum_view(&shard), sum_slice(&bytes));
    // The slice of the comparison is the same memory; only the access path differs.
    let slice: &[u8] = shard.view();
    for _ in 0..PAIRS {
        let view = time(1, || sum_view(black_box(&shard)));
        let plain = time(1, || sum_slice(black_box(slice)));
        views.push(view / 1e6);
        slices.push(plain / 1e6);
        ratios.push(view / plain);
    }
    report("sum of 64 MiB through view()", &mut views, "ms");
    report("sum of 64 MiB through a slice", &mut slices, "ms");
    report("ratio", &mut ratios, "x");

    let shared = shard.share();
    let lease = shared.lease().unwrap();
    let load = AtomicU64::new(1);
    let (mut leases, mut currents, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        leases.push(time(CALLS, || drop(black_box(shared.lease()))));
        currents.push(time(CALLS, || black_box(lease.is_current())));
        loads.push(time(CALLS, || black_box(load.load(Ordering::Acquire))));
    }
    report("lease() and its drop", &mut leases, "ns");
    report("is_current()", &mut currents, "ns");
    report("one atomic load", &mut loads, "ns");
}

/// Returns the nanoseconds for one of `calls` calls.
fn time<T>(calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

fn report(name: &str, samples: &mut [f64], unit: &str) {
    samples.sort_by(f64::total_cmp);
    println!(
        "{name}: median {:.2} {unit}, {:.2} to {:.2} over {} runs",
        samples[samples.len() / 2],
        samples[0],
        samples[samples.len() - 1],
        samples.len()
    );
}
