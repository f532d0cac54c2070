//! A manager without a device must not compile: E0061.

use vram_residency::{AuditTrail, Host, VramManager, WorkerToken};

fn build(token: &WorkerToken, trail: &AuditTrail) {
    let _manager = VramManager::<Host>::builder(token, trail).build();
}

fn main() {}
