//! How much memory loading, sealing and verifying take besides the shard itself.
//!
//! Alone in its process: the figure is the kernel's high-water mark of this process.

use std::io::Read;

use crate::support::{alone, builder_at};
use vram_residency::{Host, ModelRef, Provenance, Stream, VramManager, WorkerToken};

const SHARD: u64 = 256 << 20;
const LIMIT: u64 = 16 << 20;

/// Peak resident memory in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
fn the_main_job_takes_at_most_16_mib_besides_the_shard() {
    alone(|place| {
        let trail = builder_at(place).open_or_create().unwrap();
        let token = WorkerToken::generate().unwrap();
        let manager = VramManager::builder(Host::new(), &token, &trail)
            .build()
            .unwrap();
        let before = peak();
        let model = ModelRef::new("m", 0, 1).unwrap();
        let mut shard = manager
            .allocate("footprint".parse().unwrap(), model, SHARD)
            .unwrap();
        shard
            .load_from(std::io::repeat(7).take(SHARD), Stream::WithSha256)
            .unwrap();
        let verified = shard
            .seal(Provenance::UnpinnedFirstUse)
            .unwrap()
            .verify()
            .unwrap();
        let shared = verified.share();
        shared.check().unwrap();
        let beyond = peak() - before - SHARD;
        println!("{} KiB beyond the shard", beyond / 1024);
        assert!(beyond <= LIMIT, "{beyond} bytes beyond the shard");
        drop(shared);
        trail.close().unwrap();
    });
}
