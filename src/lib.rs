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
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects))]
//! placeholder

#[cfg(not(target_os = "linux"))]
compile_error!("vram-residency supports Linux only: sealed memory and durable records rest on Linux system calls");

pub mod audit;
pub mod device;
pub mod digest;
pub mod id;
mod process;
/// stub
pub mod manager {
    /// stub
    #[derive(Clone, Copy, Debug)]
    pub enum Assurance {
        /// stub
        Durable,
        /// stub
        Queued,
    }
}
