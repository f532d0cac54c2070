//! The driver's result codes, and the meaning of each for the bytes in the GPU.
//!
//! The numbers are those of `CUresult` in cuda.h. Only codes that are known to say nothing about
//! the bytes are inconclusive. Every other code, including every unknown one, counts against the
//! device.

use super::driver::{Driver, Failed};
use crate::device::{Bound, DeviceError};

pub(super) type Code = u32;

pub(super) const OUT_OF_MEMORY: Code = 2;
pub(super) const NOT_READY: Code = 600;
pub(super) const NOT_SUPPORTED: Code = 801;

/// Returns whether the code says only that the call cannot be done now, or not in this way.
pub(super) fn is_inconclusive(code: Code) -> bool {
    matches!(
        code,
        OUT_OF_MEMORY
            | 4 // the driver is shutting down
            | 46 // the device is unavailable, often in exclusive use
            | NOT_READY
            | 701 // no resources for a launch
            | 800 // not permitted
            | NOT_SUPPORTED
            | 802 | 807..=809 // the system is not ready, or the multi-process service is busy
            | 900..=908 // a graph is being captured
    )
}

/// Returns whether the code says that the driver cannot compile.
///
/// The causes: no binary for the GPU, refused PTX, no compiler, a PTX version that is too new, or
/// compilation that is turned off.
pub(super) fn is_about_compiling(code: Code) -> bool {
    matches!(code, 209 | 218 | 221..=223)
}

/// Returns whether the code says that memory cannot be made read-only here.
pub(super) fn is_about_protection(code: Code) -> bool {
    matches!(code, 1 | 800 | NOT_SUPPORTED)
}

/// Converts a failed call of an operation into an error.
pub(super) fn error(driver: &Driver, operation: &'static str, failed: Failed) -> DeviceError {
    let cause = text(Some(driver), failed).into();
    if is_inconclusive(failed.code) {
        DeviceError::Busy { operation, cause }
    } else {
        DeviceError::Broken { operation, cause }
    }
}

/// Formats a call, its code, and the code's name if it has one.
pub(super) fn text(driver: Option<&Driver>, failed: Failed) -> String {
    let Failed { call, code } = failed;
    match driver.and_then(|driver| driver.name_of(code)) {
        Some(name) => format!("{call}: {name} ({code})"),
        None => format!("{call}: code {code}"),
    }
}

/// Converts a failed call of an allocation of `needed` bytes into an error.
pub(super) fn allocation(
    driver: &Driver,
    operation: &'static str,
    needed: u64,
    failed: Failed,
) -> DeviceError {
    match failed.code {
        OUT_OF_MEMORY => DeviceError::OutOfMemory {
            needed,
            available: driver.memory_info().map_or(0, |(free, _)| free),
            bound: Bound::DeviceMemory,
        },
        // No bytes exist yet that could be bad: the driver refuses such memory, or such a device.
        1 | 100 | 101 => DeviceError::Busy {
            operation,
            cause: text(Some(driver), failed).into(),
        },
        _ => error(driver, operation, failed),
    }
}

#[cfg(test)]
mod tests {
    use super::is_inconclusive;

    #[test]
    fn what_says_something_about_the_bytes_and_what_nobody_knows_is_held_against_the_device() {
        // Uncorrectable ECC and NVLink errors, a contained error, illegal address, timeout, a
        // destroyed context, assertion, hardware stack, illegal instruction, misaligned, launch
        // failure.
        for code in [
            214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999,
        ] {
            assert!(!is_inconclusive(code), "{code}");
        }
        for code in [1, 3, 5, 99, 100, 101, 227, 805, 806, 1000, 4711, u32::MAX] {
            assert!(!is_inconclusive(code), "{code}");
        }
        for code in [2, 4, 46, 600, 701, 801, 802, 807, 809, 900, 901, 906, 908] {
            assert!(is_inconclusive(code), "{code}");
        }
    }
}
