//! Accounts while they are read, section by section and key by key.

use std::fmt;

use super::packed::{Present, pack};
use super::{Alternative, Entry, MAX_NAME, Param, Span, Stored, Subscribers, split_name};
use crate::auth::digest::Ha1Set;
use crate::auth::policy::Algorithm;
use crate::hex::parse_hex;

/// Builds [`Subscribers`] from the sections of a `regfile.conf`.
///
/// Passwords are hashed as they come by and not kept.
#[derive(Debug)]
pub struct Builder {
    realm: Box<[u8]>,
    algorithms: Box<[Algorithm]>,
    built: Subscribers,
    /// The position of the section being read; `None` where it was refused.
    current: Option<u32>,
}

/// What became of a section that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It goes on: it was opened before.
    Again,
    /// It is the first with its name.
    New,
}

/// Why a section or key isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// The key isn't this many hexadecimal digits.
    BadHash(&'static str, usize),
    /// A part of the name exceeds [`MAX_NAME`].
    LongName,
    /// `[user@]`.
    NoDomain,
    /// `[@domain]`.
    NoUser,
    /// `password` and a hash of one.
    PasswordAndHash,
    /// `password` again; as in Yate, the first stands.
    SecondPassword,
    /// More than positions of 32 bits can tell apart.
    TooMuch,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadHash(key, digits) => write!(f, "{key}: expected {digits} hexadecimal digits"),
            Self::LongName => {
                write!(f, "expected at most {MAX_NAME} octets before and after the `@`")
            }
            Self::NoDomain => f.write_str("no domain after the `@`"),
            Self::NoUser => f.write_str("no user before the `@`"),
            Self::PasswordAndHash => f.write_str("expected either password or ha1, not both"),
            Self::SecondPassword => f.write_str("password is written again: the first stands"),
            Self::TooMuch => f.write_str("the accounts exceed 4 GiB"),
        }
    }
}

impl Builder {
    /// An empty table for accounts whose digests are those of `realm`.
    pub fn new(realm: &str, algorithms: &[Algorithm]) -> Self {
        Self {
            realm: realm.as_bytes().into(),
            algorithms: algorithms.into(),
            built: Subscribers::default(),
            current: None,
        }
    }

    /// Starts the section of a user, or goes on with one that was opened before.
    ///
    /// # Errors
    /// The name can't be a user's; the section's keys will be passed over.
    pub fn section(&mut self, name: &[u8]) -> Result<Opened, Objection> {
        self.current = None;
        let (user, domain) = match split_name(name) {
            Some((_, b"")) => return Err(Objection::NoDomain),
            Some(parts) => parts,
            None => (name, &b""[..]),
        };
        if user.is_empty() {
            return Err(Objection::NoUser);
        }
        let user_len = u8::try_from(user.len()).map_err(|_| Objection::LongName)?;
        let domain_len = u8::try_from(domain.len()).map_err(|_| Objection::LongName)?;
        let hash = self.built.hash(user, domain).ok_or(Objection::LongName)?;
        if let Some(known) = self.built.entry(user, domain) {
            self.current = Some(u32::try_from(known).map_err(|_| Objection::TooMuch)?);
            return Ok(Opened::Again);
        }
        let position = u32::try_from(self.built.entries.len()).map_err(|_| Objection::TooMuch)?;
        let name = self.keep(name)?.start;
        self.built.names.insert(hash, position);
        self.built.has_domains |= domain_len > 0;
        self.built.entries.push(Entry {
            name,
            user_len,
            domain_len,
            stored: Stored::None,
            has_alternatives: false,
            hashes: 0,
        });
        self.current = Some(position);
        Ok(Opened::New)
    }

    /// A key of the current section.
    ///
    /// # Errors
    /// The key isn't taken; the account stays as it is.
    pub fn key(&mut self, key: &[u8], value: &[u8]) -> Result<(), Objection> {
        let Some(account) = self.current else {
            return Ok(());
        };
        match key {
            b"password" => self.password(account, value),
            b"ha1" => {
                let hash = parse_hex(value).ok_or(Objection::BadHash("ha1", 32))?;
                self.given(account, |set| set.md5 = Some(hash))
            }
            b"ha1_sha256" => {
                let hash = parse_hex(value).ok_or(Objection::BadHash("ha1_sha256", 64))?;
                self.given(account, |set| set.sha256 = Some(hash))
            }
            b"ha1_sha512_256" => {
                let hash = parse_hex(value).ok_or(Objection::BadHash("ha1_sha512_256", 64))?;
                self.given(account, |set| set.sha512_256 = Some(hash))
            }
            b"alternatives" => self.alternatives(account, value),
            _ => {
                let (key, value) = (self.keep(key)?, self.keep(value)?);
                self.built.params.push(Param { account, key, value });
                Ok(())
            }
        }
    }

    /// The finished table.
    pub fn build(self) -> Subscribers {
        let mut built = self.built;
        // Stable, so that a section opened again adds to what it had.
        built.params.sort_by_key(|param| param.account);
        let mut alternatives = std::mem::take(&mut built.alternatives);
        let number = |alternative: &Alternative| built.text(alternative.number);
        alternatives.sort_by(|one, other| {
            number(one).cmp(number(other)).then(one.account.cmp(&other.account))
        });
        alternatives
            .dedup_by(|one, other| one.account == other.account && number(one) == number(other));
        built.alternatives = alternatives;
        built.entries.shrink_to_fit();
        built.text.shrink_to_fit();
        built.hashes.shrink_to_fit();
        built.params.shrink_to_fit();
        built.alternatives.shrink_to_fit();
        built
    }

    fn password(&mut self, account: u32, password: &[u8]) -> Result<(), Objection> {
        match self.entry(account)?.stored {
            Stored::None => {}
            Stored::Any | Stored::Password(_) => return Err(Objection::SecondPassword),
            Stored::Given(_) => return Err(Objection::PasswordAndHash),
        }
        if password.is_empty() {
            self.entry(account)?.stored = Stored::Any;
            return Ok(());
        }
        let start = self.hashes_end()?;
        let position = usize::try_from(account).map_err(|_| Objection::TooMuch)?;
        let (user, domain) = self.built.name_parts(position);
        let plain = Ha1Set::of_password(&self.algorithms, user, &self.realm, password);
        let qualified = (!domain.is_empty()).then(|| {
            let name = [user, b"@", domain].concat();
            Ha1Set::of_password(&self.algorithms, &name, &self.realm, password)
        });
        pack(&plain, &mut self.built.hashes);
        if let Some(qualified) = qualified {
            pack(&qualified, &mut self.built.hashes);
        }
        let entry = self.entry(account)?;
        entry.stored = Stored::Password(Present::of(&plain));
        entry.hashes = start;
        Ok(())
    }

    /// Adds a hash that was computed elsewhere.
    fn given(&mut self, account: u32, add: impl FnOnce(&mut Ha1Set)) -> Result<(), Objection> {
        let Entry { stored, hashes, .. } = *self.entry(account)?;
        let mut set = match stored {
            Stored::None => Ha1Set::default(),
            Stored::Any | Stored::Password(_) => return Err(Objection::PasswordAndHash),
            Stored::Given(present) => {
                let start = usize::try_from(hashes).map_err(|_| Objection::TooMuch)?;
                present.unpack(self.built.hashes.get(start..).unwrap_or_default())
            }
        };
        add(&mut set);
        // What was packed before stays behind; few accounts have several hashes, and a reload
        // starts afresh.
        let start = self.hashes_end()?;
        pack(&set, &mut self.built.hashes);
        let entry = self.entry(account)?;
        entry.stored = Stored::Given(Present::of(&set));
        entry.hashes = start;
        Ok(())
    }

    /// A comma list of further numbers. Unlike Yate, blanks around them don't count. As in Yate,
    /// only the first such key of a section does.
    fn alternatives(&mut self, account: u32, list: &[u8]) -> Result<(), Objection> {
        if std::mem::replace(&mut self.entry(account)?.has_alternatives, true) {
            return Ok(());
        }
        for number in list.split(|octet| *octet == b',').map(<[u8]>::trim_ascii) {
            if !number.is_empty() {
                let number = self.keep(number)?;
                self.built.alternatives.push(Alternative { number, account });
            }
        }
        Ok(())
    }

    fn entry(&mut self, account: u32) -> Result<&mut Entry, Objection> {
        let position = usize::try_from(account).map_err(|_| Objection::TooMuch)?;
        self.built.entries.get_mut(position).ok_or(Objection::TooMuch)
    }

    fn hashes_end(&self) -> Result<u32, Objection> {
        u32::try_from(self.built.hashes.len()).map_err(|_| Objection::TooMuch)
    }

    /// Keeps a text, and tells where.
    fn keep(&mut self, text: &[u8]) -> Result<Span, Objection> {
        let start = u32::try_from(self.built.text.len()).map_err(|_| Objection::TooMuch)?;
        let len = u32::try_from(text.len()).map_err(|_| Objection::TooMuch)?;
        self.built.text.extend_from_slice(text);
        Ok(Span { start, len })
    }
}
