//! The admin API: HTTP on a thread of its own.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{config::settings::Admin, control::Node};

/// A running admin API.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    /// The address or the token file can't be used.
    pub fn start(_node: Arc<Node>, settings: &Admin) -> io::Result<Self> {
        Ok(Self { addr: settings.addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it.
    pub fn stop(self) {}
}
