//! CUDA's driver: the library, found at run time, and its functions as calls that return plain
//! codes.
//!
//! An unknown code must not be undefined behaviour, and a function that an old driver lacks must
//! not be a panic. So this module looks all functions up at once, and keeps codes as numbers.
//!
//! The driver follows handles without checking them, so no raw handle is accepted. A [`Live`]
//! handle proves that its object is alive, and calls that end such a life are unsafe. Numbers are
//! safe arguments if a wrong number only fails in the GPU, or takes away memory of the GPU: no
//! reference of Rust points there. Addresses that are written to are not safe, because the driver
//! writes to pinned host memory by the same numbers. A caller that passes host memory proves that
//! it lives long enough.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

use self::functions::{
    AccessOf, Functions, INSTANCE_UUID, InstanceUuid, NEEDED_BY_CUDARC, Partitioning, symbol,
};
pub(super) use self::functions::{Location, Properties, Resource};
pub(super) use self::live::{Live, Physical, kind};
use super::CudaError;
use super::code::Code;

mod functions;
mod live;

/// A handle (`CUcontext`, `CUstream` and others): the address of an object that the driver owns.
pub(super) type Handle = *mut c_void;

/// A failed call and its code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Failed {
    pub(super) call: &'static str,
    pub(super) code: Code,
}

pub(super) type Called<T> = Result<T, Failed>;

/// The oldest supported driver, as CUDA numbers it: 11.2.
const MIN_DRIVER: i32 = 11_020;

/// The driver of this process.
pub(super) struct Driver {
    functions: Functions,
    /// Optional functions of newer drivers.
    instance_uuid: Option<InstanceUuid>,
    partitioning: Option<Partitioning>,
    version: c_int,
    /// Never unloaded, because it contains the functions.
    _library: Library,
}

/// Calls a function of a table, and converts its code into a result.
macro_rules! call {
    ($driver:expr, $name:ident($($argument:expr),* $(,)?)) => {
        call!(symbol, $driver.functions, $name($($argument),*))
    };
    ($symbols:ident, $table:expr, $name:ident($($argument:expr),* $(,)?)) => {{
        let function = $table.$name;
        // SAFETY: the arguments match cuda.h: numbers, live handles (by `Live`, by `Physical`, or
        // by the method's contract), or addresses. The addresses are locals, or host memory that
        // lives as long as the method's contract requires.
        let code = unsafe { function($($argument),*) };
        match code {
            0 => Ok(()),
            code => Err(Failed { call: $symbols::$name, code }),
        }
    }};
}

mod partitioning;

impl Driver {
    /// Loads and initialises the driver, once for the process. `ordinal` is the number of the
    /// requested GPU.
    pub(super) fn load(ordinal: u32) -> Result<&'static Self, CudaError> {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        if let Some(driver) = DRIVER.get() {
            return Ok(driver);
        }
        let driver = Self::find(ordinal)?;
        Ok(DRIVER.get_or_init(|| driver))
    }

    fn find(ordinal: u32) -> Result<Self, CudaError> {
        let library = ["libcuda.so.1", "libcuda.so"].into_iter().find_map(|name| {
            // SAFETY: every user of CUDA loads its driver in this way; NVIDIA is responsible for
            // the code that runs on loading.
            unsafe { Library::new(name) }.ok()
        });
        let library = library.ok_or(CudaError::NoDriver)?;
        let functions = Functions::find(&library)?;
        for symbol in NEEDED_BY_CUDARC {
            // SAFETY: the symbol is looked up and not used.
            let found = unsafe { library.get::<*const c_void>(symbol.as_bytes()) };
            if found.is_err() {
                return Err(CudaError::MissingSymbol { symbol });
            }
        }
        // SAFETY: the type is the function's in cuda.h, and the library stays loaded as long as `driver`.
        let instance_uuid = unsafe { library.get::<InstanceUuid>(INSTANCE_UUID.as_bytes()) };
        let instance_uuid = instance_uuid.ok().map(|function| *function);
        let partitioning = Partitioning::find(&library).ok();
        let mut driver = Self {
            functions,
            instance_uuid,
            partitioning,
            version: 0,
            _library: library,
        };
        let mut version = 0;
        call!(driver, driver_version(&raw mut version))
            .map_err(CudaError::driver(None, ordinal))?;
        if version < MIN_DRIVER {
            return Err(CudaError::TooOld {
                version: version_text(version),
            });
        }
        call!(driver, init(0)).map_err(CudaError::driver(Some(&driver), ordinal))?;
        driver.version = version;
        Ok(driver)
    }

    /// Returns the version of CUDA that the driver supports, as in `12.4`.
    pub(super) fn version(&self) -> String {
        version_text(self.version)
    }

    /// Returns the name of a code, if the driver has one.
    pub(super) fn name_of(&self, code: Code) -> Option<String> {
        let mut name = ptr::null();
        call!(self, error_name(code, &raw mut name)).ok()?;
        if name.is_null() {
            return None;
        }
        // SAFETY: the driver returns a static text of its own that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) };
        Some(name.to_string_lossy().into_owned())
    }

    pub(super) fn device_count(&self) -> Called<c_int> {
        let mut count = 0;
        call!(self, device_count(&raw mut count))?;
        Ok(count)
    }

    pub(super) fn device(&self, ordinal: c_int) -> Called<c_int> {
        let mut device = 0;
        call!(self, device(&raw mut device, ordinal))?;
        Ok(device)
    }

    pub(super) fn device_name(&self, device: c_int) -> Called<String> {
        let mut name = [0_u8; 128];
        call!(self, device_name(name.as_mut_ptr().cast(), 127, device))?;
        let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Returns the UUID of the whole GPU.
    pub(super) fn device_uuid(&self, device: c_int) -> Called<[u8; 16]> {
        let mut uuid = [0; 16];
        call!(self, device_uuid(&raw mut uuid, device))?;
        Ok(uuid)
    }

    /// Returns the UUID of the GPU partition (MIG), if the device is one and the driver reports it.
    pub(super) fn instance_uuid(&self, device: c_int) -> Called<Option<[u8; 16]>> {
        let Some(function) = self.instance_uuid else {
            return Ok(None);
        };
        let mut uuid = [0; 16];
        // SAFETY: as in `call!`: the address is a local's.
        match unsafe { function(&raw mut uuid, device) } {
            0 => Ok(Some(uuid).filter(|uuid| self.device_uuid(device) != Ok(*uuid))),
            code => Err(Failed {
                call: INSTANCE_UUID,
                code,
            }),
        }
    }

    pub(super) fn device_attribute(&self, attribute: c_uint, device: c_int) -> Called<c_int> {
        let mut value = 0;
        call!(self, device_attribute(&raw mut value, attribute, device))?;
        Ok(value)
    }

    /// Retains the primary context of a device. It stays until it is released as often as it was
    /// retained.
    pub(super) fn retain_primary(&self, device: c_int) -> Called<Handle> {
        let mut context = ptr::null_mut();
        call!(self, retain_primary(&raw mut context, device))?;
        Ok(context)
    }

    pub(super) fn release_primary(&self, device: c_int) -> Called<()> {
        call!(self, release_primary(device))
    }

    pub(super) fn push(&self, context: Live<'_, kind::Context>) -> Called<()> {
        call!(self, push_context(context.handle()))
    }

    pub(super) fn pop(&self) -> Called<()> {
        let mut context = ptr::null_mut();
        call!(self, pop_context(&raw mut context))
    }

    pub(super) fn current(&self) -> Called<Handle> {
        let mut context = ptr::null_mut();
        call!(self, current_context(&raw mut context))?;
        Ok(context)
    }

    /// Runs `work`, which may change the current context, and restores the caller's context.
    ///
    /// A primary context can be made current even after its last user has released it.
    pub(super) fn keeping_current<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.current();
        let done = work();
        if let Ok(before) = before {
            let _nobody_to_tell = call!(self, set_context(before));
        }
        done
    }

    /// Sets how this thread and stream captures disturb each other, and returns the old setting.
    pub(super) fn exchange_capture_mode(&self, mode: c_uint) -> Called<c_uint> {
        let mut mode = mode;
        call!(self, exchange_capture_mode(&raw mut mode))?;
        Ok(mode)
    }

    pub(super) fn synchronize(&self) -> Called<()> {
        call!(self, synchronize_context())
    }

    /// Returns the lowest priority that a stream can have.
    pub(super) fn lowest_priority(&self) -> Called<c_int> {
        let (mut least, mut greatest) = (0, 0);
        call!(self, stream_priorities(&raw mut least, &raw mut greatest))?;
        Ok(least)
    }

    /// Returns the free and the total bytes of the current context's device.
    pub(super) fn memory_info(&self) -> Called<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        call!(self, memory_info(&raw mut free, &raw mut total))?;
        Ok((free as u64, total as u64))
    }

    pub(super) fn granularity(&self, properties: &Properties) -> Called<usize> {
        const MINIMUM: c_uint = 0;
        let mut bytes = 0;
        call!(self, granularity(&raw mut bytes, properties, MINIMUM))?;
        Ok(bytes)
    }

    pub(super) fn create(&self, bytes: usize, properties: &Properties) -> Called<Physical> {
        let mut handle = 0;
        call!(self, create(&raw mut handle, bytes, properties, 0))?;
        Ok(Physical::new(handle))
    }

    /// Releases the memory. Whether that succeeds or not, the handle is void: the driver refuses 0.
    pub(super) fn release(&self, memory: &mut Physical) -> Called<()> {
        let handle = memory.take();
        call!(self, release(handle))
    }

    pub(super) fn reserve(&self, bytes: usize) -> Called<u64> {
        let mut address = 0;
        call!(self, reserve(&raw mut address, bytes, 0, 0, 0))?;
        Ok(address)
    }

    pub(super) fn unreserve(&self, address: u64, bytes: usize) -> Called<()> {
        call!(self, unreserve(address, bytes))
    }

    pub(super) fn map(&self, address: u64, bytes: usize, memory: &Physical) -> Called<()> {
        call!(self, map(address, bytes, 0, memory.handle(), 0))
    }

    pub(super) fn unmap(&self, address: u64, bytes: usize) -> Called<()> {
        call!(self, unmap(address, bytes))
    }

    pub(super) fn set_access(
        &self,
        address: u64,
        bytes: usize,
        location: Location,
        flags: c_uint,
    ) -> Called<()> {
        let access = AccessOf::new(location, flags);
        call!(self, set_access(address, bytes, &raw const access, 1))
    }

    pub(super) fn access(&self, address: u64, location: Location) -> Called<u64> {
        let mut flags = 0;
        call!(self, access(&raw mut flags, &raw const location, address))?;
        Ok(flags)
    }

    /// Returns an attribute of an address, whose value has at most 8 bytes; missing bytes are 0.
    pub(super) fn pointer_attribute(&self, attribute: c_uint, address: u64) -> Called<u64> {
        let mut value = 0_u64;
        call!(
            self,
            pointer_attribute((&raw mut value).cast(), attribute, address)
        )?;
        Ok(value)
    }

    pub(super) fn allocate(&self, bytes: usize) -> Called<u64> {
        let mut address = 0;
        call!(self, allocate(&raw mut address, bytes))?;
        Ok(address)
    }

    pub(super) fn free(&self, address: u64) -> Called<()> {
        call!(self, free(address))
    }

    /// Allocates pinned host memory, which the device reads and writes by itself.
    pub(super) fn allocate_host(&self, bytes: usize) -> Called<*mut c_void> {
        const PORTABLE: c_uint = 1;
        let mut start = ptr::null_mut();
        call!(self, allocate_host(&raw mut start, bytes, PORTABLE))?;
        Ok(start)
    }

    /// # Safety
    /// `start` came from [`allocate_host`](Self::allocate_host), and neither the process nor the
    /// device uses it any more.
    pub(super) unsafe fn free_host(&self, start: *mut c_void) -> Called<()> {
        call!(self, free_host(start))
    }

    /// # Safety
    /// `from` is readable for `bytes` bytes, and not written to, until the stream has been waited
    /// for. `to` is memory of the GPU, or unmapped.
    pub(super) unsafe fn copy_to_device(
        &self,
        to: u64,
        from: *const c_void,
        bytes: usize,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        call!(self, copy_to_device(to, from, bytes, stream.handle()))
    }

    /// # Safety
    /// `to` is writable for `bytes` bytes, and not read, until the stream has been waited for.
    pub(super) unsafe fn copy_to_host(
        &self,
        to: *mut c_void,
        from: u64,
        bytes: usize,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        call!(self, copy_to_host(to, from, bytes, stream.handle()))
    }

    /// # Safety
    /// The address is memory of the GPU, or unmapped: no host memory is written to.
    pub(super) unsafe fn set(
        &self,
        address: u64,
        value: u8,
        bytes: usize,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        call!(self, set(address, value, bytes, stream.handle()))
    }

    /// Creates a stream that does not wait for the default stream.
    pub(super) fn create_stream(&self, priority: c_int) -> Called<Handle> {
        const NON_BLOCKING: c_uint = 1;
        let mut stream = ptr::null_mut();
        call!(self, create_stream(&raw mut stream, NON_BLOCKING, priority))?;
        Ok(stream)
    }

    pub(super) fn synchronize_stream(&self, stream: Live<'_, kind::Stream>) -> Called<()> {
        call!(self, synchronize_stream(stream.handle()))
    }

    pub(super) fn query_stream(&self, stream: Live<'_, kind::Stream>) -> Called<()> {
        call!(self, query_stream(stream.handle()))
    }

    /// # Safety
    /// The handle came from this driver, for a stream, and is not used any more.
    pub(super) unsafe fn destroy_stream(&self, stream: Handle) -> Called<()> {
        call!(self, destroy_stream(stream))
    }

    /// Creates an event that can be waited for without spinning.
    pub(super) fn create_event(&self) -> Called<Handle> {
        const BLOCKING_WITHOUT_TIMING: c_uint = 1 | 2;
        let mut event = ptr::null_mut();
        call!(self, create_event(&raw mut event, BLOCKING_WITHOUT_TIMING))?;
        Ok(event)
    }

    pub(super) fn record_event(
        &self,
        event: Live<'_, kind::Event>,
        stream: Live<'_, kind::Stream>,
    ) -> Called<()> {
        call!(self, record_event(event.handle(), stream.handle()))
    }

    pub(super) fn synchronize_event(&self, event: Live<'_, kind::Event>) -> Called<()> {
        call!(self, synchronize_event(event.handle()))
    }

    /// # Safety
    /// The handle came from this driver, for an event, and is not used any more.
    pub(super) unsafe fn destroy_event(&self, event: Handle) -> Called<()> {
        call!(self, destroy_event(event))
    }

    /// Loads a module of PTX.
    pub(super) fn load_module(&self, ptx: &CStr) -> Called<Handle> {
        let mut module = ptr::null_mut();
        call!(self, load_module(&raw mut module, ptx.as_ptr().cast()))?;
        Ok(module)
    }

    /// # Safety
    /// The handle came from this driver, for a module, and is not used any more.
    pub(super) unsafe fn unload_module(&self, module: Handle) -> Called<()> {
        call!(self, unload_module(module))
    }

    /// Returns a function of the module, which lives as long as the module.
    pub(super) fn function(&self, module: Live<'_, kind::Module>, name: &CStr) -> Called<Handle> {
        let mut function = ptr::null_mut();
        call!(
            self,
            function(&raw mut function, module.handle(), name.as_ptr())
        )?;
        Ok(function)
    }

    /// Launches `blocks` blocks of `threads` threads.
    ///
    /// # Safety
    /// `parameters` has, for each of the kernel's parameters, the address of a value of its size.
    pub(super) unsafe fn launch(
        &self,
        function: Live<'_, kind::Function>,
        blocks: u32,
        threads: u32,
        stream: Live<'_, kind::Stream>,
        parameters: &mut [*mut c_void],
    ) -> Called<()> {
        call!(
            self,
            launch(
                function.handle(),
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream.handle(),
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        )
    }

    pub(super) fn blocks_per_multiprocessor(
        &self,
        function: Live<'_, kind::Function>,
        threads: c_int,
    ) -> Called<c_int> {
        let mut blocks = 0;
        call!(
            self,
            blocks_per_multiprocessor(&raw mut blocks, function.handle(), threads, 0)
        )?;
        Ok(blocks)
    }
}

/// Formats a version: 12040 is 12.4.
fn version_text(version: c_int) -> String {
    let (major, minor) = (version / 1000, version % 1000 / 10);
    format!("{major}.{minor}")
}
