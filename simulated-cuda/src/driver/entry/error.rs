//! The names of codes.

use std::ffi::c_char;

use super::{Out, entry};
use crate::driver::code;

entry! {
    Nothing fn cuGetErrorName(error: u32, text: Out<*const c_char>) |_, _| {
        let name = code::name(error);
        text.set(name.map_or(std::ptr::null(), std::ffi::CStr::as_ptr))?;
        name.map(|_| ()).ok_or(code::INVALID_VALUE)
    }
}

entry! {
    Nothing fn cuGetErrorString(error: u32, text: Out<*const c_char>) |_, _| {
        let found = code::text(error);
        text.set(found.map_or(std::ptr::null(), std::ffi::CStr::as_ptr))?;
        found.map(|_| ()).ok_or(code::INVALID_VALUE)
    }
}
