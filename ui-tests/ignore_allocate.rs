//! Ignoring what came of allocating must not compile: unused_must_use.

#![deny(unused_must_use)]

use vram_residency::{Host, ModelRef, ShardId, VramManager};

fn shrug(manager: &VramManager<Host>, id: ShardId, model: ModelRef) {
    manager.allocate(id, model, 4096);
}

fn main() {}
