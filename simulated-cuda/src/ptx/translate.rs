//! Translates a kernel's statements into the machine's instructions over virtual registers, and
//! refuses unsupported ones.
//!
//! This module knows the meaning of each opcode; `translate/` has the larger families. A register
//! that is set only once, to a number, is replaced by that number wherever it is read. Compilers
//! keep shift amounts in such registers, and shifts by a known amount are faster.

mod arithmetic;
mod bits;
mod transfer;

use std::collections::HashMap;

use super::Refusal;
use super::instruction::{Axis, Fixed, Inst, Op, Reg, Width};
use super::parse::{Class, Instruction, KernelText, Operand, Register, Statement, Variable};

/// A translated kernel over virtual registers.
#[derive(Debug)]
pub(super) struct Translated {
    pub insts: Vec<Inst>,
    /// The width of each virtual register.
    pub widths: Vec<Width>,
    /// The registers that are never written, and their values.
    pub fixed: Vec<(Reg, Fixed)>,
}

pub(super) fn kernel(
    text: &KernelText<'_>,
    variables: &[Variable<'_>],
) -> Result<Translated, Refusal> {
    let mut translator = Translator {
        text,
        variables,
        insts: Vec::new(),
        widths: text.registers.iter().map(|class| width(*class)).collect(),
        fixed: HashMap::new(),
        numbers: numbers(text),
        labels: HashMap::new(),
        jumps: Vec::new(),
        line: 0,
    };
    for statement in &text.body {
        match statement {
            Statement::Instruction(instruction) => translator.instruction(instruction)?,
            Statement::Label { name, line } => {
                let here = translator.insts.len() as u64;
                if translator.labels.insert(name, here).is_some() {
                    return Err(Refusal::new(*line, format!("a second label `{name}`")));
                }
            }
        }
    }
    translator.emit(Op::Ret, 0, 0, 0);
    for (at, label, line) in std::mem::take(&mut translator.jumps) {
        let target = translator.labels.get(label);
        let target =
            target.ok_or_else(|| Refusal::new(line, format!("there is no label `{label}`")))?;
        translator.insts[at].imm = *target;
    }
    let mut fixed: Vec<(Reg, Fixed)> = translator
        .fixed
        .into_iter()
        .map(|((fixed, _), register)| (register, fixed))
        .collect();
    fixed.sort_by_key(|(register, _)| *register);
    Ok(Translated {
        insts: translator.insts,
        widths: translator.widths,
        fixed,
    })
}

fn width(class: Class) -> Width {
    if class == Class::Word64 {
        Width::W64
    } else {
        Width::W32
    }
}

/// Returns the registers that are set only once, by a `mov` without guard, to a number.
fn numbers(text: &KernelText<'_>) -> HashMap<u32, u64> {
    let mut written = vec![0_u32; text.registers.len()];
    let mut numbers = HashMap::new();
    for statement in &text.body {
        let Statement::Instruction(instruction) = statement else {
            continue;
        };
        let name = instruction.opcode.split('.').next().unwrap_or_default();
        if matches!(name, "st" | "bra" | "ret" | "exit" | "trap") {
            continue;
        }
        let mut write = |register: &Register| written[register.number as usize] += 1;
        match instruction.operands.first() {
            Some(Operand::Register(register)) => write(register),
            Some(Operand::Pair(first, second)) => {
                write(first);
                write(second);
            }
            Some(Operand::Vector(elements)) => elements.iter().for_each(|element| {
                if let Operand::Register(register) = element {
                    write(register);
                }
            }),
            _ => {}
        }
        if let [Operand::Register(register), Operand::Number(number)] = instruction.operands[..]
            && name == "mov"
            && instruction.guard.is_none()
        {
            numbers.insert(register.number, number);
        }
    }
    numbers.retain(|register, _| written[*register as usize] == 1);
    numbers
}

/// A type in an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    bits: u32,
    signed: bool,
}

const PREDICATE: Type = Type::unsigned(1);
const WORD: Type = Type::unsigned(32);
const LONG_WORD: Type = Type::unsigned(64);

impl Type {
    const fn unsigned(bits: u32) -> Self {
        Self {
            bits,
            signed: false,
        }
    }

    /// Returns the width of the registers for such values.
    fn width(self) -> Width {
        if self.bits == 64 {
            Width::W64
        } else {
            Width::W32
        }
    }
}

fn parse_type(text: &str) -> Option<Type> {
    let signed = text.starts_with('s');
    let bits = match text {
        "b8" | "u8" | "s8" => 8,
        "b16" | "u16" | "s16" => 16,
        "b32" | "u32" | "s32" => 32,
        "b64" | "u64" | "s64" => 64,
        "pred" => 1,
        _ => return None,
    };
    Some(Type { bits, signed })
}

/// The result of translating an instruction; `None` means that its opcode or form is unknown.
type Known = Result<Option<()>, Refusal>;

struct Translator<'t, 'a> {
    text: &'t KernelText<'a>,
    variables: &'t [Variable<'a>],
    insts: Vec<Inst>,
    widths: Vec<Width>,
    fixed: HashMap<(Fixed, Width), Reg>,
    /// The values of registers that always hold the same number.
    numbers: HashMap<u32, u64>,
    labels: HashMap<&'a str, u64>,
    /// Branches without a target yet: instruction, label, line.
    jumps: Vec<(usize, &'a str, u32)>,
    line: u32,
}

impl<'a> Translator<'_, 'a> {
    fn instruction(&mut self, instruction: &Instruction<'a>) -> Result<(), Refusal> {
        self.line = instruction.line;
        let parts: Vec<&str> = instruction.opcode.split('.').collect();
        if parts[0] == "bra" {
            return self.branch(instruction, &parts[1..]);
        }
        // A guarded instruction becomes one with a jump over it.
        let around = instruction.guard.map(|(predicate, holds)| {
            self.emit(
                if holds {
                    Op::BranchUnless
                } else {
                    Op::BranchIf
                },
                0,
                predicate.number,
                0,
            );
            self.insts.len() - 1
        });
        let known = self.unguarded(instruction, &parts)?;
        if known.is_none() {
            return Err(self.refuse(format!("`{}` is not supported", instruction.opcode)));
        }
        if let Some(around) = around {
            self.insts[around].imm = self.insts.len() as u64;
        }
        Ok(())
    }

    fn unguarded(&mut self, instruction: &Instruction<'a>, parts: &[&str]) -> Known {
        let (name, rest) = (parts[0], &parts[1..]);
        let operands = &instruction.operands[..];
        match name {
            "ret" | "exit" => {
                self.emit(Op::Ret, 0, 0, 0);
                Ok(Some(()))
            }
            "trap" => {
                self.emit(Op::Trap, 0, 0, 0);
                Ok(Some(()))
            }
            "mov" => self.mov(instruction, rest),
            "cvta" => self.cvta(rest, operands),
            "ld" => self.load(rest, operands),
            "st" => self.store(rest, operands),
            "cvt" => self.convert(rest, operands),
            "add" | "sub" | "div" | "rem" | "min" | "max" => self.arithmetic(name, rest, operands),
            "mul" => self.multiply(rest, operands),
            "mad" => self.multiply_add(rest, operands),
            "neg" | "abs" => self.sign(name, rest, operands),
            "setp" => self.compare(rest, operands),
            "selp" => self.select(rest, operands),
            "and" | "or" | "xor" => self.logic(name, rest, operands),
            "not" => self.not(rest, operands),
            "shl" | "shr" => self.shift(name, rest, operands),
            "shf" => self.funnel(rest, operands),
            "prmt" => self.permute(rest, operands),
            "lop3" => self.lop3(rest, operands),
            "bfe" => self.extract(rest, operands),
            "bfi" => self.insert(rest, operands),
            "brev" | "clz" | "popc" => self.count(name, rest, operands),
            _ => Ok(None),
        }
    }

    fn branch(&mut self, instruction: &Instruction<'a>, rest: &[&str]) -> Result<(), Refusal> {
        let (true, [Operand::Name(label)]) =
            (matches!(rest, [] | ["uni"]), &instruction.operands[..])
        else {
            return Err(self.refuse(format!("`{}` with such operands", instruction.opcode)));
        };
        match instruction.guard {
            None => self.emit(Op::Branch, 0, 0, 0),
            Some((predicate, true)) => self.emit(Op::BranchIf, 0, predicate.number, 0),
            Some((predicate, false)) => self.emit(Op::BranchUnless, 0, predicate.number, 0),
        }
        self.jumps.push((self.insts.len() - 1, label, self.line));
        Ok(())
    }

    fn refuse(&self, what: impl Into<String>) -> Refusal {
        Refusal::new(self.line, what)
    }

    fn emit(&mut self, op: Op, d: Reg, a: Reg, b: Reg) {
        self.emit_all(op, [d, a, b, 0], 0);
    }

    fn emit_all(&mut self, op: Op, [d, a, b, c]: [Reg; 4], imm: u64) {
        self.insts.push(Inst {
            op,
            d,
            a,
            b,
            c,
            imm,
            line: self.line,
        });
    }

    fn temporary(&mut self, width: Width) -> Reg {
        self.widths.push(width);
        self.widths.len() as Reg - 1
    }

    fn fixed(&mut self, fixed: Fixed, width: Width) -> Reg {
        if let Some(register) = self.fixed.get(&(fixed, width)) {
            return *register;
        }
        let register = self.temporary(width);
        self.fixed.insert((fixed, width), register);
        register
    }

    fn number(&mut self, number: u64, width: Width) -> Reg {
        let number = if width == Width::W32 {
            number & 0xffff_ffff
        } else {
            number
        };
        self.fixed(Fixed::Number(number), width)
    }

    /// Returns the number of an operand, if it is known.
    fn known(&self, operand: &Operand<'a>) -> Option<u64> {
        match operand {
            Operand::Number(number) => Some(*number),
            Operand::Register(register) => self.numbers.get(&register.number).copied(),
            _ => None,
        }
    }

    /// Returns the register to read for an operand of this type. Sources of 16 bits are extended by
    /// their sign, or by zeros.
    fn source(&mut self, operand: &Operand<'a>, kind: Type) -> Result<Reg, Refusal> {
        let width = kind.width();
        if let Some(number) = self.known(operand) {
            let number = match (kind.bits, kind.signed) {
                (16, true) => number as u16 as i16 as u64,
                (16, false) => u64::from(number as u16),
                _ => number,
            };
            return Ok(self.number(number, width));
        }
        let register = match operand {
            Operand::Register(register) => *register,
            Operand::Name(name) => return self.special(name, width),
            _ => return Err(self.refuse("such an operand cannot be read here")),
        };
        let class = match kind.bits {
            1 => Class::Predicate,
            16 => Class::Word16,
            32 => Class::Word32,
            _ => Class::Word64,
        };
        if register.class != class {
            return Err(self.refuse("an operand's register is not of the instruction's width"));
        }
        if kind
            == (Type {
                bits: 16,
                signed: true,
            })
        {
            let extended = self.temporary(Width::W32);
            self.emit(Op::Sext16, extended, register.number, 0);
            return Ok(extended);
        }
        Ok(register.number)
    }

    /// Returns the register for a special register or the address of a variable.
    fn special(&mut self, name: &str, width: Width) -> Result<Reg, Refusal> {
        if width == Width::W64
            && let Some(number) = self
                .variables
                .iter()
                .position(|variable| variable.name == name)
        {
            return Ok(self.fixed(
                Fixed::Variable {
                    number: number as u32,
                    offset: 0,
                },
                width,
            ));
        }
        let unknown = || self.refuse(format!("`{name}` is unknown"));
        let (register, axis) = name.rsplit_once('.').ok_or_else(unknown)?;
        let axis = match axis {
            "x" => Axis::X,
            "y" => Axis::Y,
            "z" => Axis::Z,
            _ => return Err(unknown()),
        };
        let fixed = match register {
            "%tid" => Fixed::ThreadId(axis),
            "%ntid" => Fixed::BlockSize(axis),
            "%ctaid" => Fixed::BlockId(axis),
            "%nctaid" => Fixed::GridSize(axis),
            _ => return Err(unknown()),
        };
        if width == Width::W64 {
            return Err(self.refuse(format!("`{name}` has 32 bits")));
        }
        Ok(self.fixed(fixed, width))
    }

    /// Returns the register that an operand names as the instruction's result.
    fn target(&self, operand: &Operand<'a>) -> Result<Register, Refusal> {
        match operand {
            Operand::Register(register) => Ok(*register),
            _ => Err(self.refuse("the result must be a register")),
        }
    }

    /// Returns the register for a result of exactly `bits` bits.
    fn result(&self, operand: &Operand<'a>, bits: u32) -> Result<Reg, Refusal> {
        let register = self.target(operand)?;
        let class = match register.class {
            Class::Predicate => 1,
            Class::Word16 => 16,
            Class::Word32 => 32,
            Class::Word64 => 64,
        };
        if class != bits {
            return Err(self.refuse("the result's register is not of the instruction's width"));
        }
        Ok(register.number)
    }
}
