//! Accounts: who may register, and the digests that prove it.
//!
//! A [`Subscribers`] never changes: a reload builds another one and swaps it in, so that workers
//! read without a lock. It is made for millions of accounts: a few flat arrays, no allocation for
//! a look-up, no password in clear.

pub mod builder;
mod fetched;
mod packed;
pub mod route;
mod table;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;

use siphasher::sip::SipHasher13;

use packed::Present;
use table::NameTable;

pub use self::fetched::{Cached, Fetched, FetchedCache, Known, Lifetimes};

use crate::auth::digest::Secret;

/// The longest user or domain part of an account's name, in octets. Longer ones fit no sensible
/// URI, and one octet then holds the length.
pub const MAX_NAME: usize = 255;

/// All accounts.
#[derive(Default)]
pub struct Subscribers {
    hasher: NameHasher,
    names: NameTable,
    entries: Vec<Entry>,
    /// Names, parameters and alternatives.
    text: Vec<u8>,
    /// H(A1)s, as [`Entry::stored`] tells.
    hashes: Vec<u8>,
    /// By account, then in the order written.
    params: Vec<Param>,
    /// By number, then by account.
    alternatives: Vec<Alternative>,
    /// Whether there is any `[user@domain]`. Most files have none, and a look-up then needn't ask
    /// for one first.
    has_domains: bool,
}

/// Hashes names with a key of its own, so that nobody who chooses names chooses their places.
struct NameHasher(SipHasher13);

impl Default for NameHasher {
    fn default() -> Self {
        let random = || RandomState::new().hash_one(0_u8);
        Self(SipHasher13::new_with_keys(random(), random()))
    }
}

/// An account as it is kept.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where in `text` the name starts: the user part, and after an `@` the domain part.
    name: u32,
    user_len: u8,
    /// Zero: any domain of ours.
    domain_len: u8,
    stored: Stored,
    has_alternatives: bool,
    /// Where in `hashes` its digests start.
    hashes: u32,
}

/// What is kept of an account's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Any,
    None,
    /// One set, computed elsewhere for whichever form of the username the phone sends.
    Given(Present),
    /// A set for `user`, and with a domain a second one for `user@domain`.
    Password(Present),
}

#[derive(Clone, Copy, Debug)]
struct Param {
    account: u32,
    key: Span,
    value: Span,
}

#[derive(Clone, Copy, Debug)]
struct Alternative {
    number: Span,
    account: u32,
}

/// A piece of [`Subscribers::text`].
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

impl Subscribers {
    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The account that a digest username stands for, and what its response is checked against.
    ///
    /// `domain` is that of the AoR, in any case. `[username@domain]` goes before `[username]`. A
    /// username with an `@` may also name its section in full; whether that account owns the AoR is
    /// the caller's to ask ([`Account::owns`]).
    pub fn login(&self, username: &[u8], domain: &[u8]) -> Option<Login<'_>> {
        self.login_at(self.login_key(username, domain), username, domain)
    }

    /// Where [`Subscribers::login`] would begin to look.
    pub fn login_key(&self, username: &[u8], domain: &[u8]) -> LoginKey {
        LoginKey(self.hash(username, if self.has_domains { domain } else { b"" }))
    }

    /// Has the accounts of a batch come nearer to the processor, all at once, before each is looked
    /// up: where there are many, the wait for memory is most of what a look-up takes.
    ///
    /// Only a hint. What one account takes to be found needs what the step before brought; that of
    /// another does not, so theirs are waited for together.
    pub fn touch(&self, keys: &[LoginKey]) {
        /// As many as go side by side.
        const TOGETHER: usize = 16;
        for keys in keys.chunks(TOGETHER) {
            let mut entries = [None; TOGETHER];
            for (entry, LoginKey(hash)) in entries.iter_mut().zip(keys) {
                *entry = hash.and_then(|hash| self.names.find(hash, |_| true));
            }
            let entries = entries.iter().flatten().filter_map(|entry| self.entries.get(*entry));
            let near = |all: &[u8], at: u32| {
                usize::try_from(at).ok().and_then(|at| all.get(at).copied()).unwrap_or_default()
            };
            let octets = entries.map(|e| near(&self.text, e.name) ^ near(&self.hashes, e.hashes));
            black_box(octets.fold(0, |all, octet| all ^ octet));
        }
    }

    /// [`Subscribers::login`] where the key is known already.
    pub fn login_at(&self, key: LoginKey, username: &[u8], domain: &[u8]) -> Option<Login<'_>> {
        let domain = if self.has_domains { domain } else { b"" };
        let (entry, qualified) = if let Some(entry) = self.entry_at(key, username, domain) {
            (entry, false)
        } else if let Some((user, own)) = split_name(username) {
            // `user@` names no section: it is not another spelling of `[user]`.
            (self.entry(user, own).filter(|_| !own.is_empty())?, true)
        } else if domain.is_empty() {
            return None;
        } else {
            (self.entry(username, b"")?, false)
        };
        Some(Login { account: Account { of: self, entry }, secret: self.secret(entry, qualified) })
    }

    /// The account of an AoR: `[user@domain]`, else `[user]`.
    pub fn account(&self, user: &[u8], domain: &[u8]) -> Option<Account<'_>> {
        let entry = self.entry(user, domain).or_else(|| self.entry(user, b""))?;
        Some(Account { of: self, entry })
    }

    /// Whether an AoR has an account.
    pub fn exists(&self, user: &[u8], domain: &[u8]) -> bool {
        self.account(user, domain).is_some()
    }

    /// The accounts that list `number` among their `alternatives`, in the order of the file.
    pub fn owners<'s>(&'s self, number: &[u8]) -> impl Iterator<Item = Account<'s>> {
        let listed = |alternative: &Alternative| self.text(alternative.number);
        let start = self.alternatives.partition_point(|other| listed(other) < number);
        let end = self.alternatives.partition_point(|other| listed(other) <= number);
        let found = self.alternatives.get(start..end).unwrap_or_default();
        found.iter().filter_map(|alternative| self.nth(alternative.account))
    }

    /// All accounts, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = Account<'_>> {
        (0..self.entries.len()).map(|entry| Account { of: self, entry })
    }

    /// Whether any section has a parameter whose name `is_it` holds for.
    pub fn has_param(&self, mut is_it: impl FnMut(&[u8]) -> bool) -> bool {
        self.params.iter().any(|param| is_it(self.text(param.key)))
    }

    fn nth(&self, account: u32) -> Option<Account<'_>> {
        let entry = usize::try_from(account).ok().filter(|entry| *entry < self.entries.len())?;
        Some(Account { of: self, entry })
    }

    /// The entry of exactly this user and domain; an empty domain is that of `[user]`.
    fn entry(&self, user: &[u8], domain: &[u8]) -> Option<usize> {
        if !self.has_domains && !domain.is_empty() {
            return None;
        }
        self.entry_at(LoginKey(self.hash(user, domain)), user, domain)
    }

    fn entry_at(&self, key: LoginKey, user: &[u8], domain: &[u8]) -> Option<usize> {
        self.names.find(key.0?, |entry| {
            let (own_user, own_domain) = self.name_parts(entry);
            own_user == user && own_domain.eq_ignore_ascii_case(domain)
        })
    }

    /// A name's hash; `None` if no account can have such a name.
    fn hash(&self, user: &[u8], domain: &[u8]) -> Option<u32> {
        if domain.is_empty() {
            return Some(table::fold(self.hasher.0.hash(user)));
        }
        // In one piece, which costs half of what three do.
        let mut name = [0; 2 * MAX_NAME + 1];
        let (user_space, rest) = name.split_at_mut_checked(user.len())?;
        let (at, rest) = rest.split_first_mut()?;
        user_space.copy_from_slice(user);
        *at = b'@';
        let lower = rest.get_mut(..domain.len())?;
        lower.copy_from_slice(domain);
        lower.make_ascii_lowercase();
        Some(table::fold(self.hasher.0.hash(name.get(..user.len() + 1 + domain.len())?)))
    }

    /// The user and domain part of an entry's name, as written.
    fn name_parts(&self, entry: usize) -> (&[u8], &[u8]) {
        let Some(entry) = self.entries.get(entry) else {
            return (b"", b"");
        };
        let user = Span { start: entry.name, len: entry.user_len.into() };
        let domain = Span {
            start: entry.name.saturating_add(u32::from(entry.user_len) + 1),
            len: entry.domain_len.into(),
        };
        (self.text(user), if domain.len == 0 { b"" } else { self.text(domain) })
    }

    fn text(&self, span: Span) -> &[u8] {
        let range = usize::try_from(span.start).ok().zip(usize::try_from(span.len).ok());
        range.and_then(|(start, len)| self.text.get(start..)?.get(..len)).unwrap_or_default()
    }

    fn secret(&self, entry: usize, qualified: bool) -> Secret {
        let Some(entry) = self.entries.get(entry) else {
            return Secret::NoPassword;
        };
        // An account's own hashes and no octet more: what follows is another account's.
        let own = |sets: usize, present: Present| {
            let start = usize::try_from(entry.hashes).ok()?;
            self.hashes.get(start..)?.get(..sets * present.packed_len())
        };
        match entry.stored {
            Stored::Any => Secret::AnyPassword,
            Stored::None => Secret::NoPassword,
            Stored::Given(present) => {
                Secret::Ha1(present.unpack(own(1, present).unwrap_or_default()))
            }
            Stored::Password(present) => {
                let sets = if entry.domain_len > 0 { 2 } else { 1 };
                let hashes = own(sets, present).unwrap_or_default();
                let skipped = if qualified { present.packed_len() } else { 0 };
                Secret::Ha1(present.unpack(hashes.get(skipped..).unwrap_or_default()))
            }
        }
    }
}

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribers").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Where the account of a username may be; `None` if no account can have such a name.
#[derive(Clone, Copy, Debug)]
pub struct LoginKey(Option<u32>);

/// What a digest username stands for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Whose username it is.
    pub account: Account<'a>,
    /// What is known of the password.
    pub secret: Secret,
}

/// One account.
#[derive(Clone, Copy)]
pub struct Account<'a> {
    of: &'a Subscribers,
    entry: usize,
}

impl<'a> Account<'a> {
    /// The user part of its name.
    pub fn user(self) -> &'a [u8] {
        self.of.name_parts(self.entry).0
    }

    /// The domain part of its name, as written; `None` means every domain of ours.
    pub fn domain(self) -> Option<&'a [u8]> {
        Some(self.of.name_parts(self.entry).1).filter(|domain| !domain.is_empty())
    }

    /// Whether the AoR with this user and domain is this account's.
    pub fn owns(self, user: &[u8], domain: &[u8]) -> bool {
        self.user() == user && self.domain().is_none_or(|own| own.eq_ignore_ascii_case(domain))
    }

    /// Whether and how it can authenticate.
    pub fn secret(self) -> Secret {
        self.of.secret(self.entry, false)
    }

    /// The other parameters of its section in their order, duplicates included.
    pub fn params(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let of = self.of;
        let before = |param: &Param, entry| usize::try_from(param.account).is_ok_and(|a| a < entry);
        let start = of.params.partition_point(|param| before(param, self.entry));
        let end = of.params.partition_point(|param| before(param, self.entry + 1));
        let own = of.params.get(start..end).unwrap_or_default();
        own.iter().map(|param| (of.text(param.key), of.text(param.value)))
    }
}

impl fmt::Debug for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.user()))?;
        let Some(domain) = self.domain() else { return Ok(()) };
        write!(f, "@{}", String::from_utf8_lossy(domain))
    }
}

/// The user and domain of a name with an `@` in it. The last one counts: a user part may contain
/// others, a domain can't.
pub fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memrchr(b'@', name)?;
    Some((name.get(..at)?, name.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::builder::{Builder, Objection};

    use super::*;
    use crate::auth::digest::Ha1Set;
    use crate::auth::policy::Algorithm;

    const BOTH: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Md5];

    fn build(sections: &[(&str, &[(&str, &str)])]) -> Subscribers {
        let mut builder = Builder::new("realm", &BOTH);
        for (name, keys) in sections {
            builder.section(name.as_bytes()).unwrap();
            for (key, value) in *keys {
                builder.key(key.as_bytes(), value.as_bytes()).unwrap();
            }
        }
        builder.build()
    }

    fn ha1(username: &str, password: &str) -> Secret {
        let (username, password) = (username.as_bytes(), password.as_bytes());
        Secret::Ha1(Ha1Set::of_password(&BOTH, username, b"realm", password))
    }

    fn login(subscribers: &Subscribers, username: &str, domain: &str) -> Option<(String, Secret)> {
        let login = subscribers.login(username.as_bytes(), domain.as_bytes())?;
        Some((format!("{:?}", login.account), login.secret))
    }

    #[test]
    fn usernames_find_their_section() {
        let subscribers = build(&[
            ("alice", &[("password", "a")]),
            ("alice@b.org", &[("password", "b")]),
            ("any", &[("password", "")]),
            ("none", &[("route", "x")]),
            ("x@y@C.net", &[("password", "c")]),
        ]);
        let cases = [
            ("alice", "a.org", Some(("alice", ha1("alice", "a")))),
            ("alice", "b.org", Some(("alice@b.org", ha1("alice", "b")))),
            ("alice", "B.ORG", Some(("alice@b.org", ha1("alice", "b")))),
            ("alice@b.org", "b.org", Some(("alice@b.org", ha1("alice@b.org", "b")))),
            ("alice@b.org", "a.org", Some(("alice@b.org", ha1("alice@b.org", "b")))),
            ("alice@a.org", "a.org", None),
            ("Alice", "a.org", None),
            ("any", "a.org", Some(("any", Secret::AnyPassword))),
            ("none", "a.org", Some(("none", Secret::NoPassword))),
            ("x@y", "c.net", Some(("x@y@C.net", ha1("x@y", "c")))),
            ("x@y@c.net", "c.net", Some(("x@y@C.net", ha1("x@y@C.net", "c")))),
            ("general", "a.org", None),
            ("", "", None),
            ("@", "", None),
            // Not another spelling of a section, and never the next account's hashes.
            ("alice@", "", None),
            ("alice@", "a.org", None),
            ("any@", "", None),
        ];
        for (username, domain, expected) in cases {
            let expected = expected.map(|(account, secret)| (account.to_owned(), secret));
            assert_eq!(login(&subscribers, username, domain), expected, "{username} {domain}");
        }
        let long = [b'a'; 70_000];
        assert!(subscribers.login(&long, &long).is_none());
    }

    #[test]
    fn accounts_own_their_addresses_of_record() {
        let subscribers = build(&[("alice", &[]), ("bob@b.org", &[])]);
        assert!(subscribers.exists(b"alice", b"anything.org"));
        assert!(subscribers.exists(b"bob", b"B.org"));
        assert!(!subscribers.exists(b"bob", b"a.org"));
        assert!(!subscribers.exists(b"bob@b.org", b"b.org"));
        let bob = subscribers.login(b"bob@b.org", b"a.org").unwrap().account;
        assert!(bob.owns(b"bob", b"b.ORG") && !bob.owns(b"bob", b"a.org"));
        let alice = subscribers.account(b"alice", b"a.org").unwrap();
        assert!(alice.owns(b"alice", b"a.org") && !alice.owns(b"bob", b"a.org"));
    }

    #[test]
    fn alternatives_are_trimmed_and_in_the_order_of_the_file() {
        let subscribers = build(&[
            ("z", &[("alternatives", "900, 901 ,,900"), ("alternatives", "999")]),
            ("a", &[("alternatives", " 901")]),
        ]);
        let owners = |number: &str| -> Vec<String> {
            subscribers.owners(number.as_bytes()).map(|owner| format!("{owner:?}")).collect()
        };
        assert_eq!(owners("900"), ["z"]);
        assert_eq!(owners("901"), ["z", "a"]);
        assert_eq!(owners("999"), [""; 0]);
        assert_eq!(owners(""), [""; 0]);
    }

    #[test]
    fn other_parameters_stay_in_order_even_of_a_section_that_is_opened_again() {
        let subscribers = build(&[
            ("a", &[("expires", "77"), ("password", "x"), ("b", "")]),
            ("b", &[("k", "1")]),
            ("a", &[("expires", "78")]),
            ("c", &[]),
        ]);
        let params = |user: &str| -> Vec<String> {
            let account = subscribers.account(user.as_bytes(), b"").unwrap();
            let text = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
            account.params().map(|(key, value)| text(key) + "=" + &text(value)).collect()
        };
        assert_eq!(params("a"), ["expires=77", "b=", "expires=78"]);
        assert_eq!(params("b"), ["k=1"]);
        assert_eq!(params("c"), [""; 0]);
        assert_eq!(subscribers.len(), 3);
    }

    #[test]
    fn hashes_may_stand_instead_of_a_password() {
        let set = Ha1Set::of_password(&BOTH, b"alice", b"realm", b"a");
        let md5 = crate::hex::to_hex(&set.md5.unwrap());
        let sha256 = crate::hex::to_hex(&set.sha256.unwrap());
        let subscribers = build(&[
            ("alice@a.org", &[("ha1", &md5)]),
            ("bob", &[]),
            ("alice@a.org", &[("ha1_sha256", &sha256.to_uppercase())]),
        ]);
        let expected = Some(("alice@a.org".to_owned(), Secret::Ha1(set)));
        assert_eq!(login(&subscribers, "alice", "a.org"), expected);
        assert_eq!(login(&subscribers, "alice@a.org", "a.org"), expected);
    }

    #[test]
    fn what_an_account_cannot_be_is_told() {
        let mut builder = Builder::new("realm", &BOTH);
        assert_eq!(builder.section(b"@a.org"), Err(Objection::NoUser));
        assert_eq!(builder.section(b"a@"), Err(Objection::NoDomain));
        assert_eq!(builder.section(&[b'a'; 256]), Err(Objection::LongName));
        assert_eq!(builder.key(b"password", b"x"), Ok(()), "keys of a refused section are dropped");
        builder.section(b"a").unwrap();
        let bad = builder.key(b"ha1", b"xyz");
        assert_eq!(bad, Err(Objection::BadHash("ha1", 32)));
        assert_eq!(bad.unwrap_err().to_string(), "ha1: expected 32 hexadecimal digits");
        builder.key(b"password", b"x").unwrap();
        assert_eq!(builder.key(b"password", b"y"), Err(Objection::SecondPassword));
        assert_eq!(builder.key(b"ha1", &[b'0'; 32]), Err(Objection::PasswordAndHash));
        let subscribers = builder.build();
        assert_eq!(login(&subscribers, "a", ""), Some(("a".into(), ha1("a", "x"))));
        assert_eq!(subscribers.len(), 1);
    }

    #[test]
    fn debug_prints_no_secret() {
        let subscribers = build(&[("alice", &[("password", "opensesame")])]);
        let login = subscribers.login(b"alice", b"").unwrap();
        let text = format!("{login:?} {subscribers:?}");
        assert_eq!(
            text,
            "Login { account: alice, secret: Ha1(Ha1Set[Md5, Sha256]) } Subscribers { len: 1, .. }"
        );
        assert!(!subscribers.text.windows(4).any(|text| text == b"open"));
    }

    #[test]
    fn many_accounts_are_all_found() {
        let names: Vec<String> = (0..5000).map(|number| format!("u{number}")).collect();
        let sections: Vec<(&str, &[(&str, &str)])> =
            names.iter().map(|name| (name.as_str(), &[][..])).collect();
        let subscribers = build(&sections);
        for name in &names {
            let account = subscribers.account(name.as_bytes(), b"a.org").unwrap();
            assert_eq!(account.user(), name.as_bytes());
        }
        assert!(!subscribers.exists(b"u5000", b""));
    }
}
