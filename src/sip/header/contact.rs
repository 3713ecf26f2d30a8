//! `Contact` (RFC 3261 §20.10, RFC 5626 §4.1).

use super::{BadValue, Elements, NameAddr, Param, Params};
use crate::sip::grammar::{number, trim};

/// A contact asked for in a REGISTER; borrows the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact<'a> {
    /// The URI as sent, not parsed.
    pub uri: &'a [u8],
    /// All header parameters as sent.
    pub params: Params<'a>,
    /// `expires` as sent: digits or not.
    pub expires: Option<&'a [u8]>,
    /// `q`.
    pub q: Option<Quality>,
    /// `+sip.instance`, quotes included.
    pub instance: Option<&'a [u8]>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
}

impl<'a> Contact<'a> {
    /// Parses one element, its parameters included.
    pub fn parse(element: &'a [u8]) -> Result<Self, BadValue> {
        let NameAddr { uri, params, .. } = NameAddr::parse(element)?;
        let mut contact =
            Self { uri, params, expires: None, q: None, instance: None, reg_id: None };
        for param in params {
            let param = param?;
            if param.is("expires") {
                contact.expires = Some(param.value.ok_or(BadValue)?);
            } else if param.is("q") {
                contact.q = Some(Quality::parse(param.value.ok_or(BadValue)?).ok_or(BadValue)?);
            } else if param.is("+sip.instance") {
                contact.instance = Some(param.value.ok_or(BadValue)?);
            } else if param.is("reg-id") {
                // RFC 5626 §4.2: a positive number below 2³¹.
                let id = param.value.and_then(number).filter(|&id| id > 0 && id < 1 << 31);
                contact.reg_id = Some(id.ok_or(BadValue)?);
            }
        }
        Ok(contact)
    }

    /// All contacts of these values, which [`Contacts::survey`] has found to be well-formed.
    pub fn all(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Self> {
        values.flat_map(Elements::new).filter_map(|e| Self::parse(e.ok()?).ok())
    }

    /// The parameters that are kept with a binding and come back byte for byte: all but `expires`.
    pub fn kept_params(self) -> impl Iterator<Item = Param<'a>> {
        self.params.map_while(Result::ok).filter(|p| !p.is("expires"))
    }
}

/// What the Contact headers of a message ask for, all lines and elements together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// No Contact: the bindings are asked for.
    None,
    /// `Contact: *` alone: all bindings are to be removed.
    All,
    /// A list, already seen to be well-formed.
    List {
        /// How many contacts.
        count: usize,
    },
}

impl Contacts {
    /// Reads all Contact values of a message, and has `check` judge each contact. A `*` beside
    /// another contact is malformed (RFC 3261 §10.3 step 6).
    pub fn survey<'a, E: From<BadValue>>(
        values: impl Iterator<Item = &'a [u8]>,
        mut check: impl FnMut(&Contact<'a>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (mut count, mut all) = (0, false);
        for value in values {
            for element in Elements::new(value) {
                let element = element?;
                all |= trim(element) == b"*";
                if !all {
                    check(&Contact::parse(element)?)?;
                }
                count += 1;
            }
        }
        match (count, all) {
            (0, _) => Ok(Self::None),
            (1, true) => Ok(Self::All),
            (_, true) => Err(BadValue.into()),
            (count, false) => Ok(Self::List { count }),
        }
    }
}

/// A `q` value in thousandths, 0 to 1000 (RFC 3261 §25.1 `qvalue`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quality(pub u16);

impl Quality {
    /// What a contact without `q` counts as.
    pub const DEFAULT: Self = Self(1000);

    /// Parses `0.7`, `1`, `0`, `1.000`; more digits than three are not in the grammar.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (whole, fraction) = match memchr::memchr(b'.', value) {
            Some(dot) => (&value[..dot], &value[dot + 1..]),
            None => (value, &b""[..]),
        };
        let whole = match whole {
            b"0" => 0,
            b"1" => 1000,
            // `.5` is not in the grammar, but it is on phones.
            b"" if !fraction.is_empty() => 0,
            _ => return None,
        };
        let scale = match fraction.len() {
            0 => return Some(Self(whole)),
            1 => 100,
            2 => 10,
            3 => 1,
            _ => return None,
        };
        let q = whole + number::<u16>(fraction)? * scale;
        (q <= 1000).then_some(Self(q))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_matter() {
        let contact = Contact::parse(
            br#""A" <sip:a@192.0.2.1;ob>;expires=60;q=0.5;+sip.instance="<urn:uuid:1>";reg-id=1;x"#,
        )
        .unwrap();
        assert_eq!(contact.uri, b"sip:a@192.0.2.1;ob");
        assert_eq!(contact.expires, Some(&b"60"[..]));
        assert_eq!(contact.q, Some(Quality(500)));
        assert_eq!(contact.instance, Some(&br#""<urn:uuid:1>""#[..]));
        assert_eq!(contact.reg_id, Some(1));
        let kept: Vec<_> = contact.kept_params().map(|p| p.raw).collect();
        assert_eq!(kept, [&b"q=0.5"[..], br#"+sip.instance="<urn:uuid:1>""#, b"reg-id=1", b"x"]);
    }

    #[test]
    fn qualities() {
        for (value, q) in [
            ("0", 0),
            ("1", 1000),
            ("0.7", 700),
            ("0.75", 750),
            ("1.000", 1000),
            (".5", 500),
            ("0.", 0),
        ] {
            assert_eq!(Quality::parse(value.as_bytes()), Some(Quality(q)), "{value}");
        }
        for bad in ["", ".", "2", "1.1", "1.001", "0.7777", "-1", "0.x", "65536", "66"] {
            assert_eq!(Quality::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn surveys() {
        let survey = |values: &[&'static [u8]]| {
            Contacts::survey(values.iter().copied(), |_| Ok::<_, BadValue>(()))
        };
        assert_eq!(survey(&[]), Ok(Contacts::None));
        assert_eq!(survey(&[b" * "]), Ok(Contacts::All));
        assert_eq!(survey(&[b"<sip:a@b>, <sip:c@d>", b"sip:e@f"]), Ok(Contacts::List { count: 3 }));
        for bad in [&[&b"*"[..], b"<sip:a@b>"][..], &[b"<sip:a@b>,*"], &[b""], &[b"<sip:a@b>,"]] {
            assert_eq!(survey(bad), Err(BadValue), "{bad:?}");
        }
    }
}
