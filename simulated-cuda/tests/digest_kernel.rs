//! The kernel that ships, interpreted: its digests against an implementation that shares nothing with it.

#[path = "support/kernel.rs"]
mod kernel;
mod support;

use kernel::{BLOCK, Input, digests, expected};
use support::random;

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

/// With two, the search for a block's range is as short as it can be.
#[test]
fn two_ranges_are_told_apart() {
    let (one, two) = (random(5000, 5), random(4097, 6));
    let found = digests(&[Input::Bytes(&one), Input::Bytes(&two)], 1, 32);
    assert_eq!(found, [expected(&one), expected(&two)].concat());
}

#[test]
fn a_root_is_passed_on_between_ranges_that_are_hashed() {
    let (one, two) = (random(5000, 1), random(64, 2));
    let root: &[u8; 32] = &random(32, 3).try_into().unwrap();
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
