//! The driver's functions and structures, as cuda.h declares them.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use super::Handle;
use crate::device::cuda::CudaError;
use crate::device::cuda::code::Code;

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in super::super) struct Location {
    kind: c_uint,
    id: c_int,
}

impl Location {
    pub(in super::super) fn device(id: c_int) -> Self {
        const ON_DEVICE: c_uint = 1;
        Self {
            kind: ON_DEVICE,
            id,
        }
    }
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub(in super::super) struct Properties {
    kind: c_uint,
    handle_types: c_uint,
    location: Location,
    win32: *mut c_void,
    flags: [u8; 8],
}

impl Properties {
    /// Describes memory that stays in place and is not shared with other processes.
    pub(in super::super) fn pinned_on(id: c_int) -> Self {
        const PINNED: c_uint = 1;
        Self {
            kind: PINNED,
            handle_types: 0,
            location: Location::device(id),
            win32: ptr::null_mut(),
            flags: [0; 8],
        }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub(super) struct AccessOf {
    location: Location,
    flags: c_uint,
}

impl AccessOf {
    pub(super) fn new(location: Location, flags: c_uint) -> Self {
        Self { location, flags }
    }
}

/// `CUdevResource`, for multiprocessors.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(in super::super) struct Resource {
    kind: c_uint,
    internal: [u8; 92],
    pub(in super::super) multiprocessors: c_uint,
    /// Including fields of later versions, one of them an address.
    rest: [u32; 11],
}

const _: () = assert!(size_of::<Resource>() == 144 && align_of::<Resource>() == 8);

impl Resource {
    pub(in super::super) const MULTIPROCESSORS: c_uint = 1;

    pub(super) const NONE: Self = Self {
        kind: 0,
        internal: [0; 92],
        multiprocessors: 0,
        rest: [0; 11],
    };
}

macro_rules! functions {
    ($(#[$table_doc:meta])* $table:ident, $symbol_names:ident: $(fn $name:ident as $symbol:literal ($($type:ty),*);)*) => {
        $(#[$table_doc])*
        #[allow(clippy::type_complexity, reason = "the signatures are those of cuda.h")]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($type),*) -> Code,)*
        }

        impl $table {
            pub(super) fn find(library: &Library) -> Result<Self, CudaError> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the type is the function's in cuda.h, and the library stays loaded
                        // as long as the table (`Driver`).
                        let symbol = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        *symbol.map_err(|_| CudaError::MissingSymbol { symbol: $symbol })?
                    },)*
                })
            }
        }

        /// The functions' names, for failures.
        pub(super) mod $symbol_names {
            $(#[allow(non_upper_case_globals, reason = "the function's name")]
            pub(in super::super) const $name: &str = $symbol;)*
        }
    };
}

functions! {
    /// The required functions, by their symbols.
    Functions, symbol:
    fn init as "cuInit"(c_uint);
    fn driver_version as "cuDriverGetVersion"(*mut c_int);
    fn device as "cuDeviceGet"(*mut c_int, c_int);
    fn device_count as "cuDeviceGetCount"(*mut c_int);
    fn device_name as "cuDeviceGetName"(*mut c_char, c_int, c_int);
    fn device_uuid as "cuDeviceGetUuid"(*mut [u8; 16], c_int);
    fn device_attribute as "cuDeviceGetAttribute"(*mut c_int, c_uint, c_int);
    fn retain_primary as "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    fn release_primary as "cuDevicePrimaryCtxRelease_v2"(c_int);
    fn push_context as "cuCtxPushCurrent_v2"(Handle);
    fn pop_context as "cuCtxPopCurrent_v2"(*mut Handle);
    fn current_context as "cuCtxGetCurrent"(*mut Handle);
    fn set_context as "cuCtxSetCurrent"(Handle);
    fn synchronize_context as "cuCtxSynchronize"();
    fn stream_priorities as "cuCtxGetStreamPriorityRange"(*mut c_int, *mut c_int);
    fn memory_info as "cuMemGetInfo_v2"(*mut usize, *mut usize);
    fn granularity as "cuMemGetAllocationGranularity"(*mut usize, *const Properties, c_uint);
    fn create as "cuMemCreate"(*mut u64, usize, *const Properties, u64);
    fn release as "cuMemRelease"(u64);
    fn reserve as "cuMemAddressReserve"(*mut u64, usize, usize, u64, u64);
    fn unreserve as "cuMemAddressFree"(u64, usize);
    fn map as "cuMemMap"(u64, usize, usize, u64, u64);
    fn unmap as "cuMemUnmap"(u64, usize);
    fn set_access as "cuMemSetAccess"(u64, usize, *const AccessOf, usize);
    fn access as "cuMemGetAccess"(*mut u64, *const Location, u64);
    fn pointer_attribute as "cuPointerGetAttribute"(*mut c_void, c_uint, u64);
    fn allocate as "cuMemAlloc_v2"(*mut u64, usize);
    fn free as "cuMemFree_v2"(u64);
    fn allocate_host as "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
    fn free_host as "cuMemFreeHost"(*mut c_void);
    fn copy_to_device as "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, Handle);
    fn copy_to_host as "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, Handle);
    fn set as "cuMemsetD8Async"(u64, u8, usize, Handle);
    fn create_stream as "cuStreamCreateWithPriority"(*mut Handle, c_uint, c_int);
    fn synchronize_stream as "cuStreamSynchronize"(Handle);
    fn query_stream as "cuStreamQuery"(Handle);
    fn destroy_stream as "cuStreamDestroy_v2"(Handle);
    fn create_event as "cuEventCreate"(*mut Handle, c_uint);
    fn record_event as "cuEventRecord"(Handle, Handle);
    fn synchronize_event as "cuEventSynchronize"(Handle);
    fn destroy_event as "cuEventDestroy_v2"(Handle);
    fn load_module as "cuModuleLoadData"(*mut Handle, *const c_void);
    fn unload_module as "cuModuleUnload"(Handle);
    fn function as "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    fn launch as "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void,
        *mut *mut c_void
    );
    fn blocks_per_multiprocessor as "cuOccupancyMaxActiveBlocksPerMultiprocessor"(
        *mut c_int, Handle, c_int, usize
    );
    fn exchange_capture_mode as "cuThreadExchangeStreamCaptureMode"(*mut c_uint);
    fn error_name as "cuGetErrorName"(Code, *mut *const c_char);
}

functions! {
    /// The functions that partition the multiprocessors, in CUDA since 12.5.
    Partitioning, partitioning_symbol:
    fn device_resource as "cuDeviceGetDevResource"(c_int, *mut Resource, c_uint);
    fn split as "cuDevSmResourceSplitByCount"(
        *mut Resource, *mut c_uint, *const Resource, *mut Resource, c_uint, c_uint
    );
    fn describe as "cuDevResourceGenerateDesc"(*mut Handle, *mut Resource, c_uint);
    fn create as "cuGreenCtxCreate"(*mut Handle, Handle, c_int, c_uint);
    fn destroy as "cuGreenCtxDestroy"(Handle);
    fn create_stream as "cuGreenCtxStreamCreate"(*mut Handle, Handle, c_uint, c_int);
}

/// `cuDeviceGetUuid_v2`, in CUDA since 11.4.
pub(super) type InstanceUuid = unsafe extern "C" fn(*mut [u8; 16], c_int) -> Code;

pub(super) const INSTANCE_UUID: &str = "cuDeviceGetUuid_v2";

/// Functions that cudarc calls when a view is used; without them it would panic.
pub(super) const NEEDED_BY_CUDARC: [&str; 2] = ["cuStreamCreate", "cuStreamWaitEvent"];
