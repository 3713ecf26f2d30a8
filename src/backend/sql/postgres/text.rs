//! Values to and from PostgreSQL as text.

use std::error::Error;
use std::net::IpAddr;

use bytes::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

/// A parameter sent as text, so that the server takes it for whatever type it inferred: what it
/// does with a literal in quotes.
#[derive(Debug)]
pub(super) struct Text<'v>(pub(super) &'v str);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A value as it was sent.
pub(super) struct Raw<'r>(pub(super) &'r [u8]);

impl<'r> FromSql<'r> for Raw<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A type whose binary form is shown as text here. All others are cast to text by the server, which
/// knows best how it shows them; of these, the cast would show some otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Text,
    Bool,
    Integer,
    Oid,
    Inet,
    Void,
}

impl Shown {
    /// How values of this type are shown; `None` leaves it to the server.
    pub(super) fn of(kind: &Type) -> Option<Self> {
        Some(match *kind {
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::CHAR
            | Type::UNKNOWN
            | Type::JSON
            | Type::XML => Self::Text,
            Type::BOOL => Self::Bool,
            Type::INT2 | Type::INT4 | Type::INT8 => Self::Integer,
            Type::OID => Self::Oid,
            Type::INET => Self::Inet,
            Type::VOID => Self::Void,
            _ if matches!(kind.kind(), Kind::Enum(_)) => Self::Text,
            _ => return None,
        })
    }

    /// The value as psql would show it.
    pub(super) fn text(self, raw: &[u8]) -> Box<str> {
        match (self, raw) {
            (Self::Text, raw) => String::from_utf8_lossy(raw).into(),
            (Self::Bool, raw) => if raw == [0] { "f" } else { "t" }.into(),
            (Self::Integer, [a, b]) => i16::from_be_bytes([*a, *b]).to_string().into(),
            (Self::Integer, [a, b, c, d]) => {
                i32::from_be_bytes([*a, *b, *c, *d]).to_string().into()
            }
            (Self::Integer, raw) => raw.try_into().map_or(0, i64::from_be_bytes).to_string().into(),
            (Self::Oid, raw) => raw.try_into().map_or(0, u32::from_be_bytes).to_string().into(),
            (Self::Inet, raw) => inet(raw).unwrap_or_default().into(),
            (Self::Void, _) => "".into(),
        }
    }
}

/// An address, with its prefix unless that is all of it.
fn inet(raw: &[u8]) -> Option<String> {
    // Family, length of the prefix, whether it is a cidr, length of the address, the address.
    let [_, prefix, _, _, address @ ..] = raw else { return None };
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    let whole = if address.is_ipv4() { 32 } else { 128 };
    Some(if *prefix == whole { address.to_string() } else { format!("{address}/{prefix}") })
}
