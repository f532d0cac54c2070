//! The kernel that ships, or another in its place, run over byte ranges; and what it must give.
#![allow(dead_code, reason = "each test file uses a part")]

use sha2::{Digest as _, Sha256};
use simulated_cuda::ptx::{Launch, Module, Stop};

use crate::support::Flat;

pub const PTX: &str = include_str!("../../../src/device/cuda/digest.ptx");

pub const BLOCK: usize = 4096;

/// What the kernel must write for a range: the digest of each of its blocks, padded with zeros.
pub fn expected(range: &[u8]) -> Vec<u8> {
    range
        .chunks(BLOCK)
        .flat_map(|block| {
            let mut padded = [0; BLOCK];
            padded[..block.len()].copy_from_slice(block);
            Sha256::digest(padded)
        })
        .collect()
}

/// Bytes that the kernel hashes, or the root of a tree that it passes on.
pub enum Input<'a> {
    Bytes(&'a [u8]),
    Root(&'a [u8; 32]),
}

/// Runs the kernel over the ranges, each of which lies at a multiple of 16.
pub fn digests(ranges: &[Input<'_>], grid: u32, block: u32) -> Vec<u8> {
    let module = Module::parse(PTX).unwrap();
    run(&module, ranges, grid, block, 1 << 32).unwrap()
}

/// The same with another kernel, which may take so many branches.
pub fn run(
    module: &Module,
    ranges: &[Input<'_>],
    grid: u32,
    block: u32,
    branches: u64,
) -> Result<Vec<u8>, Stop> {
    let mut memory = Flat::new();
    let mut table = Vec::new();
    let mut blocks = 0_u32;
    for range in ranges {
        let (bytes, is_root) = match range {
            Input::Bytes(bytes) => (*bytes, 0_u32),
            Input::Root(root) => (&root[..], 1),
        };
        table.extend_from_slice(&memory.add(bytes).to_le_bytes());
        table.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        table.extend_from_slice(&blocks.to_le_bytes());
        table.extend_from_slice(&is_root.to_le_bytes());
        blocks += bytes.len().div_ceil(BLOCK) as u32;
    }
    let out = memory.add(&vec![0xee; blocks as usize * 32]);
    let table = memory.add(&table);
    let mut params = Vec::new();
    params.extend_from_slice(&table.to_le_bytes());
    params.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
    params.extend_from_slice(&blocks.to_le_bytes());
    params.extend_from_slice(&out.to_le_bytes());
    let launch = Launch {
        kernel: &module.kernels[0],
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        params: &params,
        variables: &[],
        branches,
        corruption: None,
    };
    launch.run(&memory)?;
    Ok(memory.read(out, blocks as usize * 32))
}
