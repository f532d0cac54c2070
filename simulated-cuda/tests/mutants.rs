//! Whether the tests of the kernel would notice if it were another: mutants of the PTX that ships.
//!
//! Each mutant differs from the kernel in one instruction: another operation, another register, an
//! immediate off by one, a predicate negated, or nothing at all in its place. It is run over the inputs
//! of `digest_kernel.rs`; whatever it writes that the kernel would not, or an access that it may not make,
//! or no end, is how it is noticed. What no input can tell from the kernel is no other kernel: such
//! mutants are listed below by the instruction they change, each with the reason.
//!
//! `MUTANTS=5000 cargo test -p simulated-cuda --test mutants -- --nocapture` is the long form;
//! `MUTANTS_SEED` begins elsewhere.

#[path = "support/kernel.rs"]
mod kernel;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use kernel::{BLOCK, Input, PTX, expected, run};
use simulated_cuda::ptx::Module;
use support::random;

/// Branches that no kernel needs for one of the inputs here.
const ENDLESS: u64 = 1 << 20;

#[test]
fn every_mutant_that_is_another_kernel_is_noticed() {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
    };
    let (count, seed) = (number("MUTANTS", 300), number("MUTANTS_SEED", 1));
    let mut numbers = Numbers(seed);
    let inputs = Inputs::new();
    assert!(
        inputs.tell(PTX).is_none(),
        "the kernel is not its own mutant"
    );
    let mutants: Vec<Mutant> = std::iter::repeat_with(|| Mutant::draw(&mut numbers))
        .flatten()
        .filter(|mutant| Module::parse(&mutant.ptx).is_ok())
        .take(count as usize)
        .collect();
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let noticed = inputs.tell(&mutant.ptx);
                    fates.lock().unwrap().push((mutant, noticed));
                }
            });
        }
    });
    let mut kinds: BTreeMap<&str, (u32, u32, u32)> = BTreeMap::new();
    let mut unnoticed = Vec::new();
    for (mutant, noticed) in fates.into_inner().unwrap() {
        let (drawn, caught, same) = kinds.entry(mutant.kind).or_default();
        *drawn += 1;
        match noticed {
            Some(_) => *caught += 1,
            None if mutant.is_no_other_kernel() => *same += 1,
            None => unnoticed.push(format!("{}: {}", mutant.kind, mutant.change)),
        }
    }
    println!("{count} mutants, MUTANTS_SEED={seed}");
    println!(
        "{:<24} {:>6} {:>8} {:>16}",
        "kind", "drawn", "noticed", "no other kernel"
    );
    for (kind, (drawn, caught, same)) in &kinds {
        println!("{kind:<24} {drawn:>6} {caught:>8} {same:>16}");
    }
    assert!(unnoticed.is_empty(), "unnoticed:\n{}", unnoticed.join("\n"));
    let caught: u32 = kinds.values().map(|(_, caught, _)| caught).sum();
    assert!(
        u64::from(caught) * 10 >= count * 9,
        "only {caught} of {count} can be told at all"
    );
}

/// A kernel that differs in one instruction.
struct Mutant {
    kind: &'static str,
    /// The number of the line, from 0.
    at: usize,
    /// The instruction before and after.
    change: String,
    ptx: String,
}

impl Mutant {
    /// None if the kind that was drawn does not fit the instruction that was.
    fn draw(numbers: &mut Numbers) -> Option<Self> {
        let lines: Vec<&str> = PTX.lines().collect();
        let instructions: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].starts_with('\t') && lines[*at].trim_end().ends_with(';'))
            .filter(|at| !lines[*at].trim_start().starts_with('.'))
            .collect();
        let at = instructions[numbers.below(instructions.len())];
        let before = lines[at].trim().trim_end_matches(';');
        let (kind, after) = match numbers.below(5) {
            0 => ("another operation", operation(before, numbers)?),
            1 => ("another register", register(before, numbers)?),
            2 => ("an immediate", immediate(before, numbers)?),
            3 => ("a predicate negated", negated(before)?),
            _ => ("nothing", String::new()),
        };
        let mut mutant = lines.clone();
        let line = format!("\t{after};");
        mutant[at] = if after.is_empty() { "" } else { &line };
        // What a register holds that nothing writes to is nobody's to say.
        let written: BTreeSet<&str> = mutant.iter().flat_map(|line| targets(line)).collect();
        let reads = |line: &&str| registers(line).all(|name| written.contains(name));
        if !mutant.iter().all(reads) {
            return None;
        }
        Some(Self {
            kind,
            at,
            change: format!("line {}: `{before}` -> `{after}`", at + 1),
            ptx: mutant.join("\n"),
        })
    }

    fn is_no_other_kernel(&self) -> bool {
        let (_, change) = self.change.split_once(": `").unwrap();
        let (before, after) = change
            .strip_suffix('`')
            .unwrap()
            .split_once("` -> `")
            .unwrap();
        if SAME
            .iter()
            .any(|(one, other, _why)| *one == before && *other == after)
        {
            return true;
        }
        if after.is_empty() {
            return self.is_repeated(before);
        }
        is_the_same(&Instruction::parse(before), &Instruction::parse(after))
    }

    /// Whether the instruction only does again what was done before it, on every way to it.
    fn is_repeated(&self, instruction: &str) -> bool {
        let lines: Vec<&str> = PTX.lines().collect();
        let earlier = lines[..self.at].iter().rev();
        let mut earlier = earlier.take_while(|line| !line.starts_with('$'));
        let last = earlier.find(|line| targets(line) == targets(instruction));
        last.is_some_and(|line| line.trim().trim_end_matches(';') == instruction)
    }
}

/// Changes that need an argument of their own.
const SAME: [(&str, &str, &str); 2] = [
    (
        "@%p2 bra \t$L__BB0_5",
        "",
        "with a single range, the search that this leaves out ends after one step, at that range",
    ),
    (
        "mov.u32 \t%r7882, 0",
        "mov.u32 \t%r7881, 0",
        "the one is 0 already, and the other is written again before it is read",
    ),
];

/// The registers that an instruction writes to.
fn targets(line: &str) -> Vec<&str> {
    let line = line.trim();
    let written = match line.split_once('}') {
        Some((vector, _)) => vector,
        None => line.split(',').next().unwrap_or(""),
    };
    if line.starts_with(['@', '.']) || line.starts_with("st.") {
        return Vec::new();
    }
    registers(written).collect()
}

fn registers(line: &str) -> impl Iterator<Item = &str> {
    // Not `%ntid.x` and its like, nor declarations, which have angle brackets.
    let line = if line.contains('<') { "" } else { line };
    line.split('%').skip(1).filter_map(|rest| {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let name = &rest[..end];
        name.ends_with(|c: char| c.is_ascii_digit()).then_some(name)
    })
}

/// Whether no input can tell the two instructions from each other, in the place of the first:
///
/// - The last block of SHA-256's padding is the same for every block of data, so its message schedule
///   is made of constants: an instruction on constants gives one number, and another instruction that
///   gives the same is the same.
/// - Adding 2^31 is subtracting it; adding nothing is, too.
/// - `(e & f) ^ (~e & g)` and `(a & (b ^ c)) ^ (b & c)`: no bit is in both, so *or* does what *exclusive
///   or* does.
/// - A zero is a zero, however far it is rotated.
/// - `shf.wrap` takes the lowest five bits of what it shifts by.
/// - `prmt` with the selector 0x0123 reads the first operand alone.
fn is_the_same(before: &Instruction<'_>, after: &Instruction<'_>) -> bool {
    let operands = || before.operands.iter().zip(&after.operands).skip(1);
    let constants = |of: &Instruction<'_>| -> Option<Vec<u32>> {
        of.operands
            .iter()
            .skip(1)
            .map(|operand| value(operand))
            .collect()
    };
    if before.operands.first() != after.operands.first() {
        return false;
    }
    let zeros = |of: &Instruction<'_>| {
        of.name.starts_with("shf.") && of.operands[1..3].iter().all(|it| value(it) == Some(0))
    };
    if zeros(before) && zeros(after) {
        return true;
    }
    if before.name == "mov.u32" && is_shift(before.operands[0]) {
        let by = |of: &Instruction<'_>| value(of.operands[1]).map(|by| by % 32);
        return after.name == "mov.u32" && by(before).is_some() && by(before) == by(after);
    }
    if let (Some(one), Some(other)) = (constants(before), constants(after)) {
        let result = before.apply(&one);
        return result.is_some() && result == after.apply(&other);
    }
    let is_half = |name: &str| matches!(value(name), Some(0 | 0x8000_0000));
    match (before.name, after.name) {
        ("add.s32", "sub.s32") | ("sub.s32", "add.s32") => is_half(before.operands[2]),
        ("xor.b32", "or.b32") => are_disjoint(before.operands[1], before.operands[2]),
        (one, other) if one == other => operands().enumerate().all(|(at, (one, other))| {
            let same = one == other || value(one).is_some_and(|it| value(other) == Some(it));
            same || (before.name == "prmt.b32" && at == 1)
        }),
        _ => false,
    }
}

/// Whether all that the register is read for is to be shifted by.
fn is_shift(register: &str) -> bool {
    let reads = PTX
        .lines()
        .map(|line| Instruction::parse(line.trim().trim_end_matches(';')));
    let mut reads = reads.filter(|it| it.operands[1..].contains(&register));
    reads.all(|it| it.name.starts_with("shf.") && !it.operands[1..3].contains(&register))
}

/// Whether one is the *and* of something that the other is the *and* of the complement of, or of the
/// difference of what the other is the *and* of.
fn are_disjoint(one: &str, other: &str) -> bool {
    let and = |name: &str| definition(name).filter(|it| it.name == "and.b32");
    let (Some(one), Some(other)) = (and(one), and(other)) else {
        return false;
    };
    let exclude = |one: &Instruction<'_>, other: &Instruction<'_>| {
        one.operands[1..].iter().any(|name| {
            definition(name).is_some_and(|it| match it.name {
                "not.b32" => other.operands[1..].contains(&it.operands[1]),
                "xor.b32" => {
                    let mut both = [it.operands[1], it.operands[2]];
                    let mut these = [other.operands[1], other.operands[2]];
                    both.sort_unstable();
                    these.sort_unstable();
                    both == these
                }
                _ => false,
            })
        })
    };
    exclude(&one, &other) || exclude(&other, &one)
}

#[derive(Clone)]
struct Instruction<'a> {
    name: &'a str,
    operands: Vec<&'a str>,
}

impl<'a> Instruction<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, operands) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        Self {
            name,
            operands: operands.split(',').map(str::trim).collect(),
        }
    }

    /// What it gives for these operands.
    fn apply(&self, of: &[u32]) -> Option<u32> {
        Some(match (self.name, of) {
            ("mov.u32", [a]) => *a,
            ("not.b32", [a]) => !a,
            ("add.s32", [a, b]) => a.wrapping_add(*b),
            ("sub.s32", [a, b]) => a.wrapping_sub(*b),
            ("and.b32", [a, b]) => a & b,
            ("or.b32", [a, b]) => a | b,
            ("xor.b32", [a, b]) => a ^ b,
            ("shl.b32", [a, b]) => a.checked_shl(*b).unwrap_or(0),
            ("shr.u32", [a, b]) => a.checked_shr(*b).unwrap_or(0),
            ("shr.s32", [a, b]) => (*a as i32 >> (*b).min(31)) as u32,
            ("shf.l.wrap.b32", [a, b, by]) if a == b => a.rotate_left(by % 32),
            ("shf.r.wrap.b32", [a, b, by]) if a == b => a.rotate_right(by % 32),
            _ => return None,
        })
    }
}

/// The only instruction that writes to the register, if there is just one.
fn definition(register: &str) -> Option<Instruction<'static>> {
    static DEFINITIONS: LazyLock<BTreeMap<&str, Vec<Instruction<'static>>>> = LazyLock::new(|| {
        let mut definitions: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for line in PTX.lines().map(|line| line.trim().trim_end_matches(';')) {
            let instruction = Instruction::parse(line);
            // A predicated instruction begins with its predicate, and is none that can be known.
            let target = instruction.operands[0].trim_start_matches('{');
            definitions.entry(target).or_default().push(instruction);
        }
        definitions
    });
    match DEFINITIONS.get(register)?.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// The number that an operand always is.
fn value(operand: &str) -> Option<u32> {
    static CONSTANTS: LazyLock<BTreeMap<&str, u32>> = LazyLock::new(|| {
        let mut constants = BTreeMap::new();
        // Whatever is written once is written before it is read.
        for line in PTX.lines() {
            let instruction = Instruction::parse(line.trim().trim_end_matches(';'));
            let target = instruction.operands[0];
            if definition(target).is_none() {
                continue;
            }
            let operands = instruction.operands[1..].iter();
            let operands: Option<Vec<u32>> = operands
                .map(|one| number(one).or_else(|| constants.get(one).copied()))
                .collect();
            if let Some(result) = operands.and_then(|operands| instruction.apply(&operands)) {
                constants.insert(target, result);
            }
        }
        constants
    });
    number(operand).or_else(|| CONSTANTS.get(operand).copied())
}

fn number(operand: &str) -> Option<u32> {
    operand.parse::<i64>().ok().map(|number| number as u32)
}

fn operation(before: &str, numbers: &mut Numbers) -> Option<String> {
    const SIBLINGS: [(&str, &[&str]); 14] = [
        ("add.s32", &["sub.s32"]),
        ("add.s64", &["sub.s64"]),
        ("sub.s32", &["add.s32"]),
        ("sub.s64", &["add.s64"]),
        ("xor.b32", &["or.b32", "and.b32"]),
        ("and.b32", &["or.b32", "xor.b32"]),
        ("or.b32", &["and.b32"]),
        ("shl.b32", &["shr.u32"]),
        ("shr.u32", &["shl.b32", "shr.s32"]),
        ("shf.l.wrap.b32", &["shf.r.wrap.b32"]),
        ("shf.r.wrap.b32", &["shf.l.wrap.b32"]),
        ("setp.lt.u32", &["setp.le.u32", "setp.ge.u32"]),
        ("setp.ge.u32", &["setp.gt.u32", "setp.lt.u32"]),
        ("setp.gt.u32", &["setp.ge.u32", "setp.le.u32"]),
    ];
    let (name, siblings) = SIBLINGS.iter().find(|(name, _)| before.contains(name))?;
    Some(before.replacen(name, siblings[numbers.below(siblings.len())], 1))
}

/// One register of the instruction becomes a neighbour of its class.
fn register(before: &str, numbers: &mut Numbers) -> Option<String> {
    let places: Vec<usize> = before
        .match_indices('%')
        .map(|(at, _)| at)
        .filter(|at| {
            let name = &before[at + 1..];
            ["r", "rd", "p", "rs"].iter().any(|class| {
                name.strip_prefix(class)
                    .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        })
        .collect();
    let at = *places.get(numbers.below(places.len().max(1)))?;
    let digits = at + before[at..].find(|c: char| c.is_ascii_digit())?;
    let end = before[digits..]
        .find(|c: char| !c.is_ascii_digit())
        .map_or(before.len(), |len| digits + len);
    let number: i64 = before[digits..end].parse().ok()?;
    let other = match numbers.below(4) {
        0 => number - 1,
        1 => number + 1,
        2 => number - 2,
        _ => number + 8,
    };
    (other > 0).then(|| format!("{}{other}{}", &before[..digits], &before[end..]))
}

/// The last number of the instruction, off by one or with one bit flipped.
fn immediate(before: &str, numbers: &mut Numbers) -> Option<String> {
    let end = before.trim_end_matches(']').len();
    let start = before[..end].rfind([' ', '+', '-'])? + 1;
    let number: i64 = before[start..end].parse().ok()?;
    let other = match numbers.below(3) {
        0 => number + 1,
        1 => number - 1,
        _ => number ^ (1 << numbers.below(12)),
    };
    Some(format!("{}{other}{}", &before[..start], &before[end..]))
}

fn negated(before: &str) -> Option<String> {
    before
        .strip_prefix("@!%")
        .map(|rest| format!("@%{rest}"))
        .or_else(|| before.strip_prefix("@%").map(|rest| format!("@!%{rest}")))
}

/// What the kernel is asked in the tests, and what it must answer.
struct Inputs {
    tails: Vec<(Vec<u8>, Vec<u8>)>,
    table: Vec<Vec<u8>>,
    two: [Vec<u8>; 2],
    root: [u8; 32],
}

impl Inputs {
    fn new() -> Self {
        let tails = (1..=129).chain(BLOCK - 65..=BLOCK + 65).rev().map(|len| {
            let range = random(len, len as u64);
            let digests = expected(&range);
            (range, digests)
        });
        let lens = [1, 4096, 4097, 64, 12_288, 100, 8191, 40_000, 16, 5];
        Self {
            tails: tails.collect(),
            table: lens.iter().map(|len| random(*len, *len as u64)).collect(),
            two: [random(5000, 5), random(4097, 6)],
            root: random(32, 3).try_into().unwrap(),
        }
    }

    /// How a kernel is told from the one that ships; none if it is not.
    fn tell(&self, ptx: &str) -> Option<String> {
        let module = match Module::parse(ptx) {
            Ok(module) => module,
            Err(refusal) => return Some(format!("{refusal:?}")),
        };
        let told = |inputs: &[Input<'_>], grid, block, expected: &[u8]| match run(
            &module, inputs, grid, block, ENDLESS,
        ) {
            Ok(found) if found == expected => None,
            Ok(_) => Some("other digests".to_owned()),
            Err(stop) => Some(format!("{stop:?}")),
        };
        let mut inputs: Vec<Input<'_>> =
            self.table.iter().map(|range| Input::Bytes(range)).collect();
        inputs.insert(4, Input::Root(&self.root));
        let mut all: Vec<Vec<u8>> = self.table.iter().map(|range| expected(range)).collect();
        all.insert(4, self.root.to_vec());
        let all = all.concat();
        for (grid, block) in [(40, 1), (1, 128), (2, 7), (1, 1), (3, 33)] {
            if let Some(how) = told(&inputs, grid, block, &all) {
                return Some(how);
            }
        }
        let two = self.two.each_ref().map(|range| Input::Bytes(range));
        let digests = self.two.each_ref().map(|range| expected(range)).concat();
        if let Some(how) = told(&two, 1, 32, &digests) {
            return Some(how);
        }
        self.tails
            .iter()
            .find_map(|(range, digests)| told(&[Input::Bytes(range)], 1, 32, digests))
    }
}

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}
