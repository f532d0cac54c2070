//! Every topic of shards, in the memory of a simulated GPU; and what only a GPU can do wrong.
#![cfg(feature = "cuda")]

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/gpu.rs"]
mod gpu;
#[path = "../support/kernels.rs"]
mod kernels;
#[path = "../support/shards.rs"]
mod shards;
#[path = "../support/mod.rs"]
mod support;
#[path = "../topics/mod.rs"]
mod topics;

mod digest;
mod failures;
mod lost;
mod memory;
mod opening;
mod packing;
mod share;
mod together;

/// A test that changes the driver's state loads it in a process of its own.
fn load_driver() {
    simulated_cuda::Driver::load();
}
