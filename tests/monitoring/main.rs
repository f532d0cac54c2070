//! What an operator sees of a worker, and code of the operator's that the trail calls: metrics, the log,
//! alerts, hooks, a disk that is full.
//!
//! A process has one log and one recorder. A test that installs either runs in a process of its own.

mod alerts;
mod degraded;
mod disk;
mod foreign;
mod logged;
mod metrics;
#[path = "../support/mod.rs"]
mod support;
