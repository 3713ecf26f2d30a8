//! The echo that everything is measured against.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::mmsg_peer;
use super::peer::PEER_BATCH;

/// Octets of a request that are taken: more than any phone's REGISTER has.
const SLOT: usize = 2048;

/// Octets of the buffers asked for, in either direction.
const BUFFER: usize = 8 << 20;

/// A socket that answers each datagram with its own octets, and does nothing else.
pub struct EchoServer {
    socket: Socket,
    local: SocketAddr,
    echo: mmsg_peer::Echo,
    blocks: bool,
}

impl EchoServer {
    /// Binds `addr` and answers with the first `len` octets (at most 2048) of what it got, zeros
    /// after a shorter datagram. It waits for the next request in the call that receives it
    /// (`blocks`) or in poll(2).
    ///
    /// # Errors
    /// The address is taken, or none of this machine's.
    pub fn bind(addr: SocketAddr, len: usize, blocks: bool) -> io::Result<Self> {
        let kind = Type::DGRAM.cloexec();
        let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))?;
        socket.set_nonblocking(!blocks)?;
        socket.bind(&addr.into())?;
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = mmsg_peer::force_receive_buffer(socket.as_fd(), BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { socket, local, echo: mmsg_peer::Echo::new(PEER_BATCH, SLOT, len), blocks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a batch and answers it; the result is its size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn turn(&mut self) -> io::Result<usize> {
        let answered = self.echo.turn(self.socket.as_fd())?;
        if answered == 0 && !self.blocks {
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(answered)
    }
}

impl fmt::Debug for EchoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EchoServer").field("local", &self.local).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_datagram_is_answered_to_its_sender() {
        let zeros = "\0".repeat(9);
        for blocks in [true, false] {
            let addr = "127.0.0.1:0".parse().unwrap();
            let mut server = EchoServer::bind(addr, 9, blocks).unwrap();
            let peers: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            // In the second round the slots have the longer datagrams of the first.
            for (requests, answers) in [
                ([&b"a request"[..], b"another request", b""], ["a request", "another r", &zeros]),
                ([b"", b"short", b"request 3"], [&zeros, "short\0\0\0\0", "request 3"]),
            ] {
                for (peer, request) in peers.iter().zip(requests) {
                    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    peer.send_to(request, server.local_addr()).unwrap();
                }
                // Loopback has delivered when send_to returns.
                assert_eq!(server.turn().unwrap(), 3);
                for (peer, answer) in peers.iter().zip(answers) {
                    let mut octets = [0; 64];
                    let (len, from) = peer.recv_from(&mut octets).unwrap();
                    assert_eq!((&octets[..len], from), (answer.as_bytes(), server.local_addr()));
                }
            }
        }
    }
}
