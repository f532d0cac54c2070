//! Naming the audit guard must not compile: E0603.

use vram_residency::verification::OpenVerification;

fn main() {}
