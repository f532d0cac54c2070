//! What several tests need: bytes that look random, and a memory without a driver.
#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::UnsafeCell;

use simulated_cuda::ptx::{Access, Memory, Window};

/// So many bytes, the same for the same seed (splitmix64).
pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes());
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// Pieces of memory, far from each other, all of which may be read and written.
#[derive(Default)]
pub struct Flat(Vec<(u64, Box<UnsafeCell<Vec<u8>>>)>);

impl Flat {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a piece, and returns its address.
    pub fn add(&mut self, bytes: &[u8]) -> u64 {
        let address = (1 << 62) + ((self.0.len() as u64) << 32);
        self.0.push((address, Box::new(UnsafeCell::new(bytes.to_vec()))));
        address
    }

    pub fn read(&mut self, address: u64, len: usize) -> Vec<u8> {
        let piece = self.0.iter_mut().find(|(start, _)| *start == address);
        piece.expect("a piece's address").1.get_mut()[..len].to_vec()
    }
}

// SAFETY: the vectors are never resized after `add`, nor borrowed while `self` is.
unsafe impl Memory for Flat {
    fn window(&self, address: u64, _: Access) -> Option<Window> {
        self.0.iter().find_map(|(start, piece)| {
            // SAFETY: nobody else has a reference to the vector: `add` and `read` borrow `self` mutably.
            let vector = unsafe { &mut *piece.get() };
            let len = vector.len() as u64;
            (address >= *start && address - start < len)
                .then(|| Window { start: *start, len, bytes: vector.as_mut_ptr() })
        })
    }
}
