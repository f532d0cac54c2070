//! The digest of 64 MiB and 512 MiB, as sealing and verifying compute it, against `sha2` on one
//! thread and against command-line tools over the same bytes in the page cache.
//!
//! `cargo bench --bench digest`. Each line is a median and the range of at least 11 ratios; the two
//! sides of a ratio are timed one right after the other, in alternating order, so that a change of
//! the machine's clock hits both. Above 1 the digest is faster.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest as _, Sha256};
use vram_residency::digest::{Digest, Tree};

const PAIRS: usize = 11;

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores, {PAIRS} pairs each: median [least .. most]");
    for mib in [64, 512] {
        let bytes: Vec<u8> = (0..mib << 20)
            .map(|index: usize| (index % 251) as u8)
            .collect();
        let directory = directory();
        let file = directory.path().join("data");
        std::fs::write(&file, &bytes).expect("room for the data");
        compare(
            &format!("{mib} MiB in memory, sha2 on one thread / digest"),
            || {
                black_box(Sha256::digest(&bytes));
            },
            || {
                black_box(digest_of_slice(&bytes));
            },
        );
        let tools: [(&str, &[&str]); 3] = [
            ("fsverity", &["digest"]),
            ("sha256sum", &[]),
            ("openssl", &["dgst", "-sha256"]),
        ];
        for (tool, arguments) in tools {
            if !run(tool, arguments, &file) {
                println!("{tool}: SKIPPED, not here or failing");
                continue;
            }
            let name = [&[tool], arguments].concat().join(" ");
            compare(
                &format!("{mib} MiB, `{name}` / digest in memory"),
                || assert!(run(tool, arguments, &file)),
                || {
                    black_box(digest_of_slice(&bytes));
                },
            );
            compare(
                &format!("{mib} MiB, `{name}` / digest of the same file"),
                || assert!(run(tool, arguments, &file)),
                || {
                    black_box(digest_of_file(&file));
                },
            );
        }
    }
}

/// In memory where there is a file system for that.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for the data")
}

fn digest_of_slice(bytes: &[u8]) -> Digest {
    let tree = Tree::of_slice(bytes, |_| ControlFlow::Continue(()));
    tree.expect("the callback never stops").digest()
}

fn digest_of_file(path: &Path) -> Digest {
    let file = std::fs::File::open(path).expect("the file was written above");
    Digest::of_reader(file).expect("the file can be read")
}

fn run(tool: &str, arguments: &[&str], file: &Path) -> bool {
    Command::new(tool)
        .args(arguments)
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn compare(what: &str, mut one: impl FnMut(), mut two: impl FnMut()) {
    one();
    two();
    let mut times = Vec::new();
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|pair| {
            let (slow, fast) = if pair % 2 == 0 {
                let slow = seconds(&mut one);
                (slow, seconds(&mut two))
            } else {
                let fast = seconds(&mut two);
                (seconds(&mut one), fast)
            };
            times.push(fast);
            slow / fast
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    times.sort_by(f64::total_cmp);
    println!(
        "{what}: {:.2} [{:.2} .. {:.2}], digest {:.1} ms",
        ratios[PAIRS / 2],
        ratios[0],
        ratios[PAIRS - 1],
        times[PAIRS / 2] * 1000.0,
    );
}

fn seconds(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
