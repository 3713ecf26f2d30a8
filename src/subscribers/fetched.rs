//! Accounts that back ends were asked for, kept for a while.
//!
//! What nobody knows is kept apart from who was found, so that names made up by strangers can't
//! push out those of phones.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::sync::Cache;

use super::MAX_NAME;
use crate::{
    auth::digest::Secret,
    time::{DeltaSeconds, Now},
};

/// How long what was asked for counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Who was found: after so long they are asked for again.
    pub found: DeltaSeconds,
    /// Who was not.
    pub negative: DeltaSeconds,
    /// How much longer who was found counts for phones that refresh, and while nobody can be asked.
    pub stale: DeltaSeconds,
}

/// An account as a back end tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What is known of its password.
    pub secret: Secret,
    /// What is granted whatever is asked.
    pub granted: Option<DeltaSeconds>,
    /// All that the back end said besides, in its order.
    pub params: Box<[(Box<str>, Box<str>)]>,
}

impl fmt::Debug for Fetched {
    /// Names the parameters; values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params: Vec<&str> = self.params.iter().map(|(name, _)| &**name).collect();
        let Self { secret, granted, .. } = self;
        f.debug_struct("Fetched")
            .field("secret", secret)
            .field("granted", granted)
            .field("params", &params)
            .finish()
    }
}

/// What the back ends know of a username.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// An account of one of them.
    Account(Fetched),
    /// `regfile.conf`'s is the account that counts.
    Listed,
    /// A handler turns it down, with a code from 400 to 699.
    Refused(u16),
    /// Nobody knows it.
    Unknown,
}

impl Known {
    /// Octets of what a back end said of it besides a password.
    pub fn octets(&self) -> usize {
        match self {
            Self::Account(fetched) => {
                fetched.params.iter().map(|(name, value)| name.len() + value.len()).sum()
            }
            Self::Listed | Self::Refused(_) | Self::Unknown => 0,
        }
    }
}

/// What was found in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It counts.
    Fresh(Arc<Known>),
    /// Only for a phone that refreshes, or as long as nobody can be asked.
    Stale(Arc<Known>),
    /// Nothing.
    Missing,
}

/// Accounts by username and domain, at most so many.
pub struct FetchedCache {
    lifetimes: Lifetimes,
    found: Cache<Box<[u8]>, Kept>,
    unknown: Cache<Box<[u8]>, Kept>,
    /// Goes up whenever something is to be forgotten.
    generation: AtomicU64,
    /// What was asked before this second is stale.
    aged: AtomicU64,
}

#[derive(Clone)]
struct Kept {
    known: Arc<Known>,
    /// By the monotonic clock, in seconds.
    asked: u64,
}

/// Names that nobody knows, for each account there is room for.
const UNKNOWN_SHARE: usize = 8;

impl FetchedCache {
    /// An empty cache of at most `size` accounts.
    pub fn new(size: usize, lifetimes: Lifetimes) -> Self {
        let unknown = Cache::new((size / UNKNOWN_SHARE).max(1));
        let (generation, aged) = Default::default();
        Self { lifetimes, found: Cache::new(size.max(1)), unknown, generation, aged }
    }

    /// How many accounts it holds.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What is known of a username with an AoR of `domain`, which is empty in a flat namespace.
    pub fn find(&self, now: Now, username: &[u8], domain: &[u8]) -> Cached {
        let mut space = [0; MAX_KEY];
        let Some(key) = key(username, domain, &mut space) else { return Cached::Missing };
        let age = |kept: &Kept| now.millis / 1000 - kept.asked.min(now.millis / 1000);
        let within = |age: u64, limit: DeltaSeconds| age < u64::from(limit.0);
        let Lifetimes { found, negative, stale } = self.lifetimes;
        if let Some(kept) = self.found.get(key) {
            let age = age(&kept);
            if within(age, found) && kept.asked >= self.aged.load(Ordering::Relaxed) {
                return Cached::Fresh(kept.known);
            }
            if within(age, found) || within(age.saturating_sub(found.0.into()), stale) {
                return Cached::Stale(kept.known);
            }
        }
        match self.unknown.get(key) {
            Some(kept) if within(age(&kept), negative) => Cached::Fresh(kept.known),
            _ => Cached::Missing,
        }
    }

    /// A number that goes up whenever something is to be forgotten: to be asked for before who
    /// knows is asked.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Keeps what was learned of a username, unless something was forgotten since `generation`: that
    /// may have been asked too early.
    pub fn keep(
        &self,
        now: Now,
        generation: u64,
        username: &[u8],
        domain: &[u8],
        known: &Arc<Known>,
    ) {
        if generation != self.generation() {
            return;
        }
        let mut space = [0; MAX_KEY];
        let Some(key) = key(username, domain, &mut space) else { return };
        let kept = || Kept { known: Arc::clone(known), asked: now.millis / 1000 };
        match **known {
            Known::Account(_) | Known::Listed => {
                self.unknown.remove(key);
                self.found.insert(key.into(), kept());
            }
            Known::Unknown => {
                self.found.remove(key);
                self.unknown.insert(key.into(), kept());
            }
            // May depend on more than the name.
            Known::Refused(_) => {
                self.found.remove(key);
            }
        }
    }

    /// Forgets a username under all domains it is known with.
    pub fn forget(&self, username: &[u8]) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let is_other = |key: &[u8]| key.split(|b| *b == 0).next() != Some(username);
        self.found.retain(|key, _| is_other(key));
        self.unknown.retain(|key, _| is_other(key));
    }

    /// Has everybody asked for again who may be, and forgets who is unknown.
    pub fn age(&self, now: Now) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.aged.store(now.millis / 1000 + 1, Ordering::Relaxed);
        self.unknown.clear();
    }

    /// Forgets everybody.
    pub fn clear(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.found.clear();
        self.unknown.clear();
    }
}

impl fmt::Debug for FetchedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedCache").field("len", &self.len()).finish_non_exhaustive()
    }
}

const MAX_KEY: usize = 2 * MAX_NAME + 2;

/// Username and domain in one piece, apart by an octet that no username has. A name that is longer
/// than an account's can be is nobody's.
fn key<'s>(username: &[u8], domain: &[u8], space: &'s mut [u8; MAX_KEY]) -> Option<&'s [u8]> {
    if username.contains(&0) {
        return None;
    }
    let len = username.len() + 1 + domain.len();
    let (name, rest) = space.split_at_mut_checked(username.len())?;
    let lower = rest.get_mut(1..=domain.len())?;
    name.copy_from_slice(username);
    lower.copy_from_slice(domain);
    lower.make_ascii_lowercase();
    rest[0] = 0;
    space.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        found: DeltaSeconds(300),
        negative: DeltaSeconds(10),
        stale: DeltaSeconds(1000),
    };

    fn at(seconds: u64) -> Now {
        Now { millis: 1000 * seconds, unix: 1_800_000_000 + seconds }
    }

    fn account() -> Arc<Known> {
        let secret = Secret::AnyPassword;
        Arc::new(Known::Account(Fetched { secret, granted: None, params: [].into() }))
    }

    #[test]
    fn accounts_age_and_go_stale_before_they_are_gone() {
        let cache = FetchedCache::new(10, LIFETIMES);
        let known = account();
        cache.keep(at(5), 0, b"alice", b"Example.com", &known);
        for (second, expected) in [
            (5, Cached::Fresh(Arc::clone(&known))),
            (304, Cached::Fresh(Arc::clone(&known))),
            (305, Cached::Stale(Arc::clone(&known))),
            (1304, Cached::Stale(Arc::clone(&known))),
            (1305, Cached::Missing),
        ] {
            assert_eq!(cache.find(at(second), b"alice", b"example.COM"), expected, "{second}");
        }
        assert_eq!(cache.find(at(5), b"alice", b""), Cached::Missing);
    }

    #[test]
    fn unknown_names_push_nobody_out() {
        let cache = FetchedCache::new(80, LIFETIMES);
        let (known, unknown) = (account(), Arc::new(Known::Unknown));
        for user in 0..40 {
            cache.keep(at(0), 0, format!("{user}").as_bytes(), b"", &known);
        }
        for stranger in 0..10_000 {
            cache.keep(at(0), 0, format!("x{stranger}").as_bytes(), b"", &unknown);
        }
        assert_eq!(cache.len(), 40);
        assert!(cache.unknown.len() <= 10);
        cache.keep(at(1), 0, b"7", b"", &unknown);
        assert_eq!(cache.find(at(10), b"7", b""), Cached::Fresh(Arc::clone(&unknown)));
        assert_eq!(cache.find(at(11), b"7", b""), Cached::Missing, "found, but forgotten");
    }

    #[test]
    fn one_is_forgotten_under_all_domains_and_no_other() {
        let cache = FetchedCache::new(10, LIFETIMES);
        for (user, domain) in [("a", "x"), ("a", "y"), ("ab", "x")] {
            cache.keep(at(0), 0, user.as_bytes(), domain.as_bytes(), &account());
        }
        cache.forget(b"a");
        assert_eq!(cache.len(), 1);
        assert_ne!(cache.find(at(0), b"ab", b"x"), Cached::Missing);
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn names_beyond_all_bounds_are_nobodys() {
        let cache = FetchedCache::new(10, LIFETIMES);
        for name in [vec![b'a'; 2000], b"a\0b".to_vec()] {
            cache.keep(at(0), 0, &name, b"", &account());
            assert_eq!(cache.find(at(0), &name, b""), Cached::Missing);
        }
    }

    #[test]
    fn what_was_asked_before_something_was_forgotten_is_not_kept() {
        let cache = FetchedCache::new(10, LIFETIMES);
        let generation = cache.generation();
        cache.forget(b"a");
        cache.keep(at(0), generation, b"a", b"", &account());
        assert!(cache.is_empty());
        cache.keep(at(0), cache.generation(), b"a", b"", &account());
        assert_eq!(cache.find(at(1), b"a", b""), Cached::Fresh(account()));
        // Aged, it is good enough for a refresh, and for nothing else.
        cache.age(at(1));
        assert_eq!(cache.find(at(1), b"a", b""), Cached::Stale(account()));
        cache.keep(at(2), cache.generation(), b"a", b"", &account());
        assert_eq!(cache.find(at(2), b"a", b""), Cached::Fresh(account()));
    }
}
