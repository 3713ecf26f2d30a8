//! `CSeq` (RFC 3261 §20.16).

use super::BadValue;
use crate::sip::{
    grammar::{TOKEN, is_blank, number, trim},
    method::Method,
};

/// A sequence number and the method it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cseq<'a> {
    /// Less than 2³¹ (RFC 3261 §8.1.1.5).
    pub number: u32,
    /// The method.
    pub method: Method<'a>,
}

impl<'a> Cseq<'a> {
    /// Parses the header's value.
    pub fn parse(value: &'a [u8]) -> Result<Self, BadValue> {
        let value = trim(value);
        let end = value.iter().position(|&b| is_blank(b)).ok_or(BadValue)?;
        let number: u32 = number(&value[..end]).ok_or(BadValue)?;
        let method = trim(&value[end..]);
        if number >= 1 << 31 || !TOKEN.spells(method) {
            return Err(BadValue);
        }
        Ok(Self { number, method: Method::parse(method) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let cseq = Cseq::parse(b"0009\t  INVITE").unwrap();
        assert_eq!(cseq, Cseq { number: 9, method: Method::Invite });
        assert_eq!(Cseq::parse(b"2147483647 REGISTER").unwrap().number, 2_147_483_647);
        for bad in
            [&b""[..], b"1", b"REGISTER", b"2147483648 REGISTER", b"-1 REGISTER", b"1 RE GISTER"]
        {
            assert_eq!(Cseq::parse(bad), Err(BadValue), "{}", bad.escape_ascii());
        }
    }
}
