//! The admin API: HTTP on a thread of its own.
//!
//! An operator's tools ask it; phones never do. So it has one thread for all connections, and
//! what takes longer than a moment (lists, reload, snapshot) runs beside it: `/healthz` answers
//! all the while. It holds no lock of the location service while it waits for anything.

mod api;
mod http;
mod page;
pub mod problem;
pub mod text;
pub mod token;
pub mod view;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{net, runtime, sync::oneshot};

use self::{http::Bounds, token::Token};
use crate::{config::settings::Admin, control::Node};

/// A running admin API.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts it. At the first start this makes the token file. `alive` is dropped when its thread
    /// ends, for whatever reason.
    ///
    /// # Errors
    /// The address or the token file can't be used.
    pub fn start(
        node: Arc<Node>,
        settings: &Admin,
        alive: impl Send + 'static,
    ) -> io::Result<Self> {
        let file = &settings.token_file;
        let token = Token::read_or_create(file).map_err(|error| {
            let what = format!("the token file {}: {error}", file.display());
            io::Error::new(error.kind(), what)
        })?;
        let listener = TcpListener::bind(settings.addr)?;
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
