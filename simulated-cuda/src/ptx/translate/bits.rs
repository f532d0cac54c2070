//! Logic, shifts, and moves of bits inside a word.

use super::super::instruction::{Op, Width};
use super::super::parse::Operand;
use super::{Known, Translator, Type, WORD, parse_type};

impl<'a> Translator<'_, 'a> {
    /// Translates `and`, `or` and `xor`, of words and of predicates.
    pub(super) fn logic(&mut self, name: &str, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a, b]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = parse_type(kind).filter(|kind| kind.bits != 8) else {
            return Ok(None);
        };
        let op = match (name, kind.bits == 64) {
            ("and", false) => Op::And32,
            ("and", true) => Op::And64,
            ("or", false) => Op::Or32,
            ("or", true) => Op::Or64,
            ("xor", false) => Op::Xor32,
            _ => Op::Xor64,
        };
        let (a, b) = (self.source(a, kind)?, self.source(b, kind)?);
        let d = self.result(d, kind.bits)?;
        self.emit(op, d, a, b);
        Ok(Some(()))
    }

    pub(super) fn not(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = parse_type(kind).filter(|kind| kind.bits != 8) else {
            return Ok(None);
        };
        let a = self.source(a, kind)?;
        let d = self.result(d, kind.bits)?;
        match kind.bits {
            1 => {
                let one = self.number(1, Width::W32);
                self.emit(Op::Xor32, d, a, one);
            }
            64 => self.emit(Op::Not64, d, a, 0),
            bits => self.binary(Op::Not32, d, a, 0, bits),
        }
        Ok(Some(()))
    }

    /// Translates `shl` and `shr`. The amount always has 32 bits, and shifts by more than the width
    /// are clamped.
    pub(super) fn shift(&mut self, name: &str, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a, amount]) = (rest, operands) else {
            return Ok(None);
        };
        let Some(kind) = parse_type(kind).filter(|kind| kind.bits >= 16) else {
            return Ok(None);
        };
        let left = name == "shl";
        let kind = Type {
            signed: kind.signed && !left,
            ..kind
        };
        let a = self.source(a, kind)?;
        let known = self
            .known(amount)
            .map(|number| u64::from(number as u32))
            .filter(|number| *number < 32);
        let amount = self.source(amount, WORD)?;
        let d = self.result(d, kind.bits)?;
        match (kind.bits == 64, left, kind.signed) {
            (true, true, _) => self.emit(Op::Shl64, d, a, amount),
            (true, false, false) => self.emit(Op::ShrU64, d, a, amount),
            (true, false, true) => self.emit(Op::ShrS64, d, a, amount),
            (false, false, true) => self.binary(Op::ShrS32, d, a, amount, kind.bits),
            (false, ..) => match known {
                Some(known) => {
                    self.emit_all(
                        if left { Op::ShlBy32 } else { Op::ShrBy32 },
                        [d, a, 0, 0],
                        known,
                    );
                    if kind.bits == 16 {
                        self.emit(Op::Zext16, d, d, 0);
                    }
                }
                None => self.binary(
                    if left { Op::Shl32 } else { Op::ShrU32 },
                    d,
                    a,
                    amount,
                    kind.bits,
                ),
            },
        }
        Ok(Some(()))
    }

    /// Translates `shf.r.wrap.b32 d, low, high, amount` and similar instructions.
    pub(super) fn funnel(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([direction, mode, "b32"], [d, low, high, amount]) = (rest, operands) else {
            return Ok(None);
        };
        let op = match (*direction, *mode) {
            ("l", "wrap") => Op::FunnelLeftWrap,
            ("l", "clamp") => Op::FunnelLeftClamp,
            ("r", "wrap") => Op::FunnelRightWrap,
            ("r", "clamp") => Op::FunnelRightClamp,
            _ => return Ok(None),
        };
        let known = self.known(amount).map(|number| number & 0xffff_ffff);
        let same = low == high;
        let (low, high) = (self.source(low, WORD)?, self.source(high, WORD)?);
        let amount = self.source(amount, WORD)?;
        let d = self.result(d, 32)?;
        let Some(known) = known else {
            self.emit_all(op, [d, low, high, amount], 0);
            return Ok(Some(()));
        };
        let bits = if *mode == "wrap" {
            known % 32
        } else {
            known.min(32)
        };
        let right = if *direction == "r" { bits } else { 32 - bits };
        if same {
            self.emit_all(Op::Rotate, [d, low, 0, 0], right % 32);
        } else {
            self.emit_all(Op::Funnel, [d, low, high, 0], right);
        }
        Ok(Some(()))
    }

    pub(super) fn permute(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let (["b32"], [d, a, b, selector]) = (rest, operands) else {
            return Ok(None);
        };
        let known = self.known(selector).map(|number| number & 0xffff);
        let (a, b) = (self.source(a, WORD)?, self.source(b, WORD)?);
        let selector = self.source(selector, WORD)?;
        let d = self.result(d, 32)?;
        match known {
            Some(0x0123) => self.emit(Op::SwapBytes, d, a, 0),
            Some(known) => self.emit_all(Op::PrmtBy, [d, a, b, 0], known),
            None => self.emit_all(Op::Prmt, [d, a, b, selector], 0),
        }
        Ok(Some(()))
    }

    /// Translates `lop3.b32 d, a, b, c, table`.
    pub(super) fn lop3(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let (["b32"], [d, a, b, c, Operand::Number(table)]) = (rest, operands) else {
            return Ok(None);
        };
        if *table > 255 {
            return Err(self.refuse("the table of `lop3` has 8 bits"));
        }
        let sources = [
            self.source(a, WORD)?,
            self.source(b, WORD)?,
            self.source(c, WORD)?,
        ];
        let d = self.result(d, 32)?;
        self.emit_all(Op::Lop3, [d, sources[0], sources[1], sources[2]], *table);
        Ok(Some(()))
    }

    /// Translates `bfe.u32 d, a, position, length`.
    pub(super) fn extract(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a, position, len]) = (rest, operands) else {
            return Ok(None);
        };
        let op = match *kind {
            "u32" => Op::Bfe32,
            "s32" => Op::BfeSigned32,
            _ => return Ok(None),
        };
        let a = self.source(a, WORD)?;
        let (position, len) = (self.source(position, WORD)?, self.source(len, WORD)?);
        let d = self.result(d, 32)?;
        self.emit_all(op, [d, a, position, len], 0);
        Ok(Some(()))
    }

    /// Translates `bfi.b32 d, a, b, position, length`, where position and length are numbers.
    pub(super) fn insert(&mut self, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let (["b32"], [d, a, b, position, len]) = (rest, operands) else {
            return Ok(None);
        };
        let (Some(position), Some(len)) = (self.known(position), self.known(len)) else {
            return Err(self.refuse("`bfi` at a place that is no number is not supported"));
        };
        let (position, len) = (position & 0xff, len & 0xff);
        let field = if len >= 32 {
            u32::MAX
        } else {
            (1_u32 << len) - 1
        };
        let mask = if position >= 32 { 0 } else { field << position };
        let (a, b) = (self.source(a, WORD)?, self.source(b, WORD)?);
        let d = self.result(d, 32)?;
        let (inserted, kept) = (self.temporary(Width::W32), self.temporary(Width::W32));
        let (mask, rest) = (
            self.number(mask.into(), Width::W32),
            self.number((!mask).into(), Width::W32),
        );
        self.emit_all(Op::ShlBy32, [inserted, a, 0, 0], position % 32);
        self.emit(Op::And32, inserted, inserted, mask);
        self.emit(Op::And32, kept, b, rest);
        self.emit(Op::Or32, d, inserted, kept);
        Ok(Some(()))
    }

    /// Translates `brev`, `clz` and `popc`.
    pub(super) fn count(&mut self, name: &str, rest: &[&str], operands: &[Operand<'a>]) -> Known {
        let ([kind], [d, a]) = (rest, operands) else {
            return Ok(None);
        };
        let (op, source, result) = match (name, *kind) {
            ("brev", "b32") => (Op::Brev32, 32, 32),
            ("brev", "b64") => (Op::Brev64, 64, 64),
            ("clz", "b32") => (Op::Clz32, 32, 32),
            ("clz", "b64") => (Op::Clz64, 64, 32),
            ("popc", "b32") => (Op::Popc32, 32, 32),
            ("popc", "b64") => (Op::Popc64, 64, 32),
            _ => return Ok(None),
        };
        let a = self.source(a, Type::unsigned(source))?;
        let d = self.result(d, result)?;
        self.emit(op, d, a, 0);
        Ok(Some(()))
    }
}
