//! Splits the text of a PTX module into tokens with their lines.
//!
//! This module knows comments and numbers; it does not know what a token means.

use super::Refusal;

/// A token and its line, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// An integer, as two's complement bits; the sign is a token of its own.
    Number(u64),
    /// One character of punctuation.
    Sign(u8),
    /// The text between quotation marks.
    Text(&'a str),
    /// A name, directive, opcode or version number.
    Word(&'a str),
}

/// Returns all tokens of `text`.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Refusal> {
    let mut lexer = Lexer {
        text,
        at: 0,
        line: 1,
    };
    let mut tokens = Vec::with_capacity(text.len() / 6);
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, Refusal> {
        self.skip()?;
        let line = self.line;
        let Some(first) = self.peek(0) else {
            return Ok(None);
        };
        let kind = match first {
            b'"' => self.quoted()?,
            b'0'..=b'9' => self.number()?,
            _ if is_word(first) => self.word(),
            b',' | b';' | b':' | b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b'+'
            | b'-' | b'@' | b'!' | b'=' | b'|' => {
                self.at += 1;
                Kind::Sign(first)
            }
            _ => {
                return Err(Refusal::new(
                    line,
                    format!("unexpected character {:?}", char::from(first)),
                ));
            }
        };
        Ok(Some(Token { kind, line }))
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    /// Skips white space and comments.
    fn skip(&mut self) -> Result<(), Refusal> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\n'), _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (Some(b' ' | b'\t' | b'\r'), _) => self.at += 1,
                (Some(b'/'), Some(b'/')) => {
                    self.take_while(|byte| byte != b'\n');
                }
                (Some(b'/'), Some(b'*')) => {
                    let Some(len) = self.text[self.at..].find("*/") else {
                        return Err(Refusal::new(self.line, "a comment does not end"));
                    };
                    let comment = &self.text[self.at..self.at + len];
                    self.line += comment.bytes().filter(|&byte| byte == b'\n').count() as u32;
                    self.at += len + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    /// Reads a name or an opcode, whose modifiers may contain two colons:
    /// `ld.global.L1::no_allocate.u32`.
    fn word(&mut self) -> Kind<'a> {
        let start = self.at;
        self.take_while(is_word);
        while self.text[self.at..].starts_with("::") {
            self.at += 2;
            self.take_while(is_word);
        }
        Kind::Word(&self.text[start..self.at])
    }

    fn quoted(&mut self) -> Result<Kind<'a>, Refusal> {
        self.at += 1;
        let text = self.take_while(|byte| byte != b'"' && byte != b'\n');
        if self.peek(0) != Some(b'"') {
            return Err(Refusal::new(
                self.line,
                "a quotation does not end on its line",
            ));
        }
        self.at += 1;
        Ok(Kind::Text(text))
    }

    /// Reads an integer, or a version such as `7.0`, which is a word.
    fn number(&mut self) -> Result<Kind<'a>, Refusal> {
        let word = self.take_while(is_word);
        if word.contains('.') {
            return Ok(Kind::Word(word));
        }
        let digits = word.strip_suffix('U').unwrap_or(word);
        let value = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => u64::from_str_radix(&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => u64::from_str_radix(&digits[2..], 2),
            [b'0', _, ..] => u64::from_str_radix(digits, 8),
            _ => digits.parse(),
        };
        match value {
            Ok(value) => Ok(Kind::Number(value)),
            Err(_) => Err(Refusal::new(
                self.line,
                format!("`{word}` is no integer of 64 bits"),
            )),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        tokens(text)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn an_instruction_is_cut_at_its_signs() {
        let expected = [
            Kind::Sign(b'@'),
            Kind::Word("%p1"),
            Kind::Word("ld.global.u64"),
            Kind::Word("%rd23"),
            Kind::Sign(b','),
            Kind::Sign(b'['),
            Kind::Word("%rd22"),
            Kind::Sign(b'+'),
            Kind::Number(16),
            Kind::Sign(b']'),
            Kind::Sign(b';'),
        ];
        assert_eq!(
            kinds("@%p1 ld.global.u64 \t%rd23, [%rd22+16]; // comment"),
            expected
        );
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let tokens = tokens("a\n/* b\nc */ d // e\nf").unwrap();
        let lines: Vec<u32> = tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn numbers_have_four_notations() {
        let expected = [16, 2, 8, 10].map(Kind::Number);
        assert_eq!(kinds("0x10 0b10 010 10U"), expected);
        assert_eq!(kinds("7.0"), [Kind::Word("7.0")]);
        assert!(tokens("0f3F800000").is_err());
    }
}
