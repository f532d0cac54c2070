//! The target machine of the translation: instructions over two register files, of 32 and of 64
//! bits.
//!
//! Predicates and 16-bit registers are in the first file, the latter extended with zeros. This
//! module does not know PTX's text, the names of registers, or memory.

/// The number of a register in the file of its width. Before allocation, it is a virtual register.
pub(super) type Reg = u32;

/// An operation. `d` is the destination, `a`, `b` and `c` are the sources, and `imm` is an
/// immediate number. The suffix is the width: `32` reads and writes words, `64` long words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add32,
    Add64,
    /// Faults unless the address `a + imm` is a multiple of `b`, which is a number and not a
    /// register.
    Align,
    And32,
    And64,
    Bfe32,
    BfeSigned32,
    /// Jumps to the instruction `imm`.
    Branch,
    /// Jumps to the instruction `imm` where the predicate `a` holds.
    BranchIf,
    /// Jumps to the instruction `imm` where the predicate `a` does not hold.
    BranchUnless,
    Brev32,
    Brev64,
    Clz32,
    Clz64,
    DivS32,
    DivS64,
    DivU32,
    DivU64,
    Eq32,
    Eq64,
    /// The lower half of the long word `b:a`, shifted right by `imm` (at most 32) bits.
    Funnel,
    FunnelLeftClamp,
    FunnelLeftWrap,
    FunnelRightClamp,
    FunnelRightWrap,
    /// The upper word of the long word `a`.
    High,
    LeS32,
    LeS64,
    LeU32,
    LeU64,
    Load16,
    Load32,
    Load64,
    Load8,
    Lop3,
    LtS32,
    LtS64,
    LtU32,
    LtU64,
    MaxS32,
    MaxS64,
    MaxU32,
    MaxU64,
    MinS32,
    MinS64,
    MinU32,
    MinU64,
    Mov32,
    Mov64,
    Mul32,
    Mul64,
    MulHighS32,
    MulHighS64,
    MulHighU32,
    MulHighU64,
    MulWideS32,
    MulWideU32,
    Ne32,
    Ne64,
    /// The lower word of the long word `a`.
    Narrow,
    Not32,
    Not64,
    Or32,
    Or64,
    /// The long word `b:a`.
    Pack,
    Popc32,
    Popc64,
    Prmt,
    /// `prmt` with the selector `imm`.
    PrmtBy,
    RemS32,
    RemS64,
    RemU32,
    RemU64,
    Ret,
    /// `a`, rotated right by `imm` bits.
    Rotate,
    /// `a` where the predicate `c` holds, `b` elsewhere.
    Select32,
    Select64,
    Sext16,
    Sext8,
    Shl32,
    Shl64,
    /// A shift by `imm`, which is less than 32.
    ShlBy32,
    ShrBy32,
    ShrS32,
    ShrS64,
    ShrU32,
    ShrU64,
    Store16,
    Store32,
    Store64,
    Store8,
    Sub32,
    Sub64,
    SwapBytes,
    Trap,
    WidenS,
    WidenU,
    Xor32,
    Xor64,
    Zext16,
    Zext8,
}

/// An instruction. Unused fields are 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inst {
    pub op: Op,
    pub d: Reg,
    pub a: Reg,
    pub b: Reg,
    pub c: Reg,
    pub imm: u64,
    /// The line in the module's text.
    pub line: u32,
}

/// The file of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Width {
    W32,
    W64,
}

/// The fields of an instruction that are registers, with their widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub d: Option<Width>,
    pub a: Option<Width>,
    pub b: Option<Width>,
    pub c: Option<Width>,
}

impl Op {
    pub(super) fn shape(self) -> Shape {
        use Op::*;
        use Width::{W32, W64};
        let (d, a, b, c) = match self {
            Branch | Ret | Trap => (None, None, None, None),
            BranchIf | BranchUnless => (None, Some(W32), None, None),
            Align => (None, Some(W64), None, None),
            Load8 | Load16 | Load32 => (Some(W32), Some(W64), None, None),
            Load64 => (Some(W64), Some(W64), None, None),
            Store8 | Store16 | Store32 => (None, Some(W64), Some(W32), None),
            Store64 => (None, Some(W64), Some(W64), None),
            Mov32 | Not32 | Brev32 | Clz32 | Popc32 | Sext8 | Sext16 | Zext8 | Zext16
            | SwapBytes | Rotate | ShlBy32 | ShrBy32 => (Some(W32), Some(W32), None, None),
            Mov64 | Not64 | Brev64 => (Some(W64), Some(W64), None, None),
            Clz64 | Popc64 | Narrow | High => (Some(W32), Some(W64), None, None),
            WidenS | WidenU => (Some(W64), Some(W32), None, None),
            Pack | MulWideS32 | MulWideU32 => (Some(W64), Some(W32), Some(W32), None),
            Add32 | And32 | DivS32 | DivU32 | Eq32 | LeS32 | LeU32 | LtS32 | LtU32 | MaxS32
            | MaxU32 | MinS32 | MinU32 | Mul32 | MulHighS32 | MulHighU32 | Ne32 | Or32 | RemS32
            | RemU32 | Shl32 | ShrS32 | ShrU32 | Sub32 | Xor32 | Funnel | PrmtBy => {
                (Some(W32), Some(W32), Some(W32), None)
            }
            Add64 | And64 | DivS64 | DivU64 | MaxS64 | MaxU64 | MinS64 | MinU64 | Mul64
            | MulHighS64 | MulHighU64 | Or64 | RemS64 | RemU64 | Sub64 | Xor64 => {
                (Some(W64), Some(W64), Some(W64), None)
            }
            Shl64 | ShrS64 | ShrU64 => (Some(W64), Some(W64), Some(W32), None),
            Eq64 | LeS64 | LeU64 | LtS64 | LtU64 | Ne64 => (Some(W32), Some(W64), Some(W64), None),
            Bfe32 | BfeSigned32 | FunnelLeftClamp | FunnelLeftWrap | FunnelRightClamp
            | FunnelRightWrap | Lop3 | Prmt | Select32 => {
                (Some(W32), Some(W32), Some(W32), Some(W32))
            }
            Select64 => (Some(W64), Some(W64), Some(W64), Some(W32)),
        };
        Shape { d, a, b, c }
    }
}

/// The dimension of a special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Axis {
    X,
    Y,
    Z,
}

/// A value that is known before a thread's first instruction, in a register that is never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fixed {
    BlockId(Axis),
    BlockSize(Axis),
    GridSize(Axis),
    Number(u64),
    /// This many bytes (1, 2, 4 or 8) of the parameters, from an offset on.
    Param {
        offset: u32,
        bytes: u32,
        signed: bool,
    },
    ThreadId(Axis),
    /// The address of the module's variable with this number, plus an offset.
    Variable {
        number: u32,
        offset: u64,
    },
}
