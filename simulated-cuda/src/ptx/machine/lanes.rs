//! A group of threads in step: their registers, their positions in the kernel, and the
//! instructions.

use super::super::instruction::{Inst, Op, Width};
use super::bits::{extract, extract_signed, funnel, lop3, permute};
use super::{Launch, Memory, Stop, Window};

/// The number of threads in a group.
pub(super) const LANES: usize = 32;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Words([u32; LANES]);

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct LongWords(pub(super) [u64; LANES]);

/// The content of registers before the first write. It cannot be mistaken for a result, nor, by its
/// last five bits, for a rotation of SHA-256.
const GARBAGE: u64 = 0xbad0_beef_bad0_beef;

const NO_WINDOW: Window = Window {
    start: 0,
    len: 0,
    bytes: std::ptr::null_mut(),
};

pub(super) struct Group<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) memory: &'a dyn Memory,
    insts: &'a [Inst],
    words: Vec<Words>,
    pub(super) long_words: Vec<LongWords>,
    /// The next instruction of each lane.
    at: [usize; LANES],
    /// The lanes that have not returned, with one bit for each.
    live: u32,
    /// The lanes that execute the current instruction, and the same as masks of words.
    pub(super) active: u32,
    mask: Words,
    /// The windows of the last accesses.
    pub(super) read: Window,
    pub(super) write: Window,
    branches: u64,
    pub(super) first_thread: u64,
    /// The number of stores of each lane; only counted for a corruption.
    pub(super) stores: [u64; LANES],
}

/// The reason why lanes no longer run together.
enum Parting {
    /// The lanes are at different places, or not all of them live.
    Apart,
    /// The waiting lanes are at or before the next instruction.
    Met(usize),
}

impl<'a> Group<'a> {
    pub(super) fn new(launch: &'a Launch<'a>, memory: &'a dyn Memory) -> Self {
        Self {
            launch,
            memory,
            insts: &launch.kernel.insts,
            words: vec![Words([GARBAGE as u32; LANES]); launch.kernel.words],
            long_words: vec![LongWords([GARBAGE; LANES]); launch.kernel.long_words],
            at: [0; LANES],
            live: 0,
            active: 0,
            mask: Words([0; LANES]),
            read: NO_WINDOW,
            write: NO_WINDOW,
            branches: launch.branches,
            first_thread: 0,
            stores: [0; LANES],
        }
    }

    /// Sets a register in each lane.
    pub(super) fn fill(&mut self, width: Width, place: u32, value: impl Fn(usize) -> u64) {
        for lane in 0..LANES {
            match width {
                Width::W32 => self.words[place as usize].0[lane] = value(lane) as u32,
                Width::W64 => self.long_words[place as usize].0[lane] = value(lane),
            }
        }
    }

    /// Runs `count` threads to their ends.
    pub(super) fn run(&mut self, first_thread: u64, count: usize) -> Result<(), Stop> {
        self.at = [0; LANES];
        self.stores = [0; LANES];
        self.first_thread = first_thread;
        self.live = ((1_u64 << count) - 1) as u32;
        while self.live != 0 {
            let places = || {
                (0..LANES)
                    .filter(|lane| self.live >> lane & 1 == 1)
                    .map(|lane| self.at[lane])
            };
            let lowest = places().min().unwrap_or(0);
            let waiting = places().filter(|at| *at != lowest).min();
            self.active = (0..LANES).fold(0, |active, lane| {
                active | u32::from(self.live >> lane & 1 == 1 && self.at[lane] == lowest) << lane
            });
            for lane in 0..LANES {
                self.mask.0[lane] = if self.active >> lane & 1 == 1 {
                    u32::MAX
                } else {
                    0
                };
            }
            let parting = match waiting {
                None => self.go::<true>(lowest, usize::MAX)?,
                Some(waiting) => self.go::<false>(lowest, waiting)?,
            };
            if let Parting::Met(at) = parting {
                self.place(self.active, at);
            }
        }
        Ok(())
    }

    fn place(&mut self, lanes: u32, at: usize) {
        for lane in 0..LANES {
            if lanes >> lane & 1 == 1 {
                self.at[lane] = at;
            }
        }
    }

    /// Returns the lanes in which a predicate holds.
    fn holds(&self, predicate: u32) -> u32 {
        let words = &self.words[predicate as usize].0;
        (0..LANES).fold(0, |lanes, lane| lanes | u32::from(words[lane] != 0) << lane)
    }

    /// Returns the next instruction of the active lanes after a branch that `taken` of them take,
    /// or `None` if they diverge.
    fn branch(&mut self, taken: u32, target: usize, next: usize) -> Result<Option<usize>, Stop> {
        self.branches = self.branches.checked_sub(1).ok_or(Stop::Timeout)?;
        let taken = taken & self.active;
        if taken == self.active {
            return Ok(Some(target));
        }
        if taken == 0 {
            return Ok(Some(next));
        }
        self.place(taken, target);
        self.place(self.active & !taken, next);
        Ok(None)
    }

    fn set<const ALL: bool>(&mut self, place: u32, value: [u32; LANES]) {
        let register = &mut self.words[place as usize].0;
        if ALL {
            *register = value;
            return;
        }
        for lane in 0..LANES {
            let mask = self.mask.0[lane];
            register[lane] = value[lane] & mask | register[lane] & !mask;
        }
    }

    fn set_long<const ALL: bool>(&mut self, place: u32, value: [u64; LANES]) {
        let register = &mut self.long_words[place as usize].0;
        if ALL {
            *register = value;
            return;
        }
        for lane in 0..LANES {
            if self.active >> lane & 1 == 1 {
                register[lane] = value[lane];
            }
        }
    }

    fn word(&self, place: u32) -> [u32; LANES] {
        self.words[place as usize].0
    }

    fn long(&self, place: u32) -> [u64; LANES] {
        self.long_words[place as usize].0
    }

    /// Executes instructions for the active lanes until they diverge, or until `waiting` is
    /// reached. With `ALL`, no other lane lives, so results need no mask.
    fn go<const ALL: bool>(&mut self, mut at: usize, waiting: usize) -> Result<Parting, Stop> {
        /// Computes a result for each lane from the sources' values.
        macro_rules! words {
            ($inst:ident, |$a:ident| $value:expr) => {{
                let first = self.word($inst.a);
                self.set::<ALL>(
                    $inst.d,
                    std::array::from_fn(|lane| {
                        let $a = first[lane];
                        $value
                    }),
                );
            }};
            ($inst:ident, |$a:ident, $b:ident| $value:expr) => {{
                let (first, second) = (self.word($inst.a), self.word($inst.b));
                self.set::<ALL>(
                    $inst.d,
                    std::array::from_fn(|lane| {
                        let ($a, $b) = (first[lane], second[lane]);
                        $value
                    }),
                );
            }};
            ($inst:ident, |$a:ident, $b:ident, $c:ident| $value:expr) => {{
                let (first, second, third) =
                    (self.word($inst.a), self.word($inst.b), self.word($inst.c));
                self.set::<ALL>(
                    $inst.d,
                    std::array::from_fn(|lane| {
                        let ($a, $b, $c) = (first[lane], second[lane], third[lane]);
                        $value
                    }),
                );
            }};
        }
        /// Does the same for long words, from the two registers that the named functions fetch.
        macro_rules! longs {
            ($inst:ident, $set:ident, $first:ident, $second:ident, |$a:ident, $b:ident| $value:expr) => {{
                let (first, second) = (self.$first($inst.a), self.$second($inst.b));
                self.$set::<ALL>(
                    $inst.d,
                    std::array::from_fn(|lane| {
                        let ($a, $b) = (first[lane], second[lane]);
                        $value
                    }),
                );
            }};
        }
        macro_rules! branch {
            ($inst:ident, $taken:expr) => {{
                let taken = $taken;
                match self.branch(taken, $inst.imm as usize, at + 1)? {
                    Some(next) => at = next.wrapping_sub(1),
                    None => return Ok(Parting::Apart),
                }
            }};
        }
        let insts = self.insts;
        loop {
            if !ALL && at >= waiting {
                return Ok(Parting::Met(at));
            }
            let inst = &insts[at];
            let n = inst.imm as u32;
            match inst.op {
                Op::Add32 => words!(inst, |a, b| a.wrapping_add(b)),
                Op::Xor32 => words!(inst, |a, b| a ^ b),
                Op::Rotate => words!(inst, |a| a >> n
                    | a.wrapping_shl(32 - n) & if n == 0 { 0 } else { u32::MAX }),
                Op::And32 => words!(inst, |a, b| a & b),
                Op::Or32 => words!(inst, |a, b| a | b),
                Op::Not32 => words!(inst, |a| !a),
                Op::ShrBy32 => words!(inst, |a| a >> n),
                Op::ShlBy32 => words!(inst, |a| a << n),
                Op::SwapBytes => words!(inst, |a| a.swap_bytes()),
                Op::Mov32 => words!(inst, |a| a),
                Op::Sub32 => words!(inst, |a, b| a.wrapping_sub(b)),
                Op::Mul32 => words!(inst, |a, b| a.wrapping_mul(b)),
                Op::MulHighU32 => words!(inst, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
                Op::MulHighS32 => words!(inst, |a, b| ((i64::from(a as i32) * i64::from(b as i32))
                    >> 32) as u32),
                Op::DivU32 => words!(inst, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
                Op::DivS32 => words!(inst, |a, b| if b == 0 {
                    u32::MAX
                } else {
                    (a as i32).wrapping_div(b as i32) as u32
                }),
                Op::RemU32 => words!(inst, |a, b| a.checked_rem(b).unwrap_or(a)),
                Op::RemS32 => words!(inst, |a, b| if b == 0 {
                    a
                } else {
                    (a as i32).wrapping_rem(b as i32) as u32
                }),
                Op::MinU32 => words!(inst, |a, b| a.min(b)),
                Op::MinS32 => words!(inst, |a, b| (a as i32).min(b as i32) as u32),
                Op::MaxU32 => words!(inst, |a, b| a.max(b)),
                Op::MaxS32 => words!(inst, |a, b| (a as i32).max(b as i32) as u32),
                Op::Eq32 => words!(inst, |a, b| u32::from(a == b)),
                Op::Ne32 => words!(inst, |a, b| u32::from(a != b)),
                Op::LtU32 => words!(inst, |a, b| u32::from(a < b)),
                Op::LtS32 => words!(inst, |a, b| u32::from((a as i32) < b as i32)),
                Op::LeU32 => words!(inst, |a, b| u32::from(a <= b)),
                Op::LeS32 => words!(inst, |a, b| u32::from(a as i32 <= b as i32)),
                Op::Shl32 => words!(inst, |a, b| a.checked_shl(b).unwrap_or(0)),
                Op::ShrU32 => words!(inst, |a, b| a.checked_shr(b).unwrap_or(0)),
                Op::ShrS32 => words!(inst, |a, b| (a as i32 >> b.min(31)) as u32),
                Op::Zext8 => words!(inst, |a| a & 0xff),
                Op::Zext16 => words!(inst, |a| a & 0xffff),
                Op::Sext8 => words!(inst, |a| a as u8 as i8 as u32),
                Op::Sext16 => words!(inst, |a| a as u16 as i16 as u32),
                Op::Brev32 => words!(inst, |a| a.reverse_bits()),
                Op::Clz32 => words!(inst, |a| a.leading_zeros()),
                Op::Popc32 => words!(inst, |a| a.count_ones()),
                Op::Funnel => words!(inst, |a, b| funnel(a, b, n)),
                Op::FunnelRightWrap => words!(inst, |a, b, c| funnel(a, b, c % 32)),
                Op::FunnelRightClamp => words!(inst, |a, b, c| funnel(a, b, c.min(32))),
                Op::FunnelLeftWrap => words!(inst, |a, b, c| funnel(a, b, 32 - c % 32)),
                Op::FunnelLeftClamp => words!(inst, |a, b, c| funnel(a, b, 32 - c.min(32))),
                Op::PrmtBy => words!(inst, |a, b| permute(a, b, n)),
                Op::Prmt => words!(inst, |a, b, c| permute(a, b, c)),
                Op::Lop3 => words!(inst, |a, b, c| lop3(a, b, c, n)),
                Op::Bfe32 => words!(inst, |a, b, c| extract(a, b, c)),
                Op::BfeSigned32 => words!(inst, |a, b, c| extract_signed(a, b, c)),
                Op::Select32 => words!(inst, |a, b, c| if c != 0 { a } else { b }),
                Op::Narrow => longs!(inst, set, long, long, |a, _b| a as u32),
                Op::High => longs!(inst, set, long, long, |a, _b| (a >> 32) as u32),
                Op::Clz64 => longs!(inst, set, long, long, |a, _b| a.leading_zeros()),
                Op::Popc64 => longs!(inst, set, long, long, |a, _b| a.count_ones()),
                Op::Eq64 => longs!(inst, set, long, long, |a, b| u32::from(a == b)),
                Op::Ne64 => longs!(inst, set, long, long, |a, b| u32::from(a != b)),
                Op::LtU64 => longs!(inst, set, long, long, |a, b| u32::from(a < b)),
                Op::LtS64 => longs!(inst, set, long, long, |a, b| u32::from(
                    (a as i64) < b as i64
                )),
                Op::LeU64 => longs!(inst, set, long, long, |a, b| u32::from(a <= b)),
                Op::LeS64 => longs!(inst, set, long, long, |a, b| u32::from(
                    a as i64 <= b as i64
                )),
                Op::WidenU => longs!(inst, set_long, word, word, |a, _b| u64::from(a)),
                Op::WidenS => longs!(inst, set_long, word, word, |a, _b| a as i32 as u64),
                Op::Pack => longs!(inst, set_long, word, word, |a, b| u64::from(b) << 32
                    | u64::from(a)),
                Op::MulWideU32 => longs!(inst, set_long, word, word, |a, b| u64::from(a)
                    * u64::from(b)),
                Op::MulWideS32 => longs!(inst, set_long, word, word, |a, b| (i64::from(a as i32)
                    * i64::from(b as i32))
                    as u64),
                Op::Shl64 => longs!(inst, set_long, long, word, |a, b| a
                    .checked_shl(b)
                    .unwrap_or(0)),
                Op::ShrU64 => longs!(inst, set_long, long, word, |a, b| a
                    .checked_shr(b)
                    .unwrap_or(0)),
                Op::ShrS64 => longs!(inst, set_long, long, word, |a, b| (a as i64 >> b.min(63))
                    as u64),
                Op::Mov64 => longs!(inst, set_long, long, long, |a, _b| a),
                Op::Not64 => longs!(inst, set_long, long, long, |a, _b| !a),
                Op::Brev64 => longs!(inst, set_long, long, long, |a, _b| a.reverse_bits()),
                Op::Add64 => longs!(inst, set_long, long, long, |a, b| a.wrapping_add(b)),
                Op::Sub64 => longs!(inst, set_long, long, long, |a, b| a.wrapping_sub(b)),
                Op::And64 => longs!(inst, set_long, long, long, |a, b| a & b),
                Op::Or64 => longs!(inst, set_long, long, long, |a, b| a | b),
                Op::Xor64 => longs!(inst, set_long, long, long, |a, b| a ^ b),
                Op::Mul64 => longs!(inst, set_long, long, long, |a, b| a.wrapping_mul(b)),
                Op::MulHighU64 => longs!(inst, set_long, long, long, |a, b| ((u128::from(a)
                    * u128::from(b))
                    >> 64)
                    as u64),
                Op::MulHighS64 => longs!(inst, set_long, long, long, |a, b| ((i128::from(a as i64)
                    * i128::from(b as i64))
                    >> 64)
                    as u64),
                Op::DivU64 => longs!(inst, set_long, long, long, |a, b| a
                    .checked_div(b)
                    .unwrap_or(u64::MAX)),
                Op::DivS64 => longs!(inst, set_long, long, long, |a, b| if b == 0 {
                    u64::MAX
                } else {
                    (a as i64).wrapping_div(b as i64) as u64
                }),
                Op::RemU64 => longs!(inst, set_long, long, long, |a, b| a
                    .checked_rem(b)
                    .unwrap_or(a)),
                Op::RemS64 => longs!(inst, set_long, long, long, |a, b| if b == 0 {
                    a
                } else {
                    (a as i64).wrapping_rem(b as i64) as u64
                }),
                Op::MinU64 => longs!(inst, set_long, long, long, |a, b| a.min(b)),
                Op::MinS64 => longs!(inst, set_long, long, long, |a, b| (a as i64).min(b as i64)
                    as u64),
                Op::MaxU64 => longs!(inst, set_long, long, long, |a, b| a.max(b)),
                Op::MaxS64 => longs!(inst, set_long, long, long, |a, b| (a as i64).max(b as i64)
                    as u64),
                Op::Select64 => {
                    let (first, second, chosen) =
                        (self.long(inst.a), self.long(inst.b), self.word(inst.c));
                    let value = |lane: usize| {
                        if chosen[lane] != 0 {
                            first[lane]
                        } else {
                            second[lane]
                        }
                    };
                    self.set_long::<ALL>(inst.d, std::array::from_fn(value));
                }
                Op::Align => self.check_alignment(inst)?,
                Op::Load8 => {
                    let values = self.load::<1>(inst)?;
                    self.set::<ALL>(inst.d, values.map(|value| value as u32));
                }
                Op::Load16 => {
                    let values = self.load::<2>(inst)?;
                    self.set::<ALL>(inst.d, values.map(|value| value as u32));
                }
                Op::Load32 => {
                    let values = self.load::<4>(inst)?;
                    self.set::<ALL>(inst.d, values.map(|value| value as u32));
                }
                Op::Load64 => {
                    let values = self.load::<8>(inst)?;
                    self.set_long::<ALL>(inst.d, values);
                }
                Op::Store8 => self.store::<1>(inst, self.word(inst.b).map(u64::from))?,
                Op::Store16 => self.store::<2>(inst, self.word(inst.b).map(u64::from))?,
                Op::Store32 => self.store::<4>(inst, self.word(inst.b).map(u64::from))?,
                Op::Store64 => self.store::<8>(inst, self.long(inst.b))?,
                Op::Branch => branch!(inst, u32::MAX),
                Op::BranchIf => branch!(inst, self.holds(inst.a)),
                Op::BranchUnless => branch!(inst, !self.holds(inst.a)),
                Op::Ret => {
                    self.live &= !self.active;
                    return Ok(Parting::Apart);
                }
                Op::Trap => return Err(Stop::Trap { line: inst.line }),
            }
            at = at.wrapping_add(1);
        }
    }
}
