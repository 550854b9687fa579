//! The words of a line, as PgBouncer cuts them: white space separates, a comma is a word of its own, `#` begins a comment at the
//! end of a word too, and what stands in quotation marks is never a keyword.

use std::iter::Peekable;
use std::str::Chars;

/// One word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Without quotation marks: may be a keyword.
    Word(String),
    /// In quotation marks, without them; a doubled one inside stands for one.
    Quoted(String),
    /// A comma.
    Comma,
}

impl Token {
    /// Its text, if it is not a comma.
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Word(text) | Self::Quoted(text) => Some(text),
            Self::Comma => None,
        }
    }

    /// Is it this keyword?
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(text) if text == keyword)
    }
}

/// As isspace(3) has it.
pub(super) fn is_space(char: char) -> bool {
    char.is_ascii_whitespace() || char == '\x0b'
}

/// The words of one line.
///
/// # Errors
/// A quotation mark that is not closed, a zero byte, or bytes that are no UTF-8 outside a comment.
pub(super) fn tokens(line: &[u8]) -> Result<Vec<Token>, String> {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text.to_owned(),
        // A comment may be in any encoding.
        Err(_) => String::from_utf8_lossy(line).into_owned(),
    };
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '#' => break,
            ',' => found.push(Token::Comma),
            '"' => found.push(Token::Quoted(quoted(&mut chars)?)),
            char if is_space(char) => {}
            char => {
                let mut word = String::from(char);
                while let Some(next) = chars.next_if(|&c| !matches!(c, ',' | '#' | '"') && !is_space(c)) {
                    word.push(next);
                }
                found.push(Token::Word(word));
            }
        }
    }
    let odd = |char| char == '\0' || char == char::REPLACEMENT_CHARACTER;
    if found.iter().any(|token| matches!(token, Token::Word(text) | Token::Quoted(text) if text.contains(odd))) {
        return Err("there is a byte that is no UTF-8 text".to_owned());
    }
    Ok(found)
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut text = String::new();
    while let Some(char) = chars.next() {
        match char {
            '"' if chars.next_if_eq(&'"').is_some() => text.push('"'),
            '"' => return Ok(text),
            char => text.push(char),
        }
    }
    Err("a quotation mark is not closed".to_owned())
}

/// The lines of a file, counted from 1.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    file.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line))
}
