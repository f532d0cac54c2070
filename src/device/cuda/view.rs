//! The read-only view of a shard in a GPU.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{self, CudaStream, DevicePtr, DeviceSlice, SyncOnDrop};

use super::memory::CudaMemory;

/// A read-only view of a shard's bytes in the GPU.
///
/// cudarc accepts it wherever it reads device memory: it implements [`DeviceSlice`] and
/// [`DevicePtr`]. It does not implement `DevicePtrMut`, so no writing function of cudarc accepts
/// it. A kernel takes `&view.as_cudarc()`. No type can ensure that the kernel does not write to the
/// address. But a sealed shard's mapping is read-only, and a kernel that writes to it faults (and
/// loses the context).
///
/// Work that was begun with a view may run after the view is gone. The memory is wiped and freed
/// only after all work in the GPU's primary context. Requires: the caller waits for work of another
/// context, as when a second GPU copies from the view. While a stream is being captured, no wait is
/// possible. A shard dropped then is leaked, which is recorded, and the capture may fail.
#[derive(Clone, Copy)]
pub struct CudaView<'a> {
    memory: &'a CudaMemory,
}

impl<'a> CudaView<'a> {
    pub(super) fn new(memory: &'a CudaMemory) -> Self {
        Self { memory }
    }

    /// Returns the same bytes as a view of cudarc, for kernel arguments and for subranges.
    ///
    /// Do not allocate with the context of *its* stream, for which cudarc's event tracking is off.
    /// Memory allocated with it would be freed without waiting for other streams. The context of
    /// [`CudaView::stream`](DeviceSlice::stream), and your own, are as usual.
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
    /// Writes the fields without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaView")
            .field("len", &self.memory.len())
            .finish_non_exhaustive()
    }
}
