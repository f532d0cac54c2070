//! Faults that a test has ordered: calls that fail, copies and kernels that go wrong. Knows names and
//! numbers of calls, and nothing of what they do.

use crate::ptx::Corruption;
use crate::wire::Direction;

use super::code::Code;

/// Stands for every entry point.
const ANY: &str = "*";

/// Begins the names of work that is done, as opposed to calls.
const EXECUTE: &str = "execute:";

/// A call that is to fail.
#[derive(Debug)]
struct Ordered {
    function: String,
    /// How many calls still pass before it strikes.
    passes: u64,
    every: bool,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub code: Code,
    /// Whether the context is lost with it.
    pub sticky: bool,
}

/// A bit to be flipped in a copy.
#[derive(Debug)]
struct Flip {
    direction: Direction,
    passes: u64,
    bit: u64,
}

/// Bits of a byte of device memory, to be flipped behind a copy.
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
    /// Launches that pass, launches that are corrupted, and how.
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

    /// From the `nth` call from now on (the next is 1): that call, or with `every` each one.
    pub fn order(&mut self, function: String, nth: u64, every: bool, fault: Fault) {
        self.ordered.push(Ordered {
            function,
            passes: nth.saturating_sub(1),
            every,
            fault,
        });
    }

    /// Faults that have not struck, and those that strike at every call.
    pub fn pending(&self) -> usize {
        self.ordered.len() + self.flips.len() + self.behind.len() + self.corruptions.len()
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Counts a call, and says how it is to fail, if it is.
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

    /// Flips bit `bit` (modulo the copy's length) of the `nth` copy from now.
    pub fn flip(&mut self, direction: Direction, nth: u64, bit: u64) {
        self.flips.push(Flip {
            direction,
            passes: nth.saturating_sub(1),
            bit,
        });
    }

    /// The bit to flip in a copy of `bytes` bytes that is about to be made.
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

    /// Flips bits of the byte at `address` behind the `nth` copy from now.
    pub fn flip_behind(&mut self, direction: Direction, nth: u64, address: u64, mask: u8) {
        self.behind.push(Behind {
            direction,
            passes: nth.saturating_sub(1),
            address,
            mask,
        });
    }

    /// The byte to flip, and its bits, behind a copy that was made.
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

    /// Corrupts `count` launches from the `nth` from now on.
    pub fn corrupt(&mut self, nth: u64, count: u64, corruption: Corruption) {
        self.corruptions
            .push((nth.saturating_sub(1), count, corruption));
    }

    /// How the launch that is about to be made is to be corrupted.
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
