//! A manager without a token must not compile: E0061.

use vram_residency::{AuditTrail, Host, VramManager};

fn build(trail: &AuditTrail) {
    let _manager = VramManager::<Host>::builder(Host::new(), trail).build();
}

fn main() {}
