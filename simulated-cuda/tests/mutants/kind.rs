//! The ways in which one instruction is made wrong.

use crate::program::{Instruction, Program, class, registers};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A comparison that includes its boundary, or not, or has another one.
    Boundary,
    /// An instruction left out: a branch not taken, a value not computed or not stored.
    Dropped,
    /// A number one larger or smaller, or with a bit flipped.
    Immediate,
    /// An address beside the one that is meant.
    Offset,
    /// An opcode's sibling: a sum for a difference, `or` for `and`.
    Opcode,
    /// Another register of the same kind in a source's place.
    Operand,
    /// A guard that must not hold, a choice of the other value.
    Predicate,
    /// A shift or rotation by one more or less.
    Shift,
    /// A number taken for a signed one.
    Sign,
    /// A result of 64 bits cut to 32.
    Width,
}

pub const KINDS: [Kind; 10] = [
    Kind::Boundary,
    Kind::Dropped,
    Kind::Immediate,
    Kind::Offset,
    Kind::Opcode,
    Kind::Operand,
    Kind::Predicate,
    Kind::Shift,
    Kind::Sign,
    Kind::Width,
];

impl Kind {
    /// What stands in the place of the instruction of that number, in each mutant of this kind.
    pub fn mutants(self, program: &Program<'_>, index: usize) -> Vec<String> {
        let instruction = &program.instructions[index];
        match self {
            Kind::Boundary => boundary(instruction),
            Kind::Dropped => vec![String::new()],
            Kind::Immediate => immediate(instruction),
            Kind::Offset => offset(instruction),
            Kind::Opcode => opcode(instruction),
            Kind::Operand => operand(program, index),
            Kind::Predicate => predicate(instruction),
            Kind::Shift => shift(program, instruction),
            Kind::Sign => sign(instruction),
            Kind::Width => width(instruction),
        }
    }
}

/// The instruction with each operand that `change` gives something for replaced by that, one at a time.
fn with_operands(
    instruction: &Instruction<'_>,
    change: impl Fn(usize, &str) -> Vec<String>,
) -> Vec<String> {
    let mut mutants = Vec::new();
    for (at, operand) in instruction.operands.iter().enumerate() {
        for changed in change(at, operand) {
            let mut operands = instruction.owned_operands();
            operands[at] = changed;
            mutants.push(instruction.written(instruction.opcode, &operands));
        }
    }
    mutants
}

fn with_opcodes(instruction: &Instruction<'_>, opcodes: &[&str]) -> Vec<String> {
    let operands = instruction.owned_operands();
    let written = |opcode: &&str| instruction.written(opcode, &operands);
    opcodes.iter().map(written).collect()
}

fn is_number(operand: &str) -> Option<i64> {
    operand.parse().ok()
}

fn boundary(instruction: &Instruction<'_>) -> Vec<String> {
    let Some(relation) = instruction.opcode.strip_prefix("setp.") else {
        return Vec::new();
    };
    let (relation, kind) = relation.split_once('.').unwrap_or_default();
    let others: &[&str] = match relation {
        "eq" => &["ne"],
        "ge" => &["gt"],
        "gt" => &["ge"],
        "le" => &["lt"],
        "lt" => &["le"],
        _ => &[],
    };
    let others: Vec<String> = others
        .iter()
        .map(|other| format!("setp.{other}.{kind}"))
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    with_opcodes(instruction, &others)
}

fn immediate(instruction: &Instruction<'_>) -> Vec<String> {
    if matches!(instruction.name(), "shl" | "shr") {
        return Vec::new(); // `shift` has them
    }
    with_operands(instruction, |at, operand| match is_number(operand) {
        Some(number) if at > 0 => {
            let flipped = number ^ 1 << (instruction.line % 12 + 1);
            [number + 1, number - 1, flipped]
                .map(|n| n.to_string())
                .to_vec()
        }
        _ => Vec::new(),
    })
}

fn offset(instruction: &Instruction<'_>) -> Vec<String> {
    with_operands(instruction, |_, operand| {
        let Some(address) = operand
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        else {
            return Vec::new();
        };
        let (base, offset) = match address.split_once('+') {
            Some((base, offset)) => (base, is_number(offset).unwrap_or(0)),
            None => (address, 0),
        };
        if class(base).is_none() {
            return Vec::new(); // parameters: `operand` has them
        }
        // As far as the access is wide, so that it stays aligned.
        let step = match instruction.opcode.rsplit('.').next().unwrap_or_default() {
            _ if instruction.opcode.contains(".v4.") => 16,
            "u8" => 1,
            "u64" => 8,
            _ => 4,
        };
        [offset + step, offset - step]
            .map(|offset| format!("[{base}+{offset}]"))
            .to_vec()
    })
}

fn opcode(instruction: &Instruction<'_>) -> Vec<String> {
    let others: &[&str] = match instruction.opcode {
        "add.s32" => &["sub.s32", "xor.b32", "or.b32"],
        "add.s64" => &["sub.s64", "or.b64"],
        "and.b32" => &["or.b32", "xor.b32"],
        "mad.lo.s32" => &["mad.hi.u32"],
        "max.u32" => &["min.u32"],
        "min.u64" => &["max.u64"],
        "mul.lo.s32" => &["mul.hi.u32", "add.s32"],
        "not.b32" => &["mov.b32", "neg.s32"],
        "or.b32" => &["and.b32", "xor.b32", "add.s32"],
        "shf.r.wrap.b32" => &["shf.l.wrap.b32", "shf.r.clamp.b32"],
        "shl.b32" => &["shr.u32"],
        "shl.b64" => &["shr.u64"],
        "shr.u32" => &["shl.b32"],
        "sub.s32" => &["add.s32", "xor.b32"],
        "sub.s64" => &["add.s64", "xor.b64"],
        "xor.b32" => &["and.b32", "or.b32", "add.s32"],
        _ => &[],
    };
    with_opcodes(instruction, others)
}

/// Each register that is read becomes the one of its class that was set last before the instruction, and
/// each parameter the next one.
fn operand(program: &Program<'_>, index: usize) -> Vec<String> {
    let instruction = &program.instructions[index];
    let before = |register: &str| {
        let earlier = program.instructions[..index].iter().rev();
        let mut set = earlier.flat_map(Instruction::results);
        set.find(|other| class(other) == class(register) && *other != register)
            .map(str::to_owned)
    };
    with_operands(instruction, |at, operand| {
        if at == 0 && instruction.has_result() {
            return Vec::new();
        }
        if let Some((name, number)) = operand.trim_end_matches(']').rsplit_once("_param_") {
            let next = (number.parse::<u32>().unwrap_or(0) + 1) % 4;
            return vec![format!("{name}_param_{next}]")];
        }
        let registers = registers(operand);
        let changed = registers.filter_map(|register| {
            let other = before(register)?;
            // The sign behind it keeps `%r1` from being found in `%r12`.
            let padded = format!("{operand} ");
            let place = padded.match_indices(register).find(|(at, found)| {
                !padded[at + found.len()..].starts_with(|sign: char| sign.is_ascii_digit())
            })?;
            let rest = &operand[place.0 + register.len()..];
            Some(format!("{}{other}{rest}", &operand[..place.0]))
        });
        changed.collect()
    })
}

fn predicate(instruction: &Instruction<'_>) -> Vec<String> {
    let operands = instruction.owned_operands();
    if let Some(predicate) = instruction.guard.strip_prefix('@') {
        let other = match predicate.strip_prefix('!') {
            Some(predicate) => format!("@{predicate}"),
            None => format!("@!{predicate}"),
        };
        return vec![format!(
            "{other} {} {};",
            instruction.opcode,
            operands.join(", ")
        )];
    }
    if instruction.name() == "selp" {
        let mut operands = operands;
        operands.swap(1, 2);
        return vec![instruction.written(instruction.opcode, &operands)];
    }
    Vec::new()
}

/// Amounts are numbers, or registers that are set once, to a number.
fn shift(program: &Program<'_>, instruction: &Instruction<'_>) -> Vec<String> {
    let last = instruction.operands.len().saturating_sub(1);
    let amount = match instruction.name() {
        "shl" | "shr" => is_number(instruction.operands[last]),
        "shf" => {
            let mut all = program.instructions.iter();
            let set = all.find(|other| other.results() == [instruction.operands[last]]);
            set.and_then(|set| is_number(set.operands[1]))
        }
        _ => None,
    };
    let Some(amount) = amount else {
        return Vec::new();
    };
    with_operands(instruction, |at, _| {
        if at == last {
            [amount + 1, amount - 1]
                .map(|amount| amount.to_string())
                .to_vec()
        } else {
            Vec::new()
        }
    })
}

fn sign(instruction: &Instruction<'_>) -> Vec<String> {
    let others: &[&str] = match instruction.opcode {
        "cvt.u64.u32" => &["cvt.s64.s32"],
        "ld.u8" => &["ld.s8"],
        "max.u32" => &["max.s32"],
        "min.u64" => &["min.s64"],
        "mul.wide.u16" => &["mul.wide.s16"],
        "mul.wide.u32" => &["mul.wide.s32"],
        "setp.ge.u32" => &["setp.ge.s32"],
        "setp.gt.u32" => &["setp.gt.s32"],
        "setp.le.u32" => &["setp.le.s32"],
        "setp.lt.u32" => &["setp.lt.s32"],
        "shr.u32" => &["shr.s32"],
        _ => &[],
    };
    with_opcodes(instruction, others)
}

fn width(instruction: &Instruction<'_>) -> Vec<String> {
    let results = instruction.results();
    let [result] = results[..] else {
        return Vec::new();
    };
    if class(result) != Some("%rd") {
        return Vec::new();
    }
    let whole = instruction.written(instruction.opcode, &instruction.owned_operands());
    vec![format!("{whole}\nand.b64 {result}, {result}, 4294967295;")]
}
