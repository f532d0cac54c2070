//! Register allocation: thousands of virtual registers share a few dozen places in the two files.
//! So the registers of a group of threads stay in the processor's nearest cache.
//!
//! This is a linear scan over intervals. A register's interval covers its first to its last use,
//! and every block of instructions that it lives through.

use super::instruction::{Inst, Op, Reg, Width};
use super::translate::Translated;

/// The places of a kernel's registers.
#[derive(Debug)]
pub(super) struct Allotted {
    pub insts: Vec<Inst>,
    /// The number of places in the file of words, and in the file of long words.
    pub words: usize,
    pub long_words: usize,
    /// The place of each fixed register, in the order of `Translated::fixed`.
    pub fixed: Vec<(Width, Reg)>,
}

pub(super) fn registers(kernel: &Translated) -> Allotted {
    let mut allotted = Allotted {
        insts: kernel.insts.clone(),
        words: 0,
        long_words: 0,
        fixed: Vec::new(),
    };
    let mut place = vec![Reg::MAX; kernel.widths.len()];
    for (register, _) in &kernel.fixed {
        let width = kernel.widths[*register as usize];
        let next = next_place(&mut allotted, width);
        place[*register as usize] = next;
        allotted.fixed.push((width, next));
    }
    let intervals = intervals(kernel, &place);
    let mut by_start: Vec<(u32, Interval)> = (0..)
        .zip(intervals)
        .filter(|(_, i)| i.start <= i.end)
        .collect();
    by_start.sort_by_key(|(_, interval)| interval.start);
    let mut live: Vec<(u32, Width, Reg)> = Vec::new(); // end, width, place
    let mut free: [Vec<Reg>; 2] = [Vec::new(), Vec::new()];
    for (register, interval) in by_start {
        // A result may reuse the place of a source at the source's last use.
        live.retain(|(end, width, place)| {
            let over = *end <= interval.start;
            if over {
                free[*width as usize].push(*place);
            }
            !over
        });
        let width = kernel.widths[register as usize];
        let chosen = match free[width as usize].pop() {
            Some(place) => place,
            None => next_place(&mut allotted, width),
        };
        place[register as usize] = chosen;
        live.push((interval.end, width, chosen));
    }
    for inst in &mut allotted.insts {
        let shape = inst.op.shape();
        for (field, width) in [
            (&mut inst.d, shape.d),
            (&mut inst.a, shape.a),
            (&mut inst.b, shape.b),
            (&mut inst.c, shape.c),
        ] {
            if width.is_some() {
                *field = place[*field as usize];
            }
        }
    }
    allotted
}

fn next_place(allotted: &mut Allotted, width: Width) -> Reg {
    let count = match width {
        Width::W32 => &mut allotted.words,
        Width::W64 => &mut allotted.long_words,
    };
    *count += 1;
    *count as Reg - 1
}

/// The instructions from first to last at which a register lives; empty if there are none. An
/// instruction reads at twice its number, and writes one later.
#[derive(Clone, Copy)]
struct Interval {
    start: u32,
    end: u32,
}

impl Interval {
    fn reach(&mut self, at: u32) {
        self.start = self.start.min(at);
        self.end = self.end.max(at);
    }
}

/// A run of instructions that is entered only at its first and left only at its last.
struct Block {
    first: usize,
    end: usize,
    next: Vec<usize>,
    /// Registers that are read before they are written, and registers that are written.
    reads: Set,
    writes: Set,
    live_in: Set,
    live_out: Set,
}

/// A set of registers, with one bit for each.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, register: Reg) -> bool {
        self.0[register as usize / 64] >> (register % 64) & 1 == 1
    }

    fn add(&mut self, register: Reg) {
        self.0[register as usize / 64] |= 1 << (register % 64);
    }

    fn each(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(index, bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| index * 64 + bit)
        })
    }
}

fn intervals(kernel: &Translated, fixed: &[Reg]) -> Vec<Interval> {
    let blocks = blocks(kernel, fixed);
    let mut intervals = vec![
        Interval {
            start: u32::MAX,
            end: 0
        };
        kernel.widths.len()
    ];
    for block in &blocks {
        for register in block.live_in.each() {
            intervals[register].reach(2 * block.first as u32);
        }
        for register in block.live_out.each() {
            intervals[register].reach(2 * block.end as u32);
        }
    }
    for (at, inst) in (0..).zip(&kernel.insts) {
        for register in reads(inst, fixed) {
            intervals[register as usize].reach(2 * at);
        }
        if let Some(register) = writes(inst) {
            // Reaches at least to the next instruction, even if the result is never read.
            intervals[register as usize].reach(2 * at + 1);
            intervals[register as usize].reach(2 * at + 2);
        }
    }
    intervals
}

fn reads(inst: &Inst, fixed: &[Reg]) -> impl Iterator<Item = Reg> {
    let shape = inst.op.shape();
    [(inst.a, shape.a), (inst.b, shape.b), (inst.c, shape.c)]
        .into_iter()
        .filter_map(|(register, width)| width.map(|_| register))
        .filter(|register| fixed[*register as usize] == Reg::MAX)
}

fn writes(inst: &Inst) -> Option<Reg> {
    inst.op.shape().d.map(|_| inst.d)
}

fn blocks(kernel: &Translated, fixed: &[Reg]) -> Vec<Block> {
    let len = kernel.insts.len();
    let mut starts = vec![false; len + 1];
    starts[0] = true;
    for (at, inst) in kernel.insts.iter().enumerate() {
        if matches!(inst.op, Op::Branch | Op::BranchIf | Op::BranchUnless) {
            starts[inst.imm as usize] = true;
            starts[at + 1] = true;
        }
    }
    let firsts: Vec<usize> = (0..len).filter(|at| starts[*at]).collect();
    let empty = Set(vec![0; kernel.widths.len().div_ceil(64)]);
    let mut blocks = Vec::with_capacity(firsts.len());
    for (index, first) in firsts.iter().copied().enumerate() {
        let end = firsts.get(index + 1).copied().unwrap_or(len);
        let mut block = Block {
            first,
            end,
            next: Vec::new(),
            reads: empty.clone(),
            writes: empty.clone(),
            live_in: empty.clone(),
            live_out: empty.clone(),
        };
        for inst in &kernel.insts[first..end] {
            for register in reads(inst, fixed) {
                if !block.writes.has(register) {
                    block.reads.add(register);
                }
            }
            if let Some(register) = writes(inst) {
                block.writes.add(register);
            }
        }
        let last = &kernel.insts[end - 1];
        let target = |inst: &Inst| firsts.binary_search(&(inst.imm as usize)).ok();
        match last.op {
            Op::Branch => block.next.extend(target(last)),
            Op::Ret | Op::Trap => {}
            op => {
                if index + 1 < firsts.len() {
                    block.next.push(index + 1);
                }
                if matches!(op, Op::BranchIf | Op::BranchUnless) {
                    block.next.extend(target(last));
                }
            }
        }
        blocks.push(block);
    }
    spread(&mut blocks);
    blocks
}

/// Propagates reads of a block back to every block that leads to it.
fn spread(blocks: &mut [Block]) {
    let mut changed = true;
    while changed {
        changed = false;
        for index in (0..blocks.len()).rev() {
            let mut out = blocks[index].live_out.clone();
            for next in &blocks[index].next {
                for (word, more) in out.0.iter_mut().zip(&blocks[*next].live_in.0) {
                    *word |= more;
                }
            }
            let block = &mut blocks[index];
            let mut into = block.reads.clone();
            for ((word, out), written) in into.0.iter_mut().zip(&out.0).zip(&block.writes.0) {
                *word |= out & !written;
            }
            changed |= into != block.live_in || out != block.live_out;
            block.live_in = into;
            block.live_out = out;
        }
    }
}
