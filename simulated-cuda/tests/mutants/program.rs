//! A kernel's text as lines and instructions, so that one of them can be exchanged.

/// The shipped text, and the instructions in it.
pub struct Program<'a> {
    lines: Vec<&'a str>,
    pub instructions: Vec<Instruction<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Instruction<'a> {
    /// Its line, counted from 0.
    pub line: usize,
    /// `@%p1` or `@!%p1`, or nothing.
    pub guard: &'a str,
    pub opcode: &'a str,
    /// As written; a vector or an address is one.
    pub operands: Vec<&'a str>,
}

impl<'a> Program<'a> {
    pub fn parse(text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let instructions = lines.iter().enumerate();
        let instructions = instructions.filter_map(|(line, text)| instruction(line, text));
        Self {
            instructions: instructions.collect(),
            lines,
        }
    }

    /// The text with other words in place of an instruction.
    pub fn with(&self, line: usize, words: &str) -> String {
        let mut lines = self.lines.clone();
        lines[line] = words;
        lines.join("\n")
    }

    /// Whether there is a label between two lines.
    pub fn has_label(&self, from: usize, to: usize) -> bool {
        self.lines[from..to]
            .iter()
            .any(|line| line.trim().ends_with(':'))
    }

    pub fn line(&self, line: usize) -> &'a str {
        self.lines[line].trim()
    }
}

/// The instruction on a line, if there is one: no directive, label, comment or parameter.
fn instruction(line: usize, text: &str) -> Option<Instruction<'_>> {
    let text = text.trim().strip_suffix(';')?;
    let (guard, text) = if text.starts_with('@') {
        text.split_once(char::is_whitespace)?
    } else {
        ("", text)
    };
    let text = text.trim();
    let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!opcode.starts_with('.')).then(|| Instruction {
        line,
        guard,
        opcode,
        operands: split(operands),
    })
}

/// Cuts at the commas that are in no braces.
fn split(operands: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = operands.split(|sign| {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        sign == ',' && depth == 0
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

impl Instruction<'_> {
    /// With other operands.
    pub fn written(&self, opcode: &str, operands: &[String]) -> String {
        format!("{} {opcode} {};", self.guard, operands.join(", "))
    }

    pub fn owned_operands(&self) -> Vec<String> {
        self.operands
            .iter()
            .map(|operand| (*operand).to_owned())
            .collect()
    }

    /// Whether its first operand is what it computes.
    pub fn has_result(&self) -> bool {
        !matches!(self.name(), "st" | "bra" | "ret")
    }

    /// The opcode without its modifiers.
    pub fn name(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// The registers that it sets.
    pub fn results(&self) -> Vec<&str> {
        if self.has_result() {
            registers(self.operands[0]).collect()
        } else {
            Vec::new()
        }
    }
}

/// The registers in an operand: none, one, or those of a vector or an address.
pub fn registers(operand: &str) -> impl Iterator<Item = &str> {
    let parts = operand.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '%');
    parts.filter(|part| class(part).is_some())
}

/// `%rd` of `%rd7`; special registers have none.
pub fn class(register: &str) -> Option<&str> {
    let class = register.trim_end_matches(|sign: char| sign.is_ascii_digit());
    (class.starts_with('%') && class.len() < register.len()).then_some(class)
}
