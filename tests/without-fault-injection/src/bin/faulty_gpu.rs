//! Opening a GPU with faults without the feature must not compile: E0599.

use vram_residency::device::CudaBuilder;

fn make<T>(builder: CudaBuilder, faults: T) {
    let _builder = builder.dangerous_with_faults(faults);
}

fn main() {}
