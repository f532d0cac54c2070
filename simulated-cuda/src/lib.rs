//! A CUDA driver for tests on machines without a GPU.
//!
//! It replaces `libcuda.so`: once a test has loaded it, everything in the process that asks for the
//! driver gets this one. Device memory is host memory, at addresses that the host cannot access.
//! Kernels are the shipped PTX, interpreted. Everything else is as strict as CUDA's documentation
//! allows:
//!
//! - Work in streams is done as late as possible: when a call waits for it. Code that forgets to
//!   wait reads the old content.
//! - Every access of copies, memsets and kernels is checked for bounds, mapping, permission and
//!   alignment. A bad access loses the context, as on a GPU: every later call on it returns the
//!   error. Contexts of other devices continue, as they do in practice; CUDA's documentation asks
//!   for a new process.
//! - Device memory is never fresh: it holds the data of its last owner, most recently freed memory
//!   first. Freed reservations are reused as soon as possible.
//! - On a test's order, calls fail, bits flip, kernels compute wrongly, and the driver gives false
//!   answers. All operations are counted.
//! - A fork of the process has no driver.
//!
//! The driver's state belongs to the process, so each test runs in a process of its own:
//!
//! ```no_run
//! use simulated_cuda::{After, Device, When, in_child};
//!
//! #[test]
//! fn a_full_device_is_an_error() {
//!     in_child(|driver| {
//!         driver.set_devices(&[Device::numbered(0)]);
//!         driver.fail("cuMemCreate", When::Nth(2), 2, After::Goes);
//!         // ... what is tested, through cudarc or another binding ...
//!         assert_eq!(driver.counters().handles, 0, "a leak");
//!     });
//! }
//! ```
//!
//! The package is built twice: as the library to load (`driver/`), and as the crate that tests use
//! (`control/`). Both share the source of [`wire`] and no memory.
//!
//! Not supported:
//!
//! - contexts other than primary ones (and green ones, as far as their streams go), peer access,
//!   IPC
//! - kernels with floating point, shared or local memory, barriers, atomics or textures
//! - allocations inside graphs
//!
//! A host function of a stream runs under the driver's lock, so it must not wait for a thread that
//! calls the driver. Where the real driver is known to be laxer than its documentation, this driver
//! follows the documentation.

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
compile_error!("the simulated driver is loaded as glibc loads libraries, on Linux with 64 bits");

mod control;
mod device;
mod driver;
pub mod ptx;
pub mod wire;

pub use control::{After, Driver, KernelFault, When, in_child, in_child_without};
pub use device::Device;
pub use wire::{Counters, Direction, PageableReads};
