//! What must hold on every device. Each backend's test (`tests/shards/main.rs`, `tests/cuda/main.rs`,
//! `tests/gpu/main.rs`) runs all of it on its own device, which it defines in a module `backend`.

mod batch;
mod deadline;
mod events;
mod forget;
mod fork;
mod futures;
mod incident;
mod memory;
mod shard;
mod shared;
mod together;
mod umbrella;
