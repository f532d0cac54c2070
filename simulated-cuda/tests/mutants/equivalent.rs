//! Mutants that cannot change any result, each with the reason. The reason is found in the text, not by
//! running it; the mutant is run all the same, and if it is noticed, the reason was wrong.

use crate::program::{Instruction, Program, registers};
use crate::values::{Values, position};

/// Why the instruction of that number may be exchanged for the other ones. `None`: it may not.
pub fn reason(
    program: &Program<'_>,
    values: &Values<'_>,
    index: usize,
    changed: &Program<'_>,
) -> Option<&'static str> {
    let exchange = Exchange {
        program,
        values,
        index,
        original: &program.instructions[index],
    };
    if exchange.is_dead() {
        return Some("nobody reads what it computes");
    }
    match &changed.instructions[..] {
        [] => exchange.drop(),
        [changed] if changed.guard != exchange.original.guard => None,
        [changed] if exchange.is_always_the_same(changed) => {
            Some("both compute the same number from numbers that never change")
        }
        [changed] if changed.operands == exchange.original.operands => exchange.opcodes(changed),
        [changed] => exchange.operands(changed),
        _ => exchange.cut(),
    }
}

struct Exchange<'a> {
    program: &'a Program<'a>,
    values: &'a Values<'a>,
    index: usize,
    original: &'a Instruction<'a>,
}

const SUMS: [&str; 3] = ["add.s32", "or.b32", "xor.b32"];
const DIFFERENCES: [&str; 3] = ["add.s32", "sub.s32", "xor.b32"];

impl<'a> Exchange<'a> {
    /// The instruction that sets a register, if there is one and no other.
    fn source(&self, register: &str) -> Option<&'a Instruction<'a>> {
        Some(&self.program.instructions[self.values.definition(register)?])
    }

    fn always(&self, operand: &str) -> Option<u32> {
        self.values.bits(operand).always
    }

    fn is_always_the_same(&self, changed: &Instruction<'_>) -> bool {
        let result = self.values.result(self.program, self.original).always;
        self.original.operands.first() == changed.operands.first()
            && result.is_some()
            && result == self.values.result(self.program, changed).always
    }

    /// Whether nothing reads the result, or only permutations that choose no byte of it.
    fn is_dead(&self) -> bool {
        let [result] = self.original.results()[..] else {
            return false;
        };
        self.values.definition(result).is_some()
            && self
                .readers(result)
                .all(|(reader, at)| at == 2 && self.takes_first_source_only(reader))
    }

    /// The instructions that read a register, and in which operand, or in none, as their guard.
    fn readers(&self, register: &str) -> impl Iterator<Item = (&'a Instruction<'a>, usize)> {
        self.program.instructions.iter().flat_map(move |reader| {
            let is_guard = reader.guard.trim_start_matches(['@', '!']) == register;
            let sources = usize::from(reader.has_result())..reader.operands.len();
            let sources =
                sources.filter(|at| registers(reader.operands[*at]).any(|r| r == register));
            let all: Vec<usize> = sources.chain(is_guard.then_some(usize::MAX)).collect();
            all.into_iter().map(move |at| (reader, at))
        })
    }

    /// Whether it is a `prmt` whose selector names bytes of its first source only.
    fn takes_first_source_only(&self, reader: &Instruction<'_>) -> bool {
        let is_low = |selector| selector & 0xcccc == 0;
        reader.name() == "prmt" && self.always(reader.operands[3]).is_some_and(is_low)
    }

    /// Why it may be left out.
    fn drop(&self) -> Option<&'static str> {
        let original = self.original;
        if original.name() == "ret" && self.index + 1 == self.program.instructions.len() {
            return Some("the kernel ends there");
        }
        if original.name() == "bra"
            && self.skips_search_of_one(original.guard.trim_start_matches('@'))
        {
            return Some(SEARCH_OF_ONE);
        }
        let earlier = &self.program.instructions[self.index.saturating_sub(2)..self.index];
        let again = |other: &Instruction<'_>| {
            (other.opcode, &other.operands) == (original.opcode, &original.operands)
                && !self.program.has_label(other.line, original.line)
        };
        if original.name() == "mov" && earlier.iter().any(again) {
            return Some("it has been set to that number just before");
        }
        None
    }

    /// Whether the predicate says that there are fewer than two ranges.
    fn skips_search_of_one(&self, predicate: &str) -> bool {
        self.source(predicate).is_some_and(|compare| {
            compare.opcode == "setp.lt.u32"
                && compare.operands[2] == "2"
                && self
                    .source(compare.operands[1])
                    .is_some_and(|count| count.opcode == "ld.param.u32")
        })
    }

    /// Why it may have another opcode.
    fn opcodes(&self, changed: &Instruction<'_>) -> Option<&'static str> {
        let (from, to) = (self.original.opcode, changed.opcode);
        let operands = &self.original.operands;
        if SUMS.contains(&from) && SUMS.contains(&to) && self.are_apart() {
            return Some("no bit is set in both sources: sum, `or` and `xor` are one");
        }
        let highest = |operand: &&str| matches!(self.always(operand), Some(0 | 0x8000_0000));
        if DIFFERENCES.contains(&from) && DIFFERENCES.contains(&to) && highest(&operands[2]) {
            return Some("0 or the highest bit: sum, difference and `xor` are one");
        }
        match (from, to) {
            ("add.s64", "or.b64") if self.is_inside_a_block() => {
                Some("a multiple of 4096, and a number below it: sum and `or` are one")
            }
            ("sub.s64", "xor.b64") if self.is_start_of_a_block(operands[2]) => Some(NO_BORROW),
            ("sub.s32", "xor.b32") if Some(operands[2]) == position(self.program) => {
                let is_no_less = self.values.is_no_less(self.program, self.original);
                is_no_less.then_some(NO_BORROW)
            }
            ("ld.u8", "ld.s8") if self.is_shifted_to_the_top() => Some("the sign is shifted out"),
            ("shf.r.wrap.b32", "shf.r.clamp.b32") if self.always(operands[3])? < 32 => {
                Some("an amount below 32 is neither wrapped nor clamped")
            }
            _ if from != to && from.replace(".u", ".s") == to => self
                .has_no_sign()
                .then_some("numbers too small to have a sign"),
            _ => None,
        }
    }

    /// Whether all sources are numbers of which the highest bit is never set.
    fn has_no_sign(&self) -> bool {
        let highest = match self.original.opcode.rsplit(['u', 's']).next() {
            Some("16") => 1 << 15,
            Some("32") => 1 << 31,
            _ => return false,
        };
        self.original.operands[1..]
            .iter()
            .all(|operand| self.values.bits(operand).maybe & highest == 0)
    }

    fn is_shifted_to_the_top(&self) -> bool {
        let next = self.program.instructions.get(self.index + 1);
        next.is_some_and(|next| {
            next.opcode == "shl.b32" && next.operands[1..] == [self.original.operands[0], "24"]
        })
    }

    /// Whether the long word is the number of a block, times 4096.
    fn is_start_of_a_block(&self, long_word: &str) -> bool {
        let is_product =
            |i: &Instruction<'_>| i.opcode == "mul.wide.u32" && i.operands[2] == "4096";
        self.source(long_word).is_some_and(is_product)
    }

    /// Whether a block's start and a position in it are added.
    fn is_inside_a_block(&self) -> bool {
        let [_, start, inside] = self.original.operands[..] else {
            return false;
        };
        let is_position = |i: &Instruction<'_>| {
            i.opcode == "cvt.u64.u32" && Some(i.operands[1]) == position(self.program)
        };
        self.is_start_of_a_block(start) && self.source(inside).is_some_and(is_position)
    }

    /// Whether no bit can be set in both sources.
    fn are_apart(&self) -> bool {
        let [_, first, second] = self.original.operands[..] else {
            return false;
        };
        if self.values.bits(first).maybe & self.values.bits(second).maybe == 0 {
            return true;
        }
        [(first, second), (second, first)]
            .into_iter()
            .any(|(one, other)| {
                self.assembles_a_word(one, other)
                    || self
                        .source(one)
                        .zip(self.source(other))
                        .is_some_and(|(one, other)| {
                            let excludes =
                                |part| self.source(part).is_some_and(|part| excludes(part, other));
                            (one.opcode, other.opcode) == ("and.b32", "and.b32")
                                && one.operands[1..].iter().any(|part| excludes(part))
                        })
            })
    }

    /// Whether `word` is a word that is read byte by byte, from its highest byte on, and `byte` its next
    /// one: between the last `mov` of 0 into it and here, branches only lead forward, so that it can have
    /// only what instructions between the two put into it.
    fn assembles_a_word(&self, word: &str, byte: &str) -> bool {
        let earlier = &self.program.instructions[..self.index];
        let is_start = |i: &Instruction<'_>| i.opcode == "mov.u32" && i.operands == [word, "0"];
        let Some(start) = earlier.iter().rposition(is_start) else {
            return false;
        };
        // A word's instructions are no more than those.
        if self.index - start > 24 || word != self.original.operands[0] {
            return false;
        }
        let setters = earlier[start + 1..]
            .iter()
            .filter(|i| i.results() == [word]);
        let maybe = setters.fold(0, |all, setter| {
            let shift = if setter.opcode == "shl.b32" { 24 } else { 0 };
            let added = setter.operands[1..].iter().find(|source| **source != word);
            all | added.map_or(u32::MAX, |added| self.values.bits(added).maybe << shift)
        });
        self.values.bits(byte).maybe & maybe == 0
    }

    /// Why it may have another operand.
    fn operands(&self, changed: &Instruction<'_>) -> Option<&'static str> {
        let original = self.original;
        if original.operands.len() != changed.operands.len() || original.opcode != changed.opcode {
            return None;
        }
        let mut differing = (0..).zip(original.operands.iter().zip(&changed.operands));
        let (at, (from, to)) = differing.find(|(_, (from, to))| from != to)?;
        let number = to.parse::<u32>().ok();
        match (original.name(), at) {
            ("prmt", 2) if self.takes_first_source_only(original) => {
                Some("the selector names bytes of the other source only")
            }
            ("shf", 3) if self.always(from)? % 32 == self.always(to)? % 32 => Some(MODULO_32),
            ("mov", 1) if self.is_amount() && self.always(from)? % 32 == number? % 32 => {
                Some(MODULO_32)
            }
            ("mov", 1) if (*from, *to) == ("0", "-1") && self.is_rotated_in_pairs() => Some(
                "rotated, all ones are as good as zeros, and the `xor` of two of them is the same",
            ),
            ("mov", 1) if self.is_copy_of(to, from) => Some("both registers hold the same"),
            ("min", 2) if *from == "4096" && number? > 4096 => {
                Some("a block's end is known by its length from 4096 on")
            }
            ("setp", 2) if Some(original.operands[1]) == position(self.program) => {
                let steps = |bound: &str| Some(bound.parse::<u32>().ok()?.div_ceil(64));
                (steps(from)? == steps(to)?).then_some("the position goes in steps of 64")
            }
            ("setp", 2) if number? < 2 && self.skips_search_of_one(original.operands[0]) => {
                Some(SEARCH_OF_ONE)
            }
            _ => None,
        }
    }

    /// Whether the result is an amount of rotations that are wrapped, and nothing else.
    fn is_amount(&self) -> bool {
        let is_rotation =
            |(reader, at): (&Instruction<'_>, usize)| reader.opcode == "shf.r.wrap.b32" && at == 3;
        let result = self.original.operands[0];
        self.values.definition(result).is_some() && self.readers(result).all(is_rotation)
    }

    /// Whether the result is only rotated, by whatever amount, and what comes of that only met by its like
    /// in an `xor`; or is the second source of a permutation that takes no byte of it.
    fn is_rotated_in_pairs(&self) -> bool {
        let zero = self.original.operands[0];
        let is_rotated =
            |i: &Instruction<'_>| i.name() == "shf" && i.operands[1..3] == [zero, zero];
        let is_pair = |(reader, _): (&Instruction<'_>, usize)| {
            let mut sources = reader.operands[1..].iter();
            reader.opcode == "xor.b32" && sources.all(|s| self.source(s).is_some_and(is_rotated))
        };
        self.values.definition(zero).is_some()
            && self.readers(zero).all(|(reader, at)| {
                at == 2 && self.takes_first_source_only(reader)
                    || is_rotated(reader) && self.readers(reader.operands[0]).all(is_pair)
            })
    }

    /// Whether the instruction before has copied the register into the other.
    fn is_copy_of(&self, other: &str, register: &str) -> bool {
        let before = &self.program.instructions[self.index - 1];
        before.name() == "mov" && before.operands == [other, register]
    }

    /// Why the upper half of its result may be cleared.
    fn cut(&self) -> Option<&'static str> {
        let bounded = |i: &Instruction<'_>| i.operands[2].parse::<u32>().is_ok();
        let is_short = match self.original.opcode {
            "cvt.u64.u32" => true,
            "min.u64" => bounded(self.original),
            _ => false,
        };
        is_short.then_some("its upper half is 0 already")
    }
}

const NO_BORROW: &str = "of a multiple of a power of two that is no more than the other number: below that \
    power, which is all that is asked, difference and `xor` are one, and they reach it together";
const MODULO_32: &str = "amounts are taken modulo 32";
const SEARCH_OF_ONE: &str = "a search among one range ends with it at once";

/// Whether `part` has no bit that both sources of an `and` have: it is the complement of one of them, or
/// their `xor`.
fn excludes(part: &Instruction<'_>, and: &Instruction<'_>) -> bool {
    let sources = &and.operands[1..];
    match part.opcode {
        "not.b32" => sources.contains(&part.operands[1]),
        "xor.b32" => {
            part.operands[1..] == *sources || [part.operands[2], part.operands[1]] == *sources
        }
        _ => false,
    }
}
