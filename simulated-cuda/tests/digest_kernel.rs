//! The kernel that ships, interpreted: its digests against an implementation that shares nothing with it.

mod support;

use simulated_cuda::ptx::{Launch, Module};
use support::digest::{BLOCK, PTX, cases, expected};
use support::{Flat, random};

#[test]
fn every_launch_writes_the_digests_of_its_blocks() {
    let module = Module::parse(PTX).unwrap();
    for case in cases() {
        let start = std::time::Instant::now();
        let case = case();
        let name = case.name;
        case.run(&module).unwrap();
        eprintln!("{name}: {:?}", start.elapsed());
    }
}

#[test]
fn four_mebibytes_are_hashed_and_the_rate_is_printed() {
    let module = Module::parse(PTX).unwrap();
    let (mut memory, range) = (Flat::new(), random(1 << 22, 7));
    let blocks = range.len() / BLOCK;
    let table = [memory.add(&range), range.len() as u64, 0];
    let table: Vec<u8> = table.iter().flat_map(|word| word.to_le_bytes()).collect();
    let (table, out) = (memory.add(&table), memory.add(&vec![0xee; blocks * 32]));
    let params = [table, 1 | (blocks as u64) << 32, out];
    let params: Vec<u8> = params.iter().flat_map(|word| word.to_le_bytes()).collect();
    let launch = Launch {
        kernel: &module.kernels[0],
        grid: [8, 1, 1],
        block: [128, 1, 1],
        params: &params,
        variables: &[],
        branches: 1 << 32,
        corruption: None,
    };
    let start = std::time::Instant::now();
    launch.run(&memory).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{:.1} MB/s", range.len() as f64 / seconds / 1e6);
    assert_eq!(memory.read(out, blocks * 32), expected(&range));
}
