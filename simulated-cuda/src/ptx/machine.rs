//! Runs a translated kernel: `LANES` threads side by side, an instruction for all of them at a time, so
//! that the compiler can use the processor's vector instructions. Threads that go different ways wait for
//! each other where their ways meet: those at the lowest instruction go first.
//!
//! Knows of memory only what it asks [`Memory`] for, a window at a time, and checks every access against
//! the window it lies in.

mod access;
mod bits;
mod lanes;

use super::Kernel;
use super::instruction::{Axis, Fixed, Width};
use lanes::{Group, LANES};

/// What is to be run.
#[derive(Debug)]
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// All parameters' bytes, at the offsets that the kernel states.
    pub params: &'a [u8],
    /// The addresses of the module's variables.
    pub variables: &'a [u64],
    /// How many branches the launch may execute before it counts as hung.
    pub branches: u64,
    pub corruption: Option<Corruption>,
}

/// A kernel that computes wrongly: the value of one store of a thread has a bit flipped.
#[derive(Clone, Copy, Debug)]
pub struct Corruption {
    /// The thread, counted over all blocks; `u64::MAX` is every thread.
    pub thread: u64,
    /// Which of the thread's stores, counted from 0; each element of a vector is one.
    pub store: u64,
    pub bit: u32,
}

/// Why a launch ended before its threads did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An address that is not mapped, or not for this kind of access.
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

/// A piece of device memory that a kernel may access in one way.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first address on the device.
    pub start: u64,
    pub len: u64,
    /// Where its bytes are on the host.
    pub bytes: *mut u8,
}

/// The memory of a device.
///
/// # Safety
/// All `len` bytes from `bytes` on, of every window given, can be accessed in the way that was asked for
/// as long as the memory is borrowed, and no reference to them lives in that time.
pub unsafe trait Memory {
    /// The window around `address`, if it can be accessed so.
    fn window(&self, address: u64, access: Access) -> Option<Window>;
}

impl Launch<'_> {
    /// Runs all threads, one group after the other.
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

    /// What a fixed register holds in a thread.
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

/// The coordinate of the `index`th place of a box.
fn position(index: u64, sizes: [u32; 3], axis: Axis) -> u64 {
    let [x, y, _] = sizes.map(u64::from);
    match axis {
        Axis::X => index % x,
        Axis::Y => index / x % y,
        Axis::Z => index / x / y,
    }
}
