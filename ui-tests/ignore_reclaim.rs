//! Ignoring what came of reclaiming must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::{Host, Shared};

fn shrug(shared: Shared<Host>) {
    shared.reclaim();
}

fn main() {}
