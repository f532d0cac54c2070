//! Errors, one enum for each operation's caller to match on, by culprit: the caller, the device, the
//! trail, or the weights.
//!
//! A transition takes its shard by value, so its error gives it back: as it was if there was no
//! answer or the call was wrong, quarantined if the shard failed. An error that reports a failed
//! verification holds the [`Incident`](crate::audit::Incident): only this crate can make one, and only
//! once the trail has answered. [`Error`] is any of them, without a shard. Messages name shards and numbers, never addresses or secrets.

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
