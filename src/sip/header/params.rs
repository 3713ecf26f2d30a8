//! Header parameters: `;name=value` (RFC 3261 §25.1 `generic-param`).

use super::BadValue;
use crate::sip::grammar::{LOOSE_VALUE, TOKEN, quoted_len, trim_end, trim_start};

/// One parameter, borrowed as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// The name, in the sender's case.
    pub name: &'a [u8],
    /// The value, quotes included; `None` for a bare name.
    pub value: Option<&'a [u8]>,
    /// The whole parameter from its name to its end.
    pub raw: &'a [u8],
}

impl Param<'_> {
    /// Whether the name is `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The parameters after a header's value: each begins with a semicolon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    rest: &'a [u8],
}

impl<'a> Params<'a> {
    /// Parameters from `bytes`, which is empty or starts with blanks and a semicolon.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: trim_end(bytes) }
    }

    /// The octets that are still to be read.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// The first parameter of this name. A value that breaks the grammar ends the search.
    pub fn find(self, name: &str) -> Option<Param<'a>> {
        self.map_while(Result::ok).find(|p| p.is(name))
    }

    /// Whether all parameters are well-formed.
    pub fn check(mut self) -> Result<(), BadValue> {
        self.try_for_each(|p| p.map(drop))
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = Result<Param<'a>, BadValue>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = trim_start(self.rest);
        if rest.is_empty() {
            return None;
        }
        let parsed = rest.strip_prefix(b";").and_then(|tail| parse(trim_start(tail)));
        let (param, rest) = match parsed {
            Some((param, rest)) => (Ok(param), rest),
            None => (Err(BadValue), &[][..]),
        };
        self.rest = rest;
        Some(param)
    }
}

/// One parameter at the start of `bytes`, and what follows it.
fn parse(bytes: &[u8]) -> Option<(Param<'_>, &[u8])> {
    let (name, tail) = bytes.split_at(TOKEN.run(bytes));
    if name.is_empty() {
        return None;
    }
    let Some(value) = trim_start(tail).strip_prefix(b"=").map(trim_start) else {
        return Some((Param { name, value: None, raw: name }, tail));
    };
    let len = quoted_len(value).unwrap_or_else(|| LOOSE_VALUE.run(value));
    if len == 0 {
        return None;
    }
    let (value, rest) = value.split_at(len);
    let raw = &bytes[..bytes.len() - rest.len()];
    Some((Param { name, value: Some(value), raw }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair<'a> = (&'a [u8], Option<&'a [u8]>);

    fn all(bytes: &[u8]) -> Vec<Result<Pair<'_>, BadValue>> {
        Params::new(bytes).map(|p| p.map(|p| (p.name, p.value))).collect()
    }

    #[test]
    fn names_and_values() {
        assert_eq!(
            all(br#" ; a = b;c;D="x;\"y" ;e=[::1]"#),
            [
                Ok((&b"a"[..], Some(&b"b"[..]))),
                Ok((b"c", None)),
                Ok((b"D", Some(br#""x;\"y""#))),
                Ok((b"e", Some(b"[::1]"))),
            ]
        );
        assert_eq!(all(b""), []);
    }

    #[test]
    fn raw_spans_the_parameter() {
        let raws: Vec<_> = Params::new(b";a = b ;c").map(|p| p.unwrap().raw).collect();
        assert_eq!(raws, [&b"a = b"[..], b"c"]);
    }

    #[test]
    fn malformed() {
        for bad in [&b";;a"[..], b"a", b";a=", b";=b", b";a=\"b", b";a b", b";a,b"] {
            assert_eq!(Params::new(bad).check(), Err(BadValue), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(Params::new(b";TAG=x").find("tag").unwrap().value, Some(&b"x"[..]));
        assert_eq!(Params::new(b";a=x").find("tag"), None);
    }
}
