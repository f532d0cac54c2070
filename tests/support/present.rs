//! Whether there is a GPU to run on, for what is of no use without one: `tests/gpu` and `benches/gpu`.

use simulated_cuda::Driver;
use vram_residency::device::{Cuda, CudaError};

/// Runs on the simulated driver, so that tests and bench are themselves tested without a GPU.
const SIMULATED: &str = "VRAM_SIMULATED_GPU";

/// Makes a missing GPU a failure.
const REQUIRE: &str = "VRAM_REQUIRE_GPU";

pub fn is_simulated() -> bool {
    is_one(SIMULATED)
}

/// Has the simulated driver, if that is asked for. Before the process looks for any other.
pub fn load_driver() {
    if is_simulated() {
        Driver::load();
    }
}

/// Ends the process if there is no GPU: loudly, and well unless one is required.
pub fn or_end(what: &str) {
    if is_simulated() {
        return;
    }
    let Some(why) = absent() else { return };
    if is_one(REQUIRE) {
        eprintln!("{REQUIRE}=1, and {what} found no GPU: {why}");
        std::process::exit(1);
    }
    eprintln!("SKIPPED: {what} needs a GPU: {why} ({SIMULATED}=1 runs it on a simulated one)");
    std::process::exit(0);
}

/// Why there is none. A GPU that is there and fails is not absent: it is for the tests to say so.
fn absent() -> Option<String> {
    // A number that no GPU has: the driver is loaded and counts its devices, and no context is made.
    match Cuda::builder(u32::MAX).open() {
        Err(CudaError::NoDevice { count: 0, .. }) => Some("the driver sees none".to_owned()),
        Err(CudaError::NoDevice { .. }) | Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn is_one(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}
