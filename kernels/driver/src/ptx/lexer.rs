//! Tokens with their places.

use super::PtxError;

/// What a token is. Words borrow from the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier, `%` and `$` included: `%r1`, `$L_3`, `mov`.
    Word(&'a str),
    /// A dotted word without its dot: `b32`, `L2::128B`.
    Dotted(&'a str),
    /// An integer literal as 64 bits.
    Int(u64),
    /// A decimal float or a `0d` literal.
    Double(f64),
    /// A `0f` literal.
    Single(f32),
    /// A quoted string without its quotes.
    Text(&'a str),
    /// Any other character.
    Punct(char),
}

/// A token and where it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub token: Token<'a>,
    pub line: u32,
    pub column: u32,
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
}

/// Splits a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed<'_>>, PtxError> {
    let mut lexer = Lexer {
        text,
        at: 0,
        line: 1,
        line_start: 0,
    };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank()?;
        let (line, column) = (lexer.line, (lexer.at - lexer.line_start + 1) as u32);
        match lexer.next()? {
            Some(token) => out.push(Placed {
                token,
                line,
                column,
            }),
            None => return Ok(out),
        }
    }
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text
            .as_bytes()
            .get(self.at + ahead)
            .copied()
            .unwrap_or(0)
    }

    fn error(&self, message: &str) -> PtxError {
        let rest = &self.text[self.at..];
        let text = rest.chars().take_while(|&c| c != '\n').take(40).collect();
        PtxError {
            line: self.line,
            column: (self.at - self.line_start + 1) as u32,
            text,
            message: message.into(),
        }
    }

    fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.at;
    }

    fn skip_blank(&mut self) -> Result<(), PtxError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.at += 1;
                    self.newline();
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                (b'/', b'*') => {
                    let rest = &self.text[self.at..];
                    let end = rest
                        .find("*/")
                        .ok_or_else(|| self.error("comment without its end"))?
                        + 2;
                    let start = self.at;
                    for (i, _) in rest[..end].match_indices('\n') {
                        self.at = start + i + 1;
                        self.newline();
                    }
                    self.at = start + end;
                }
                _ => return Ok(()),
            }
        }
    }

    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let len = rest.bytes().position(|c| !accept(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, PtxError> {
        let start = self.at;
        let c = self.peek(0);
        Ok(Some(match c {
            0 if self.at >= self.text.len() => return Ok(None),
            b'0'..=b'9' => self.number()?,
            b'"' => {
                self.at += 1;
                let body = self.take(|c| c != b'"' && c != b'\n');
                if self.peek(0) != b'"' {
                    return Err(self.error("string without its end"));
                }
                self.at += 1;
                Token::Text(body)
            }
            b'.' if is_word(self.peek(1)) => {
                self.at += 1;
                let body = self.at;
                self.take(is_word);
                while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                    self.at += 2;
                    self.take(is_word);
                }
                Token::Dotted(&self.text[body..self.at])
            }
            b'%' if is_word(self.peek(1)) => {
                self.at += 1;
                self.take(is_word);
                Token::Word(&self.text[start..self.at])
            }
            c if is_word(c) => Token::Word(self.take(is_word)),
            c if c.is_ascii_graphic() => {
                self.at += 1;
                Token::Punct(c as char)
            }
            _ => return Err(self.error("not a character of PTX")),
        }))
    }

    fn number(&mut self) -> Result<Token<'a>, PtxError> {
        let start = self.at;
        let body = self.take(is_word);
        let bits = |digits: &str| u64::from_str_radix(digits, 16).ok();
        if let Some(digits) = body
            .strip_prefix("0f")
            .or(body.strip_prefix("0F"))
            .filter(|d| d.len() == 8)
        {
            let bits = bits(digits).ok_or_else(|| self.error_at(start, "not a 0f literal"))?;
            return Ok(Token::Single(f32::from_bits(bits as u32)));
        }
        if let Some(digits) = body
            .strip_prefix("0d")
            .or(body.strip_prefix("0D"))
            .filter(|d| d.len() == 16)
        {
            let bits = bits(digits).ok_or_else(|| self.error_at(start, "not a 0d literal"))?;
            return Ok(Token::Double(f64::from_bits(bits)));
        }
        let hex = body.len() > 1 && matches!(body.as_bytes()[1], b'x' | b'X');
        let exponent = !hex && body.contains(['e', 'E']);
        if (self.peek(0) == b'.' && self.peek(1).is_ascii_digit()) || exponent {
            if self.peek(0) == b'.' {
                self.at += 1;
                self.take(is_word);
            }
            if self.text[start..self.at].ends_with(['e', 'E'])
                && matches!(self.peek(0), b'+' | b'-')
            {
                self.at += 1;
                self.take(|c| c.is_ascii_digit());
            }
            let value = self.text[start..self.at].parse();
            return value
                .map(Token::Double)
                .map_err(|_| self.error_at(start, "not a number"));
        }
        let digits = body.trim_end_matches(['u', 'U']);
        let value = match digits.get(..2) {
            Some("0x" | "0X") => u64::from_str_radix(&digits[2..], 16),
            Some("0b" | "0B") => u64::from_str_radix(&digits[2..], 2),
            _ if digits.len() > 1 && digits.starts_with('0') => {
                u64::from_str_radix(&digits[1..], 8)
            }
            _ => digits.parse(),
        };
        value
            .map(Token::Int)
            .map_err(|_| self.error_at(start, "not an integer of 64 bits"))
    }

    fn error_at(&mut self, start: usize, message: &str) -> PtxError {
        self.at = start;
        self.error(message)
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, tokens};

    #[test]
    fn literals_words_and_places() {
        let text = "ld.global.L2::128B %r1, [$a+0x10]; // c\n0f3F800000 0d3FF0000000000000 1.5e-3 017 0b11U";
        let all = tokens(text).unwrap();
        let kinds: Vec<Token<'_>> = all.iter().map(|t| t.token).collect();
        assert_eq!(
            &kinds[..4],
            [
                Token::Word("ld"),
                Token::Dotted("global"),
                Token::Dotted("L2::128B"),
                Token::Word("%r1")
            ]
        );
        assert_eq!(kinds[8], Token::Int(16));
        let literals = [
            Token::Single(1.0),
            Token::Double(1.0),
            Token::Double(1.5e-3),
            Token::Int(15),
            Token::Int(3),
        ];
        assert_eq!(&kinds[11..], literals);
        assert_eq!((all[11].line, all[11].column), (2, 1));
    }

    #[test]
    fn errors_name_their_place() {
        let error = tokens("mov\n  é").unwrap_err();
        assert_eq!((error.line, error.column), (2, 3));
        assert!(
            tokens("/* open").is_err() && tokens("\"open\n\"").is_err() && tokens("0xzz").is_err()
        );
    }
}
