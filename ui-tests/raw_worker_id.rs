//! A raw string where a worker's name belongs must not compile: E0308.

use vram_residency::{AuditTrail, TrailKey};

fn open(key: TrailKey) {
    let _trail = AuditTrail::builder("../../etc", "/var/lib/trail", key);
}

fn main() {}
