//! HTTP connections, with a bound on all that a client can hold.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Sleep, sleep, timeout},
};

/// How long to wait when the process is out of file descriptors, which time alone mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Octets of a request's head and of what is read ahead.
const MAX_HEAD: usize = 16 * 1024;

/// What a client may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once; more wait in the kernel's queue.
    pub(super) connections: u32,
    /// The time from a connection's start, or from the last answer, to the end of a request's
    /// head.
    pub(super) head: Duration,
    /// The time for a client to take a whole answer.
    pub(super) write: Duration,
    /// After this time a connection takes no further request.
    pub(super) lifetime: Duration,
    /// The time for running requests when the server ends.
    pub(super) stop: Duration,
}

impl Bounds {
    /// For an operator's tools on the same machine: generous for them, short for anybody else.
    pub(super) const DEFAULT: Self = Self {
        connections: 64,
        head: Duration::from_secs(5),
        write: Duration::from_secs(10),
        lifetime: Duration::from_secs(60),
        stop: Duration::from_secs(1),
    };
}

/// Serves connections until `stop` is sent or dropped.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    mut stop: oneshot::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(bounds.connections.try_into().unwrap_or(usize::MAX)));
    let (closing, closed) = watch::channel(());
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            _ = &mut stop => break,
        };
        match accepted {
            Ok((stream, place)) => {
                let connection = connection(stream, router.clone(), bounds, closed.clone(), place);
                tokio::spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API can't take a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, closing));
    // Who has not finished by then is cut off.
    let _ = timeout(bounds.stop, places.acquire_many(bounds.connections)).await;
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Serves one connection; `place` is free again when it ends.
async fn connection(
    stream: TcpStream,
    router: Router,
    bounds: Bounds,
    mut closed: watch::Receiver<()>,
    place: OwnedSemaphorePermit,
) {
    let io = TokioIo::new(Prompt { stream, bound: bounds.write, deadline: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // How a connection ends is the client's affair: what matters has been answered or not.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(bounds.lifetime) => {}
        _ = closed.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
    drop(place);
}

/// A connection whose client must take each answer within a time.
struct Prompt {
    stream: TcpStream,
    bound: Duration,
    /// Runs from the first octet that does not go out at once until all have gone.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Prompt {
    /// Fails a write that waits past the deadline.
    fn while_pending<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.bound)));
        deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.while_pending(cx),
            ready => ready,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.while_pending(cx),
            ready => ready,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is called when the whole answer has gone out.
        self.deadline = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        thread::{self, JoinHandle},
    };

    use axum::routing::get;
    use tokio::runtime;

    use super::*;

    /// Long enough for a busy machine, and never waited for.
    const LONG: Duration = Duration::from_secs(60);

    const PATIENT: Bounds =
        Bounds { connections: 2, head: LONG, write: LONG, lifetime: LONG, stop: LONG };

    struct Running {
        addr: SocketAddr,
        stop: oneshot::Sender<()>,
        thread: JoinHandle<()>,
    }

    /// Serves `/` with one line, and `/long` with more than the kernel's buffers hold.
    fn start(bounds: Bounds) -> Running {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "yes"))
            .route("/long", get(async || vec![b'x'; 64 << 20]));
        let (stop, stopped) = oneshot::channel();
        let thread =
            thread::spawn(move || runtime.block_on(serve(listener, router, bounds, stopped)));
        Running { addr, stop, thread }
    }

    impl Running {
        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.addr).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream
        }

        fn stop(self) {
            self.stop.send(()).unwrap();
            self.thread.join().unwrap();
        }
    }

    fn ask(stream: &mut TcpStream, path: &str) {
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }

    /// Reads one answer to `GET /`.
    fn answer(stream: &mut TcpStream) {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nyes") {
            let mut octet = [0];
            assert_eq!(stream.read(&mut octet).unwrap(), 1, "{}", text.escape_ascii());
            text.push(octet[0]);
        }
    }

    /// Waits until the server has closed a connection.
    fn closed(stream: &mut TcpStream) {
        // It may also be a reset, if something was not read.
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
    }

    #[test]
    fn who_says_nothing_is_cut_off() {
        let server = start(Bounds { head: Duration::from_millis(20), ..PATIENT });
        let mut silent = server.connect();
        closed(&mut silent);
        let mut slow = server.connect();
        slow.write_all(b"GET / HTTP/1.1\r\nhos").unwrap();
        closed(&mut slow);
        let mut idle = server.connect();
        ask(&mut idle, "/");
        answer(&mut idle);
        closed(&mut idle);
        server.stop();
    }

    #[test]
    fn who_does_not_read_is_cut_off() {
        let server = start(Bounds { connections: 1, write: Duration::from_millis(20), ..PATIENT });
        let mut deaf = server.connect();
        ask(&mut deaf, "/long");
        // Its place is free only once the server has given it up.
        let mut other = server.connect();
        ask(&mut other, "/");
        answer(&mut other);
        server.stop();
    }

    #[test]
    fn a_connection_ends_after_its_lifetime() {
        let server = start(Bounds { lifetime: Duration::from_millis(20), ..PATIENT });
        let mut stream = server.connect();
        closed(&mut stream);
        server.stop();
    }

    #[test]
    fn connections_wait_for_a_place() {
        let server = start(PATIENT);
        let mut held = [server.connect(), server.connect()];
        for stream in &mut held {
            ask(stream, "/");
            answer(stream);
        }
        let mut third = server.connect();
        ask(&mut third, "/");
        drop(held);
        answer(&mut third);
        drop(third);
        server.stop();
    }

    #[test]
    fn a_long_head_is_refused() {
        let server = start(PATIENT);
        let mut stream = server.connect();
        ask(&mut stream, &format!("/{}", "x".repeat(MAX_HEAD)));
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 414") || text.starts_with("HTTP/1.1 431"), "{text}");
        server.stop();
    }

    #[test]
    fn idle_connections_do_not_hold_up_the_end() {
        let server = start(PATIENT);
        let mut idle = server.connect();
        ask(&mut idle, "/");
        answer(&mut idle);
        server.stop();
        closed(&mut idle);
    }
}
