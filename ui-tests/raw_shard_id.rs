//! A raw string where a shard's name belongs must not compile: E0308.

use vram_residency::{Host, ModelRef, VramManager};

fn allocate(manager: &VramManager<Host>, model: ModelRef) {
    let _shard = manager.allocate("../../etc", model, 4096);
}

fn main() {}
