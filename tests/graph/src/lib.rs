//! What a program writes that has its weights in shards in a GPU, and a model of candle's or cubecl's beside
//! them. It compiles only if all mean the same cudarc.

/// Tensors of candle's over shards.
#[cfg(feature = "candle")]
pub mod with_candle {
    use std::mem::ManuallyDrop;
    use std::sync::Arc;

    use candle_core::cuda::cudarc::driver::CudaStream;
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, Error, Storage, Tensor};
    use vram_residency::Lease;
    use vram_residency::device::Cuda;
    use vram_residency::device::cudarc::driver::{DevicePtr as _, DeviceSlice as _, DriverError};

    /// A tensor that reads a shard's own memory.
    #[derive(Debug)]
    pub struct Weights {
        /// Candle would free the memory with the last clone, so this one is never dropped.
        tensor: ManuallyDrop<Tensor>,
        lease: Lease<Cuda>,
    }

    impl Weights {
        /// The leased bytes, where they lie.
        pub fn new(lease: Lease<Cuda>, device: &CudaDevice) -> Self {
            let view = lease.view();
            let len = view.len();
            let stream: Arc<CudaStream> = device.cuda_stream();
            let (address, read) = view.device_ptr(&stream);
            // SAFETY: so many bytes are there as long as the lease, which is kept beside it.
            let slice = unsafe { stream.upgrade_device_ptr::<u8>(address, len) };
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
            let tensor = Tensor::from_storage(storage, len, BackpropOp::none(), false);
            drop(read);
            Self {
                tensor: ManuallyDrop::new(tensor),
                lease,
            }
        }

        /// To be read only, and not to be kept: nothing but this borrow says so.
        pub fn tensor(&self) -> Option<&Tensor> {
            self.lease.is_current().then_some(&*self.tensor)
        }
    }

    /// A copy that is candle's own.
    pub fn copy(lease: &Lease<Cuda>, device: &CudaDevice) -> Result<Tensor, Error> {
        let wrapped = |error: DriverError| Error::wrap(error);
        let stream = device.cuda_stream();
        let view = lease.view();
        let mut slice = stream.alloc_zeros::<u8>(view.len()).map_err(wrapped)?;
        stream.memcpy_dtod(&view, &mut slice).map_err(wrapped)?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
        Ok(Tensor::from_storage(
            storage,
            view.len(),
            BackpropOp::none(),
            false,
        ))
    }
}

/// A GPU of cubecl's.
#[cfg(feature = "cubecl")]
pub mod with_cubecl {
    use cubecl_cuda::CudaDevice;
    use vram_residency::device::{Cuda, CudaError};

    /// Both use the primary context.
    pub fn open(device: &CudaDevice) -> Result<Cuda, CudaError> {
        Cuda::builder(device.index as u32).open()
    }
}
