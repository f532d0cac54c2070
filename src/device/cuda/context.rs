//! A GPU's primary context, and the objects in it: streams, events, pinned memory.
//!
//! Each call makes the context current, and restores the previous one afterwards. So calls may come
//! from any thread, and a caller that works with several devices keeps its own context. During a
//! call, the capture mode of the thread is relaxed, so that this crate and stream captures do not
//! disturb each other. A wait for the whole context still disturbs captures.
//!
//! A lost context (every call returns the error that lost it) is latched for all its users in this
//! process: no more calls go to it.

use std::ffi::{c_int, c_uint};
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaStream, DriverError};
use vram_trail::process;

use super::CudaError;
use super::code::{self, NOT_READY};
use super::driver::{Called, Driver, Failed, Handle, Live, kind};
use super::share::Partition;
use crate::device::DeviceError;

pub(super) struct Context {
    driver: &'static Driver,
    /// The primary context, as two cudarc values. Lent memory is made with the first, without
    /// events. Users see the second, where cudarc tracks the order of their own work.
    lending: ManuallyDrop<Arc<CudaContext>>,
    seen: ManuallyDrop<Arc<CudaContext>>,
    /// The stream for copies, and for the question whether the context is lost.
    copies: Handle,
    /// The latch of the device's primary context, shared by all values for the device.
    lost: Arc<Latch>,
}

/// The reason why a context is lost, once it is.
type Latch = OnceLock<Arc<str>>;

/// The latches in use, by the number of the device.
static LATCHES: Mutex<Vec<(usize, Weak<Latch>)>> = Mutex::new(Vec::new());

fn latch(ordinal: usize) -> Arc<Latch> {
    let mut latches = LATCHES.lock().unwrap_or_else(PoisonError::into_inner);
    latches.retain(|(_, latch)| latch.strong_count() > 0);
    let known = latches.iter().find(|(number, _)| *number == ordinal);
    known
        .and_then(|(_, latch)| latch.upgrade())
        .unwrap_or_else(|| {
            let latch = Arc::default();
            latches.push((ordinal, Arc::downgrade(&latch)));
            latch
        })
}

// SAFETY: `copies` is a handle of the driver, whose functions may be called from any thread, here
// always with the context current. No other field is bound to a thread.
unsafe impl Send for Context {}

// SAFETY: as above; the driver serialises operations on one handle.
unsafe impl Sync for Context {}

/// Keeps the context current for its lifetime.
struct Current<'a> {
    driver: &'a Driver,
    capture_mode: Option<c_uint>,
}

impl Context {
    /// Retains the primary context of a device.
    pub(super) fn open(
        driver: &'static Driver,
        ordinal: u32,
        device: c_int,
    ) -> Result<Self, CudaError> {
        const MEMORY_POOLS: c_uint = 115;
        let failed = CudaError::driver(Some(driver), ordinal);
        driver.current().map_err(&failed)?;
        // cudarc's result codes are a Rust enum, and a code without a name would be undefined
        // behaviour. So the calls that cudarc will make are made here first, with codes as plain
        // numbers. A failure most likely happens here, and cudarc's own calls have nothing left to
        // create.
        driver
            .device_attribute(MEMORY_POOLS, device)
            .map_err(&failed)?;
        driver.retain_primary(device).map_err(&failed)?;
        let contexts = driver.keeping_current(|| {
            let number = ordinal as usize;
            Ok((CudaContext::new(number)?, CudaContext::new(number)?))
        });
        let released = driver.release_primary(device);
        let (lending, seen) = contexts.map_err(|error: DriverError| {
            failed(Failed {
                call: "cuDevicePrimaryCtxRetain",
                code: error.0 as u32,
            })
        })?;
        // SAFETY: nothing is allocated or freed with this value. With tracking on, cudarc would
        // make events for lent memory, and panic if it cannot. Users of lent memory are waited for
        // by a wait for the whole context.
        unsafe { lending.disable_event_tracking() };
        let mut context = Self {
            driver,
            lending: ManuallyDrop::new(lending),
            seen: ManuallyDrop::new(seen),
            copies: std::ptr::null_mut(),
            lost: latch(ordinal as usize),
        };
        released.map_err(&failed)?;
        let copies = context.call(|driver| driver.create_stream(0));
        context.copies = copies.map_err(&failed)?;
        Ok(context)
    }

    pub(super) fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Returns a stream for lending memory.
    pub(super) fn lending(&self) -> Arc<CudaStream> {
        self.lending.default_stream()
    }

    /// Returns the stream that users see.
    pub(super) fn seen(&self) -> Arc<CudaStream> {
        self.seen.default_stream()
    }

    /// Returns the stream on which memory is copied and set.
    pub(super) fn copies(&self) -> Live<'_, kind::Stream> {
        // SAFETY: the driver made it in `open`, or it is null until then; it is destroyed with
        // `self`.
        unsafe { Live::new(self.copies) }
    }

    /// Returns the reason if the context is lost.
    pub(super) fn lost(&self) -> Option<&Arc<str>> {
        self.lost.get()
    }

    /// Runs `work` with the context current.
    pub(super) fn within<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Driver) -> Called<T>,
    ) -> Result<T, DeviceError> {
        process::check()?;
        if let Some(cause) = self.lost.get() {
            let cause = Arc::clone(cause);
            return Err(DeviceError::Broken { operation, cause });
        }
        self.call(work)
            .map_err(|failed| code::error(self.driver, operation, self.noticed(failed)))
    }

    /// Runs an allocation of `needed` bytes in the same way; running out of memory is an error of
    /// its own.
    pub(super) fn allocating<T>(
        &self,
        needed: u64,
        work: impl FnOnce(&Driver) -> Called<T>,
    ) -> Result<T, DeviceError> {
        process::check()?;
        if let Some(cause) = self.lost.get() {
            return Err(DeviceError::Broken {
                operation: "allocate",
                cause: Arc::clone(cause),
            });
        }
        self.call(work).map_err(|failed| {
            let failed = self.noticed(failed);
            self.call(|driver| Ok(code::allocation(driver, "allocate", needed, failed)))
                .unwrap_or_else(|failed| code::error(self.driver, "allocate", failed))
        })
    }

    /// Runs the compilation of the kernel by the driver in the same way.
    pub(super) fn compiling<T>(
        &self,
        work: impl FnOnce(&Driver) -> Called<T>,
    ) -> Result<T, CudaError> {
        process::check()?;
        self.call(work).map_err(|failed| {
            if code::is_about_compiling(failed.code) {
                let cause = code::text(Some(self.driver), failed);
                return CudaError::NotCompiled { cause };
            }
            code::error(self.driver, "load the kernel", self.noticed(failed)).into()
        })
    }

    /// Waits for all work in the context, of all its users.
    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        self.within("wait", Driver::synchronize)
    }

    fn call<T>(&self, work: impl FnOnce(&Driver) -> Called<T>) -> Called<T> {
        // SAFETY: cudarc has the primary context retained as long as `lending` lives.
        let context = unsafe { Live::new(self.lending.cu_ctx().cast()) };
        let _current = Current::enter(self.driver, context)?;
        work(self.driver)
    }

    /// Checks after a failure whether the context is lost, by querying an unrelated stream.
    fn noticed(&self, failed: Failed) -> Failed {
        if code::is_inconclusive(failed.code) || self.copies.is_null() {
            return failed;
        }
        let asked = self.call(|driver| driver.query_stream(self.copies()));
        if let Err(again) = asked
            && again.code != NOT_READY
            && !code::is_inconclusive(again.code)
        {
            let text = code::text(Some(self.driver), failed);
            let _first_cause_stays = self.lost.set(format!("the context is lost: {text}").into());
        }
        failed
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if process::check().is_err() {
            // The driver and its objects belong to the parent process.
            return;
        }
        if self.lost.get().is_some() {
            // A lost context is useless. cudarc would call the driver, which may answer with a code
            // that cudarc has no name for.
            return;
        }
        if !self.copies.is_null() {
            let copies = self.copies;
            let _nobody_to_tell = self.call(|driver| {
                // SAFETY: `open` made it, and `self`, which lends it, is being dropped.
                unsafe { driver.destroy_stream(copies) }
            });
        }
        self.driver.keeping_current(|| {
            // SAFETY: only this line drops it, and it is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.seen) };
            // SAFETY: as above.
            unsafe { ManuallyDrop::drop(&mut self.lending) };
        });
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("ordinal", &self.lending.ordinal())
            .field("lost", &self.lost.get())
            .finish_non_exhaustive()
    }
}

impl<'a> Current<'a> {
    fn enter(driver: &'a Driver, context: Live<'_, kind::Context>) -> Called<Self> {
        const RELAXED: c_uint = 2;
        driver.push(context)?;
        // Best effort: if the driver does not answer, captures and this crate may disturb each
        // other.
        let capture_mode = driver.exchange_capture_mode(RELAXED).ok();
        Ok(Self {
            driver,
            capture_mode,
        })
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if let Some(mode) = self.capture_mode {
            let _nobody_to_tell = self.driver.exchange_capture_mode(mode);
        }
        let _nobody_to_tell = self.driver.pop();
    }
}

/// A stream of this crate.
#[derive(Debug)]
pub(super) struct Stream {
    context: Arc<Context>,
    handle: Handle,
    /// Dropped after the stream.
    _held_to: Option<Arc<Partition>>,
}

// SAFETY: the handle is used with the context current, from any thread (see `Context`).
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>, priority: c_int) -> Result<Self, DeviceError> {
        let handle = context.within("create a stream", |driver| driver.create_stream(priority))?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
            _held_to: None,
        })
    }

    /// Takes over a stream that is restricted to a part of the multiprocessors.
    ///
    /// # Safety
    /// The driver made the stream in `to`, and no other code destroys it.
    pub(super) unsafe fn held(context: &Arc<Context>, handle: Handle, to: &Arc<Partition>) -> Self {
        Self {
            context: Arc::clone(context),
            handle,
            _held_to: Some(Arc::clone(to)),
        }
    }

    pub(super) fn handle(&self) -> Live<'_, kind::Stream> {
        // SAFETY: the driver made it for `self`, which keeps its context and destroys it on drop.
        unsafe { Live::new(self.handle) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let handle = self.handle;
        let _nobody_to_tell = self.context.within("destroy a stream", |driver| {
            // SAFETY: the driver made it for `self`, which is being dropped.
            unsafe { driver.destroy_stream(handle) }
        });
    }
}

/// An event in a stream that can be waited for.
#[derive(Debug)]
pub(super) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: the handle is used with the context current, from any thread (see `Context`).
unsafe impl Send for Event {}

impl Event {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let handle = context.within("create an event", Driver::create_event)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    pub(super) fn handle(&self) -> Live<'_, kind::Event> {
        // SAFETY: the driver made it for `self`, which keeps its context and destroys it on drop.
        unsafe { Live::new(self.handle) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let handle = self.handle;
        let _nobody_to_tell = self.context.within("destroy an event", |driver| {
            // SAFETY: the driver made it for `self`, which is being dropped.
            unsafe { driver.destroy_event(handle) }
        });
    }
}
