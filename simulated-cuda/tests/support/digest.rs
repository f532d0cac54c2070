//! Launches of the kernel that ships, and what each must write: every tail of a block, every shape of a
//! table of ranges and of a grid that the kernel's arithmetic treats in its own way, and numbers that need
//! all their bits. `digest_kernel.rs` runs the kernel through them, `mutants/` thousands of wrong ones.

use sha2::{Digest as _, Sha256};
use simulated_cuda::ptx::{Access, Launch, Module, Stop};

use super::{Flat, random};

pub const PTX: &str = include_str!("../../../src/device/cuda/digest.ptx");
pub const BLOCK: usize = 4096;

/// Blocks below one node of the tree.
const FAN_OUT: usize = 128;

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

/// One entry of the kernel's table.
struct Range {
    /// Where its bytes are.
    address: u64,
    len: u64,
    first_block: u32,
    is_root: u32,
}

/// How a launch must end.
#[derive(Debug, PartialEq)]
pub enum End {
    /// With these digests.
    Digests(Vec<u8>),
    /// With this access, beyond all memory.
    Fault { address: u64, access: Access },
}

/// One launch.
pub struct Case {
    pub name: &'static str,
    pub grid: u32,
    pub block: u32,
    ranges: u32,
    blocks: u32,
    memory: Flat,
    table: u64,
    out: u64,
    out_len: usize,
    expected: End,
}

impl Case {
    /// Over ranges that are given as their bytes; the 32 bytes of a root are passed on.
    fn of(name: &'static str, (grid, block): (u32, u32), inputs: &[Input]) -> Self {
        let (mut memory, mut ranges, mut digests) = (Flat::new(), Vec::new(), Vec::new());
        for input in inputs {
            let (bytes, is_root, digest) = match input {
                Input::Bytes(bytes) => (bytes, 0, expected(bytes)),
                // Whatever is not 0 says so.
                Input::Root(root) => (root, 0x100, root.clone()),
            };
            ranges.push(Range {
                address: memory.add_read_only(bytes),
                len: bytes.len() as u64,
                first_block: (digests.len() / 32) as u32,
                is_root,
            });
            digests.extend(digest);
        }
        let blocks = (digests.len() / 32) as u32;
        Self::over(
            name,
            (grid, block),
            memory,
            &ranges,
            blocks,
            End::Digests(digests),
        )
    }

    /// Over a table as it stands; there is room for the digests of 32 blocks, or for those expected.
    fn over(
        name: &'static str,
        (grid, block): (u32, u32),
        mut memory: Flat,
        ranges: &[Range],
        blocks: u32,
        expected: End,
    ) -> Self {
        let table: Vec<u8> = ranges.iter().flat_map(Range::bytes).collect();
        let table = memory.add_read_only(&table);
        let out_len = match &expected {
            End::Digests(digests) => digests.len(),
            End::Fault { .. } => 32 * 32,
        };
        let out = memory.add(&vec![0xee; out_len]);
        Self {
            name,
            grid,
            block,
            ranges: ranges.len() as u32,
            blocks,
            memory,
            table,
            out,
            out_len,
            expected,
        }
    }

    /// Launches the module's kernel. `Err` says what it did instead of what it must.
    pub fn run(mut self, module: &Module) -> Result<(), String> {
        let mut params = Vec::new();
        params.extend(self.table.to_le_bytes());
        params.extend(self.ranges.to_le_bytes());
        params.extend(self.blocks.to_le_bytes());
        params.extend(self.out.to_le_bytes());
        let launch = Launch {
            kernel: &module.kernels[0],
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            params: &params,
            variables: &[],
            // 66 for each of a block's 64 chunks, where its bytes are read one by one, and some more.
            branches: 10_000 + 3_000 * u64::from(self.blocks.min(1 << 10)),
            corruption: None,
        };
        let found = match launch.run(&self.memory) {
            Ok(()) => End::Digests(self.memory.read(self.out, self.out_len)),
            Err(Stop::Illegal {
                address, access, ..
            }) => End::Fault { address, access },
            Err(stop) => return Err(format!("{}: {stop:?}", self.name)),
        };
        if found == self.expected {
            return Ok(());
        }
        Err(match (&found, &self.expected) {
            (End::Digests(found), End::Digests(expected)) => {
                let wrong = found.chunks(32).zip(expected.chunks(32));
                let block = wrong.take_while(|(one, other)| one == other).count();
                format!("{}: block {block} is wrong", self.name)
            }
            (found, _) => format!("{}: {found:x?}", self.name),
        })
    }
}

impl Range {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend(self.address.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.first_block.to_le_bytes());
        bytes.extend(self.is_root.to_le_bytes());
        bytes
    }
}

/// Bytes that the kernel hashes, or the root of a tree that it passes on.
enum Input {
    Bytes(Vec<u8>),
    Root(Vec<u8>),
}

fn bytes(len: usize) -> Input {
    Input::Bytes(random(len, len as u64))
}

fn root(seed: u64) -> Input {
    Input::Root(random(32, seed))
}

/// All of them, those that take least time first.
pub fn cases() -> Vec<fn() -> Case> {
    vec![
        || Case::of("one byte", (1, 1), &[bytes(1)]),
        || Case::of("one root", (1, 1), &[root(1)]),
        || Case::of("two ranges", (2, 1), &[bytes(4096), root(2)]),
        first_block_with_its_highest_bit,
        || {
            more_blocks_than_a_signed_number_counts(
                "2^31 blocks and one, far apart",
                (1 << 24, 128),
            )
        },
        || more_blocks_than_a_signed_number_counts("2^31 blocks and one, in turn", (1, 32)),
        more_ranges_than_a_signed_number_counts,
        far_into_a_range,
        || left("4 GiB and 5 bytes are left", (1 << 32) + 5),
        || left("2^63 and 5 bytes are left", (1 << 63) + 5),
        || mixed("one thread", (1, 1)),
        || mixed("as many threads as blocks", (3, 4)),
        || mixed("one thread less", (1, 11)),
        || mixed("blocks of one thread", (40, 1)),
        || mixed("threads that loop", (2, 3)),
        || mixed("more threads than a group", (3, 33)),
        tails,
        || window("a window less one block", (FAN_OUT - 1) * BLOCK),
        || window("a window less one byte", FAN_OUT * BLOCK - 1),
        || window("a window", FAN_OUT * BLOCK),
        || window("a window and one byte", FAN_OUT * BLOCK + 1),
    ]
}

/// Every tail of a block, each in a range of its own, with roots between them.
fn tails() -> Case {
    let lens = (1..=129).chain(BLOCK - 65..=BLOCK + 65);
    let inputs: Vec<Input> = lens
        .flat_map(|len| {
            let root = len.is_multiple_of(7).then(|| root(len as u64));
            root.into_iter().chain([bytes(len)])
        })
        .collect();
    Case::of("every tail", (1, 128), &inputs)
}

/// 12 blocks: ranges that begin at odd and even numbers, roots first, last, and beside each other.
fn mixed(name: &'static str, grid: (u32, u32)) -> Case {
    let inputs = [
        root(1),
        bytes(64),
        bytes(8193),
        root(2),
        root(3),
        bytes(4096),
        bytes(100),
        bytes(4097),
        root(4),
    ];
    Case::of(name, grid, &inputs)
}

/// A range of about a window between two of a byte.
fn window(name: &'static str, len: usize) -> Case {
    Case::of(name, (1, 96), &[bytes(1), bytes(len), bytes(2)])
}

/// The second of two ranges begins so late that its number looks negative.
fn first_block_with_its_highest_bit() -> Case {
    let mut memory = Flat::new();
    let ranges = [(random(32, 1), 0), (random(32, 2), 1 << 31)].map(|(root, first_block)| Range {
        address: memory.add_read_only(&root),
        len: 32,
        first_block,
        is_root: 1,
    });
    let expected = End::Digests(random(32, 1));
    Case::over(
        "a first block of 2^31",
        (1, 1),
        memory,
        &ranges,
        1,
        expected,
    )
}

/// 32 threads write the same root. Those of the first case go on 2^31 blocks further, and those of the
/// second 32; both find no memory there.
fn more_blocks_than_a_signed_number_counts(name: &'static str, grid: (u32, u32)) -> Case {
    let mut memory = Flat::new();
    let address = memory.add_read_only(&random(32, 1));
    let range = Range {
        address,
        len: 32,
        first_block: 0,
        is_root: 1,
    };
    let stride = u64::from(grid.0) * u64::from(grid.1);
    let nowhere = End::Fault {
        address: 0,
        access: Access::Write,
    };
    let mut case = Case::over(name, grid, memory, &[range], (1 << 31) + 1, nowhere);
    case.expected = End::Fault {
        address: case.out + 32 * stride,
        access: Access::Write,
    };
    case
}

/// The same with a range that is hashed: its bytes end before 8 TiB.
fn far_into_a_range() -> Case {
    let mut memory = Flat::new();
    let address = memory.add_read_only(&random(32 * BLOCK, 1));
    let range = Range {
        address,
        len: 1 << 60,
        first_block: 0,
        is_root: 0,
    };
    let expected = End::Fault {
        address: address + ((BLOCK as u64) << 31),
        access: Access::Read,
    };
    Case::over(
        "8 TiB into a range",
        (1 << 24, 128),
        memory,
        &[range],
        (1 << 31) + 1,
        expected,
    )
}

/// A table of which only the entries exist that a search for its last one reads.
fn more_ranges_than_a_signed_number_counts() -> Case {
    let mut memory = Flat::new();
    let root = random(32, 1);
    let range = Range {
        address: memory.add_read_only(&root),
        len: 32,
        first_block: 0,
        is_root: 1,
    };
    let expected = End::Digests(root.clone());
    let mut case = Case::over("2^32 ranges less one", (1, 1), memory, &[], 1, expected);
    case.ranges = u32::MAX; // half of it looks negative, too
    case.table = (1 << 62) + (1 << 48) + 8;
    let mut low = 0;
    while case.ranges - low > 1 {
        low += (case.ranges - low) / 2;
        // Whoever stops the search too early reads no root.
        let is_last = low == case.ranges - 1;
        let address = if is_last { range.address } else { 0 };
        let bytes = Range { address, ..range }.bytes();
        let entry = case.table + 24 * u64::from(low);
        case.memory.place(entry, &bytes, false);
    }
    case
}

/// One block of a range that says it is longer than any memory.
fn left(name: &'static str, len: u64) -> Case {
    let mut memory = Flat::new();
    let block = random(BLOCK, 1);
    let range = Range {
        address: memory.add_read_only(&block),
        len,
        first_block: 0,
        is_root: 0,
    };
    let expected = End::Digests(expected(&block));
    Case::over(name, (1, 1), memory, &[range], 1, expected)
}
