//! The entry points, with C's signatures as `cuda.h` declares them. Each takes its arguments apart and
//! hands them to the state; what they mean is decided there.
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

/// Where an entry point's caller wants a result: null, or valid for writing.
#[derive(Debug)]
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    fn set(&self, value: T) -> Result<(), Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA asks its callers for addresses of results that can be written. Only
        // they can make an `Out`. Nothing is said of alignment.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Sets a result that the caller may leave out.
    fn set_if_wanted(&self, value: T) {
        if !self.0.is_null() {
            let _ = self.set(value); // fails for null only
        }
    }

    /// Whether it is where its type may be, which C's compilers rely on.
    fn is_aligned(&self) -> bool {
        self.0.is_null() || self.0.is_aligned()
    }

    /// What is there before, where the caller gives something by the same address.
    fn get(&self) -> Result<T, Code>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// The result at an index of an array of results.
    fn at(&self, index: usize) -> Out<T> {
        if self.0.is_null() {
            Out(self.0)
        } else {
            Out(self.0.wrapping_add(index))
        }
    }
}

/// What an entry point's caller gives by address: null, or valid for reading.
#[derive(Debug)]
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    fn get(&self) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA asks its callers for addresses of arguments that can be read. Only
        // they can make an `In`.
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
    /// The text up to its final zero.
    fn text(&self) -> Result<&CStr, Code> {
        if self.0.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: not null, and CUDA asks its callers for texts that end with a zero and stay until the
        // call returns, which is before `self` goes.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// Defines an entry point: its C function, what it needs, and what it does with the state.
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
