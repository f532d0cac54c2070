//! The share of a GPU for checks, and the partition of multiprocessors to which the driver
//! restricts them.
//!
//! CUDA calls such a partition a green context. Kernels, memory and events belong to the primary
//! context. Launches on a stream of the partition run on its multiprocessors and on no others.
//! Other users may still use these multiprocessors. This module does not know what is launched.

use std::ffi::c_int;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::context::{Context, Stream};
use super::driver::{Handle, Live};
use crate::device::DeviceError;

/// The share of a GPU that checks may use at a time.
///
/// A driver for CUDA 12.5 or later restricts checks to a part of the multiprocessors. The part is
/// as large as the share allows, in steps that depend on the GPU, and at least one step. Fallback
/// for older drivers: a share of the threads that the GPU can run at once, spread over all
/// multiprocessors. [`Cuda::multiprocessors`](super::Cuda::multiprocessors) tells the two apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share(u8);

/// Multiprocessors to which streams are restricted.
#[derive(Debug)]
pub(super) struct Partition {
    context: Arc<Context>,
    handle: Handle,
    multiprocessors: u32,
}

// SAFETY: the handle is used with the context current, from any thread (see `Context`).
unsafe impl Send for Partition {}

// SAFETY: as above; no field changes.
unsafe impl Sync for Partition {}

impl Share {
    /// The whole GPU.
    pub const ALL: Self = Self(100);

    /// Returns the share of this many per cent, or `None` outside of 1 to 100.
    pub fn percent(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// Returns the share of `most`, at least 1.
    pub(super) fn of(self, most: u32) -> u32 {
        (most.saturating_mul(self.0.into()) / 100).max(1)
    }
}

impl Partition {
    /// Creates the largest partition within the share, or the smallest possible one. Returns `None`
    /// if the driver has no partitions.
    pub(super) fn new(
        context: &Arc<Context>,
        device: c_int,
        share: Share,
    ) -> Result<Option<Arc<Self>>, DeviceError> {
        let made = context.within("set multiprocessors apart", |driver| {
            let Some(all) = driver.multiprocessors(device)? else {
                return Ok(None);
            };
            let Some(step) = NonZeroU32::new(driver.split(&all, 1)?.multiprocessors) else {
                return Ok(None);
            };
            let steps = (share.of(all.multiprocessors) / step).max(1);
            let part = driver.split(&all, steps.saturating_mul(step.get()))?;
            let handle = driver.create_partition(device, part)?;
            Ok(Some((handle, part.multiprocessors)))
        })?;
        Ok(made.map(|(handle, multiprocessors)| {
            Arc::new(Self {
                context: Arc::clone(context),
                handle,
                multiprocessors,
            })
        }))
    }

    pub(super) fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Creates a stream whose kernels run only in the partition.
    pub(super) fn stream(self: &Arc<Self>, priority: c_int) -> Result<Stream, DeviceError> {
        // SAFETY: `new` made it, and it is destroyed with `self`.
        let partition = unsafe { Live::new(self.handle) };
        let handle = self.context.within("create a stream", |driver| {
            driver.create_stream_in(partition, priority)
        })?;
        // SAFETY: the driver has just made it in `self`, and no other code has seen it.
        Ok(unsafe { Stream::held(&self.context, handle, self) })
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let handle = self.handle;
        let _nobody_to_tell = self.context.within("give multiprocessors back", |driver| {
            // SAFETY: `new` made it; its streams hold `self`, so they are gone.
            unsafe { driver.destroy_partition(handle) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_nothing() {
        assert_eq!(Share::percent(0), None);
        assert_eq!(Share::percent(101), None);
        assert_eq!(Share::percent(10).unwrap().of(1320), 132);
        assert_eq!(Share::percent(1).unwrap().of(8), 1);
        assert_eq!(Share::ALL.of(1320), 1320);
    }
}
