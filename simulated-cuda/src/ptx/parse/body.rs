//! Parses a kernel's body: declarations of registers, in nested braces, and the instructions.

use std::collections::HashMap;

use super::super::Refusal;
use super::super::cursor::Cursor;
use super::super::lex::Kind;
use super::{Class, Instruction, Operand, Register, Statement, type_bytes};

/// The names that a pair of braces declares.
#[derive(Debug, Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Register>,
    /// `%r<100>` is `("%r", Word32, 100)`.
    ranges: Vec<(&'a str, Class, u64)>,
}

pub(super) struct Body<'a> {
    pub registers: Vec<Class>,
    pub statements: Vec<Statement<'a>>,
    scopes: Vec<Scope<'a>>,
}

impl<'a> Body<'a> {
    pub(super) fn new() -> Self {
        Self {
            registers: Vec::new(),
            statements: Vec::new(),
            scopes: vec![Scope::default()],
        }
    }

    /// Parses up to the brace that closes the body.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Refusal> {
        while !self.scopes.is_empty() {
            if cursor.eat(b'{') {
                self.scopes.push(Scope::default());
            } else if cursor.eat(b'}') {
                self.scopes.pop();
            } else if cursor.eat(b'@') {
                let holds = !cursor.eat(b'!');
                let name = cursor.word("a predicate")?;
                let predicate = self
                    .register(name)
                    .filter(|register| register.class == Class::Predicate);
                let predicate =
                    predicate.ok_or_else(|| cursor.refusal(format!("`{name}` is no predicate")))?;
                let opcode = cursor.word("an instruction")?;
                self.instruction(cursor, Some((predicate, holds)), opcode)?;
            } else {
                let word = cursor.word("an instruction")?;
                self.statement(cursor, word)?;
            }
        }
        Ok(())
    }

    fn statement(&mut self, cursor: &mut Cursor<'a>, word: &'a str) -> Result<(), Refusal> {
        match word {
            ".reg" => self.declare(cursor),
            ".loc" => {
                cursor.skip_line();
                Ok(())
            }
            ".pragma" => {
                cursor.advance();
                cursor.expect(b';')
            }
            _ if word.starts_with('.') => {
                Err(cursor.refusal(format!("`{word}` inside a kernel is not supported")))
            }
            _ if cursor.eat(b':') => {
                self.statements.push(Statement::Label {
                    name: word,
                    line: cursor.line(),
                });
                Ok(())
            }
            _ => self.instruction(cursor, None, word),
        }
    }

    /// Parses `.reg .b32 %r<100>, carry;`.
    fn declare(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Refusal> {
        let kind = cursor.word("a register's type")?;
        let class = match kind {
            ".pred" => Class::Predicate,
            _ => match type_bytes(kind) {
                Some(2) => Class::Word16,
                Some(4) => Class::Word32,
                Some(8) => Class::Word64,
                _ => {
                    return Err(
                        cursor.refusal(format!("registers of type `{kind}` are not supported"))
                    );
                }
            },
        };
        loop {
            let name = cursor.word("a register's name")?;
            if cursor.eat(b'<') {
                let count = cursor.number("a number of registers")?;
                cursor.expect(b'>')?;
                if let Some(scope) = self.scopes.last_mut() {
                    scope.ranges.push((name, class, count));
                }
            } else {
                let register = self.new_register(class);
                if let Some(scope) = self.scopes.last_mut() {
                    scope.names.insert(name, register);
                }
            }
            if !cursor.eat(b',') {
                return cursor.expect(b';');
            }
        }
    }

    fn new_register(&mut self, class: Class) -> Register {
        self.registers.push(class);
        Register {
            number: self.registers.len() as u32 - 1,
            class,
        }
    }

    /// Returns the register with this name, as declared by the innermost scope that has it.
    fn register(&mut self, name: &'a str) -> Option<Register> {
        for scope in (0..self.scopes.len()).rev() {
            if let Some(register) = self.scopes[scope].names.get(name) {
                return Some(*register);
            }
            let class = self.scopes[scope]
                .ranges
                .iter()
                .find_map(|(prefix, class, count)| {
                    let digits = name.strip_prefix(prefix)?;
                    let plain = digits.len() == 1 || !digits.starts_with('0');
                    let number: u64 = digits.parse().ok()?;
                    (plain && number < *count).then_some(*class)
                });
            if let Some(class) = class {
                let register = self.new_register(class);
                self.scopes[scope].names.insert(name, register);
                return Some(register);
            }
        }
        None
    }

    fn instruction(
        &mut self,
        cursor: &mut Cursor<'a>,
        guard: Option<(Register, bool)>,
        opcode: &'a str,
    ) -> Result<(), Refusal> {
        let line = cursor.line();
        let mut operands = Vec::new();
        while !cursor.eat(b';') {
            operands.push(self.operand(cursor)?);
            if !cursor.eat(b',') {
                cursor.expect(b';')?;
                break;
            }
        }
        self.statements.push(Statement::Instruction(Instruction {
            guard,
            opcode,
            operands,
            line,
        }));
        Ok(())
    }

    fn operand(&mut self, cursor: &mut Cursor<'a>) -> Result<Operand<'a>, Refusal> {
        if cursor.eat(b'[') {
            let name = cursor.word("an address")?;
            let mut offset = 0;
            if cursor.eat(b'+') || cursor.peek() == Some(Kind::Sign(b'-')) {
                offset = cursor.signed_number("an offset")?;
            }
            cursor.expect(b']')?;
            return Ok(match self.register(name) {
                Some(register) if register.class == Class::Word64 => {
                    Operand::Address(register, offset)
                }
                Some(_) => {
                    return Err(cursor.refusal(format!("`{name}` is no register of 64 bits")));
                }
                None => Operand::NameAddress(name, offset),
            });
        }
        if cursor.eat(b'{') {
            let mut elements = Vec::new();
            loop {
                elements.push(self.operand(cursor)?);
                if !cursor.eat(b',') {
                    cursor.expect(b'}')?;
                    return Ok(Operand::Vector(elements));
                }
            }
        }
        if matches!(cursor.peek(), Some(Kind::Number(_) | Kind::Sign(b'-'))) {
            return Ok(Operand::Number(cursor.signed_number("a number")?));
        }
        let name = cursor.word("an operand")?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        let Some(register) = self.register(name) else {
            return Ok(Operand::Name(name));
        };
        if !cursor.eat(b'|') {
            return Ok(Operand::Register(register));
        }
        let name = cursor.word("a second predicate")?;
        match self.register(name) {
            Some(second) => Ok(Operand::Pair(register, second)),
            None => Err(cursor.refusal(format!("`{name}` is no register"))),
        }
    }
}
