//! What a shard in a GPU can be read through.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{self, CudaStream, DevicePtr, DeviceSlice, SyncOnDrop};

use super::memory::CudaMemory;

/// A read-only view of a shard's bytes in the GPU.
///
/// Wherever cudarc reads device memory, it takes this: it implements [`DeviceSlice`] and [`DevicePtr`].
/// It does not implement `DevicePtrMut`, so nothing of cudarc that writes takes it. A kernel takes
/// `&view.as_cudarc()`; that it does not write to the address is a promise that no type can make, but a
/// sealed shard's mapping is read-only, and a kernel that writes to it faults (and loses the context).
///
/// Work that was begun with a view may run when the view is gone. The memory waits for it: it is wiped and
/// given back only once everything in the GPU's primary context is done. Work of another context, as when a
/// second GPU copies from the view, is not waited for: that is the caller's to do. While a stream is being
/// captured nothing can be waited for; a shard that goes then is leaked, which is on record, and the capture
/// may fail.
#[derive(Clone, Copy)]
pub struct CudaView<'a> {
    memory: &'a CudaMemory,
}

impl<'a> CudaView<'a> {
    pub(super) fn new(memory: &'a CudaMemory) -> Self {
        Self { memory }
    }

    /// The same bytes as a view of cudarc, for kernels' arguments and for parts of it.
    ///
    /// Do not allocate with the context of *its* stream, for which cudarc's event tracking is off: what is
    /// allocated with it would be freed without waiting for other streams. That of
    /// [`CudaView::stream`](DeviceSlice::stream), and your own, are as always.
    pub fn as_cudarc(&self) -> driver::CudaView<'a, u8> {
        self.memory.lent().as_view()
    }
}

impl DeviceSlice<u8> for CudaView<'_> {
    fn len(&self) -> usize {
        self.memory.lent().len()
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.memory.stream()
    }
}

impl DevicePtr<u8> for CudaView<'_> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.memory.lent().device_ptr(stream)
    }
}

impl fmt::Debug for CudaView<'_> {
    /// Without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaView")
            .field("len", &self.memory.len())
            .finish_non_exhaustive()
    }
}
