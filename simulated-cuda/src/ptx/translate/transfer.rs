//! Moves of values between registers, widths and memory.

use super::super::Refusal;
use super::super::instruction::{Fixed, Op, Reg, Width};
use super::super::parse::{Class, Instruction, Operand, Register};
use super::{Known, LONG_WORD, Translator, Type, WORD, parse_type};

/// Modifiers of loads and stores without effect here, because each thread's accesses happen in
/// order. Modifiers with colons have none either: they advise caches.
const HARMLESS: [&str; 9] = ["volatile", "weak", "ca", "cg", "cs", "lu", "cv", "nc", "wb"];

impl<'a> Translator<'_, 'a> {
    pub(super) fn mov(&mut self, instruction: &Instruction<'a>, rest: &[&str]) -> Known {
        let ([kind], [d, a]) = (rest, &instruction.operands[..]) else {
            return Ok(None);
        };
        let Some(kind) = parse_type(kind).filter(|kind| kind.bits != 8) else {
            return Ok(None);
        };
        let kind = Type::unsigned(kind.bits);
        match (d, a) {
            (Operand::Vector(halves), a) if kind.bits == 64 => {
                let [low, high] = &halves[..] else {
                    return Ok(None);
                };
                let a = self.source(a, kind)?;
                for (half, op) in [(low, Op::Narrow), (high, Op::High)] {
                    if *half != Operand::Sink {
                        let half = self.result(half, 32)?;
                        self.emit(op, half, a, 0);
                    }
                }
            }
            (d, Operand::Vector(halves)) if kind.bits == 64 => {
                let [low, high] = &halves[..] else {
                    return Ok(None);
                };
                let word = WORD;
                let (low, high) = (self.source(low, word)?, self.source(high, word)?);
                let d = self.result(d, 64)?;
                self.emit(Op::Pack, d, low, high);
            }
            (Operand::Vector(halves), a) if kind.bits == 32 => {
                let [low, high] = &halves[..] else {
                    return Ok(None);
                };
                let a = self.source(a, kind)?;
                for (half, shift) in [(low, 0), (high, 16)] {
                    if *half != Operand::Sink {
                        let half = self.result(half, 16)?;
                        self.emit_all(Op::ShrBy32, [half, a, 0, 0], shift);
                        self.emit(Op::Zext16, half, half, 0);
                    }
                }
            }
            (d, Operand::Vector(halves)) if kind.bits == 32 => {
                let [low, high] = &halves[..] else {
                    return Ok(None);
                };
                let half = Type::unsigned(16);
                let (low, high) = (self.source(low, half)?, self.source(high, half)?);
                let d = self.result(d, 32)?;
                let shifted = self.temporary(Width::W32);
                self.emit_all(Op::ShlBy32, [shifted, high, 0, 0], 16);
                self.emit(Op::Or32, d, low, shifted);
            }
            (Operand::Vector(_), _) | (_, Operand::Vector(_)) => return Ok(None),
            (d, a) => {
                let register = self.result(d, kind.bits)?;
                if instruction.guard.is_none() && self.numbers.contains_key(&register) {
                    return Ok(Some(())); // readers use the number
                }
                let a = self.source(a, kind)?;
                let op = if kind.bits == 64 {
                    Op::Mov64
                } else {
                    Op::Mov32
                };
                self.emit(op, register, a, 0);
            }
        }
        Ok(Some(()))
    }

    /// Converts between generic and global addresses, which are the same here.
    pub(super) fn cvta(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let (["to", "global" | "const", "u64"] | ["global" | "const", "u64"], [d, a]) =
            (rest, operands)
        else {
            return Ok(None);
        };
        let a = self.source(a, LONG_WORD)?;
        let d = self.result(d, 64)?;
        self.emit(Op::Mov64, d, a, 0);
        Ok(Some(()))
    }

    pub(super) fn load(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let Some(access) = access(rest) else {
            return Ok(None);
        };
        let [d, address] = operands else {
            return Ok(None);
        };
        if access.space == "param" {
            let Operand::NameAddress(name, offset) = address else {
                return Ok(None);
            };
            return self.load_param(d, name, *offset, &access).map(Some);
        }
        let base = self.address(address, &access)?;
        let targets =
            elements(d, access.count).ok_or_else(|| self.refuse("as many registers as values"))?;
        // An element must not overwrite the address of the elements after it.
        let mut pointer = base.0;
        let overwritten =
            |target: &&Operand<'_>| matches!(target, Operand::Register(r) if r.number == base.0);
        if targets.len() > 1 && targets.iter().any(overwritten) {
            pointer = self.temporary(Width::W64);
            self.emit(Op::Mov64, pointer, base.0, 0);
        }
        let step = u64::from(access.kind.bits / 8);
        for (offset, target) in (0..).zip(targets) {
            let offset = base.1.wrapping_add(offset * step);
            let target = match target {
                Operand::Sink => {
                    let width = access.kind.width();
                    let class = if access.kind.bits == 64 {
                        Class::Word64
                    } else {
                        Class::Word32
                    };
                    Register {
                        number: self.temporary(width),
                        class,
                    }
                }
                target => self.target(target)?,
            };
            self.load_one(target, pointer, offset, access.kind)?;
        }
        Ok(Some(()))
    }

    fn load_one(
        &mut self,
        target: Register,
        base: Reg,
        offset: u64,
        kind: Type,
    ) -> Result<(), Refusal> {
        let op = match kind.bits {
            8 => Op::Load8,
            16 => Op::Load16,
            32 => Op::Load32,
            _ => Op::Load64,
        };
        if kind.bits == 64 {
            if target.class != Class::Word64 {
                return Err(self.refuse("a register of 64 bits is needed"));
            }
            self.emit_all(op, [target.number, base, 0, 0], offset);
            return Ok(());
        }
        let loaded = self.temporary(Width::W32);
        self.emit_all(op, [loaded, base, 0, 0], offset);
        self.extend(target, loaded, kind)
    }

    /// Extends a value of at most 32 bits, of which only the bits of its type count, into a
    /// register.
    fn extend(&mut self, target: Register, value: Reg, kind: Type) -> Result<(), Refusal> {
        let op = match (kind.bits, kind.signed) {
            (8, false) => Op::Zext8,
            (8, true) => Op::Sext8,
            (16, false) => Op::Zext16,
            (16, true) => Op::Sext16,
            _ => Op::Mov32,
        };
        match target.class {
            Class::Predicate => return Err(self.refuse("a predicate is no number")),
            Class::Word16 if kind.bits > 16 => {
                return Err(self.refuse("a register of 32 bits is needed"));
            }
            Class::Word16 => {
                self.emit(op, target.number, value, 0);
                if kind.signed {
                    self.emit(Op::Zext16, target.number, target.number, 0);
                }
            }
            Class::Word32 => self.emit(op, target.number, value, 0),
            Class::Word64 => {
                let extended = self.temporary(Width::W32);
                self.emit(op, extended, value, 0);
                let widen = if kind.signed { Op::WidenS } else { Op::WidenU };
                self.emit(widen, target.number, extended, 0);
            }
        }
        Ok(())
    }

    fn load_param(
        &mut self,
        d: &Operand<'a>,
        name: &str,
        offset: u64,
        access: &Access<'_>,
    ) -> Result<(), Refusal> {
        let param = self.text.params.iter().find(|param| param.name == name);
        let param = *param.ok_or_else(|| self.refuse(format!("there is no parameter `{name}`")))?;
        let targets =
            elements(d, access.count).ok_or_else(|| self.refuse("as many registers as values"))?;
        let step = access.kind.bits / 8;
        for (index, target) in (0..).zip(targets) {
            let within = offset.wrapping_add(index * u64::from(step));
            if within
                .checked_add(step.into())
                .is_none_or(|end| end > param.bytes.into())
            {
                return Err(self.refuse(format!("a load behind the end of parameter `{name}`")));
            }
            let target = self.target(target)?;
            let bits = if target.class == Class::Word64 {
                64
            } else {
                32
            };
            if target.class == Class::Predicate || access.kind.bits > bits {
                return Err(self.refuse("the register is too narrow for the parameter"));
            }
            let (width, op) = if bits == 64 {
                (Width::W64, Op::Mov64)
            } else {
                (Width::W32, Op::Mov32)
            };
            let signed = access.kind.signed && target.class != Class::Word16;
            let fixed = Fixed::Param {
                offset: param.offset + within as u32,
                bytes: step,
                signed,
            };
            let fixed = self.fixed(fixed, width);
            self.emit(op, target.number, fixed, 0);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let Some(access) = access(rest) else {
            return Ok(None);
        };
        let [address, value] = operands else {
            return Ok(None);
        };
        if matches!(access.space, "param" | "const") {
            return Ok(None);
        }
        let (base, offset) = self.address(address, &access)?;
        let values = elements(value, access.count)
            .ok_or_else(|| self.refuse("as many registers as values"))?;
        let step = u64::from(access.kind.bits / 8);
        for (index, value) in (0..).zip(values) {
            let offset = offset.wrapping_add(index * step);
            let value = self.stored(value, access.kind)?;
            let op = match access.kind.bits {
                8 => Op::Store8,
                16 => Op::Store16,
                32 => Op::Store32,
                _ => Op::Store64,
            };
            self.emit_all(op, [0, base, value, 0], offset);
        }
        Ok(Some(()))
    }

    /// Returns the register to store from, at least as wide as the type.
    fn stored(&mut self, value: &Operand<'a>, kind: Type) -> Result<Reg, Refusal> {
        let width = kind.width();
        if let Some(number) = self.known(value) {
            return Ok(self.number(number, width));
        }
        let Operand::Register(register) = value else {
            return Err(self.refuse("what is stored must be a register or a number"));
        };
        match (register.class, kind.bits) {
            (Class::Word64, 64) | (Class::Word32, ..=32) | (Class::Word16, ..=16) => {
                Ok(register.number)
            }
            (Class::Word64, _) => {
                let narrow = self.temporary(Width::W32);
                self.emit(Op::Narrow, narrow, register.number, 0);
                Ok(narrow)
            }
            _ => Err(self.refuse("the register is too narrow for what is stored")),
        }
    }

    /// Returns the register and the offset of an address. The alignment of a vector is checked as a
    /// whole.
    fn address(
        &mut self,
        operand: &Operand<'a>,
        access: &Access<'_>,
    ) -> Result<(Reg, u64), Refusal> {
        let (base, offset) = match operand {
            Operand::Address(register, offset) => (register.number, *offset),
            Operand::NameAddress(name, offset) => (self.special(name, Width::W64)?, *offset),
            _ => return Err(self.refuse("an address in brackets is needed")),
        };
        if access.count > 1 {
            let bytes = access.count as u32 * access.kind.bits / 8;
            if bytes > 16 {
                return Err(self.refuse("vectors have at most 16 bytes"));
            }
            self.emit_all(Op::Align, [0, base, bytes, 0], offset);
        }
        Ok((base, offset))
    }

    /// Translates `cvt.u64.u32 d, a` between integers.
    pub(super) fn convert(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([to, from], [d, a]) = (rest, operands) else {
            return Ok(None);
        };
        let (Some(to), Some(from)) = (parse_type(to), parse_type(from)) else {
            return Ok(None);
        };
        if to.bits == 1 || from.bits == 1 {
            return Ok(None);
        }
        let target = self.target(d)?;
        let value = self.stored(a, from)?;
        if from.bits == 64 {
            if to.bits == 64 {
                let d = self.result(d, 64)?;
                self.emit(Op::Mov64, d, value, 0);
                return Ok(Some(()));
            }
            let narrow = self.temporary(Width::W32);
            self.emit(Op::Narrow, narrow, value, 0);
            self.extend(target, narrow, to)?;
            return Ok(Some(()));
        }
        if to.bits >= from.bits {
            self.extend_into(target, value, from, to)?;
        } else {
            self.extend(target, value, to)?;
        }
        Ok(Some(()))
    }

    /// Extends a value of one type to a wider one.
    fn extend_into(
        &mut self,
        target: Register,
        value: Reg,
        from: Type,
        to: Type,
    ) -> Result<(), Refusal> {
        let wide_enough = match target.class {
            Class::Word64 => to.bits <= 64,
            Class::Word32 => to.bits <= 32,
            Class::Word16 => to.bits <= 16,
            Class::Predicate => false,
        };
        if !wide_enough {
            return Err(self.refuse("the result's register is too narrow"));
        }
        if target.class == Class::Word16 || to.bits == 64 || from.bits == to.bits && from == to {
            return self.extend(target, value, from);
        }
        // The value is truncated to its type, and then extended.
        let between = self.temporary(Width::W32);
        self.extend(
            Register {
                number: between,
                class: Class::Word32,
            },
            value,
            from,
        )?;
        self.extend(target, between, to)
    }
}

struct Access<'s> {
    space: &'s str,
    count: usize,
    kind: Type,
}

/// Parses the modifiers of `ld` or `st`; returns `None` if they are unknown.
fn access<'s>(rest: &[&'s str]) -> Option<Access<'s>> {
    let (kind, modifiers) = rest.split_last()?;
    let kind = parse_type(kind).filter(|kind| kind.bits >= 8)?;
    let mut access = Access {
        space: "",
        count: 1,
        kind,
    };
    for modifier in modifiers {
        match *modifier {
            "global" | "const" | "param" => access.space = modifier,
            "v2" => access.count = 2,
            "v4" => access.count = 4,
            other if HARMLESS.contains(&other) || other.contains("::") => {}
            _ => return None,
        }
    }
    Some(access)
}

fn elements<'o, 'a>(operand: &'o Operand<'a>, count: usize) -> Option<Vec<&'o Operand<'a>>> {
    match operand {
        Operand::Vector(elements) if elements.len() == count => Some(elements.iter().collect()),
        Operand::Vector(_) => None,
        single if count == 1 => Some(vec![single]),
        _ => None,
    }
}
