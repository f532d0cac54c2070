//! The worker as a process: how it ends, what the kernel, the file system, the sandbox and the user
//! refuse it, and how much memory it takes.
//!
//! Each worker is a process of its own, which the test starts.

mod file_systems;
mod footprint;
mod kill;
mod kubernetes;
mod loading;
mod power;
mod sandbox;
#[path = "../support/mod.rs"]
mod support;
mod syscalls;
mod worker;
