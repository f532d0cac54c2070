//! Errors: one enum for each operation.
//!
//! The variants name the culprit: the caller, the device, the trail, or the weights. A transition
//! takes its shard by value, so its error returns the shard. The shard is unchanged if there was no
//! answer or the call was wrong, and quarantined if the shard failed.
//!
//! An error that reports a failed verification holds the [`Incident`](crate::audit::Incident). Only
//! this crate can make an incident, and only after the trail has answered. Messages contain names
//! of shards and numbers, never addresses or secrets.

mod batch;
mod memory;
mod umbrella;
mod verification;

pub use batch::{AllocateAllError, NotSealed, SealAllError};
pub use memory::{AllocateError, BuildError, LoadError, ReleaseError, WriteError};
pub use umbrella::Error;
pub use verification::{
    Broken, CheckError, NoAnswer, NotVerified, ReclaimError, Revoked, SealError, VerifyError,
};
