//! The kernel that ships, interpreted: its digests against an implementation that shares nothing with it.

mod support;

use sha2::{Digest as _, Sha256};
use simulated_cuda::ptx::{Launch, Module};
use support::{Flat, random};

const PTX: &str = include_str!("../../src/device/cuda/digest.ptx");
const BLOCK: usize = 4096;

/// What the kernel must write for a range: the digest of each of its blocks, padded with zeros.
fn expected(range: &[u8]) -> Vec<u8> {
    range
        .chunks(BLOCK)
        .flat_map(|block| {
            let mut padded = [0; BLOCK];
            padded[..block.len()].copy_from_slice(block);
            Sha256::digest(padded)
        })
        .collect()
}

/// Runs the kernel over the ranges, each of which lies at a multiple of 16.
fn digests(ranges: &[&[u8]], grid: u32, block: u32) -> Vec<u8> {
    let module = Module::parse(PTX).unwrap();
    let mut memory = Flat::new();
    let mut table = Vec::new();
    let mut blocks = 0_u64;
    for range in ranges {
        let address = memory.add(range);
        for field in [address, range.len() as u64, blocks] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        blocks += range.len().div_ceil(BLOCK) as u64;
    }
    let out = memory.add(&vec![0xee; blocks as usize * 32]);
    let table = memory.add(&table);
    let mut params = Vec::new();
    params.extend_from_slice(&table.to_le_bytes());
    params.extend_from_slice(&(ranges.len() as u64).to_le_bytes());
    params.extend_from_slice(&blocks.to_le_bytes());
    params.extend_from_slice(&out.to_le_bytes());
    let launch = Launch {
        kernel: &module.kernels[0],
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        params: &params,
        variables: &[0, 0],
        branches: 1 << 32,
        corruption: None,
    };
    launch.run(&memory).unwrap();
    memory.read(out, blocks as usize * 32)
}

#[test]
fn every_tail_of_a_block_is_padded() {
    for len in (1..=129).chain(BLOCK - 65..=BLOCK + 65) {
        let range = random(len, len as u64);
        assert_eq!(digests(&[&range], 1, 32), expected(&range), "{len} bytes");
    }
}

#[test]
fn ranges_in_one_table_are_hashed_one_behind_the_other() {
    let lens = [1, 4096, 4097, 64, 12_288, 100, 8191, 40_000, 16, 5];
    let ranges: Vec<Vec<u8>> = lens.iter().map(|len| random(*len, *len as u64)).collect();
    let slices: Vec<&[u8]> = ranges.iter().map(Vec::as_slice).collect();
    let expected: Vec<u8> = ranges.iter().flat_map(|range| expected(range)).collect();
    for (grid, block) in [(1, 128), (2, 7), (40, 1), (1, 1), (3, 33)] {
        assert_eq!(
            digests(&slices, grid, block),
            expected,
            "{grid} blocks of {block} threads"
        );
    }
}

#[test]
fn four_mebibytes_are_hashed_and_the_rate_is_printed() {
    let range = random(1 << 22, 7);
    let start = std::time::Instant::now();
    let digests = digests(&[&range], 8, 128);
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{:.1} MB/s", range.len() as f64 / seconds / 1e6);
    assert_eq!(digests, expected(&range));
}
