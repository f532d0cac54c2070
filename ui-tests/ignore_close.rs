//! Ignoring what came of closing the trail must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::AuditTrail;

fn shrug(trail: AuditTrail) {
    trail.close();
}

fn main() {}
