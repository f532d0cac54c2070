//! Parses a module's tokens into variables and kernels, with all registers declared and all numbers
//! read.
//!
//! This module knows PTX's grammar, as far as integer kernels need it. It does not know what an
//! opcode does.

mod body;

use super::Refusal;
use super::cursor::Cursor;
use super::lex::Kind;

/// The maximum size of a kernel's parameters, in bytes.
const MAX_PARAMS: u32 = 4096;

/// A parsed module.
#[derive(Debug)]
pub(super) struct ModuleText<'a> {
    /// `.version 7.0` is `(7, 0)`.
    pub version: (u32, u32),
    /// `.target sm_75` is 75.
    pub target: u32,
    pub variables: Vec<Variable<'a>>,
    pub kernels: Vec<KernelText<'a>>,
}

/// A variable of the module, in global or constant memory.
#[derive(Debug)]
pub(super) struct Variable<'a> {
    pub name: &'a str,
    pub bytes: Vec<u8>,
    pub align: u32,
    pub constant: bool,
}

/// A parsed kernel.
#[derive(Debug)]
pub(super) struct KernelText<'a> {
    pub name: &'a str,
    pub params: Vec<Param<'a>>,
    /// The product of `.maxntid` or `.reqntid`.
    pub max_threads: Option<u32>,
    pub body: Vec<Statement<'a>>,
    /// The class of each register, indexed by its number.
    pub registers: Vec<Class>,
}

/// A parameter, and its offset in the parameter bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Param<'a> {
    pub name: &'a str,
    pub offset: u32,
    pub bytes: u32,
}

#[derive(Debug)]
pub(super) enum Statement<'a> {
    Instruction(Instruction<'a>),
    Label { name: &'a str, line: u32 },
}

#[derive(Debug)]
pub(super) struct Instruction<'a> {
    /// The predicate that guards the instruction, and the value it must have.
    pub guard: Option<(Register, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub line: u32,
}

/// The type of a register's content. Instructions decide about its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Predicate,
    Word16,
    Word32,
    Word64,
}

/// A register, numbered over all classes of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub number: u32,
    pub class: Class,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand<'a> {
    /// `[register+offset]`.
    Address(Register, u64),
    /// A parameter, a variable, a label or a special register.
    Name(&'a str),
    /// `[name+offset]`.
    NameAddress(&'a str, u64),
    Number(u64),
    /// `register|register`.
    Pair(Register, Register),
    Register(Register),
    /// `_`.
    Sink,
    Vector(Vec<Operand<'a>>),
}

pub(super) fn module<'a>(cursor: &mut Cursor<'a>) -> Result<ModuleText<'a>, Refusal> {
    let mut module = ModuleText {
        version: (0, 0),
        target: 0,
        variables: Vec::new(),
        kernels: Vec::new(),
    };
    while let Some(word) = cursor.next_word()? {
        match word {
            ".version" => {
                let text = cursor.word("a version")?;
                let version = text
                    .split_once('.')
                    .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
                module.version = version.ok_or_else(|| cursor.refusal("no version"))?;
            }
            ".target" => {
                let text = cursor.word("a target")?;
                let digits = text
                    .strip_prefix("sm_")
                    .map(|rest| rest.trim_end_matches(['a', 'f']));
                let target = digits.and_then(|digits| digits.parse().ok());
                module.target =
                    target.ok_or_else(|| cursor.refusal("the target is no `sm_` and number"))?;
                while cursor.eat(b',') {
                    cursor.word("a target's option")?;
                }
            }
            ".address_size" => {
                if cursor.number("an address size")? != 64 {
                    return Err(cursor.refusal("addresses must have 64 bits"));
                }
            }
            ".visible" | ".weak" => {}
            ".file" => cursor.skip_line(),
            ".global" | ".const" => {
                let variable = variable(cursor, word == ".const")?;
                module.variables.push(variable);
            }
            ".entry" => {
                let kernel = kernel(cursor)?;
                module.kernels.push(kernel);
            }
            _ => return Err(cursor.refusal(format!("`{word}` is unknown outside kernels"))),
        }
    }
    if module.version == (0, 0) || module.target == 0 {
        return Err(Refusal::new(1, "`.version` or `.target` is missing"));
    }
    Ok(module)
}

/// Parses `.align 4 .u32 NAME[64] = {1, 2, ...};`, after `.global` or `.const`.
fn variable<'a>(cursor: &mut Cursor<'a>, constant: bool) -> Result<Variable<'a>, Refusal> {
    let mut align = None;
    let mut kind = cursor.word("a type")?;
    if kind == ".align" {
        align = Some(cursor.number("an alignment")? as u32);
        kind = cursor.word("a type")?;
    }
    let size =
        type_bytes(kind).ok_or_else(|| cursor.refusal(format!("`{kind}` is an unknown type")))?;
    let name = cursor.word("a variable's name")?;
    let mut count = 1;
    if cursor.eat(b'[') {
        count = if cursor.eat(b']') {
            0
        } else {
            let count = cursor.number("an array's length")?;
            cursor.expect(b']')?;
            count
        };
    }
    let mut bytes = Vec::new();
    if cursor.eat(b'=') {
        let list = cursor.eat(b'{');
        loop {
            let value = cursor.signed_number("a variable's value")?;
            bytes.extend_from_slice(&value.to_le_bytes()[..size as usize]);
            if !(list && cursor.eat(b',')) {
                break;
            }
        }
        if list {
            cursor.expect(b'}')?;
        }
    }
    cursor.expect(b';')?;
    let len = count.saturating_mul(size.into()).max(bytes.len() as u64);
    if len > 1 << 20 {
        return Err(cursor.refusal("a variable of more than 1 MiB"));
    }
    bytes.resize(len as usize, 0);
    Ok(Variable {
        name,
        bytes,
        align: align.unwrap_or(size),
        constant,
    })
}

fn kernel<'a>(cursor: &mut Cursor<'a>) -> Result<KernelText<'a>, Refusal> {
    let name = cursor.word("a kernel's name")?;
    let params = if cursor.eat(b'(') {
        params(cursor)?
    } else {
        Vec::new()
    };
    let mut max_threads = None;
    while !cursor.eat(b'{') {
        match cursor.word("`{`")? {
            ".maxntid" | ".reqntid" => {
                let mut product = cursor.number("a number of threads")?;
                while cursor.eat(b',') {
                    product = product.saturating_mul(cursor.number("a number of threads")?);
                }
                max_threads = Some(product.min(u64::from(u32::MAX)) as u32);
            }
            ".minnctapersm" | ".maxnreg" => {
                cursor.number("a number")?;
            }
            other => {
                return Err(cursor.refusal(format!("`{other}` before a kernel's body is unknown")));
            }
        }
    }
    let mut body = body::Body::new();
    body.read(cursor)?;
    Ok(KernelText {
        name,
        params,
        max_threads,
        body: body.statements,
        registers: body.registers,
    })
}

fn params<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Param<'a>>, Refusal> {
    let mut params: Vec<Param<'a>> = Vec::new();
    if cursor.eat(b')') {
        return Ok(params);
    }
    loop {
        if cursor.word("`.param`")? != ".param" {
            return Err(cursor.refusal("a parameter begins with `.param`"));
        }
        let mut align = 1;
        let mut kind = cursor.word("a type")?;
        if kind == ".align" {
            align = cursor.number("an alignment")? as u32;
            kind = cursor.word("a type")?;
        }
        let size = type_bytes(kind)
            .ok_or_else(|| cursor.refusal(format!("`{kind}` is an unknown type")))?;
        skip_pointer_note(cursor);
        let name = cursor.word("a parameter's name")?;
        let mut bytes = size;
        if cursor.eat(b'[') {
            bytes = size.saturating_mul(cursor.number("an array's length")? as u32);
            cursor.expect(b']')?;
        }
        let end = params.last().map_or(0, |param| param.offset + param.bytes);
        let align = align.max(size).max(1);
        if align > 128 || bytes > MAX_PARAMS || end > MAX_PARAMS {
            return Err(cursor.refusal("more parameters than a kernel can have"));
        }
        params.push(Param {
            name,
            offset: end.next_multiple_of(align),
            bytes,
        });
        if !cursor.eat(b',') {
            cursor.expect(b')')?;
            return Ok(params);
        }
    }
}

/// Skips `.ptr .global .align 8`, which the machine does not need.
fn skip_pointer_note(cursor: &mut Cursor<'_>) {
    while let Some(Kind::Word(".ptr" | ".global" | ".const" | ".align") | Kind::Number(_)) =
        cursor.peek()
    {
        cursor.advance();
    }
}

/// Returns the size of the type in bytes.
pub(super) fn type_bytes(kind: &str) -> Option<u32> {
    Some(match kind {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}
