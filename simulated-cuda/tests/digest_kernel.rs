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

/// Bytes that the kernel hashes, or the root of a tree that it passes on.
enum Input<'a> {
    Bytes(&'a [u8]),
    Root(&'a [u8; 32]),
}

/// Runs the kernel over the ranges, each of which lies at a multiple of 16.
fn digests(ranges: &[Input<'_>], grid: u32, block: u32) -> Vec<u8> {
    let module = Module::parse(PTX).unwrap();
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
        let found = digests(&[Input::Bytes(&range)], 1, 32);
        assert_eq!(found, expected(&range), "{len} bytes");
    }
}

#[test]
fn ranges_in_one_table_are_hashed_one_behind_the_other() {
    let lens = [1, 4096, 4097, 64, 12_288, 100, 8191, 40_000, 16, 5];
    let ranges: Vec<Vec<u8>> = lens.iter().map(|len| random(*len, *len as u64)).collect();
    let inputs: Vec<Input<'_>> = ranges.iter().map(|range| Input::Bytes(range)).collect();
    let expected: Vec<u8> = ranges.iter().flat_map(|range| expected(range)).collect();
    for (grid, block) in [(1, 128), (2, 7), (40, 1), (1, 1), (3, 33)] {
        assert_eq!(
            digests(&inputs, grid, block),
            expected,
            "{grid} blocks of {block} threads"
        );
    }
}

#[test]
fn a_root_is_passed_on_between_ranges_that_are_hashed() {
    let (one, two, root) = (random(5000, 1), random(64, 2), &[7; 32]);
    let found = digests(
        &[Input::Bytes(&one), Input::Root(root), Input::Bytes(&two)],
        2,
        3,
    );
    assert_eq!(
        found,
        [expected(&one), root.to_vec(), expected(&two)].concat()
    );
}

#[test]
fn four_mebibytes_are_hashed_and_the_rate_is_printed() {
    let range = random(1 << 22, 7);
    let start = std::time::Instant::now();
    let digests = digests(&[Input::Bytes(&range)], 8, 128);
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{:.1} MB/s", range.len() as f64 / seconds / 1e6);
    assert_eq!(digests, expected(&range));
}
