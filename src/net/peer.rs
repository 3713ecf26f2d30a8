//! The other side of the wire: a socket connected to one server, and batches of requests to it.
//!
//! What `bindery bench` sends and receives. A connected socket spares the kernel a route and an
//! address for each datagram, and is told when nobody listens there (`ECONNREFUSED`).

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::mmsg_peer::{self, Headers};

/// Datagrams that one call moves at most: beyond 32 there is little to gain, and a batch is also
/// the burst that the server sees.
pub const PEER_BATCH: usize = 64;

/// Octets of answers and of requests that may wait; a generator that is late must not lose what
/// it then calls the server's loss.
const BUFFER: usize = 8 << 20;

/// A non-blocking UDP socket connected to a server.
#[derive(Debug)]
pub struct UdpPeer {
    socket: Socket,
    local: SocketAddr,
}

impl UdpPeer {
    /// A socket on `port` (0 takes a free one) that talks to `server` only.
    ///
    /// # Errors
    /// The port is taken, or there is no route.
    pub fn connect(port: u16, server: SocketAddr) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(server), kind, Some(Protocol::UDP))?;
        let any = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.connect(&server.into())?;
        // Without CAP_NET_ADMIN the kernel grants less, which shows as loss.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = mmsg_peer::force_receive_buffer(socket.as_fd(), BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { socket, local })
    }

    /// Its own address, as the server sees it.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl AsFd for UdpPeer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until one of `peers` has something, at most `nanos`.
///
/// # Errors
/// The kernel's; an interruption is none.
pub fn await_any<'a>(peers: impl Iterator<Item = &'a UdpPeer>, nanos: u64) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = peers.map(|peer| PollFd::new(peer, PollFlags::IN)).collect();
    let second = 1_000_000_000;
    let tv_sec = i64::try_from(nanos / second).unwrap_or(i64::MAX);
    let tv_nsec = i64::try_from(nanos % second).unwrap_or(0);
    match poll(&mut fds, Some(&Timespec { tv_sec, tv_nsec })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Requests that are assembled in slots and leave together.
pub struct PeerSend {
    arena: Box<[u8]>,
    slot: usize,
    lens: Vec<usize>,
    headers: Headers,
}

/// What became of the requests of a [`PeerSend`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSent {
    /// Requests that the kernel took.
    pub sent: usize,
    /// Times that the kernel told of an ICMP message: nobody listens there.
    pub refused: usize,
}

impl PeerSend {
    /// Room for `batch` requests (at most [`PEER_BATCH`]) of up to `slot` octets.
    pub fn new(batch: usize, slot: usize) -> Self {
        let batch = batch.clamp(1, PEER_BATCH);
        let arena = vec![0; batch * slot].into_boxed_slice();
        Self { arena, slot, lens: Vec::with_capacity(batch), headers: Headers::new(batch) }
    }

    /// The slot of the next request; `None` if it must be flushed first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        self.arena.chunks_exact_mut(self.slot).nth(self.lens.len())
    }

    /// Adds the first `len` octets of [`PeerSend::slot`] as a request.
    pub fn commit(&mut self, len: usize) {
        self.lens.push(len.min(self.slot));
    }

    /// Requests that wait for a flush, in the order of their commits.
    pub fn requests(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let slots = self.arena.chunks_exact_mut(self.slot);
        slots.zip(&self.lens).map(|(slot, len)| slot.get_mut(..*len).unwrap_or_default())
    }

    /// Requests that wait for a flush.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Whether a flush is needed before the next request.
    pub fn is_full(&self) -> bool {
        (self.lens.len() + 1) * self.slot > self.arena.len()
    }

    /// Sends all, and waits for the card where it must.
    ///
    /// # Errors
    /// Whatever is neither a full queue nor an absent server.
    pub fn flush(&mut self, peer: &UdpPeer) -> io::Result<PeerSent> {
        let mut outcome = PeerSent::default();
        let lens = std::mem::take(&mut self.lens);
        while let Some(rest) = lens.get(outcome.sent..).filter(|rest| !rest.is_empty()) {
            let arena = self.arena.get(outcome.sent * self.slot..).unwrap_or_default();
            match mmsg_peer::send(peer.as_fd(), arena, self.slot, rest, &mut self.headers) {
                Ok(sent) => outcome.sent += sent,
                // The report of an earlier datagram; this one has not left yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    outcome.refused += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(peer, PollFlags::OUT)], None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.lens = lens;
        self.lens.clear();
        Ok(outcome)
    }
}

impl fmt::Debug for PeerSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSend").field("slot", &self.slot).field("lens", &self.lens).finish()
    }
}

/// Answers received together.
pub struct PeerRecv {
    arena: Box<[u8]>,
    slot: usize,
    count: usize,
    headers: Headers,
}

impl PeerRecv {
    /// Room for [`PEER_BATCH`] answers of up to `slot` octets; what is longer is cut.
    pub fn new(slot: usize) -> Self {
        let arena = vec![0; PEER_BATCH * slot].into_boxed_slice();
        Self { arena, slot, count: 0, headers: Headers::new(PEER_BATCH) }
    }

    /// Replaces the batch by what waits at `peer`, at most `most`; never waits. The result is the
    /// number.
    ///
    /// # Errors
    /// The kernel's: first of all `ConnectionRefused`, the report that nobody listens there.
    pub fn recv(&mut self, peer: &UdpPeer, most: usize) -> io::Result<usize> {
        self.count = 0;
        let room = self.arena.len().min(most.max(1).saturating_mul(self.slot));
        let arena = self.arena.get_mut(..room).unwrap_or_default();
        self.count = mmsg_peer::recv(peer.as_fd(), arena, self.slot, &mut self.headers)?;
        Ok(self.count)
    }

    /// The answers, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let slots = self.arena.chunks_exact(self.slot).take(self.count);
        slots.zip(self.headers.lens()).map(|(slot, len)| slot.get(..len).unwrap_or(slot))
    }
}

impl fmt::Debug for PeerRecv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, count, .. } = self;
        f.debug_struct("PeerRecv").field("slot", slot).field("count", count).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    fn server() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    #[test]
    fn a_batch_leaves_and_its_answers_come_back() {
        let server = server();
        let peer = UdpPeer::connect(0, server.local_addr().unwrap()).unwrap();
        let mut requests = PeerSend::new(3, 16);
        let mut answers = PeerRecv::new(8);
        assert_eq!(answers.recv(&peer, 9).unwrap(), 0);
        for round in 0..2_u8 {
            for number in 0..3 {
                assert!(!requests.is_full());
                requests.slot().unwrap()[..2].copy_from_slice(&[round, number]);
                requests.commit(2);
            }
            assert!(requests.is_full() && requests.slot().is_none());
            requests.requests().last().unwrap()[0] = b'x';
            let sent = requests.flush(&peer).unwrap();
            assert_eq!((sent, requests.len()), (PeerSent { sent: 3, refused: 0 }, 0));
            let mut octets = [0; 64];
            for expected in [[round, 0], [round, 1], [b'x', 2]] {
                let (len, from) = server.recv_from(&mut octets).unwrap();
                assert_eq!((&octets[..len], from), (&expected[..], peer.local_addr()));
                server.send_to(&octets[..len], from).unwrap();
            }
            server.send_to(b"longer than a slot", peer.local_addr()).unwrap();
            await_any([&peer].into_iter(), 1_000_000_000).unwrap();
            assert_eq!(answers.recv(&peer, 4).unwrap(), 4);
            let texts: Vec<_> = answers.iter().collect();
            assert_eq!(texts, [&[round, 0][..], &[round, 1], &[b'x', 2], b"longer t"]);
        }
    }

    #[test]
    fn an_absent_server_is_told() {
        let nobody = server();
        let peer = UdpPeer::connect(0, nobody.local_addr().unwrap()).unwrap();
        drop(nobody);
        let mut requests = PeerSend::new(1, 16);
        requests.commit(1);
        assert_eq!(requests.flush(&peer).unwrap(), PeerSent { sent: 1, refused: 0 });
        let error = PeerRecv::new(16).recv(&peer, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        requests.commit(1);
        requests.flush(&peer).unwrap();
        requests.commit(1);
        assert_eq!(requests.flush(&peer).unwrap(), PeerSent { sent: 1, refused: 1 });
    }
}
