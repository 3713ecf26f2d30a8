//! What the node can say of itself.

use std::net::SocketAddr;

use crate::{flow::Transport, net::UdpListener};

/// A listener and its sockets, one for each worker.
#[derive(Debug)]
pub struct ListenerStatus {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Its transport.
    pub transport: Transport,
    /// Where it listens; the port is the one that was got.
    pub addr: SocketAddr,
    /// Doubles of the workers' sockets, to ask the kernel about them.
    pub(super) sockets: Box<[UdpListener]>,
}

impl ListenerStatus {
    /// Datagrams that the kernel dropped because a worker did not keep up, since the start.
    pub fn drops(&self) -> u64 {
        self.sockets.iter().filter_map(|s| s.drops().ok()).map(u64::from).sum()
    }
}

/// One condition of being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What keeps it from being met; `None` if it is.
    pub reason: Option<String>,
}
