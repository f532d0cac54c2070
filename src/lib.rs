#![deny(
    unsafe_code,
    missing_docs,
    unused_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
//! placeholder

#[cfg(not(target_os = "linux"))]
compile_error!(
    "vram-residency supports Linux only: sealed memory and durable records rest on Linux system calls"
);

pub mod audit;
pub mod device;
pub mod digest;
pub mod health;
pub mod id;
pub mod key;
pub mod manager;
mod process;

pub use audit::AuditTrail;
pub use id::{ModelRef, ShardId, WorkerId};
pub use key::{TrailKey, WorkerToken};
