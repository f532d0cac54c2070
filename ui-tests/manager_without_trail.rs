//! A manager without a trail must not compile: E0061.

use vram_residency::{Host, VramManager, WorkerToken};

fn build(token: &WorkerToken) {
    let _manager = VramManager::<Host>::builder(Host::new(), token).build();
}

fn main() {}
