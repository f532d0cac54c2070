//! What is known of the kernel's registers without running it: those that are the same number in every
//! thread, and which bits the others can have.

use std::collections::HashMap;

use crate::program::{Instruction, Program, class};

/// A register's bits that may be 1; and its value, where that never changes.
#[derive(Clone, Copy, Debug)]
pub struct Bits {
    pub maybe: u32,
    pub always: Option<u32>,
}

const UNKNOWN: Bits = Bits {
    maybe: u32::MAX,
    always: None,
};

impl Bits {
    fn number(value: u32) -> Self {
        Self {
            maybe: value,
            always: Some(value),
        }
    }

    fn within(maybe: u32) -> Self {
        Self {
            maybe,
            always: None,
        }
    }
}

/// The registers of 16 and 32 bits that one instruction sets, by name; others are unknown.
pub struct Values<'a> {
    known: HashMap<&'a str, Bits>,
    definitions: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Values<'a> {
    pub fn of(program: &'a Program<'a>) -> Self {
        let mut definitions: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, instruction) in program.instructions.iter().enumerate() {
            for register in instruction.results() {
                definitions.entry(register).or_default().push(index);
            }
        }
        let mut values = Self {
            known: HashMap::new(),
            definitions,
        };
        if let Some(position) = position(program) {
            values.known.insert(position, Bits::within(0x1fc0));
        }
        // What is set once is set before it is read, also in the text, but for blocks that were moved.
        for (index, instruction) in program.instructions.iter().enumerate() {
            if let [register] = instruction.results()[..]
                && values.definition(register) == Some(index)
                && class(register) != Some("%p")
            {
                let bits = values.result(program, instruction);
                values.known.insert(register, bits);
            }
        }
        values
    }

    /// The one instruction that sets the register.
    pub fn definition(&self, register: &str) -> Option<usize> {
        match self.definitions.get(register)?[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    pub fn bits(&self, operand: &str) -> Bits {
        match operand.parse::<i64>() {
            Ok(number) => Bits::number(number as u32),
            Err(_) => self.known.get(operand).copied().unwrap_or(UNKNOWN),
        }
    }

    /// What the instruction computes. It need not be one of the program.
    pub fn result(&self, program: &Program<'_>, instruction: &Instruction<'_>) -> Bits {
        let sources: Vec<Bits> = instruction
            .operands
            .iter()
            .skip(1)
            .map(|s| self.bits(s))
            .collect();
        let numbers: Option<Vec<u32>> = sources.iter().map(|source| source.always).collect();
        if let Some(number) = numbers.and_then(|numbers| compute(instruction.opcode, &numbers)) {
            return Bits::number(number);
        }
        if instruction.name() == "shf" && sources[..2].iter().all(|source| source.maybe == 0) {
            return Bits::number(0);
        }
        let maybe = |at: usize| sources.get(at).map_or(u32::MAX, |source| source.maybe);
        let amount = sources
            .get(1)
            .and_then(|source| source.always)
            .filter(|bits| *bits < 32);
        Bits::within(match (instruction.opcode, amount) {
            ("ld.u8", _) => 0xff,
            ("mov.u32", _) => maybe(0),
            ("and.b32", _) => maybe(0) & maybe(1),
            ("or.b32" | "xor.b32", _) => maybe(0) | maybe(1),
            ("shl.b32", Some(bits)) => maybe(0) << bits,
            ("shr.u32", Some(bits)) => maybe(0) >> bits,
            ("mul.wide.u16", Some(256)) => maybe(0) << 8,
            ("mul.wide.u16", _) if sources[1].always == Some(256) => maybe(0) << 8,
            // At most the larger one.
            ("max.u32", _) => below(maybe(0) | maybe(1)),
            ("sub.s32", _) if self.is_no_less(program, instruction) => below(maybe(0)),
            ("cvt.u32.u64", _) => self
                .capped(program, instruction.operands[1])
                .map_or(u32::MAX, below),
            _ => u32::MAX,
        })
    }

    /// Whether `a - b` is not negative: `a` is the larger of `b` and something else.
    pub fn is_no_less(&self, program: &Program<'_>, instruction: &Instruction<'_>) -> bool {
        let definition = self.definition(instruction.operands[1]);
        definition.is_some_and(|index| {
            let larger = &program.instructions[index];
            larger.opcode == "max.u32" && larger.operands[1..].contains(&instruction.operands[2])
        })
    }

    /// The number that a long word is at most, if it is the smaller of that and something else.
    fn capped(&self, program: &Program<'_>, long_word: &str) -> Option<u32> {
        let least = &program.instructions[self.definition(long_word)?];
        (least.opcode == "min.u64")
            .then(|| least.operands[2].parse().ok())
            .flatten()
    }
}

/// All bits up to the highest that is set.
fn below(maybe: u32) -> u32 {
    maybe
        .checked_next_power_of_two()
        .map_or(u32::MAX, |power| (power - 1) | maybe)
}

/// The register that counts the bytes of a block, from 0 to 4096 in steps of 64.
pub fn position<'a>(program: &Program<'a>) -> Option<&'a str> {
    program
        .instructions
        .windows(2)
        .find_map(|pair| match (&pair[0], &pair[1]) {
            (step, end) if step.opcode == "add.s32" && end.opcode == "setp.lt.u32" => {
                let [to, from, "64"] = step.operands[..] else {
                    return None;
                };
                (to == from && end.operands[1..] == [to, "4096"]).then_some(to)
            }
            _ => None,
        })
}

/// The lower word of `high:low`, shifted to the right.
fn funnel(low: u32, high: u32, bits: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> bits) as u32
}

/// The result of an instruction on numbers.
fn compute(opcode: &str, sources: &[u32]) -> Option<u32> {
    Some(match (opcode, sources) {
        ("mov.u32" | "mov.b32", [a]) => *a,
        ("not.b32", [a]) => !a,
        ("neg.s32", [a]) => a.wrapping_neg(),
        ("add.s32", [a, b]) => a.wrapping_add(*b),
        ("sub.s32", [a, b]) => a.wrapping_sub(*b),
        ("and.b32", [a, b]) => a & b,
        ("or.b32", [a, b]) => a | b,
        ("xor.b32", [a, b]) => a ^ b,
        ("shl.b32", [a, b]) => a.checked_shl(*b).unwrap_or(0),
        ("shr.u32", [a, b]) => a.checked_shr(*b).unwrap_or(0),
        ("shr.s32", [a, b]) => ((*a as i32) >> (*b).min(31)) as u32,
        ("shf.r.wrap.b32", [low, high, bits]) => funnel(*low, *high, bits % 32),
        ("shf.r.clamp.b32", [low, high, bits]) => funnel(*low, *high, (*bits).min(32)),
        ("shf.l.wrap.b32", [low, high, bits]) => funnel(*low, *high, 32 - bits % 32),
        _ => return None,
    })
}
