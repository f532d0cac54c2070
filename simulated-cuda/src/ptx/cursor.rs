//! A position among a module's tokens, and queries of the token there.

use super::Refusal;
use super::lex::{Kind, Token};

pub(super) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: Vec<Token<'a>>) -> Self {
        Self { tokens, at: 0 }
    }

    /// Returns the line of the last token.
    pub(super) fn line(&self) -> u32 {
        self.tokens
            .get(self.at.saturating_sub(1))
            .map_or(1, |token| token.line)
    }

    pub(super) fn refusal(&self, what: impl Into<String>) -> Refusal {
        Refusal::new(self.line(), what)
    }

    pub(super) fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// Takes the sign if it is next, and returns whether it was.
    pub(super) fn eat(&mut self, sign: u8) -> bool {
        let there = self.peek() == Some(Kind::Sign(sign));
        if there {
            self.advance();
        }
        there
    }

    pub(super) fn expect(&mut self, sign: u8) -> Result<(), Refusal> {
        if self.eat(sign) {
            return Ok(());
        }
        self.advance();
        Err(self.refusal(format!("`{}` expected", char::from(sign))))
    }

    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, Refusal> {
        let token = self.peek();
        self.advance();
        match token {
            Some(Kind::Word(word)) => Ok(word),
            _ => Err(self.refusal(format!("{what} expected"))),
        }
    }

    /// Returns the next word, or `None` at the end.
    pub(super) fn next_word(&mut self) -> Result<Option<&'a str>, Refusal> {
        if self.peek().is_none() {
            Ok(None)
        } else {
            self.word("a directive").map(Some)
        }
    }

    pub(super) fn number(&mut self, what: &str) -> Result<u64, Refusal> {
        let token = self.peek();
        self.advance();
        match token {
            Some(Kind::Number(number)) => Ok(number),
            _ => Err(self.refusal(format!("{what} expected"))),
        }
    }

    /// Reads a number with an optional minus, as two's complement.
    pub(super) fn signed_number(&mut self, what: &str) -> Result<u64, Refusal> {
        let negative = self.eat(b'-');
        let number = self.number(what)?;
        Ok(if negative {
            number.wrapping_neg()
        } else {
            number
        })
    }

    /// Skips to the end of the last token's line.
    pub(super) fn skip_line(&mut self) {
        let line = self.line();
        while self
            .tokens
            .get(self.at)
            .is_some_and(|token| token.line == line)
        {
            self.advance();
        }
    }
}
