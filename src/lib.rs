#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
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
// Rustdoc takes the first definition of a link, and other readers of the same files those at their ends.
#![doc = "[Anchors]: docs::anchors"]
#![doc = "[Deployment]: docs::deployment"]
#![doc = "[FAQ]: docs::faq"]
#![doc = "[For reviewers]: docs::reviewers"]
#![doc = "[GPU]: docs::gpu"]
#![doc = "[Loading and serving]: docs::serving"]
#![doc = "[Measured]: docs::measured"]
#![doc = "[Monitoring]: docs::monitoring"]
#![doc = "[SECURITY.md]: docs::security"]
#![doc = "[Testing]: docs::testing"]
#![doc = "[The audit trail]: docs::trail"]
#![doc = "[The ledger of misuse]: docs::misuse"]
#![doc = "[Trail format]: audit::format"]
#![doc = ""]
#![doc = include_str!("../README.md")]

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "x86_64")
)))]
compile_error!(
    "vram-residency supports Linux on x86-64 and AArch64 only: sealed memory and durable records rest on Linux system calls, signatures on instructions of these processors"
);

pub mod audit;
pub mod device;
pub mod docs;
pub mod error;
mod event;
pub mod id;
pub mod key;
pub mod manager;
mod registry;
pub mod seal;
pub mod shard;
mod verification;

/// The digest of a shard's bytes, and of any other: the one that `fsverity digest` prints.
pub mod digest {
    pub use vram_digest::{
        BLOCK_BYTES, Digest, DigestError, Digests, Progress, Stopped, Stream, StreamDigest, Tree,
        WINDOW_BYTES,
    };
}

pub use vram_trail::health;

pub use audit::AuditTrail;
pub use device::Host;
pub use digest::{Digest, Stream, StreamDigest};
pub use error::Error;
pub use id::{ModelRef, ShardId, WorkerId};
pub use key::{TrailKey, WorkerToken};
pub use manager::{Assurance, VramManager};
pub use seal::Provenance;
pub use shard::{Lease, Shard, Shared};
