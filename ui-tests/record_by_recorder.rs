//! Getting the recorder of the library's own events must not compile: E0624.

use vram_residency::AuditTrail;

fn forge(trail: &AuditTrail) {
    let _recorder = trail.recorder();
}

fn main() {}
