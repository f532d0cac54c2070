//! The entry points, with the C signatures of `cuda.h`. Each takes its arguments apart and passes
//! them to the state, which decides their meaning.
#![allow(non_snake_case, reason = "the names are CUDA's")]

mod device;
mod error;
mod green;
mod host;
mod memory;
mod module;
mod stream;
mod transfer;
mod virtual_memory;

use std::ffi::{CStr, c_char};

use super::code::{self, Code};

/// The address of a result: null, or valid for writing.
#[derive(Debug)]
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    fn set(&self, value: T) -> Result<(), Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA requires of its callers that addresses of results can be
        // written. Only callers can make an `Out`. Nothing is assumed about alignment.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Sets a result that the caller may omit.
    fn set_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            let _ = self.set(value); // fails for null only
        }
    }

    /// Returns whether the address is aligned for its type, which C compilers rely on.
    fn is_aligned(&self) -> bool {
        self.0.is_null() || self.0.is_aligned()
    }

    /// Reads the old value, for addresses that are also arguments.
    fn get(&self) -> Result<T, Code>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// Returns the address of one result in an array.
    fn at(&self, index: usize) -> Out<T> {
        if self.0.is_null() {
            Out(self.0)
        } else {
            Out(self.0.wrapping_add(index))
        }
    }
}

/// The address of an argument: null, or valid for reading.
#[derive(Debug)]
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    fn get(&self) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA requires of its callers that addresses of arguments can be
        // read. Only callers can make an `In`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    fn is_aligned(&self) -> bool {
        self.0.is_null() || self.0.is_aligned()
    }

    fn at(&self, index: usize) -> In<T> {
        if self.0.is_null() {
            In(self.0)
        } else {
            In(self.0.wrapping_add(index))
        }
    }

    fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

impl In<c_char> {
    /// Reads the text up to its final zero.
    fn text(&self) -> Result<&CStr, Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA requires of its callers that texts end with a zero and stay
        // until the call returns, which is before `self` is dropped.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// Defines an entry point: its C function, its requirement, and its effect on the state.
macro_rules! entry {
    ($(#[$doc:meta])* $needs:ident fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$state:pat_param, $device:pat_param| $body:expr) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
            crate::driver::call(stringify!($name), crate::driver::Needs::$needs, |$state, $device| $body)
        }
    };
}
use entry;
