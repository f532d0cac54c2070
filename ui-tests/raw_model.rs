//! A raw string where a model's name belongs must not compile: E0308.

use vram_residency::{Host, ShardId, VramManager};

fn allocate(manager: &VramManager<Host>, id: ShardId) {
    let _shard = manager.allocate(id, "model\n", 4096);
}

fn main() {}
