//! Naming the audit guard must not compile: E0603.

use vram_residency::audit::guard::OpenVerification;

fn main() {}
