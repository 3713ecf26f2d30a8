//! The admin API: HTTP on a thread of its own.
//!
//! An operator's tools ask it; phones never do. So it has one thread for all connections, and
//! what takes longer than a moment (lists, reload, snapshot) runs beside it: `/healthz` answers
//! all the while. It holds no lock of the location service while it waits for anything.

mod api;
pub mod elsewhere;
mod http;
mod page;
pub mod problem;
pub mod text;
pub mod token;
pub mod view;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{net, runtime, sync::oneshot};

use self::{http::Bounds, token::Token};
use crate::{
    config::{resolve::TOKEN_FILE, settings::Admin},
    control::Node,
};

/// A running admin API.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// An address and a token for an admin API that is to start: that they can be used is known before
/// anything on disk is touched.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    token: Token,
}

impl Bound {
    /// Binds the address. At the first start this makes the token file; one in the state folder
    /// `state` that is damaged is made anew.
    ///
    /// # Errors
    /// The address or the token file can't be used.
    pub fn new(settings: &Admin, state: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.addr)?;
        let file = &settings.token_file;
        let is_ours = *file == state.join(TOKEN_FILE);
        let token = Token::read_or_create(file, is_ours).map_err(|error| {
            let what = format!("the token file {}: {error}", file.display());
            io::Error::new(error.kind(), what)
        })?;
        Ok(Self { listener, token })
    }
}

impl Server {
    /// Starts it. `alive` is dropped when its thread ends, for whatever reason.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(node: Arc<Node>, bound: Bound, alive: impl Send + 'static) -> io::Result<Self> {
        let Bound { listener, token } = bound;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        if !addr.ip().is_loopback() {
            tracing::warn!(%addr, "the admin API is open to the network, without encryption");
        }
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(api::BLOCKING_THREADS)
            .thread_name("admin-work")
            .build()?;
        let listener = {
            let _runtime = runtime.enter();
            net::TcpListener::from_std(listener)?
        };
        let router = api::router(node, token);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let _alive = alive;
            runtime.block_on(http::serve(listener, router, Bounds::DEFAULT, stopped));
            // A reload or a snapshot that still runs ends with the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { addr, stop, thread })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it, after a moment for requests that are being answered.
    pub fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the admin API's thread has panicked");
        }
    }
}
