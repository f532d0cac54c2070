//! The cost of recording, against named competitors in the same run.
//!
//! Run `cargo bench --bench record`. It measures:
//!
//! * an ordinary record with room in the queue: nanoseconds and heap allocations;
//! * an ordinary record in each millisecond, beside the three competitors below;
//! * a durable critical record with one caller, beside a raw append + `fdatasync` of the same
//!   length;
//! * the part of a durable record that verifies its checkpoint's signature;
//! * durable records with 64 and 256 callers, beside one caller;
//! * ordinary records sustained to the disk: the highest rate at which none is lost.
//!
//! The competitors at one record in a millisecond:
//!
//! * the non-blocking writer of `tracing-appender`;
//! * nothing: two readings of the clock after a millisecond of sleep;
//! * the minimum of such a record: one lock, two clocks, and the same number of bytes into a
//!   `VecDeque`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant, SystemTime};

use vram_residency::audit::PolicyViolation;
use vram_residency::{AuditTrail, TrailKey};

/// The number of pairs in each comparison.
const PAIRS: usize = 11;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: AtomicBool = const { AtomicBool::new(false) };
}

// SAFETY: every call is forwarded unchanged to the system's allocator.
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
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let key = TrailKey::open_or_create(dir.path().join("key.pem")).unwrap();
    let trail = AuditTrail::builder("bench".parse().unwrap(), dir.path().join("trail"), key)
        .open_or_create()
        .unwrap();
    burst(&trail);
    paced(&trail, dir.path());
    durable(&trail, dir.path());
    for callers in [64, 256] {
        together(&trail, callers);
    }
    trail.close().unwrap();
    sustained(dir.path());
}

/// Measures one thread with room in the queue.
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

/// Measures one record in a millisecond: the queue's reader is asleep, so a wake-up would show.
fn paced(trail: &AuditTrail, dir: &std::path::Path) {
    let appender = tracing_appender::rolling::never(dir, "appender.log");
    let (mut writer, _guard) = tracing_appender::non_blocking(appender);
    let text: Arc<str> = "recorded".into();
    let line = [b'x'; 300];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut clocks, mut net, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut least, mut above) = (Vec::new(), Vec::new());
    let queue = Mutex::new(VecDeque::with_capacity(PAIRS * 100));
    for _ in 0..PAIRS {
        let a = median_of_paced(|| {
            trail.note(Arc::clone(&text)).unwrap();
        });
        let nothing = median_of_paced(|| ());
        let bare = median_of_paced(|| {
            let text = Arc::clone(&text);
            let mut queue = queue.lock().unwrap();
            let times = (SystemTime::now(), Instant::now());
            queue.push_back((text, times, [0_u8; 64]));
        });
        let b = median_of_paced(|| writer.write_all(&line).unwrap());
        ours.push(a);
        clocks.push(nothing);
        net.push(a - nothing);
        least.push(bare);
        above.push(a / bare);
        theirs.push(b);
        ratios.push(b / a);
    }
    report("ordinary record, one in 1 ms", &mut ours, "ns");
    report("    the clocks alone", &mut clocks, "ns");
    report("    without the clocks", &mut net, "ns");
    report("    a lock, two clocks, a VecDeque", &mut least, "ns");
    report("    ours, of that", &mut above, "x");
    report(
        "tracing-appender non_blocking, one in 1 ms",
        &mut theirs,
        "ns",
    );
    report("    of ours", &mut ratios, "x");
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

/// Measures one caller, with each record durable before the next. The competitor does only the
/// disk's minimum.
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
    let mut verified: Vec<f64> = (0..PAIRS).map(|_| verification(trail)).collect();
    report("    of ours, one signature verified", &mut verified, "us");
}

/// Measures the verification of the newest checkpoint's signature, which the writer does before
/// writing each.
fn verification(trail: &AuditTrail) -> f64 {
    let checkpoint = trail.checkpoint().unwrap();
    let public = trail.verifier_key().public_key();
    let public = ed25519_dalek::VerifyingKey::from_bytes(&public).unwrap();
    let signature = ed25519_dalek::Signature::from_bytes(&checkpoint.signature());
    let mut samples: Vec<f64> = (0..100)
        .map(|_| {
            let started = Instant::now();
            let verified = public.verify_strict(checkpoint.signed_text().as_bytes(), &signature);
            let elapsed = started.elapsed().as_secs_f64() * 1e6;
            black_box(verified).unwrap();
            elapsed
        })
        .collect();
    median(&mut samples)
}

/// Measures many callers at once, which share writes and syncs.
fn together(trail: &AuditTrail, callers: usize) {
    const ONE: usize = 400;
    const ALL: usize = 20_480;
    let (mut alone, mut many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let one = rate(trail, 1, ONE);
        let all = rate(trail, callers, ALL / callers);
        alone.push(one);
        many.push(all);
        ratios.push(all / one);
    }
    report("durable records, one caller", &mut alone, "per second");
    let name = format!("durable records, {callers} callers");
    report(&name, &mut many, "per second");
    report("ratio", &mut ratios, "x");
}

/// Returns the durable records per second of `callers` callers with `each` records each.
fn rate(trail: &AuditTrail, callers: usize, each: usize) -> f64 {
    let barrier = Barrier::new(callers + 1);
    let elapsed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..each {
                        trail.policy_violation(violation()).unwrap();
                    }
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        for thread in threads {
            thread.join().unwrap();
        }
        started.elapsed()
    });
    (callers * each) as f64 / elapsed.as_secs_f64()
}

/// Raises the rate of a single source until a record is lost. At the end of each step, every record
/// is on the disk.
fn sustained(dir: &std::path::Path) {
    const STEP: Duration = Duration::from_secs(3);
    let text: Arc<str> =
        "sustained, with some text as records have it, to some two hundred bytes or so".into();
    let mut highest = 0;
    for rate in (100_000..2_000_000).step_by(50_000) {
        let key = TrailKey::open_or_create(dir.join("key.pem")).unwrap();
        let place = dir.join("sustained");
        let trail = AuditTrail::builder("bench".parse().unwrap(), &place, key)
            .open_or_create()
            .unwrap();
        let started = Instant::now();
        let mut given = 0_u64;
        while started.elapsed() < STEP {
            let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            while given < due {
                let _counted_below = trail.note(Arc::clone(&text));
                given += 1;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        trail.flush().unwrap();
        let elapsed = started.elapsed().as_secs_f64();
        let counts = trail.counts();
        trail.close().unwrap();
        std::fs::remove_dir_all(&place).unwrap();
        let reached = given as f64 / elapsed;
        println!(
            "    {rate} asked for: {reached:.0} records per second on disk, {} lost",
            counts.failures
        );
        if counts.failures > 0 || reached < 0.95 * f64::from(rate) {
            break;
        }
        highest = rate;
    }
    println!("ordinary records sustained to disk, none lost: {highest} per second");
}

fn violation() -> PolicyViolation<'static> {
    PolicyViolation {
        policy: "bench",
        violation: "none",
        details: "a record that must be durable",
        action: "none",
    }
}

/// Returns the size of one durable record in the file, checkpoint included, in bytes.
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
