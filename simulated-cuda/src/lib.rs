//! A CUDA driver for tests on machines without a GPU.
//!
//! It stands in for `libcuda.so`: a test loads it, and from then on everything in the process that asks
//! for the driver gets this one. Device memory is host memory at addresses that the host cannot reach,
//! kernels are the PTX that ships, interpreted, and the rest is as strict as CUDA's documentation allows:
//!
//! - Work in streams is done as late as possible: when a call waits for it. Whoever forgets to wait reads
//!   what was there before.
//! - Every access of copies, memsets and kernels is checked for bounds, mapping, permission and alignment.
//!   A bad one loses the context, as on a GPU: every later call on it returns the error. Contexts of other
//!   devices go on, as they do in practice; CUDA's documentation asks for a new process.
//! - Device memory is never fresh: it holds what its last owner left, the last one's first. Freed
//!   reservations are given out again as soon as possible.
//! - Calls fail, bits flip, kernels compute wrongly and the driver says what is not so when a test orders
//!   it, and what is done is counted.
//! - A fork of the process has no driver.
//!
//! A test runs in a process of its own, since the driver's state is the process's:
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
//! The package is built twice in one: as the library that is loaded (`driver/`), and as the crate that
//! tests use (`control/`). The two share the source of [`wire`] and no memory.
//!
//! What it does not have: contexts other than primary ones (and green ones, as far as their streams go), floating point, shared and local memory of
//! kernels, barriers and atomics, textures, allocations inside graphs, peer access, IPC. A host function of
//! a stream runs under the driver's lock, so it must not wait for a thread that calls the driver. Where the
//! real driver is known to be laxer than its documentation, this one follows the documentation.

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
