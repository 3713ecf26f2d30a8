//! Whose a REGISTER is: an account of `regfile.conf`, or of a back end.

use std::sync::Arc;

use super::{
    parking::{Learned, Learnt},
    rules::{AskAuth, Rules},
};
use crate::{
    auth::{
        Authenticator, Claim, Secret,
        authorization::{MAX_USERNAME, Quoted},
    },
    sip::extra,
    subscribers::{Account, Cached, Known, LoginKey, split_name},
    time::{DeltaSeconds, Now},
};

/// An account, wherever it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'a> {
    /// In `regfile.conf`.
    Listed(Account<'a>),
    /// A back end told of it.
    Fetched {
        /// Its name, as the client wrote it.
        username: Quoted<'a>,
        /// What it grants whatever is asked.
        granted: Option<DeltaSeconds>,
    },
}

impl Owner<'_> {
    /// Whether the AoR with this user and domain is this account's.
    pub(super) fn owns(self, user: &[u8], domain: &[u8]) -> bool {
        match self {
            Self::Listed(account) => account.owns(user, domain),
            Self::Fetched { username, .. } => {
                let mut space = [0; MAX_USERNAME];
                username.unescape_into(&mut space).is_some_and(|name| {
                    name == user
                        || split_name(name).is_some_and(|(own, own_domain)| {
                            !domain.is_empty()
                                && own == user
                                && own_domain.eq_ignore_ascii_case(domain)
                        })
                })
            }
        }
    }

    /// The user part of its name.
    pub(super) fn user(self) -> Vec<u8> {
        match self {
            Self::Listed(account) => account.user().to_vec(),
            Self::Fetched { username, .. } => {
                let name: Vec<u8> = username.octets().collect();
                split_name(&name).map_or_else(|| name.clone(), |(user, _)| user.to_vec())
            }
        }
    }

    /// What it grants whatever is asked: `expires=` in its section, as in Yate. A value out of
    /// bounds was warned of when it was read.
    pub(super) fn granted(self) -> Option<DeltaSeconds> {
        match self {
            Self::Listed(account) => {
                let (_, value) = account.params().find(|(key, _)| *key == b"expires")?;
                DeltaSeconds::granted(value)
            }
            Self::Fetched { granted, .. } => granted,
        }
    }
}

/// Who says that it comes from an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant<'a> {
    /// Its credentials.
    pub(super) claim: Claim<'a>,
    /// The domain of the AoR.
    pub(super) domain: &'a [u8],
    /// Where its account is, if it is listed.
    pub(super) login: Option<LoginKey>,
}

/// What is known of a claimant.
#[derive(Clone, Debug)]
pub(super) enum Sought<'a> {
    /// The account, and what its credentials are checked against.
    Found {
        owner: Owner<'a>,
        secret: Secret,
        /// Whether it is time to ask again.
        is_stale: bool,
        /// Header lines of answers to it.
        extra: Option<Arc<[u8]>>,
    },
    /// There is no such account.
    Unknown,
    /// Only a back end knows.
    Asks,
    /// A back end turned it down.
    Refused(u16),
    /// No back end could say.
    Unavailable,
}

impl<'a> Claimant<'a> {
    /// Looks for the account among those that are listed and those that were fetched, in the order
    /// of the handlers' priorities.
    pub(super) fn seek(&self, now: Now, rules: &'a Rules, learned: Option<&Learned>) -> Sought<'a> {
        let listed = || self.among_listed(rules);
        match rules.elsewhere.asks_auth() {
            AskAuth::Never => listed().unwrap_or(Sought::Unknown),
            AskAuth::AfterListed => {
                match listed() {
                    // Another handler may have a password.
                    None | Some(Sought::Found { secret: Secret::NoPassword, .. }) => {
                        self.among_fetched(now, rules, learned)
                    }
                    Some(found) => found,
                }
            }
            AskAuth::BeforeListed => self.among_fetched(now, rules, learned),
        }
    }

    fn among_listed(&self, rules: &'a Rules) -> Option<Sought<'a>> {
        let mut found = None;
        Authenticator::look_up(&self.claim, |username| {
            let login = rules.subscribers.login_at(self.login?, username, self.domain)?;
            let (owner, secret) = (Owner::Listed(login.account), login.secret);
            let extra = extra::lines(login.account.params());
            found = Some(Sought::Found { owner, secret, is_stale: false, extra });
            None
        });
        found
    }

    fn among_fetched(&self, now: Now, rules: &'a Rules, learned: Option<&Learned>) -> Sought<'a> {
        match learned.and_then(|learned| learned.account.as_ref()) {
            Some(Learnt::Is(known)) => return self.found(rules, known, false),
            Some(Learnt::Unavailable) => return Sought::Unavailable,
            None => {}
        }
        let Some(cache) = &rules.elsewhere.fetched else { return Sought::Asks };
        // Who has a hashed name, or none that could be an account's, is not asked for.
        let mut cached = None;
        Authenticator::look_up(&self.claim, |username| {
            cached = Some(cache.find(now, username, self.domain));
            None
        });
        match cached {
            None => Sought::Unknown,
            Some(Cached::Missing) => Sought::Asks,
            Some(Cached::Fresh(known)) => self.found(rules, &known, false),
            Some(Cached::Stale(known)) => self.found(rules, &known, true),
        }
    }

    fn found<'k>(&self, rules: &'a Rules, known: &'k Known, is_stale: bool) -> Sought<'a> {
        match known {
            Known::Account(fetched) => {
                let (username, granted) = (self.claim.username(), fetched.granted);
                let owner = Owner::Fetched { username, granted };
                let octets =
                    |(name, value): &'k (Box<str>, Box<str>)| (name.as_bytes(), value.as_bytes());
                let extra = extra::lines(fetched.params.iter().map(octets));
                Sought::Found { owner, secret: fetched.secret, is_stale, extra }
            }
            Known::Listed => match self.among_listed(rules) {
                Some(Sought::Found { owner, secret, extra, .. }) => {
                    Sought::Found { owner, secret, is_stale, extra }
                }
                _ => Sought::Unknown,
            },
            Known::Refused(code) => Sought::Refused(*code),
            Known::Unknown => Sought::Unknown,
        }
    }
}
