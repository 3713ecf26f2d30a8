//! The octets between us and a module: two pipes, or a socket.

use std::io;

use memchr::memchr2;
use tokio::net::{TcpStream, UnixStream, unix::pipe};

use super::module::{Effect, Module};

/// Octets that are read in one go. After so many, others have their turn.
const READ: usize = 64 * 1024;

/// Where a module's lines come from, and where ours go.
#[derive(Debug)]
pub(super) enum Link {
    /// Of a process that we have started: its standard output and input.
    Pipes(pipe::Receiver, pipe::Sender),
    /// Of one that has connected.
    Tcp(TcpStream),
    /// The same, on this machine.
    Unix(UnixStream),
}

impl Link {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Pipes(reader, _) => reader.readable().await,
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
        }
    }

    fn try_read(&self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipes(reader, _) => reader.try_read(space),
            Self::Tcp(socket) => socket.try_read(space),
            Self::Unix(socket) => socket.try_read(space),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Pipes(_, writer) => writer.writable().await,
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }

    fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipes(_, writer) => writer.try_write(octets),
            Self::Tcp(socket) => socket.try_write(octets),
            Self::Unix(socket) => socket.try_write(octets),
        }
    }
}

/// Carries lines until the module ends or is to end, or `over` is; why. `effect` is told what lines
/// ask for.
pub(super) async fn converse(
    module: &Module,
    link: &Link,
    over: impl Future<Output = Box<str>>,
    mut effect: impl FnMut(Effect),
) -> Box<str> {
    let (mut lines, mut space) = (Lines::default(), vec![0; READ]);
    tokio::pin!(over);
    loop {
        if let Some(why) = module.ends() {
            // Its last words have one chance.
            let _ = module.write_out(|out| link.try_write(out));
            return why;
        }
        tokio::select! {
            why = &mut over => {
                // What it wrote before it ended.
                while let Ok(octets @ 1..) = link.try_read(&mut space) {
                    let read = space.get(..octets).unwrap_or_default();
                    let _ = lines.take(read, module, &mut effect);
                }
                return why;
            }
            readable = link.readable(), if module.may_read() => {
                match readable.and_then(|()| link.try_read(&mut space)) {
                    Ok(0) => return "it has closed its end".into(),
                    Ok(octets) => {
                        let read = space.get(..octets).unwrap_or_default();
                        if let Err(why) = lines.take(read, module, &mut effect) {
                            module.end(why);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return error.to_string().into(),
                }
                tokio::task::yield_now().await;
            }
            writable = link.writable(), if module.has_out() => {
                match writable.and_then(|()| module.write_out(|out| link.try_write(out))) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return error.to_string().into();
                    }
                    _ => {}
                }
            }
            () = module.stirred() => {}
            () = until(module.held()) => {}
        }
    }
}

/// Waits for a moment; without one, for ever.
async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A line that is not complete yet.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Has a module take all lines that are complete now.
    fn take(
        &mut self,
        octets: &[u8],
        module: &Module,
        effect: &mut impl FnMut(Effect),
    ) -> Result<(), &'static str> {
        let mut rest = octets;
        while let Some(end) = memchr2(b'\n', 0, rest) {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            // The end counts, as in Yate.
            if self.0.len() + line.len() >= module.bufsize() {
                return Err(TOO_LONG);
            }
            let whole = if self.0.is_empty() {
                line
            } else {
                self.0.extend_from_slice(line);
                &self.0
            };
            let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
            if let Some(asked) = module.take(whole) {
                effect(asked);
            }
            self.0.clear();
            if module.ends().is_some() {
                return Ok(());
            }
        }
        if self.0.len() + rest.len() >= module.bufsize() {
            return Err(TOO_LONG);
        }
        self.0.extend_from_slice(rest);
        Ok(())
    }
}

const TOO_LONG: &str = "a line is longer than bufsize";
