//! The kernel of `digest.cu`, loaded into a GPU.

use std::ffi::CStr;
use std::sync::Arc;

use crate::device::cuda::CudaError;
use crate::device::cuda::context::Context;
use crate::device::cuda::driver::{Handle, Live, kind};

/// The shipped PTX.
pub(in super::super) const PTX: &str = include_str!("../digest.ptx");

const NAME: &CStr = c"fsverity_blocks";

#[derive(Debug)]
pub(super) struct Kernel {
    context: Arc<Context>,
    module: Handle,
    function: Handle,
}

// SAFETY: the handles are used with the context current, from any thread (see `Context`).
unsafe impl Send for Kernel {}

// SAFETY: as above; no field changes.
unsafe impl Sync for Kernel {}

impl Kernel {
    pub(super) fn load(context: &Arc<Context>) -> Result<Self, CudaError> {
        let mut text = PTX.as_bytes().to_vec();
        text.push(0);
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        let module = context.compiling(|driver| driver.load_module(text))?;
        let mut kernel = Self {
            context: Arc::clone(context),
            module,
            function: std::ptr::null_mut(),
        };
        // SAFETY: the driver has just loaded it, and `kernel` unloads it on drop.
        let module = unsafe { Live::new(module) };
        kernel.function =
            context.within("load the kernel", |driver| driver.function(module, NAME))?;
        Ok(kernel)
    }

    pub(super) fn function(&self) -> Live<'_, kind::Function> {
        // SAFETY: it belongs to the module, which is unloaded when `self` is dropped.
        unsafe { Live::new(self.function) }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let module = self.module;
        let _nobody_to_tell = self.context.within("unload the kernel", |driver| {
            // SAFETY: `load` loaded it, and `self`, which lends its function, is being dropped.
            unsafe { driver.unload_module(module) }
        });
    }
}
