//! The test's side: loads the driver into the process, and calls its controls.

mod alias;
mod child;
mod locate;

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub use child::{in_child, in_child_without};

use crate::device::Device;
use crate::wire::{Counters, DeviceWire, Direction, PageableReads, VERSION};

/// The simulated driver of this process. There is one, loaded for ever, and all values refer to it.
#[derive(Clone, Copy, Debug)]
pub struct Driver(&'static Library);

/// A slice with the layout of the driver's side.
#[repr(C)]
struct Slice<T> {
    start: *const T,
    len: usize,
}

impl<T> Slice<T> {
    fn of(slice: &[T]) -> Self {
        Self {
            start: slice.as_ptr(),
            len: slice.len(),
        }
    }
}

/// Calls a control of the driver, as declared in `driver/exports.rs`.
macro_rules! control {
    ($driver:expr, $name:ident($($argument:expr => $type:ty),* $(,)?) $(-> $out:ty)?) => {{
        type Control = unsafe extern "C" fn($($type),*) $(-> $out)?;
        // SAFETY: the name and the type are those of `driver/exports.rs`.
        let control: Control = unsafe { $driver.symbol(stringify!($name)) };
        // SAFETY: slices are made of slices of Rust that live through the call, and the address of
        // a buffer comes with its length.
        unsafe { control($($argument),*) }
    }};
}

/// The time when an injected fault strikes, in calls of its function from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Every call.
    Always,
    /// The call with this number; 1 is the next.
    Nth(u64),
}

/// The state after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// No trace: the next call succeeds.
    Goes,
    /// A lost context: every later call on it returns the same code.
    Stays,
}

/// A bit flip in a value that a kernel stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFault {
    /// The first corrupted launch, counted from now on: 1 is the next.
    pub launch: u64,
    /// The number of corrupted launches.
    pub launches: u64,
    /// The thread, counted over all blocks; `None` means every thread.
    pub thread: Option<u64>,
    /// The number of the thread's store, from 0; each element of a vector is one store.
    pub store: u64,
    /// The bit of the element.
    pub bit: u32,
}

impl Driver {
    /// Loads the driver that cargo has built next to the test.
    ///
    /// Later requests for `libcuda.so` or `libcuda.so.1` get it. Tests that change its state belong
    /// [into a child](in_child).
    ///
    /// # Panics
    /// If there is no such library, or the process has a real driver already.
    pub fn load() -> Self {
        Self::load_without(&[])
    }

    /// Loads a driver that lacks some entry points, as an old one does.
    ///
    /// # Panics
    /// As [`load`](Self::load), and if the library has no such symbol or was loaded before.
    pub fn load_without(symbols: &[&str]) -> Self {
        static LOADED: OnceLock<Library> = OnceLock::new();
        assert!(
            LOADED.get().is_none() || symbols.is_empty(),
            "the driver is loaded, with all its symbols"
        );
        Self(LOADED.get_or_init(|| load(symbols)))
    }

    /// # Safety
    /// `T` is the type of the function with this name in `driver/exports.rs`.
    unsafe fn symbol<T: Copy>(self, name: &str) -> T {
        // SAFETY: by the contract; `load` has checked that both sides have the same version.
        let symbol = unsafe { self.0.get::<T>(name.as_bytes()) };
        *symbol.unwrap_or_else(|error| panic!("the simulated driver lacks {name}: {error}"))
    }

    /// Sets the devices; an empty slice is allowed. Works only before `cuInit`.
    ///
    /// # Panics
    /// After `cuInit`.
    pub fn set_devices(self, devices: &[Device]) {
        let devices: Vec<DeviceWire> = devices.iter().map(Device::to_wire).collect();
        let devices = Slice::of(&devices);
        assert_eq!(
            control!(self, simulated_cuda_set_devices(devices => Slice<DeviceWire>) -> u32),
            0,
            "devices are chosen before `cuInit`"
        );
    }

    /// Sets the answer of `cuDriverGetVersion`: 12040 is 12.4. Newer PTX is refused.
    pub fn set_driver_version(self, version: i32) {
        control!(self, simulated_cuda_set_driver_version(version => i32));
    }

    /// Sets when asynchronous copies to pageable host memory are executed.
    pub fn set_pageable_reads(self, reads: PageableReads) {
        control!(self, simulated_cuda_set_pageable_reads(reads as u32 => u32));
    }

    /// Makes calls of a function fail with a code, which CUDA need not know.
    ///
    /// The name `*` means every function, so that each call of a scenario can be made to fail in
    /// turn. The names `execute:copy`, `execute:set` and `execute:kernel` make queued work fail
    /// when it is executed; such a fault always loses the context.
    pub fn fail(self, function: &str, when: When, code: u32, after: After) {
        let (nth, every) = match when {
            When::Always => (1, 1),
            When::Nth(nth) => (nth, 0),
        };
        control!(
            self,
            simulated_cuda_fail(
                Slice::of(function.as_bytes()) => Slice<u8>,
                nth => u64,
                every => u32,
                code => u32,
                (after == After::Stays).into() => u32,
            )
        );
    }

    /// Returns the number of faults that have not struck yet, including bit flips.
    ///
    /// A fault that strikes at every call always counts. A test that ends with pending faults has
    /// not tested what it intended.
    pub fn pending_faults(self) -> usize {
        control!(self, simulated_cuda_pending_faults() -> usize)
    }

    /// Cancels every pending fault, including bit flips.
    pub fn clear_faults(self) {
        control!(self, simulated_cuda_clear_faults());
    }

    /// Sets the answer of `cuDeviceGetAttribute`. The device's abilities do not change.
    pub fn set_attribute(self, device: u32, attribute: u32, value: i32) {
        control!(self, simulated_cuda_set_attribute(device => u32, attribute => u32, value => i32));
    }

    /// Sets the answer of `cuPointerGetAttribute` and its plural, for every known address.
    ///
    /// Attribute 16 also sets the answer of `cuMemGetAccess`. The allowed access does not change.
    pub fn set_pointer_attribute(self, attribute: u32, value: u64) {
        control!(self, simulated_cuda_set_pointer_attribute(attribute => u32, value => u64));
    }

    /// Loses the context of a device with this error, immediately.
    pub fn lose_context(self, device: u32, code: u32) {
        control!(self, simulated_cuda_lose_context(device => u32, code => u32));
    }

    /// Flips a bit (modulo the length) of the `nth` executed copy in this direction, or memset,
    /// from now on; 1 is the next.
    pub fn flip_copy(self, direction: Direction, nth: u64, bit: u64) {
        control!(self, simulated_cuda_flip_copy(direction as u32 => u32, nth => u64, bit => u64));
    }

    /// Flips bits of the byte at a device address after the `nth` executed copy in this direction
    /// from now on; 1 is the next.
    pub fn flip_behind(self, direction: Direction, nth: u64, address: u64, mask: u8) {
        control!(
            self,
            simulated_cuda_flip_behind(
                direction as u32 => u32,
                nth => u64,
                address => u64,
                mask => u8,
            )
        );
    }

    /// Flips bits of the byte at a device address, whatever its protection.
    ///
    /// # Panics
    /// If the address is not mapped.
    pub fn flip_memory(self, address: u64, mask: u8) {
        let flipped = control!(self, simulated_cuda_flip_memory(address => u64, mask => u8) -> u32);
        assert_eq!(flipped, 0, "{address:#x} is not mapped");
    }

    /// Reads device memory as it is now, whatever its protection, without executing queued work.
    ///
    /// # Panics
    /// If not all of it is mapped.
    pub fn peek(self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let into = bytes.as_mut_ptr();
        let peeked = control!(
            self,
            simulated_cuda_peek(address => u64, into => *mut u8, len => usize) -> u32
        );
        assert_eq!(peeked, 0, "{address:#x} is not mapped");
        bytes
    }

    /// Makes kernels compute wrongly.
    pub fn corrupt_kernels(self, fault: KernelFault) {
        let thread = fault.thread.unwrap_or(u64::MAX);
        control!(
            self,
            simulated_cuda_corrupt(
                fault.launch => u64,
                fault.launches => u64,
                thread => u64,
                fault.store => u64,
                fault.bit => u32,
            )
        );
    }

    /// Returns the counts of existing objects and completed operations.
    pub fn counters(self) -> Counters {
        control!(self, simulated_cuda_counters() -> Counters)
    }

    /// Returns the number of calls of an entry point, failed ones included.
    pub fn calls(self, function: &str) -> u64 {
        let function = Slice::of(function.as_bytes());
        control!(self, simulated_cuda_calls(function => Slice<u8>) -> u64)
    }

    /// Returns the number of calls of all entry points together.
    pub fn all_calls(self) -> u64 {
        control!(self, simulated_cuda_all_calls() -> u64)
    }

    /// Executes all queued work, as if time passed.
    pub fn run_all(self) {
        control!(self, simulated_cuda_run_all());
    }
}

fn load(hidden: &[&str]) -> Library {
    let path = locate::library();
    let patched = locate::without(&path, hidden);
    // SAFETY: the library is this crate's own; loading it runs no code besides Rust's.
    let library = unsafe { Library::open(Some(&patched), RTLD_NOW | RTLD_GLOBAL) };
    let library =
        library.unwrap_or_else(|error| panic!("{} cannot be loaded: {error}", path.display()));
    if patched != path {
        let _ = std::fs::remove_file(&patched); // the mapping stays
    }
    check_version(&library, &path);
    alias::load();
    for name in ["libcuda.so", "libcuda.so.1"] {
        // SAFETY: if it is not loaded yet, it is a real driver, and every user of CUDA loads that.
        let found = unsafe { Library::open(Some(name), RTLD_NOW) };
        // SAFETY: the symbol is only looked up.
        let same = found
            .is_ok_and(|found| unsafe { found.get::<fn()>(b"simulated_cuda_version") }.is_ok());
        assert!(
            same,
            "`{name}` is not the simulated driver: is a real one loaded already?"
        );
    }
    library
}

fn check_version(library: &Library, path: &std::path::Path) {
    // SAFETY: the type matches `exports::simulated_cuda_version`, which never changes.
    let version = unsafe { library.get::<extern "C" fn() -> u32>(b"simulated_cuda_version") };
    let version = version.map(|version| version()).unwrap_or(0);
    let path = path.display();
    assert_eq!(
        version, VERSION,
        "{path} was built from other source than this test; build both again"
    );
}
