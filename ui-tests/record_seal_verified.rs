//! Naming the library's own events to record `SealVerified` must not compile: E0603.

use vram_residency::event::Event;

fn main() {}
