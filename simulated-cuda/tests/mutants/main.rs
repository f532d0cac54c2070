//! Mutants of the kernel that ships: one instruction of its PTX made wrong in each, and the launches of
//! `support/digest.rs` run with every one of them. A mutant that computes something else must be noticed,
//! by a wrong digest, an access that must not be, or no end. One that cannot is recognised from the text,
//! with the reason (`equivalent.rs`); it is run as well, and must not be noticed. So a test that is missing
//! and a reason that is wrong both fail here.
//!
//! `kind.rs` says what is made wrong, and there is a known number of ways to. 100 mutants are run by
//! default, the kinds by turns, chosen by a seed that is printed:
//!
//! ```text
//! VRAM_MUTANTS=1000 VRAM_MUTANTS_SEED=7 cargo test -p simulated-cuda --test mutants -- --nocapture
//! ```
//!
//! With `VRAM_MUTANTS=1000000` it is all of them, in ten minutes on one core. For the PTX as it stands:
//!
//! | kind | noticed | equivalent |
//! |---|---|---|
//! | a comparison's boundary | 71 | 0 |
//! | an instruction left out | 4 827 | 4 |
//! | a number changed | 808 | 20 |
//! | an address beside the right one | 158 | 0 |
//! | another opcode | 9 327 | 1 928 |
//! | another register | 9 809 | 135 |
//! | a predicate turned round | 72 | 0 |
//! | a shift by one more or less | 2 662 | 60 |
//! | a sign where there is none | 187 | 144 |
//! | 64 bits cut to 32 | 19 | 2 |
//! | together | 27 940 | 2 293 |
//!
//! (One more is refused when it is loaded.) The reasons: 960 rotations that are clamped where they were
//! wrapped, by less than 32; 606 sums of words that share no bit, where `add`, `or` and `xor` are one; 572
//! instructions on constants of the last, padding block with the same result; 98 signs of numbers too small
//! to have one, or shifted out; 24 permutations that take no byte of the source that is another; 33 in
//! 13 smaller classes, which a run prints.
//!
//! The first runs of all found four holes, closed since: comparisons that took a first block, a number of
//! ranges or a number of blocks for signed ones, which matters from 2^31 on; and rotations by a register
//! that was never set, whose value happened to be right (13, the last bits of what the interpreter filled
//! registers with).
//!
//! A kernel that is compiled anew may bring other forms of the same. A mutant that survives is printed with
//! its line: it lacks a launch, or a reason.

mod equivalent;
mod kind;
mod program;
#[path = "../support/mod.rs"]
mod support;
mod values;

use std::collections::BTreeMap;

use kind::{KINDS, Kind};
use program::Program;
use simulated_cuda::ptx::Module;
use support::digest::{PTX, cases};
use support::random;

/// One instruction exchanged for other words.
struct Mutant {
    kind: Kind,
    instruction: usize,
    words: String,
}

/// What became of a mutant.
#[derive(Debug, PartialEq)]
enum Fate {
    /// What was wrong, at the first launch that showed it.
    Noticed(String),
    /// The module is not even loaded.
    Refused,
    Survived,
}

/// All mutants, those of each kind in an order that the seed gives, one of each kind by turns.
fn mutants(program: &Program<'_>, seed: u64) -> Vec<Mutant> {
    let mut ranked = Vec::new();
    for kind in KINDS {
        let all = (0..program.instructions.len()).flat_map(|instruction| {
            let mutants = kind.mutants(program, instruction).into_iter();
            mutants.map(move |words| Mutant {
                kind,
                instruction,
                words,
            })
        });
        let all: Vec<Mutant> = all.collect();
        let order = random(8 * all.len(), seed ^ kind as u64);
        let mut shuffled: Vec<(&[u8], Mutant)> = order.chunks(8).zip(all).collect();
        shuffled.sort_by(|one, other| one.0.cmp(other.0));
        let shuffled = shuffled.into_iter().map(|(_, mutant)| mutant);
        ranked.extend(shuffled.enumerate());
    }
    ranked.sort_by_key(|(rank, mutant)| (*rank, mutant.kind));
    ranked.into_iter().map(|(_, mutant)| mutant).collect()
}

fn fate(program: &Program<'_>, mutant: &Mutant) -> Fate {
    let line = program.instructions[mutant.instruction].line;
    let Ok(module) = Module::parse(&program.with(line, &mutant.words)) else {
        return Fate::Refused;
    };
    let complaint = cases().iter().find_map(|case| case().run(&module).err());
    complaint.map_or(Fate::Survived, Fate::Noticed)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

#[test]
fn every_mutant_of_the_kernel_that_computes_something_else_is_noticed() {
    let (count, seed) = (number("VRAM_MUTANTS", 100), number("VRAM_MUTANTS_SEED", 1));
    println!("VRAM_MUTANTS={count} VRAM_MUTANTS_SEED={seed}");
    let program = Program::parse(PTX);
    let values = values::Values::of(&program);
    let mut table: BTreeMap<Kind, [usize; 3]> = BTreeMap::new();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for mutant in mutants(&program, seed).iter().take(count as usize) {
        let instruction = &program.instructions[mutant.instruction];
        let changed = Program::parse(&mutant.words);
        let reason = equivalent::reason(&program, &values, mutant.instruction, &changed);
        let fate = fate(&program, mutant);
        let row = table.entry(mutant.kind).or_default();
        match (&fate, reason) {
            (Fate::Noticed(_), None) => row[0] += 1,
            (Fate::Survived, Some(reason)) => {
                row[1] += 1;
                *reasons.entry(reason).or_default() += 1;
            }
            (Fate::Refused, _) => row[2] += 1,
            _ => wrong.push(format!(
                "line {}, {:?}: `{}` -> `{}`: {fate:?}, {}",
                instruction.line + 1,
                mutant.kind,
                program.line(instruction.line),
                mutant.words.trim(),
                reason.unwrap_or("not known to be equivalent"),
            )),
        }
    }
    println!("{:10} noticed equivalent refused", "kind");
    for (kind, [noticed, equivalent, refused]) in &table {
        println!(
            "{:10} {noticed:7} {equivalent:10} {refused:7}",
            format!("{kind:?}")
        );
    }
    for (reason, count) in &reasons {
        println!("{count:5} equivalent: {reason}");
    }
    assert!(
        wrong.is_empty(),
        "{} mutants:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let noticed: usize = table.values().map(|row| row[0]).sum();
    assert!(
        noticed >= 20 || count < 40,
        "only {noticed} mutants computed something else"
    );
}
