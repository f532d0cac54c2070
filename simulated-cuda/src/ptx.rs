//! An interpreter for the shipped PTX.
//!
//! A module's text is parsed, translated for a small integer machine, and interpreted for every
//! thread of a launch, with each memory access checked. Supported is the integer subset of PTX
//! without shared or local memory, calls, barriers and atomics. Loading refuses anything else, and
//! names the line.

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

/// The reason why a module is refused, and the line.
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

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// `.version 7.0` is `(7, 0)`.
    pub version: (u32, u32),
    /// `.target sm_75` is 75.
    pub target: u32,
    pub variables: Vec<Variable>,
    pub kernels: Vec<Kernel>,
}

/// A variable in global or constant memory, with its initial value.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    pub bytes: Vec<u8>,
    pub align: u32,
    pub constant: bool,
}

/// A translated kernel.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    /// The offset and length of each parameter in the parameter bytes.
    pub params: Vec<(u32, u32)>,
    pub max_threads: Option<u32>,
    insts: Vec<Inst>,
    words: usize,
    long_words: usize,
    fixed: Vec<(Width, u32, Fixed)>,
}

impl Kernel {
    /// Returns the length of all parameters together.
    pub fn params_len(&self) -> usize {
        self.params
            .last()
            .map_or(0, |(offset, bytes)| (offset + bytes) as usize)
    }

    /// Returns the size of the register file, in words of 32 bits. It says nothing about a GPU's
    /// use of registers.
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
