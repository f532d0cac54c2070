//! The names of codes.

use std::ffi::{CStr, c_char};

use super::{Out, entry};
use crate::driver::code::{self, Code};

fn name(error: u32, text: &Out<*const c_char>) -> Result<(), Code> {
    let name = code::name(error);
    text.set(name.map_or(std::ptr::null(), CStr::as_ptr))?;
    name.map(|_| ()).ok_or(code::INVALID_VALUE)
}

entry! {
    Nothing fn cuGetErrorName(error: u32, text: Out<*const c_char>) |_, _| name(error, &text)
}

entry! {
    /// Returns the name again, because the real texts say little more.
    Nothing fn cuGetErrorString(error: u32, text: Out<*const c_char>) |_, _| name(error, &text)
}
