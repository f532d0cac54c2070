//! Runs a translated kernel: `LANES` threads side by side, one instruction for all of them at a
//! time. So the compiler can use the processor's vector instructions. Divergent threads wait for
//! each other where their paths meet: the threads at the lowest instruction go first.
//!
//! Memory is accessed through [`Memory`], a window at a time, and every access is checked against
//! its window.

mod access;
mod bits;
mod lanes;

use super::Kernel;
use super::instruction::{Axis, Fixed, Width};
use lanes::{Group, LANES};

/// A launch to run.
#[derive(Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// The bytes of all parameters, at the kernel's offsets.
    pub params: &'a [u8],
    /// The addresses of the module's variables.
    pub variables: &'a [u64],
    /// The maximum number of branches before the launch counts as hung.
    pub branches: u64,
    pub corruption: Option<Corruption>,
}

/// A corruption of a kernel: one store of a thread has a flipped bit.
#[derive(Clone, Copy, Debug)]
pub struct Corruption {
    /// The thread, counted over all blocks; `u64::MAX` means every thread.
    pub thread: u64,
    /// The number of the thread's store, counted from 0; each element of a vector is one store.
    pub store: u64,
    pub bit: u32,
}

/// The reason why a launch ended before its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The address is not mapped, or not for this kind of access.
    Illegal {
        address: u64,
        access: Access,
        line: u32,
    },
    Misaligned {
        address: u64,
        line: u32,
    },
    Timeout,
    Trap {
        line: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A range of device memory that a kernel may access in one way.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first address on the device.
    pub start: u64,
    pub len: u64,
    /// The first byte on the host.
    pub bytes: *mut u8,
}

/// The memory of a device.
///
/// # Safety
/// All `len` bytes from `bytes` on, of every returned window, can be accessed in the requested way
/// as long as the memory is borrowed. No reference to them lives in that time.
pub unsafe trait Memory {
    /// Returns the window around `address`, if it allows this access.
    fn window(&self, address: u64, access: Access) -> Option<Window>;
}

impl Launch<'_> {
    /// Runs all threads, one group after another.
    pub fn run(&self, memory: &dyn Memory) -> Result<(), Stop> {
        let mut group = Group::new(self, memory);
        for (width, place, fixed) in &self.kernel.fixed {
            if !varies(*fixed) {
                group.fill(*width, *place, |_| self.value(*fixed, *width, 0));
            }
        }
        let threads = self.threads();
        let mut first = 0;
        while first < threads {
            let count = (threads - first).min(LANES as u64) as usize;
            for (width, place, fixed) in &self.kernel.fixed {
                if varies(*fixed) {
                    group.fill(*width, *place, |lane| {
                        self.value(*fixed, *width, first + lane as u64)
                    });
                }
            }
            group.run(first, count)?;
            first += count as u64;
        }
        Ok(())
    }

    pub fn blocks(&self) -> u64 {
        product(self.grid)
    }

    fn threads(&self) -> u64 {
        self.blocks().saturating_mul(product(self.block))
    }

    /// Returns the value of a fixed register in a thread.
    fn value(&self, fixed: Fixed, width: Width, thread: u64) -> u64 {
        let in_block = thread % product(self.block);
        let block = thread / product(self.block);
        match fixed {
            Fixed::Number(number) => number,
            Fixed::BlockSize(axis) => self.block[axis as usize].into(),
            Fixed::GridSize(axis) => self.grid[axis as usize].into(),
            Fixed::ThreadId(axis) => position(in_block, self.block, axis),
            Fixed::BlockId(axis) => position(block, self.grid, axis),
            Fixed::Variable { number, offset } => {
                self.variables[number as usize].wrapping_add(offset)
            }
            Fixed::Param {
                offset,
                bytes,
                signed,
            } => {
                let bytes = &self.params[offset as usize..(offset + bytes) as usize];
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                let unused = 64 - 8 * bytes.len() as u32;
                let value = u64::from_le_bytes(value) << unused;
                let value = if signed {
                    ((value as i64) >> unused) as u64
                } else {
                    value >> unused
                };
                if width == Width::W32 {
                    value & 0xffff_ffff
                } else {
                    value
                }
            }
        }
    }
}

fn varies(fixed: Fixed) -> bool {
    matches!(fixed, Fixed::ThreadId(_) | Fixed::BlockId(_))
}

fn product(sizes: [u32; 3]) -> u64 {
    sizes.iter().fold(1, |product: u64, size| {
        product.saturating_mul(u64::from(*size))
    })
}

/// Returns a coordinate of the place with this index in a box.
fn position(index: u64, sizes: [u32; 3], axis: Axis) -> u64 {
    let [x, y, _] = sizes.map(u64::from);
    match axis {
        Axis::X => index % x,
        Axis::Y => index / x % y,
        Axis::Z => index / x / y,
    }
}
