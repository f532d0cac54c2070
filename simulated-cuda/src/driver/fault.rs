//! Faults that a test has ordered: failing calls, and wrong copies and kernels.
//!
//! This module knows names and numbers of calls; it does not know what they do.

use crate::ptx::Corruption;
use crate::wire::Direction;

use super::code::Code;

/// The name for every entry point.
const ANY: &str = "*";

/// The prefix of the names of executed work, in contrast to calls.
const EXECUTE: &str = "execute:";

/// A call that must fail.
#[derive(Debug)]
struct Ordered {
    function: String,
    /// The number of calls that pass before the fault strikes.
    passes: u64,
    every: bool,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub code: Code,
    /// Whether the fault also loses the context.
    pub sticky: bool,
}

/// A bit flip in a copy.
#[derive(Debug)]
struct Flip {
    direction: Direction,
    passes: u64,
    bit: u64,
}

/// A flip of some bits of a byte of device memory, after a copy.
#[derive(Debug)]
struct Behind {
    direction: Direction,
    passes: u64,
    address: u64,
    mask: u8,
}

#[derive(Debug, Default)]
pub struct Faults {
    ordered: Vec<Ordered>,
    flips: Vec<Flip>,
    behind: Vec<Behind>,
    /// The number of launches that pass, the number of corrupted launches, and the corruption.
    corruptions: Vec<(u64, u64, Corruption)>,
}

impl Faults {
    pub const fn new() -> Self {
        Self {
            ordered: Vec::new(),
            flips: Vec::new(),
            behind: Vec::new(),
            corruptions: Vec::new(),
        }
    }

    /// Orders a fault for the `nth` call from now on (the next is 1), or with `every` for each call
    /// from that one on.
    pub fn order(&mut self, function: String, nth: u64, every: bool, fault: Fault) {
        self.ordered.push(Ordered {
            function,
            passes: nth.saturating_sub(1),
            every,
            fault,
        });
    }

    /// Returns the number of faults that have not struck, or that strike at every call.
    pub fn pending(&self) -> usize {
        self.ordered.len() + self.flips.len() + self.behind.len() + self.corruptions.len()
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Counts a call, and returns the fault that strikes it, if any.
    pub fn strike(&mut self, function: &str) -> Option<Fault> {
        let mut struck = None;
        self.ordered.retain_mut(|ordered| {
            let is_meant = ordered.function == function
                || ordered.function == ANY && !function.starts_with(EXECUTE);
            if !is_meant || struck.is_some() {
                return true;
            }
            if ordered.passes > 0 {
                ordered.passes -= 1;
                return true;
            }
            struck = Some(ordered.fault);
            ordered.every
        });
        struck
    }

    /// Flips bit `bit` (modulo the copy's length) of the `nth` copy from now on.
    pub fn flip(&mut self, direction: Direction, nth: u64, bit: u64) {
        self.flips.push(Flip {
            direction,
            passes: nth.saturating_sub(1),
            bit,
        });
    }

    /// Returns the bit to flip in the next copy of `bytes` bytes.
    pub fn flip_of(&mut self, direction: Direction, bytes: usize) -> Option<u64> {
        let mut flipped = None;
        self.flips.retain_mut(|flip| {
            if flip.direction != direction || flipped.is_some() {
                return true;
            }
            if flip.passes > 0 {
                flip.passes -= 1;
                return true;
            }
            flipped = Some(flip.bit % (8 * bytes as u64).max(1));
            false
        });
        flipped
    }

    /// Flips bits of the byte at `address` after the `nth` copy from now on.
    pub fn flip_behind(&mut self, direction: Direction, nth: u64, address: u64, mask: u8) {
        self.behind.push(Behind {
            direction,
            passes: nth.saturating_sub(1),
            address,
            mask,
        });
    }

    /// Returns the byte and the bits to flip after a copy.
    pub fn behind(&mut self, direction: Direction) -> Option<(u64, u8)> {
        let mut flipped = None;
        self.behind.retain_mut(|behind| {
            if behind.direction != direction || flipped.is_some() {
                return true;
            }
            if behind.passes > 0 {
                behind.passes -= 1;
                return true;
            }
            flipped = Some((behind.address, behind.mask));
            false
        });
        flipped
    }

    /// Corrupts `count` launches, beginning with the `nth` from now on.
    pub fn corrupt(&mut self, nth: u64, count: u64, corruption: Corruption) {
        self.corruptions
            .push((nth.saturating_sub(1), count, corruption));
    }

    /// Returns the corruption of the next launch.
    pub fn corruption(&mut self) -> Option<Corruption> {
        let mut corruption = None;
        self.corruptions.retain_mut(|(passes, count, how)| {
            if *passes > 0 {
                *passes -= 1;
                return true;
            }
            if corruption.is_some() {
                return true;
            }
            corruption = Some(*how);
            *count = count.saturating_sub(1);
            *count > 0
        });
        corruption
    }
}
