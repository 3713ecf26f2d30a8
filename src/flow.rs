//! Where a datagram came from and where its answer leaves: a Flow in the sense of RFC 5626.

use std::net::{IpAddr, SocketAddr};

/// The transports a request can come over (RFC 3261 §18, RFC 7118).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// Secure WebSocket.
    Wss,
}

impl Transport {
    /// All transports, in the order of their [`Transport::code`].
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// The lower-case name, as in URI parameters, configuration and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The transport with this lower-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// A small stable number, for packed records and tables.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The transport with this [`Transport::code`].
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A listener's number: its position in the configuration, the same in every worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u8);

/// The path a datagram took: our socket and address, the peer's address, the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The listener it came to.
    pub listener: ListenerId,
    /// How.
    pub transport: Transport,
    /// Our address it came to, where the listener is bound to a wildcard address and the kernel
    /// told us (`IP_PKTINFO`); answers leave from it.
    pub local: Option<IpAddr>,
    /// The peer it came from. IPv4 peers of a dual-stack socket are given as IPv4.
    pub remote: SocketAddr,
}
