//! Sums, products, comparisons and choices.

use super::super::instruction::{Op, Reg, Width};
use super::super::parse::Operand;
use super::{Known, PREDICATE, Translator, Type, parse_type};

/// Parses a type that arithmetic supports.
fn number_type(text: &str) -> Option<Type> {
    parse_type(text).filter(|kind| kind.bits >= 16)
}

impl<'a> Translator<'_, 'a> {
    /// Translates `add.s32 d, a, b` and similar instructions.
    pub(super) fn arithmetic(
        &mut self,
        name: &str,
        rest: &[&str],
        operands: &[Operand<'a>],
    ) -> Known {
        let ([kind], [d, a, b]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = number_type(kind) else {
            return Ok(None);
        };
        let op = match (name, kind.bits == 64, kind.signed) {
            ("add", false, _) => Op::Add32,
            ("add", true, _) => Op::Add64,
            ("sub", false, _) => Op::Sub32,
            ("sub", true, _) => Op::Sub64,
            ("div", false, false) => Op::DivU32,
            ("div", false, true) => Op::DivS32,
            ("div", true, false) => Op::DivU64,
            ("div", true, true) => Op::DivS64,
            ("rem", false, false) => Op::RemU32,
            ("rem", false, true) => Op::RemS32,
            ("rem", true, false) => Op::RemU64,
            ("rem", true, true) => Op::RemS64,
            ("min", false, false) => Op::MinU32,
            ("min", false, true) => Op::MinS32,
            ("min", true, false) => Op::MinU64,
            ("min", true, true) => Op::MinS64,
            ("max", false, false) => Op::MaxU32,
            ("max", false, true) => Op::MaxS32,
            ("max", true, false) => Op::MaxU64,
            ("max", true, true) => Op::MaxS64,
            _ => return Ok(None),
        };
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let d = self.result(d, kind.bits)?;
        self.binary(op, d, a, b, kind.bits);
        Ok(Some(()))
    }

    /// Emits an operation on two sources, and truncates a result of 16 bits.
    pub(super) fn binary(&mut self, op: Op, d: Reg, a: Reg, b: Reg, bits: u32) {
        self.emit(op, d, a, b);
        if bits == 16 {
            self.emit(Op::Zext16, d, d, 0);
        }
    }

    /// Translates `mul.lo`, `mul.hi` and `mul.wide`.
    pub(super) fn multiply(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([part, kind], [d, a, b]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = number_type(kind) else {
            return Ok(None);
        };
        let Some((op, bits)) = product(part, kind) else {
            return Ok(None);
        };
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let d = self.result(d, bits)?;
        self.binary(op, d, a, b, bits);
        Ok(Some(()))
    }

    /// Translates `mad`: a product and a sum.
    pub(super) fn multiply_add(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([part, kind], [d, a, b, c]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = number_type(kind) else {
            return Ok(None);
        };
        let Some((op, bits)) = product(part, kind) else {
            return Ok(None);
        };
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let c = self.source(
            c,
            Type {
                bits,
                signed: kind.signed,
            },
        )?;
        let d = self.result(d, bits)?;
        let (width, add) = if bits == 64 {
            (Width::W64, Op::Add64)
        } else {
            (Width::W32, Op::Add32)
        };
        let between = self.temporary(width);
        self.emit(op, between, a, b);
        self.binary(add, d, between, c, bits);
        Ok(Some(()))
    }

    /// Translates `neg` and `abs`.
    pub(super) fn sign(&mut self, name: &str, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = number_type(kind).filter(|kind| kind.signed) else {
            return Ok(None);
        };
        let a = self.source(a, kind)?;
        let d = self.result(d, kind.bits)?;
        let (width, subtract, larger) = if kind.bits == 64 {
            (Width::W64, Op::Sub64, Op::MaxS64)
        } else {
            (Width::W32, Op::Sub32, Op::MaxS32)
        };
        let zero = self.number(0, width);
        if name == "neg" {
            self.binary(subtract, d, zero, a, kind.bits);
        } else {
            let negative = self.temporary(width);
            self.emit(subtract, negative, zero, a);
            self.binary(larger, d, a, negative, kind.bits);
        }
        Ok(Some(()))
    }

    /// Translates `setp.lt.u32 p, a, b`, also with a second predicate, or combined with a third
    /// operand.
    pub(super) fn compare(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let (relation, combination, kind) = match rest {
            [relation, kind] => (*relation, None, *kind),
            [relation, combination, kind] => (*relation, Some(*combination), *kind),
            _ => return Ok(None),
        };
        let Some(kind) = number_type(kind) else {
            return Ok(None);
        };
        let Some((op, swapped)) = relation_op(relation, kind) else {
            return Ok(None);
        };
        let (d, a, b, third) = match (operands, combination) {
            ([d, a, b], None) => (d, a, b, None),
            ([d, a, b, third], Some(combination)) => (d, a, b, Some((third, combination))),
            _ => return Ok(None),
        };
        let (first, second) = match d {
            Operand::Pair(first, second) => (first.number, Some(second.number)),
            d => (self.result(d, 1)?, None),
        };
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let (a, b) = if swapped { (b, a) } else { (a, b) };
        let holds = self.temporary(Width::W32);
        self.emit(op, holds, a, b);
        let one = self.number(1, Width::W32);
        let fails = self.temporary(Width::W32);
        if second.is_some() {
            self.emit(Op::Xor32, fails, holds, one);
        }
        let Some((third, combination)) = third else {
            self.emit(Op::Mov32, first, holds, 0);
            if let Some(second) = second {
                self.emit(Op::Mov32, second, fails, 0);
            }
            return Ok(Some(()));
        };
        let combine = match combination {
            "and" => Op::And32,
            "or" => Op::Or32,
            "xor" => Op::Xor32,
            _ => return Ok(None),
        };
        let third = self.source(third, PREDICATE)?;
        self.emit(combine, holds, holds, third);
        if let Some(second) = second {
            self.emit(combine, second, fails, third);
        }
        self.emit(Op::Mov32, first, holds, 0);
        Ok(Some(()))
    }

    /// Translates `selp.b32 d, a, b, p`.
    pub(super) fn select(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a, b, predicate]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = number_type(kind) else {
            return Ok(None);
        };
        let kind = Type::unsigned(kind.bits);
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let predicate = self.source(predicate, PREDICATE)?;
        let d = self.result(d, kind.bits)?;
        let op = if kind.bits == 64 {
            Op::Select64
        } else {
            Op::Select32
        };
        self.emit_all(op, [d, a, b, predicate], 0);
        Ok(Some(()))
    }
}

/// Returns the operation for a part of a product of this type, and the bits of its result.
fn product(part: &str, kind: Type) -> Option<(Op, u32)> {
    Some(match (part, kind.bits, kind.signed) {
        ("lo", 64, _) => (Op::Mul64, 64),
        ("lo", bits, _) => (Op::Mul32, bits),
        ("hi", 32, false) => (Op::MulHighU32, 32),
        ("hi", 32, true) => (Op::MulHighS32, 32),
        ("hi", 64, false) => (Op::MulHighU64, 64),
        ("hi", 64, true) => (Op::MulHighS64, 64),
        ("wide", 16, _) => (Op::Mul32, 32),
        ("wide", 32, false) => (Op::MulWideU32, 64),
        ("wide", 32, true) => (Op::MulWideS32, 64),
        _ => return None,
    })
}

/// Returns the operation for a relation, and whether its sources are swapped.
fn relation_op(relation: &str, kind: Type) -> Option<(Op, bool)> {
    let wide = kind.bits == 64;
    let (name, signed) = match relation {
        "lo" => ("lt", false),
        "ls" => ("le", false),
        "hi" => ("gt", false),
        "hs" => ("ge", false),
        other => (other, kind.signed),
    };
    Some(match (name, wide, signed) {
        ("eq", false, _) => (Op::Eq32, false),
        ("eq", true, _) => (Op::Eq64, false),
        ("ne", false, _) => (Op::Ne32, false),
        ("ne", true, _) => (Op::Ne64, false),
        ("lt" | "gt", false, false) => (Op::LtU32, name == "gt"),
        ("lt" | "gt", false, true) => (Op::LtS32, name == "gt"),
        ("lt" | "gt", true, false) => (Op::LtU64, name == "gt"),
        ("lt" | "gt", true, true) => (Op::LtS64, name == "gt"),
        ("le" | "ge", false, false) => (Op::LeU32, name == "ge"),
        ("le" | "ge", false, true) => (Op::LeS32, name == "ge"),
        ("le" | "ge", true, false) => (Op::LeU64, name == "ge"),
        ("le" | "ge", true, true) => (Op::LeS64, name == "ge"),
        _ => return None,
    })
}
