//! Opening a trail on a storage with faults without the feature must not compile: E0599.

use vram_residency::audit::AuditTrailBuilder;

fn open<T>(builder: AuditTrailBuilder, faults: T) {
    let _builder = builder.dangerous_storage_faults(faults);
}

fn main() {}
