//! Where calls to other domains may not lead, whatever a name resolves to (`[calls] foreign_deny`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::policy::Network;

/// The word for what is no public address; the default.
pub const INTERNAL: &str = "internal";

/// The word for nothing.
pub const NONE: &str = "none";

/// Networks that callers can't have us send to by naming a domain, or an address, that isn't ours.
///
/// Somebody who may call out chooses both the name and what its servers say of it, so what they
/// resolve to is as good as chosen by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    /// Whether whatever is no public address is denied, and this machine's own addresses.
    pub internal: bool,
    /// What else is.
    pub networks: Box<[Network]>,
}

impl Default for Deny {
    fn default() -> Self {
        Self { internal: true, networks: Box::default() }
    }
}

impl Deny {
    /// Whether nobody calls an address of another domain. That an address is this machine's own
    /// is for the caller to find out.
    pub fn covers(&self, address: IpAddr) -> bool {
        // What a translator makes an IPv4 address of is that address.
        let address = translated(address).unwrap_or(address);
        let is_in = |networks: &[Network]| networks.iter().any(|n| n.contains(address));
        self.internal && is_in(&NOT_PUBLIC) || is_in(&self.networks)
    }
}

impl fmt::Display for Deny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.internal && self.networks.is_empty() {
            return f.write_str(NONE);
        }
        let mut between = "";
        if self.internal {
            f.write_str(INTERNAL)?;
            between = ",";
        }
        for network in &self.networks {
            write!(f, "{between}{network}")?;
            between = ",";
        }
        Ok(())
    }
}

/// The IPv4 address that a translator sends to in the place of an IPv6 address (RFC 6052 §2.1, the
/// well-known prefix).
fn translated(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Network {
    Network::new(IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Network {
    Network::new(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix)
}

/// What the registries of special addresses (RFC 6890) say is nobody's on the public internet, but
/// for those of examples, at which nobody is.
const NOT_PUBLIC: [Network; 24] = [
    // This network, and the unspecified address.
    v4(0, 0, 0, 8),
    // Private (RFC 1918).
    v4(10, 0, 0, 8),
    v4(172, 16, 0, 12),
    v4(192, 168, 0, 16),
    // Behind a carrier's NAT (RFC 6598).
    v4(100, 64, 0, 10),
    // Loopback.
    v4(127, 0, 0, 8),
    // Of one link, where clouds have what tells a machine its secrets.
    v4(169, 254, 0, 16),
    // Protocols' own (RFC 6890 §2.2.2).
    v4(192, 0, 0, 24),
    // Relays of 6to4, which there are no more (RFC 7526).
    v4(192, 88, 99, 24),
    // Measurements (RFC 2544).
    v4(198, 18, 0, 15),
    // Multicast; reserved, and broadcast.
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
    // Unspecified, loopback, and what once had an IPv4 address in it.
    v6(0, 0, 0, 96),
    // Translation within a network (RFC 8215).
    v6(0x64, 0xff9b, 1, 48),
    // Discarded (RFC 6666).
    v6(0x100, 0, 0, 64),
    // IPv4 addresses in it, which a router here may send to: Teredo, 6to4.
    v6(0x2001, 0, 0, 32),
    v6(0x2002, 0, 0, 16),
    // Names that look like addresses (RFC 4843, RFC 7343).
    v6(0x2001, 0x10, 0, 28),
    v6(0x2001, 0x20, 0, 28),
    // Segments of routing (RFC 9602).
    v6(0x5f00, 0, 0, 16),
    // Private (RFC 4193), of one link, of one site, multicast.
    v6(0xfc00, 0, 0, 7),
    v6(0xfe80, 0, 0, 10),
    v6(0xfec0, 0, 0, 10),
    v6(0xff00, 0, 0, 8),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(deny: &Deny, address: &str) -> bool {
        deny.covers(address.parse().unwrap())
    }

    #[test]
    fn nobody_calls_into_what_is_not_public() {
        let deny = Deny::default();
        for inside in [
            "0.0.0.0",
            "192.88.99.1",
            "2001:1f::1",
            "2001:2f::1",
            "5f00::1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::5",
            "2001::1",
            "2002:a00:1::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(covers(&deny, inside), "{inside}");
        }
        for outside in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2001:4860:4860::8888",
            "2003::1",
            "2600::1",
        ] {
            assert!(!covers(&deny, outside), "{outside}");
        }
    }

    #[test]
    fn a_list_replaces_what_is_not_public_or_adds_to_it() {
        let networks: Box<[Network]> =
            ["203.0.113.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap()).into();
        let none = Deny { internal: false, networks: Box::default() };
        let own = Deny { internal: false, networks: networks.clone() };
        let both = Deny { internal: true, networks };
        for (address, denied) in [
            ("127.0.0.1", [false, false, true]),
            ("203.0.113.7", [false, true, true]),
            ("::ffff:203.0.113.7", [false, true, true]),
            ("64:ff9b::203.0.113.7", [false, true, true]),
            ("2001:db8::1", [false, true, true]),
            ("1.1.1.1", [false, false, false]),
        ] {
            assert_eq!([&none, &own, &both].map(|deny| covers(deny, address)), denied, "{address}");
        }
        let shown = [none, own, both, Deny::default()].map(|deny| deny.to_string());
        let expected = [
            "none",
            "203.0.113.0/24,2001:db8::/32",
            "internal,203.0.113.0/24,2001:db8::/32",
            "internal",
        ];
        assert_eq!(shown, expected);
    }
}
