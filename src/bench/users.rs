//! Who registers: names and passwords from a pattern, or from a file.

use std::fmt;

/// The longest user name taken, in octets; ours is the registrar's own limit.
pub const MAX_NAME: usize = 128;

/// The longest password taken, in octets.
const MAX_PASSWORD: usize = 256;

/// The accounts that take part, numbered from zero.
#[derive(Clone, Debug)]
pub struct Users {
    names: Texts,
    passwords: Texts,
    count: u32,
}

#[derive(Clone, Debug)]
enum Texts {
    /// The pattern with the account's number in it.
    Numbered { pattern: Pattern, first: u32 },
    /// One after the other, each with where it ends.
    Listed { octets: Vec<u8>, ends: Vec<usize> },
}

/// A text with a place for a number, as printf(3) writes it: `u%06d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    before: Vec<u8>,
    /// Digits at least; `None` where there is no place for a number.
    width: Option<usize>,
    after: Vec<u8>,
}

/// Why a text is no pattern, or a file no list of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadUsers(String);

impl fmt::Display for BadUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUsers {}

impl Pattern {
    /// Reads a pattern: `%d` or `%06d` is the number, `%%` a percent sign.
    ///
    /// # Errors
    /// Another conversion, or more than one number.
    pub fn parse(text: &str) -> Result<Self, BadUsers> {
        let bad = |what: &str| Err(BadUsers(format!("{text:?} {what}")));
        let mut pattern = Self { before: Vec::new(), width: None, after: Vec::new() };
        let mut rest = text.as_bytes();
        while let [octet, after @ ..] = rest {
            rest = after;
            let mut literal = *octet;
            if *octet == b'%' {
                let digits = rest.iter().take_while(|octet| octet.is_ascii_digit()).count();
                let (width, after) = rest.split_at(digits);
                match (width, after) {
                    ([], [b'%', after @ ..]) => {
                        literal = b'%';
                        rest = after;
                    }
                    (_, [b'd', after @ ..]) if pattern.width.is_none() => {
                        let digits = std::str::from_utf8(width).unwrap_or_default();
                        let width = if digits.is_empty() { Ok(1) } else { digits.parse() };
                        let Some(width) = width.ok().filter(|width| (1..=10).contains(width))
                        else {
                            return bad("has a number of more than 10 digits");
                        };
                        pattern.width = Some(width);
                        rest = after;
                        continue;
                    }
                    (_, [b'd', ..]) => return bad("has two places for a number"),
                    _ => return bad("has a conversion that is neither %d, like %06d, nor %%"),
                }
            }
            let part =
                if pattern.width.is_none() { &mut pattern.before } else { &mut pattern.after };
            part.push(literal);
        }
        if pattern.before.len() + pattern.after.len() > MAX_NAME - 10 {
            return bad("is too long");
        }
        Ok(pattern)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
        if let Some(width) = self.width {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(number).as_bytes();
            out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
            out.extend_from_slice(digits);
        }
        out.extend_from_slice(&self.after);
    }
}

impl Users {
    /// `count` accounts, of which the first has the number `first`.
    ///
    /// # Errors
    /// All would be the same one.
    pub fn numbered(
        name: Pattern,
        password: Pattern,
        first: u32,
        count: u32,
    ) -> Result<Self, BadUsers> {
        if name.width.is_none() && count > 1 {
            return Err(BadUsers("the user format needs a %d: all users would be one".into()));
        }
        if count == 0 || first.checked_add(count).is_none() {
            return Err(BadUsers(format!("there can't be {count} users from number {first} on")));
        }
        let names = Texts::Numbered { pattern: name, first };
        Ok(Self { names, passwords: Texts::Numbered { pattern: password, first }, count })
    }

    /// The accounts of a list: a name, a colon and a password on each line. Empty lines and those
    /// that begin with `#` are passed over.
    ///
    /// # Errors
    /// A line without a colon, or too long; no line at all.
    pub fn listed(text: &str) -> Result<Self, BadUsers> {
        let empty = || (Vec::new(), Vec::new());
        let (mut names, mut passwords) = (empty(), empty());
        for (number, line) in (1..).zip(text.lines()) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |what: &str| BadUsers(format!("line {number} {what}"));
            let (name, password) =
                line.split_once(':').ok_or_else(|| bad("is not a name, a colon, a password"))?;
            if name.is_empty() || name.len() > MAX_NAME || password.len() > MAX_PASSWORD {
                return Err(bad("has no name, or is too long"));
            }
            for ((octets, ends), text) in [(&mut names, name), (&mut passwords, password)] {
                octets.extend_from_slice(text.as_bytes());
                ends.push(octets.len());
            }
        }
        let count = u32::try_from(names.1.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Err(BadUsers("there is no user in it".into()));
        }
        let texts = |(octets, ends)| Texts::Listed { octets, ends };
        Ok(Self { names: texts(names), passwords: texts(passwords), count })
    }

    /// How many there are, at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Replaces `out` by the name of `user`.
    pub fn name(&self, user: u32, out: &mut Vec<u8>) {
        self.names.write(user, out);
    }

    /// Replaces `out` by the password of `user`.
    pub fn password(&self, user: u32, out: &mut Vec<u8>) {
        self.passwords.write(user, out);
    }
}

impl Texts {
    fn write(&self, user: u32, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Numbered { pattern, first } => pattern.write(first.saturating_add(user), out),
            Self::Listed { octets, ends } => {
                let user = usize::try_from(user).unwrap_or(usize::MAX);
                let start = user.checked_sub(1).and_then(|before| ends.get(before));
                let end = ends.get(user).copied().unwrap_or_default();
                let text = octets.get(start.copied().unwrap_or_default()..end);
                out.extend_from_slice(text.unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(users: &Users, user: u32) -> (String, String) {
        let (mut name, mut password) = (b"what was there".to_vec(), Vec::new());
        users.name(user, &mut name);
        users.password(user, &mut password);
        (String::from_utf8(name).unwrap(), String::from_utf8(password).unwrap())
    }

    #[test]
    fn numbers_stand_where_the_pattern_says() {
        let pattern = |text| Pattern::parse(text).unwrap();
        let users = Users::numbered(pattern("u%06d"), pattern("%d%%p"), 7, 2_000_000).unwrap();
        assert_eq!(account(&users, 0), ("u000007".into(), "7%p".into()));
        assert_eq!(account(&users, 1_000_000), ("u1000007".into(), "1000007%p".into()));
        let same = Users::numbered(pattern("only"), pattern("secret"), 0, 1).unwrap();
        assert_eq!(account(&same, 0), ("only".into(), "secret".into()));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["u%s", "%d%d", "%", "%011d", "%0d", &"x".repeat(200)] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        let (same, number) = (Pattern::parse("u").unwrap(), Pattern::parse("%d").unwrap());
        assert!(Users::numbered(same, number.clone(), 0, 2).is_err());
        assert!(Users::numbered(number.clone(), number.clone(), u32::MAX, 1).is_err());
        assert!(Users::numbered(number.clone(), number, 0, 0).is_err());
    }

    #[test]
    fn a_list_names_each() {
        let users = Users::listed("# who\nalice:se:cret\n\nbob:\n").unwrap();
        assert_eq!(users.count(), 2);
        assert_eq!(account(&users, 0), ("alice".into(), "se:cret".into()));
        assert_eq!(account(&users, 1), ("bob".into(), String::new()));
        assert_eq!(account(&users, 9), (String::new(), String::new()));
        let error = |text| Users::listed(text).unwrap_err().to_string();
        assert_eq!(error("a:b\nc\n"), "line 2 is not a name, a colon, a password");
        assert_eq!(error("# nobody\n"), "there is no user in it");
    }
}
