//! Fault injection into devices, for tests and demonstrations.
//!
//! Exists only under the feature `fault-injection`. A fault is armed for an operation, lets some
//! calls pass, strikes once, and is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Culpability, DeviceError};

/// An operation of a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// Allocating memory.
    Allocate,
    /// Hashing all bytes of a shard.
    Digest,
    /// Freeing memory.
    Free,
    /// Making memory read-only.
    Protect,
    /// Waiting for earlier requests.
    Synchronize,
    /// Making memory writable again.
    Unprotect,
    /// Hashing some windows of a shard.
    Windows,
    /// Wiping memory with zeros.
    Wipe,
    /// Writing bytes into memory.
    Write,
}

/// A handle on the faults of a device. Clones arm the same device.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    armed: Mutex<Vec<Armed>>,
    /// Whether a fault was ever armed.
    used: AtomicBool,
}

#[derive(Debug)]
struct Armed {
    operation: Operation,
    /// The number of calls that pass before the fault strikes.
    passing: u64,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Corrupt,
    Fail(Culpability),
    Panic,
}

/// The effect of a fault on an operation that still succeeds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Struck {
    /// One bit must be wrong afterwards.
    Corrupt,
    /// No effect.
    No,
}

impl Faults {
    /// Creates a handle without faults.
    #[allow(
        clippy::new_without_default,
        reason = "what injects faults is made by name"
    )]
    pub fn dangerous_new() -> Self {
        Self(Arc::default())
    }

    /// Corrupts one write after `passing` more writes: one bit is wrong, and the device reports
    /// success.
    ///
    /// A load writes its chunks in no particular order.
    pub fn corrupt_write(&self, passing: u64) {
        self.arm(Operation::Write, passing, Effect::Corrupt);
    }

    /// Fails one call with this culpability after `passing` more calls.
    pub fn fail(&self, operation: Operation, passing: u64, culpability: Culpability) {
        self.arm(operation, passing, Effect::Fail(culpability));
    }

    /// Panics in one call after `passing` more calls.
    pub fn panic(&self, operation: Operation, passing: u64) {
        self.arm(operation, passing, Effect::Panic);
    }

    /// Returns whether a fault was ever armed: then a failure may be an injected one.
    pub(crate) fn were_used(&self) -> bool {
        self.0.used.load(Ordering::Relaxed)
    }

    fn arm(&self, operation: Operation, passing: u64, effect: Effect) {
        self.0.used.store(true, Ordering::Relaxed);
        let mut armed = self.0.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed {
            operation,
            passing,
            effect,
        });
    }

    /// Lets a due fault strike. Called at the beginning of an operation.
    #[allow(clippy::panic, reason = "asked for by the test that armed it")]
    pub(crate) fn strike(&self, operation: Operation) -> Result<Struck, DeviceError> {
        match self.next(operation) {
            None => Ok(Struck::No),
            Some(Effect::Corrupt) => Ok(Struck::Corrupt),
            Some(Effect::Fail(culpability)) => Err(error(operation, culpability)),
            Some(Effect::Panic) => panic!("injected: {}", operation.name()),
        }
    }

    fn next(&self, operation: Operation) -> Option<Effect> {
        let mut armed = self.0.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = None;
        for (index, fault) in armed.iter_mut().enumerate() {
            if fault.operation != operation {
                continue;
            }
            match fault.passing.checked_sub(1) {
                Some(left) => fault.passing = left,
                None => due = due.or(Some(index)),
            }
        }
        due.map(|index| armed.remove(index).effect)
    }
}

fn error(operation: Operation, culpability: Culpability) -> DeviceError {
    let operation = operation.name();
    let cause = Arc::from("injected");
    match culpability {
        Culpability::Broken => DeviceError::Broken { operation, cause },
        Culpability::Inconclusive => DeviceError::Busy { operation, cause },
    }
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Digest => "digest",
            Self::Free => "free",
            Self::Protect => "protect",
            Self::Synchronize => "synchronize",
            Self::Unprotect => "unprotect",
            Self::Windows => "windows",
            Self::Wipe => "wipe",
            Self::Write => "write",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_once_and_when_it_was_asked_to() {
        let faults = Faults::dangerous_new();
        assert!(!faults.were_used());
        faults.corrupt_write(1);
        let write = || faults.strike(Operation::Write).unwrap();
        assert_eq!(
            [write(), write(), write()],
            [Struck::No, Struck::Corrupt, Struck::No]
        );

        faults.fail(Operation::Digest, 0, Culpability::Broken);
        faults.fail(Operation::Digest, 1, Culpability::Inconclusive);
        for expected in [Culpability::Broken, Culpability::Inconclusive] {
            let error = faults.strike(Operation::Digest).unwrap_err();
            assert_eq!(error.culpability(), expected);
        }
        assert_eq!(faults.strike(Operation::Digest), Ok(Struck::No));

        faults.panic(Operation::Windows, 0);
        let windows = || faults.strike(Operation::Windows).is_ok();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(windows)).is_err());
        assert!(windows());
        assert!(faults.were_used());
    }
}
