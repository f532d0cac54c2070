//! Every topic of shards, in the memory of a real GPU; and what only a real one can show.
//!
//! Without a GPU the whole says so loudly and passes; `VRAM_REQUIRE_GPU=1` makes that a failure.
//! `VRAM_SIMULATED_GPU=1` runs it on the simulated driver, which tests these tests.
#![cfg(feature = "cuda")]

#[path = "../support/backend.rs"]
mod backend;
#[path = "../support/gpu.rs"]
mod gpu;
#[path = "../support/kernels.rs"]
mod kernels;
#[path = "../support/present.rs"]
mod present;
#[path = "../support/shards.rs"]
mod shards;
#[path = "../support/mod.rs"]
mod support;
#[path = "../topics/mod.rs"]
mod topics;

mod hardware;

use present::load_driver;

/// Runs before the test harness, so that a missing GPU is told once, and no test is half done then.
/// A test's own process has been looked at by the one that started it.
#[used]
#[allow(unsafe_code, reason = "the section is the linker's")]
// SAFETY: functions in this section are called once, in the main thread, when the C library is ready.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look_for_a_gpu() {
        if support::child().is_none() {
            present::or_end("tests/gpu");
        }
    }
    look_for_a_gpu
};
