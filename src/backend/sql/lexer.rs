//! A query template as tokens: just enough of SQL to know where a `${}` stands.

use super::dialect::Dialect;
use super::template::TemplateError;

/// A part of a template, with its place in octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Blanks and comments.
    Space,
    /// A keyword, a name without quotes or a number.
    Word,
    /// A name in quotes.
    Name,
    /// A literal in quotes.
    Literal(Literal),
    /// A `${}` outside of any literal.
    Bare(Placeholder),
    /// A `;`.
    Semicolon,
    /// Any other character.
    Sign(u8),
}

/// What a literal says once its quotes and escapes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) pieces: Vec<Piece>,
    /// Whether a parameter of type text can stand for it: not for bits and the like.
    pub(super) bindable: bool,
}

impl Literal {
    /// Whether there is a `${}` in it.
    pub(super) fn has_parameters(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Parameter(_)))
    }
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text of the template.
    Text(String),
    /// A value of the message.
    Parameter(Placeholder),
}

/// `${name$default}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placeholder {
    pub(super) name: Box<str>,
    /// Stands in for a parameter that isn't there. One that is there and empty stays empty.
    pub(super) default: Box<str>,
}

/// The tokens of `template`, which cover all of it.
///
/// # Errors
/// Something that starts doesn't end, or a `${}` stands where nothing can be bound.
pub(super) fn tokens(template: &str, dialect: Dialect) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer { template, bytes: template.as_bytes(), at: 0, dialect };
    let mut tokens: Vec<Token> = Vec::new();
    while lexer.at < lexer.bytes.len() {
        let start = lexer.at;
        let kind = lexer.token(&mut tokens)?;
        // A prefix as in `E'...'` was taken back: the literal starts where it did.
        let start = tokens.last().map_or(0, |last| last.end).min(start);
        tokens.push(Token { start, end: lexer.at, kind });
    }
    Ok(tokens)
}

struct Lexer<'t> {
    template: &'t str,
    bytes: &'t [u8],
    at: usize,
    dialect: Dialect,
}

impl Lexer<'_> {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, at: usize, expected: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.template, at, expected))
    }

    fn token(&mut self, before: &mut Vec<Token>) -> Result<Kind, TemplateError> {
        let rest = self.rest();
        let Some(first) = rest.first().copied() else { return Ok(Kind::Space) };
        if rest.starts_with(b"${") {
            return self.placeholder().map(Kind::Bare);
        }
        if first.is_ascii_whitespace() {
            let blanks = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.at += blanks;
            return Ok(Kind::Space);
        }
        if rest.starts_with(b"/*") {
            return self.block_comment();
        }
        if self.dialect.is_line_comment(rest) {
            return self.line_comment();
        }
        if self.dialect.is_text_quote(first) {
            return self.literal(first, before);
        }
        if let Some(end) = self.dialect.name_end(first) {
            return self.name(end);
        }
        if self.dialect == Dialect::Postgres
            && first == b'$'
            && let Some(tag) = dollar_tag(rest)
        {
            let tag = tag.to_vec();
            return self.dollar_quoted(&tag);
        }
        if self.dialect.is_own_parameter(rest) {
            return self.fail(self.at, format!("${{name}} instead of a {} marker", self.dialect));
        }
        if is_word(first) {
            self.at += word_length(rest);
            return Ok(Kind::Word);
        }
        self.at += 1;
        Ok(if first == b';' { Kind::Semicolon } else { Kind::Sign(first) })
    }

    /// `${name}` or `${name$default}`, both trimmed.
    fn placeholder(&mut self) -> Result<Placeholder, TemplateError> {
        let start = self.at;
        let inside = self.template.get(start + 2..).unwrap_or_default();
        let Some(length) = inside.find('}') else {
            return self.fail(start, "the } that ends this ${");
        };
        let inside = inside.get(..length).unwrap_or_default();
        if let Some(inner) = inside.find("${") {
            return self.fail(start + 2 + inner, "the } that ends the ${ before this one");
        }
        let (name, default) = inside.split_once('$').unwrap_or((inside, ""));
        let (name, default) = (name.trim(), default.trim());
        if name.is_empty() {
            return self.fail(start + 2, "the name of a parameter");
        }
        self.at = start + 2 + length + 1;
        Ok(Placeholder { name: name.into(), default: default.into() })
    }

    fn line_comment(&mut self) -> Result<Kind, TemplateError> {
        let length = memchr::memchr(b'\n', self.rest()).unwrap_or_else(|| self.rest().len());
        self.comment(length)
    }

    fn block_comment(&mut self) -> Result<Kind, TemplateError> {
        let mut depth = 0;
        let mut length = 0;
        let rest = self.rest();
        loop {
            match rest.get(length..) {
                None | Some([]) => return self.fail(self.at, "the */ that ends this comment"),
                Some([b'/', b'*', ..]) if depth == 0 || self.dialect.nests_comments() => {
                    depth += 1;
                    length += 2;
                }
                Some([b'*', b'/', ..]) => {
                    depth -= 1;
                    length += 2;
                    if depth == 0 {
                        return self.comment(length);
                    }
                }
                Some(_) => length += 1,
            }
        }
    }

    fn comment(&mut self, length: usize) -> Result<Kind, TemplateError> {
        let text = self.rest().get(..length).unwrap_or_default();
        if let Some(inner) = memchr::memmem::find(text, b"${") {
            return self.fail(self.at + inner, "no ${} in a comment");
        }
        self.at += length;
        Ok(Kind::Space)
    }

    /// A name in quotes that `end` ends; doubled, `end` is part of it.
    fn name(&mut self, end: u8) -> Result<Kind, TemplateError> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            match self.bytes.get(at..) {
                None | Some([]) => {
                    let end = char::from(end);
                    return self.fail(start, format!("the {end} that ends this name"));
                }
                Some([b'$', b'{', ..]) => {
                    return self.fail(at, "a value: no ${} can stand in a name");
                }
                Some([first, second, ..]) if *first == end && *second == end && end != b']' => {
                    at += 2;
                }
                Some([first, ..]) if *first == end => break,
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(Kind::Name)
    }

    /// A literal in quotes. A prefix that says how to read it is taken from the tokens before.
    fn literal(&mut self, quote: u8, before: &mut Vec<Token>) -> Result<Kind, TemplateError> {
        let start = self.at;
        let prefix = self.prefix(before);
        let escapes = self.dialect.backslash_escapes() || prefix == Some('e');
        self.at += 1;
        let mut text = Pieces::default();
        loop {
            match self.rest() {
                [] => {
                    let quote = char::from(quote);
                    return self.fail(start, format!("the {quote} that ends this literal"));
                }
                [b'$', b'{', ..] => text.parameter(self.placeholder()?),
                [first, second, ..] if *first == quote && *second == quote => {
                    text.push(char::from(quote));
                    self.at += 2;
                }
                [first, ..] if *first == quote => break,
                [b'\\', b'$', b'{', ..] if escapes => {
                    return self.fail(self.at, "no backslash before ${");
                }
                [b'\\', ..] if escapes => self.escape(prefix == Some('e'), &mut text),
                _ => self.character(&mut text),
            }
        }
        self.at += 1;
        let bindable = matches!(prefix, None | Some('e' | 'n'));
        Ok(Kind::Literal(Literal { pieces: text.pieces, bindable }))
    }

    /// Takes back the word that stands right before a quote and belongs to the literal: the result
    /// is its letter, `_` for a character set and `u` for `U&`.
    fn prefix(&self, before: &mut Vec<Token>) -> Option<char> {
        let adjacent = |token: &&Token| token.end == self.at;
        let text = |token: &Token| {
            self.template.get(token.start..token.end).unwrap_or_default().to_ascii_lowercase()
        };
        let last = before.last().filter(adjacent)?;
        if last.kind == Kind::Sign(b'&') && self.dialect == Dialect::Postgres {
            let word = before.len().checked_sub(2).and_then(|at| before.get(at))?;
            let joined = word.kind == Kind::Word && word.end == last.start && text(word) == "u";
            if joined {
                before.truncate(before.len() - 2);
            }
            return joined.then_some('u');
        }
        if last.kind != Kind::Word {
            return None;
        }
        let word = text(last);
        let prefix = match (self.dialect, &*word) {
            (Dialect::Postgres, "e") => 'e',
            (Dialect::Postgres | Dialect::Mysql, "n") => 'n',
            (Dialect::Postgres | Dialect::Mysql, "b") | (_, "x") => 'x',
            (Dialect::Mysql, word) if word.starts_with('_') => '_',
            _ => return None,
        };
        before.pop();
        Some(prefix)
    }

    /// `$tag$ ... $tag$`: nothing is escaped in it.
    fn dollar_quoted(&mut self, tag: &[u8]) -> Result<Kind, TemplateError> {
        let start = self.at;
        self.at += tag.len();
        let mut text = Pieces::default();
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                let tag = String::from_utf8_lossy(tag);
                return self.fail(start, format!("the {tag} that ends this literal"));
            } else if rest.starts_with(b"${") {
                text.parameter(self.placeholder()?);
            } else if rest.starts_with(tag) {
                self.at += tag.len();
                return Ok(Kind::Literal(Literal { pieces: text.pieces, bindable: true }));
            } else {
                self.character(&mut text);
            }
        }
    }

    /// One character as it stands.
    fn character(&mut self, text: &mut Pieces) {
        if let Some(next) = self.template.get(self.at..).and_then(|rest| rest.chars().next()) {
            text.push(next);
            self.at += next.len_utf8();
        } else {
            self.at += 1;
        }
    }

    /// A backslash and what it escapes: as C writes it in PostgreSQL's `E''`, else as MySQL does.
    fn escape(&mut self, as_in_c: bool, text: &mut Pieces) {
        self.at += 1;
        let number = |digits: &[u8], most: usize, radix: u32| {
            let length = digits
                .iter()
                .take(most)
                .take_while(|digit| char::from(**digit).is_digit(radix))
                .count();
            let digits = std::str::from_utf8(digits.get(..length)?).ok()?;
            let character = char::from_u32(u32::from_str_radix(digits, radix).ok()?)?;
            Some((character, length))
        };
        let (character, length) = match self.rest() {
            [b'n', ..] => ('\n', 1),
            [b't', ..] => ('\t', 1),
            [b'r', ..] => ('\r', 1),
            [b'b', ..] => ('\u{8}', 1),
            [b'f', ..] if as_in_c => ('\u{c}', 1),
            [b'0', ..] if !as_in_c => ('\0', 1),
            [b'Z', ..] if !as_in_c => ('\u{1a}', 1),
            // They stay escaped, for LIKE.
            [b'%' | b'_', ..] if !as_in_c => ('\\', 0),
            [b'x', digits @ ..] if as_in_c => {
                number(digits, 2, 16).map_or(('x', 1), |(c, length)| (c, length + 1))
            }
            [b'u', digits @ ..] if as_in_c => {
                number(digits, 4, 16).map_or(('u', 1), |(c, length)| (c, length + 1))
            }
            [b'U', digits @ ..] if as_in_c => {
                number(digits, 8, 16).map_or(('U', 1), |(c, length)| (c, length + 1))
            }
            digits @ [b'0'..=b'7', ..] if as_in_c => number(digits, 3, 8).unwrap_or(('\0', 1)),
            _ => return self.character(text),
        };
        text.push(character);
        self.at += length;
    }
}

/// The pieces of a value while they are read.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Piece>,
}

impl Pieces {
    fn push(&mut self, character: char) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.push(character),
            _ => self.pieces.push(Piece::Text(character.to_string())),
        }
    }

    fn parameter(&mut self, placeholder: Placeholder) {
        self.pieces.push(Piece::Parameter(placeholder));
    }
}

/// `$$` or `$tag$` at the start of `rest`.
fn dollar_tag(rest: &[u8]) -> Option<&[u8]> {
    let inside = rest.get(1..)?;
    let length = memchr::memchr(b'$', inside)?;
    let tag = inside.get(..length)?;
    let named = tag.first().is_none_or(|first| is_word(*first) && !first.is_ascii_digit());
    (named && tag.iter().all(|byte| is_word(*byte))).then(|| rest.get(..length + 2)).flatten()
}

/// How long the word at the start of `rest` is. A `$` is part of a word, a `${` never.
fn word_length(rest: &[u8]) -> usize {
    let mut length = 0;
    loop {
        match rest.get(length..) {
            Some([b'$', b'{', ..]) | Some([]) | None => return length,
            Some([first, ..]) if is_word(*first) || *first == b'$' => length += 1,
            Some(_) => return length,
        }
    }
}

/// Whether an unquoted name may hold it; any octet beyond ASCII may.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}
