//! Where the three SQL engines differ in how a query is written.

use std::fmt;

/// The SQL engine a template is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// Whether a backslash in any text literal escapes the character after it.
    pub(super) fn backslash_escapes(self) -> bool {
        self == Self::Mysql
    }

    /// Whether `quote` starts a text literal; otherwise it starts a name.
    pub(super) fn is_text_quote(self, quote: u8) -> bool {
        quote == b'\'' || (quote == b'"' && self == Self::Mysql)
    }

    /// The character that ends a name which starts with `quote`, if a name can start so.
    pub(super) fn name_end(self, quote: u8) -> Option<u8> {
        match (quote, self) {
            (b'"', Self::Postgres | Self::Sqlite) => Some(b'"'),
            (b'`', Self::Mysql | Self::Sqlite) => Some(b'`'),
            (b'[', Self::Sqlite) => Some(b']'),
            _ => None,
        }
    }

    /// Whether block comments may stand in each other.
    pub(super) fn nests_comments(self) -> bool {
        self == Self::Postgres
    }

    /// Whether `rest`, which starts with `--` or `#`, is a comment to the end of the line.
    pub(super) fn is_line_comment(self, rest: &[u8]) -> bool {
        match (rest, self) {
            // `5--3` is a sum there: only a blank makes it a comment.
            ([b'-', b'-', after @ ..], Self::Mysql) => {
                after.first().is_none_or(|next| next.is_ascii_whitespace() || *next < b' ')
            }
            ([b'-', b'-', ..], _) | ([b'#', ..], Self::Mysql) => true,
            _ => false,
        }
    }

    /// Whether `rest` starts with what this engine would take for a parameter of its own. One of
    /// those would shift ours.
    pub(super) fn is_own_parameter(self, rest: &[u8]) -> bool {
        let named = |next: u8| next.is_ascii_alphanumeric() || next == b'_' || next >= 0x80;
        match (rest, self) {
            ([b'?', ..], Self::Mysql | Self::Sqlite) => true,
            ([b'$', next, ..], Self::Postgres) => next.is_ascii_digit(),
            ([b'$' | b':' | b'@', next, ..], Self::Sqlite) => named(*next),
            _ => false,
        }
    }

    /// The marker of the parameter with this number, counted from one.
    pub(super) fn marker(self, number: usize) -> String {
        match self {
            Self::Postgres => format!("${number}"),
            Self::Mysql => "?".to_owned(),
            Self::Sqlite => format!("?{number}"),
        }
    }

    /// The type to which a parameter is cast where a literal stood behind these words, in lower
    /// case (`interval '1 s'`, `timestamp with time zone '...'`), and how many of them name it.
    pub(super) fn typed_literal(self, words: &[&str]) -> Option<(String, usize)> {
        match (self, words) {
            (
                Self::Postgres,
                [.., kind @ ("time" | "timestamp"), with @ ("with" | "without"), "time", "zone"],
            ) => Some((format!("{kind} {with} time zone"), 4)),
            (Self::Postgres, [.., "double", "precision"]) => Some(("double precision".into(), 2)),
            (Self::Postgres, [.., kind]) if POSTGRES_TYPES.contains(kind) => {
                Some(((*kind).to_owned(), 1))
            }
            (Self::Mysql, [.., kind @ ("date" | "time")]) => Some(((*kind).to_owned(), 1)),
            (Self::Mysql, [.., "timestamp"]) => Some(("datetime".into(), 1)),
            _ => None,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MySQL",
            Self::Sqlite => "SQLite",
        })
    }
}

/// Types of PostgreSQL that may stand before a literal, as far as they are words that mean nothing
/// else there.
const POSTGRES_TYPES: [&str; 27] = [
    "bigint",
    "bool",
    "boolean",
    "bytea",
    "cidr",
    "date",
    "decimal",
    "float4",
    "float8",
    "inet",
    "int",
    "int2",
    "int4",
    "int8",
    "integer",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "numeric",
    "real",
    "smallint",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
];
