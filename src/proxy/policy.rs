//! What `[calls]` in `bindery.conf` resolves to: who may call, how long, and how.

use std::{fmt, net::IpAddr, str::FromStr};

use super::deny::Deny;
use crate::time::DeltaSeconds;

/// How calls are judged and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether there are calls at all.
    pub enabled: bool,
    /// Whether callers are told where to go (RFC 3261 §8.3) instead of being connected (§16);
    /// domains may differ ([`Policy::mode_for`]).
    pub redirect: bool,
    /// Domains that have a mode of their own, in lower case.
    pub modes: Box<[(Box<str>, Mode)]>,
    /// How long a group of phones may ring before the next is tried.
    pub ring_timeout: DeltaSeconds,
    /// After how long without a request in it a call counts as over, since its BYE never comes.
    pub dead_call: DeltaSeconds,
    /// After how long without a request in it the parties of a call are asked whether they still
    /// have it; zero means never.
    pub probe: DeltaSeconds,
    /// What they are asked with.
    pub probe_by: ProbeBy,
    /// How many calls a user may have at a time; zero means no bound.
    pub max_calls: u32,
    /// Who may call without credentials.
    pub trusted: Box<[Network]>,
    /// Whether From may only name the user that the credentials prove.
    pub check_from: bool,
    /// Whether strangers may call our users.
    pub accept_foreign: bool,
    /// What happens to calls of our users to other domains.
    pub foreign: Foreign,
    /// Where those never go.
    pub foreign_deny: Deny,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            redirect: false,
            modes: Box::default(),
            ring_timeout: DeltaSeconds(60),
            dead_call: DeltaSeconds(7200),
            probe: DeltaSeconds(0),
            probe_by: ProbeBy::Options,
            max_calls: 0,
            trusted: Box::default(),
            check_from: true,
            accept_foreign: false,
            foreign: Foreign::Refuse,
            foreign_deny: Deny::default(),
        }
    }
}

impl Policy {
    /// What happens to requests for users of a domain, which may be written in any case.
    pub fn mode_for(&self, domain: &[u8]) -> Mode {
        let own = self.modes.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(domain));
        match own {
            Some((_, mode)) => *mode,
            None if self.redirect => Mode::Redirect,
            None => Mode::Proxy,
        }
    }

    /// Whether requests from an address need no credentials.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// What the parties of a call are asked with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeBy {
    /// OPTIONS (RFC 3261 §11), which all phones know; some answer it whether they have the call or
    /// not.
    #[default]
    Options,
    /// UPDATE (RFC 3311), which belongs to a call.
    Update,
}

impl ProbeBy {
    /// The method.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Options => "OPTIONS",
            Self::Update => "UPDATE",
        }
    }
}

/// What happens to a request for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is passed on.
    Proxy,
    /// Who sent it is told where to go.
    Redirect,
}

/// What happens to calls of our users to other domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Nobody calls there, unless a handler says where that is.
    Refuse,
    /// They go where the domain name system says (RFC 3263).
    Dns,
}

/// A network of addresses: `192.0.2.0/24`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    first: IpAddr,
    /// How many leading bits all of its addresses share.
    prefix: u8,
}

impl Network {
    /// The network of an address that has no bit set behind its first `prefix` ones.
    pub(super) const fn new(first: IpAddr, prefix: u8) -> Self {
        Self { first, prefix }
    }

    /// Whether an address belongs to it. An IPv4 address is the same in its IPv6 form
    /// (`::ffff:192.0.2.1`), in which a socket for both shows it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, width) = bits(self.first);
        let (other, other_width) = bits(address.to_canonical());
        width == other_width
            && shared(first, width, self.prefix) == shared(other, width, self.prefix)
    }
}

/// An address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// The leading `prefix` bits.
fn shared(bits: u128, width: u8, prefix: u8) -> u128 {
    bits.checked_shr(u32::from(width.saturating_sub(prefix))).unwrap_or(0)
}

/// What is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address, or a network such as 192.0.2.0/24 with no bit set behind its prefix")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let (number, width) = bits(first);
        let prefix = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|octet| octet.is_ascii_digit()) => {
                digits.parse().map_err(|_| NoNetwork)?
            }
            Some(_) => return Err(NoNetwork),
        };
        // What stands behind the prefix was either forgotten or meant otherwise.
        let rest = u32::from(width.checked_sub(prefix).ok_or(NoNetwork)?);
        let kept = number.checked_shr(rest).and_then(|kept| kept.checked_shl(rest)).unwrap_or(0);
        let mapped = matches!(first, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if kept != number || mapped {
            return Err(NoNetwork);
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn networks_have_the_addresses_that_share_their_prefix() {
        for (network, address, belongs) in [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("192.0.2.0/24", "2001:db8::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/9", "10.127.0.1", true),
            ("10.0.0.0/9", "10.128.0.1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("::1", "::1", true),
        ] {
            assert_eq!(contains(network, address), belongs, "{network} {address}");
        }
    }

    #[test]
    fn what_is_written_otherwise_is_none() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "::/129",
            "example",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
            "2001:db8::1/64",
            "10.0.0.0 /8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
        assert_eq!("192.0.2.1".parse::<Network>().unwrap().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn a_domain_may_have_a_mode_of_its_own() {
        let modes = [("example.org".into(), Mode::Redirect)].into();
        let policy = Policy { modes, ..Policy::default() };
        assert_eq!(policy.mode_for(b"Example.ORG"), Mode::Redirect);
        assert_eq!(policy.mode_for(b"example.com"), Mode::Proxy);
        let modes = [("example.org".into(), Mode::Proxy)].into();
        let policy = Policy { redirect: true, modes, ..Policy::default() };
        assert_eq!(policy.mode_for(b"example.org"), Mode::Proxy);
        assert_eq!(policy.mode_for(b"example.com"), Mode::Redirect);
    }
}
