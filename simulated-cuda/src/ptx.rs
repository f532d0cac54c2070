//! Runs the PTX that ships: a module's text is read, translated for a small machine of integers, and
//! interpreted for every thread of a launch, with each access to memory checked.
//!
//! What is supported is the integer subset of PTX without shared or local memory, calls, barriers and
//! atomics. Anything else is refused when the module is loaded, with the line that asks for it.

mod allot;
mod cursor;
mod instruction;
mod lex;
mod machine;
mod parse;
mod translate;

use std::fmt;

pub use machine::{Access, Corruption, Launch, Memory, Stop, Window};

use instruction::{Fixed, Inst, Width};

/// Why a module is refused, and where.
#[derive(Debug)]
pub struct Refusal {
    pub line: u32,
    pub what: String,
}

impl Refusal {
    fn new(line: u32, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.what)
    }
}

/// A module, ready to be launched from.
#[derive(Debug)]
pub struct Module {
    /// `.version 7.0` is `(7, 0)`.
    pub version: (u32, u32),
    /// `.target sm_75` is 75.
    pub target: u32,
    pub variables: Vec<Variable>,
    pub kernels: Vec<Kernel>,
}

/// A variable in global or constant memory, with what it holds at first.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    pub bytes: Vec<u8>,
    pub align: u32,
    pub constant: bool,
}

/// A kernel, translated.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    /// Offset and length of each parameter among the parameters' bytes.
    pub params: Vec<(u32, u32)>,
    pub max_threads: Option<u32>,
    insts: Vec<Inst>,
    words: usize,
    long_words: usize,
    fixed: Vec<(Width, u32, Fixed)>,
}

impl Kernel {
    /// The length of all parameters together.
    pub fn params_len(&self) -> usize {
        self.params
            .last()
            .map_or(0, |(offset, bytes)| (offset + bytes) as usize)
    }

    /// The places in the register file, in words of 32 bits. No measure of what a GPU would use.
    pub fn registers(&self) -> usize {
        self.words + 2 * self.long_words
    }
}

impl Module {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut cursor = cursor::Cursor::new(lex::tokens(text)?);
        let module = parse::module(&mut cursor)?;
        let mut kernels = Vec::new();
        for kernel in &module.kernels {
            let translated = translate::kernel(kernel, &module.variables)?;
            let allotted = allot::registers(&translated);
            let fixed = translated.fixed.iter().zip(&allotted.fixed);
            kernels.push(Kernel {
                name: kernel.name.to_owned(),
                params: kernel
                    .params
                    .iter()
                    .map(|param| (param.offset, param.bytes))
                    .collect(),
                max_threads: kernel.max_threads,
                fixed: fixed
                    .map(|((_, fixed), (width, place))| (*width, *place, *fixed))
                    .collect(),
                insts: allotted.insts,
                words: allotted.words,
                long_words: allotted.long_words,
            });
        }
        let variables = module.variables.into_iter().map(|variable| Variable {
            name: variable.name.to_owned(),
            bytes: variable.bytes,
            align: variable.align,
            constant: variable.constant,
        });
        Ok(Self {
            version: module.version,
            target: module.target,
            variables: variables.collect(),
            kernels,
        })
    }
}
