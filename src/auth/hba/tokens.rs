//! The words of a line, as PgBouncer cuts them: white space separates, a comma is a word of its own, `#` begins a comment at the
//! end of a word too, and what stands in quotation marks is never a keyword.

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

/// The words of one line, and what stands behind each.
pub(super) struct Line {
    pub(super) tokens: Vec<Token>,
    text: String,
    ends: Vec<usize>,
}

impl Line {
    /// # Errors
    /// A quotation mark that is not closed, a zero byte, or bytes that are no UTF-8 outside a comment.
    pub(super) fn read(line: &[u8]) -> Result<Self, String> {
        // A comment may be in any encoding.
        let text = String::from_utf8_lossy(line).into_owned();
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        let mut rest = text.as_str();
        loop {
            rest = rest.trim_start_matches(is_space);
            let (token, behind) = match rest.chars().next() {
                None | Some('#') => break,
                Some(',') => (Token::Comma, rest.get(1..).unwrap_or_default()),
                Some('"') => {
                    let (name, behind) = quoted(rest.get(1..).unwrap_or_default())?;
                    (Token::Quoted(name), behind)
                }
                Some(first) => {
                    let ends_word = |char| matches!(char, ',' | '#' | '"') || is_space(char);
                    let from = first.len_utf8();
                    let len =
                        rest.get(from..).and_then(|rest| rest.find(ends_word)).map_or(rest.len(), |len| len + from);
                    let (word, behind) = rest.split_at_checked(len).unwrap_or((rest, ""));
                    (Token::Word(word.to_owned()), behind)
                }
            };
            tokens.push(token);
            ends.push(text.len() - behind.len());
            rest = behind;
        }
        let odd = |char| char == '\0' || char == char::REPLACEMENT_CHARACTER;
        if tokens.iter().any(|token| matches!(token, Token::Word(text) | Token::Quoted(text) if text.contains(odd))) {
            return Err("there is a byte that is no UTF-8 text".to_owned());
        }
        Ok(Self { tokens, text, ends })
    }

    /// All that stands behind the word of this number, as it is written.
    pub(super) fn behind(&self, number: usize) -> &str {
        self.ends.get(number).and_then(|end| self.text.get(*end..)).unwrap_or_default()
    }
}

/// As isspace(3) has it.
fn is_space(char: char) -> bool {
    char.is_ascii_whitespace() || char == '\x0b'
}

/// The text up to the closing quotation mark, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let Some((part, behind)) = rest.split_once('"') else {
            return Err("a quotation mark is not closed".to_owned());
        };
        name.push_str(part);
        match behind.strip_prefix('"') {
            Some(behind) => {
                name.push('"');
                rest = behind;
            }
            None => return Ok((name, behind)),
        }
    }
}

/// The lines of a file, counted from 1.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    file.split(|byte| *byte == b'\n').enumerate().map(|(index, line)| (index + 1, line))
}
