//! What recording costs, against named competitors in the same run.
//!
//! `cargo bench --bench record`
//!
//! * an ordinary record with room in the queue: nanoseconds and heap allocations;
//! * the same at one record in a millisecond, beside `tracing-appender`'s non-blocking writer;
//! * a durable critical record with one caller, beside a raw append + `fdatasync` of as many bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vram_residency::audit::PolicyViolation;
use vram_residency::{AuditTrail, TrailKey};

/// Pairs in each comparison.
const PAIRS: usize = 11;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: AtomicBool = const { AtomicBool::new(false) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED
            .try_with(|counted| counted.load(Ordering::Relaxed))
            .unwrap_or(false)
        {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's obligations are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from the system's allocator in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let dir = tempfile::Builder::new()
        .prefix("record-bench-")
        .tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into()))
        .unwrap();
    let key = TrailKey::open_or_create(dir.path().join("key.pem")).unwrap();
    let trail = AuditTrail::builder("bench".parse().unwrap(), dir.path().join("trail"), key)
        .open()
        .unwrap();
    burst(&trail);
    paced(&trail, dir.path());
    durable(&trail, dir.path());
    trail.close().unwrap();
}

/// One thread, room in the queue.
fn burst(trail: &AuditTrail) {
    const RECORDS: u32 = 4_000;
    let text: Arc<str> = "recorded".into();
    let mut nanoseconds = Vec::new();
    let mut allocations = 0;
    for _ in 0..PAIRS {
        trail.flush().unwrap();
        ALLOCATIONS.store(0, Ordering::Relaxed);
        COUNTED.with(|counted| counted.store(true, Ordering::Relaxed));
        let started = Instant::now();
        for _ in 0..RECORDS {
            black_box(trail.note(Arc::clone(&text))).unwrap();
        }
        let elapsed = started.elapsed();
        COUNTED.with(|counted| counted.store(false, Ordering::Relaxed));
        allocations += ALLOCATIONS.load(Ordering::Relaxed);
        nanoseconds.push(elapsed.as_secs_f64() * 1e9 / f64::from(RECORDS));
    }
    report("ordinary record, burst of 4000", &mut nanoseconds, "ns");
    println!(
        "    heap allocations by the caller in {} records: {allocations}",
        u64::from(RECORDS) * PAIRS as u64
    );
    assert_eq!(allocations, 0, "recording must not allocate");
}

/// One record in a millisecond: the queue's reader is asleep, so waking it would show.
fn paced(trail: &AuditTrail, dir: &std::path::Path) {
    let appender = tracing_appender::rolling::never(dir, "appender.log");
    let (mut writer, _guard) = tracing_appender::non_blocking(appender);
    let text: Arc<str> = "recorded".into();
    let line = [b'x'; 300];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        ours.push(median_of_paced(|| {
            trail.note(Arc::clone(&text)).unwrap();
        }));
        theirs.push(median_of_paced(|| writer.write_all(&line).unwrap()));
    }
    report("ordinary record, one in 1 ms", &mut ours, "ns");
    report(
        "tracing-appender non_blocking, one in 1 ms",
        &mut theirs,
        "ns",
    );
}

fn median_of_paced(mut operation: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..100)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let started = Instant::now();
            operation();
            started.elapsed().as_secs_f64() * 1e9
        })
        .collect();
    median(&mut samples)
}

/// One caller, each record durable before the next; the competitor does only what the disk demands.
fn durable(trail: &AuditTrail, dir: &std::path::Path) {
    const RECORDS: usize = 200;
    let mut raw = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("raw"))
        .unwrap();
    let bytes = vec![b'x'; durable_size(dir)];
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..RECORDS {
            let started = Instant::now();
            trail.policy_violation(violation()).unwrap();
            a.push(started.elapsed().as_secs_f64() * 1e6);
            let started = Instant::now();
            raw.write_all(&bytes).unwrap();
            raw.sync_data().unwrap();
            b.push(started.elapsed().as_secs_f64() * 1e6);
        }
        let (a, b) = (median(&mut a), median(&mut b));
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    report("durable record, one caller", &mut ours, "us");
    report(
        &format!("raw append of {} bytes + fdatasync", bytes.len()),
        &mut theirs,
        "us",
    );
    report("ratio", &mut ratios, "x");
}

fn violation() -> PolicyViolation<'static> {
    PolicyViolation {
        policy: "bench",
        violation: "none",
        details: "a record that must be durable",
        action: "none",
    }
}

/// The bytes that one durable record takes in the file, checkpoint included.
fn durable_size(dir: &std::path::Path) -> usize {
    let segment = std::fs::read_to_string(dir.join("trail/000000.jsonl")).unwrap();
    let checkpoint = segment
        .lines()
        .rev()
        .find(|l| l.starts_with("{\"checkpoint"))
        .unwrap();
    checkpoint.len() + 330
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn report(name: &str, samples: &mut [f64], unit: &str) {
    let middle = median(samples);
    println!(
        "{name}: median {middle:.2} {unit}, {:.2} to {:.2} over {} runs",
        samples[0],
        samples[samples.len() - 1],
        samples.len()
    );
}
