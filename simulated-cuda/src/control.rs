//! The tests' side: loads the driver into the process, and talks to its controls.

mod alias;
mod child;
mod locate;

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub use child::{in_child, in_child_without};

use crate::device::Device;
use crate::wire::{Counters, DeviceWire, Direction, PageableReads, VERSION};

/// The simulated driver of this process. There is one, loaded for good, and every `Driver` is it.
#[derive(Clone, Copy, Debug)]
pub struct Driver(&'static Library);

/// A slice as the driver's side has it.
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

/// When an injected fault strikes, counted in calls of its function from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At every call.
    Always,
    /// At the call of that number; 1 is the next.
    Nth(u64),
}

/// What a fault leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: the next call is served.
    Goes,
    /// A lost context: every later call on it returns the same code.
    Stays,
}

/// A bit to be flipped in what a kernel stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFault {
    /// The first launch that is corrupted, counted from now on: 1 is the next.
    pub launch: u64,
    /// How many launches are.
    pub launches: u64,
    /// The thread, counted over all blocks; `None` is every one.
    pub thread: Option<u64>,
    /// Which of the thread's stores, from 0; each element of a vector is one.
    pub store: u64,
    /// Which bit of the element.
    pub bit: u32,
}

impl Driver {
    /// Loads the driver that cargo has built beside the test, so that who asks for `libcuda.so` or
    /// `libcuda.so.1` afterwards gets it. Tests that change its state belong [into a child](in_child).
    ///
    /// # Panics
    /// If there is no such library, or the process has a real driver already.
    pub fn load() -> Self {
        Self::load_without(&[])
    }

    /// The same, of a driver that lacks some entry points, as an old one does.
    ///
    /// # Panics
    /// The same, and if the library has no such symbol, or was loaded before.
    pub fn load_without(symbols: &[&str]) -> Self {
        static LOADED: OnceLock<Library> = OnceLock::new();
        assert!(
            LOADED.get().is_none() || symbols.is_empty(),
            "the driver is loaded, with all its symbols"
        );
        Self(LOADED.get_or_init(|| load(symbols)))
    }

    fn symbol<T: Copy>(self, name: &str) -> T {
        // SAFETY: the callers name functions of `driver/exports.rs`, with their types; `load` has checked
        // that both sides have the same version.
        let symbol = unsafe { self.0.get::<T>(name.as_bytes()) };
        *symbol.unwrap_or_else(|error| panic!("the simulated driver lacks {name}: {error}"))
    }

    /// Says which devices there will be; none is allowed. Before `cuInit` only.
    ///
    /// # Panics
    /// After `cuInit`.
    pub fn set_devices(self, devices: &[Device]) {
        let devices: Vec<DeviceWire> = devices.iter().map(Device::to_wire).collect();
        let set: extern "C" fn(Slice<DeviceWire>) -> u32 =
            self.symbol("simulated_cuda_set_devices");
        assert_eq!(
            set(Slice::of(&devices)),
            0,
            "devices are chosen before `cuInit`"
        );
    }

    /// Sets what `cuDriverGetVersion` answers: 12040 is 12.4. PTX newer than it is refused.
    pub fn set_driver_version(self, version: i32) {
        let set: extern "C" fn(i32) = self.symbol("simulated_cuda_set_driver_version");
        set(version);
    }

    /// Says when asynchronous copies to pageable host memory are carried out.
    pub fn set_pageable_reads(self, reads: PageableReads) {
        let set: extern "C" fn(u32) = self.symbol("simulated_cuda_set_pageable_reads");
        set(reads as u32);
    }

    /// Makes calls of a function fail with a code, which need not be one that CUDA knows. The name `*` is
    /// every function, so that each call of a story can be made to fail in turn. The names
    /// `execute:copy`, `execute:set` and `execute:kernel` make queued work fail when it is done; the
    /// context is lost by that in any case.
    pub fn fail(self, function: &str, when: When, code: u32, after: After) {
        type Fail = extern "C" fn(Slice<u8>, u64, u32, u32, u32);
        let (nth, every) = match when {
            When::Always => (1, 1),
            When::Nth(nth) => (nth, 0),
        };
        let fail: Fail = self.symbol("simulated_cuda_fail");
        fail(
            Slice::of(function.as_bytes()),
            nth,
            every,
            code,
            (after == After::Stays).into(),
        );
    }

    /// How many faults have not struck yet, flipped bits included; one that strikes at every call always
    /// counts. A test that ends with some has not tested what it meant to.
    pub fn pending_faults(self) -> usize {
        let pending: extern "C" fn() -> usize = self.symbol("simulated_cuda_pending_faults");
        pending()
    }

    /// Cancels every fault that has not struck, flipped bits included.
    pub fn clear_faults(self) {
        let clear: extern "C" fn() = self.symbol("simulated_cuda_clear_faults");
        clear();
    }

    /// Makes `cuDeviceGetAttribute` answer so. What the device can do does not change by it.
    pub fn set_attribute(self, device: u32, attribute: u32, value: i32) {
        let set: extern "C" fn(u32, u32, i32) = self.symbol("simulated_cuda_set_attribute");
        set(device, attribute, value);
    }

    /// Makes `cuPointerGetAttribute` and its plural answer so for every address that they know, and
    /// `cuMemGetAccess` too for attribute 16. What may be done with the memory does not change by it.
    pub fn set_pointer_attribute(self, attribute: u32, value: u64) {
        let set: extern "C" fn(u32, u64) = self.symbol("simulated_cuda_set_pointer_attribute");
        set(attribute, value);
    }

    /// Loses the context of a device with an error, at once.
    pub fn lose_context(self, device: u32, code: u32) {
        let lose: extern "C" fn(u32, u32) = self.symbol("simulated_cuda_lose_context");
        lose(device, code);
    }

    /// Flips a bit (modulo its length) of the `nth` copy in that direction, or memset, that is carried
    /// out from now on; 1 is the next.
    pub fn flip_copy(self, direction: Direction, nth: u64, bit: u64) {
        let flip: extern "C" fn(u32, u64, u64) = self.symbol("simulated_cuda_flip_copy");
        flip(direction as u32, nth, bit);
    }

    /// Flips bits of the byte at a device address, whatever its protection.
    ///
    /// # Panics
    /// If nothing is mapped there.
    pub fn flip_memory(self, address: u64, mask: u8) {
        let flip: extern "C" fn(u64, u8) -> u32 = self.symbol("simulated_cuda_flip_memory");
        assert_eq!(flip(address, mask), 0, "{address:#x} is not mapped");
    }

    /// Device memory as it is at this moment, whatever its protection; queued work is not done for it.
    ///
    /// # Panics
    /// If not all of it is mapped.
    pub fn peek(self, address: u64, len: usize) -> Vec<u8> {
        let peek: extern "C" fn(u64, *mut u8, usize) -> u32 = self.symbol("simulated_cuda_peek");
        let mut bytes = vec![0; len];
        assert_eq!(
            peek(address, bytes.as_mut_ptr(), len),
            0,
            "{address:#x} is not mapped"
        );
        bytes
    }

    /// Lets kernels compute wrongly.
    pub fn corrupt_kernels(self, fault: KernelFault) {
        let corrupt: extern "C" fn(u64, u64, u64, u64, u32) = self.symbol("simulated_cuda_corrupt");
        let thread = fault.thread.unwrap_or(u64::MAX);
        corrupt(fault.launch, fault.launches, thread, fault.store, fault.bit);
    }

    /// What there is, and what was done.
    pub fn counters(self) -> Counters {
        let counters: extern "C" fn() -> Counters = self.symbol("simulated_cuda_counters");
        counters()
    }

    /// How often an entry point was called, whether it failed or not.
    pub fn calls(self, function: &str) -> u64 {
        let calls: extern "C" fn(Slice<u8>) -> u64 = self.symbol("simulated_cuda_calls");
        calls(Slice::of(function.as_bytes()))
    }

    /// How often all entry points together were called.
    pub fn all_calls(self) -> u64 {
        let calls: extern "C" fn() -> u64 = self.symbol("simulated_cuda_all_calls");
        calls()
    }

    /// Does all queued work, as if time passed.
    pub fn run_all(self) {
        let run: extern "C" fn() = self.symbol("simulated_cuda_run_all");
        run();
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
        // SAFETY: if it is not loaded yet, it is a real driver, and loading that is what its users do.
        let found = unsafe { Library::open(Some(name), RTLD_NOW) };
        // SAFETY: the symbol is only looked for.
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
    // SAFETY: the type is that of `exports::simulated_cuda_version`, which never changes.
    let version = unsafe { library.get::<extern "C" fn() -> u32>(b"simulated_cuda_version") };
    let version = version.map(|version| version()).unwrap_or(0);
    let path = path.display();
    assert_eq!(
        version, VERSION,
        "{path} was built from other source than this test; build both again"
    );
}
