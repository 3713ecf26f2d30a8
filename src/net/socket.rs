//! UDP listeners: one socket per worker on one port, and nobody else's on it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{fmt, io};

use socket2::{Domain, Protocol, Socket, Type};

use super::mmsg;

/// A bound, non-blocking UDP socket.
///
/// Bound to a wildcard address, it learns with every datagram which of our addresses that was
/// sent to, so that the answer can leave from there. Bound to one address, it needs no telling
/// and saves the kernel that work (some 8 % of a datagram's cost).
#[derive(Debug)]
pub struct UdpListener {
    socket: Socket,
    local_addr: SocketAddr,
    buffers: Buffers,
}

/// What to ask of the kernel for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Octets of received datagrams that may wait for the worker; 0 keeps the kernel's default.
    pub receive_buffer: usize,
    /// Octets of answers that may wait for the network card; 0 keeps the kernel's default.
    pub send_buffer: usize,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { receive_buffer: RECEIVE_BUFFER, send_buffer: SEND_BUFFER }
    }
}

/// Room for some 6000 REGISTERs, as the kernel accounts for about 1.3 KiB each and grants twice
/// what is asked: a third of a second at 20,000 a second. Much more would only make answers
/// later than Timer E's first firing (T1, 500 ms), when the client has sent its request again.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Room for some 1500 answers: forty full batches, more than any card's transmit ring.
const SEND_BUFFER: usize = 1 << 20;

/// Octets of buffer a socket was granted, in the unit of [`ListenerOptions`].
///
/// Less than was asked means that `net.core.rmem_max` or `wmem_max` is lower and the process has
/// no `CAP_NET_ADMIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// For datagrams received.
    pub receive: usize,
    /// For datagrams to send.
    pub send: usize,
}

impl UdpListener {
    /// Binds the only socket on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// Whatever keeps the socket from `addr`, first of all another socket there.
    pub fn bind(addr: SocketAddr, options: &ListenerOptions) -> Result<Self, BindError> {
        Self::open(addr, options, false)
    }

    /// The address it is bound to, with the port that was taken if 0 was asked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The buffers that the kernel granted.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Datagrams the kernel has dropped here since the socket was opened, modulo 2³².
    ///
    /// Nearly all of them met a full receive buffer; one with a wrong checksum counts as well.
    /// This asks the socket (`SO_MEMINFO`) when called; `SO_RXQ_OVFL` would have the kernel tell
    /// the same number with every datagram.
    ///
    /// # Errors
    /// The kernel's, if it is older than Linux 4.12.
    pub fn drops(&self) -> io::Result<u32> {
        mmsg::drops(self.as_fd())
    }

    /// A second handle of the same socket, to ask it for [`UdpListener::drops`] from elsewhere.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, ..*self })
    }

    fn open(addr: SocketAddr, options: &ListenerOptions, shared: bool) -> Result<Self, BindError> {
        let failed = |step| move |source| BindError { addr, step, source };
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::UDP))
            .map_err(failed("can't open a socket"))?;
        if addr.is_ipv6() {
            // An IPv4 peer is to be seen by an IPv4 listener only, never as ::ffff:a.b.c.d.
            socket.set_only_v6(true).map_err(failed("can't set IPV6_V6ONLY"))?;
        } else {
            // A SIP client can't be told to send less, so that path MTU discovery has nobody to
            // report to: DF would turn a narrow link into silence, and a forged ICMP message
            // could cause one. IPv6 routers don't fragment: there the kernel's way is right.
            mmsg::ignore_path_mtu(socket.as_fd()).map_err(failed("can't set IP_MTU_DISCOVER"))?;
        }
        if addr.ip().is_unspecified() {
            mmsg::report_local_address(socket.as_fd(), addr.ip())
                .map_err(failed("can't set IP_PKTINFO"))?;
        }
        let buffers = size_buffers(&socket, options).map_err(failed("can't size the buffers"))?;
        if shared {
            socket.set_reuse_port(true).map_err(failed("can't set SO_REUSEPORT"))?;
        }
        socket.bind(&addr.into()).map_err(failed("can't bind"))?;
        let local_addr = socket
            .local_addr()
            .and_then(|local| local.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into()))
            .map_err(failed("can't read the bound address"))?;
        Ok(Self { socket, local_addr, buffers })
    }
}

/// Binds `count` sockets to `addr` that share its datagrams; port 0 takes one free port for all.
///
/// The kernel gives the datagrams of one remote address and port to one socket, as long as the
/// group stays as it is: keep all of them open.
///
/// `SO_REUSEPORT` alone would let a second server of the same user share the port in silence and
/// take half of the phones. So the first socket is bound *without* it, which succeeds only where
/// nobody is, neither a server that shares nor one that doesn't; it gets the option afterwards
/// and the others join it. The first socket stays open from its bind on, so there is no gap in
/// which the port is free and the check is stale: of two servers started at the same moment the
/// kernel lets one through. What is left is a foreign program of the same user that asks for
/// `SO_REUSEPORT` by itself after we are up; the kernel offers no way to bar it while the group
/// is in use. A group of one never sets the option and can't be joined at all.
///
/// # Errors
/// As [`UdpListener::bind`]; no socket stays open then.
pub fn bind_group(
    addr: SocketAddr,
    count: NonZeroUsize,
    options: &ListenerOptions,
) -> Result<Vec<UdpListener>, BindError> {
    let first = UdpListener::open(addr, options, false)?;
    let addr = first.local_addr;
    if count.get() > 1 {
        first.socket.set_reuse_port(true).map_err(|source| BindError {
            addr,
            step: "can't set SO_REUSEPORT",
            source,
        })?;
    }
    let mut group = Vec::with_capacity(count.get());
    group.push(first);
    for _ in 1..count.get() {
        group.push(UdpListener::open(addr, options, true)?);
    }
    Ok(group)
}

/// Asks for the buffers and reads back what the kernel made of it: it cuts in silence.
fn size_buffers(socket: &Socket, options: &ListenerOptions) -> io::Result<Buffers> {
    // The kernel doubles what it is given and tells the doubled value (socket(7)).
    let receive = || Ok::<_, io::Error>(socket.recv_buffer_size()? / 2);
    let send = || Ok::<_, io::Error>(socket.send_buffer_size()? / 2);
    if options.receive_buffer > 0 {
        socket.set_recv_buffer_size(options.receive_buffer)?;
        if receive()? < options.receive_buffer {
            // Only CAP_NET_ADMIN may; without it the grant stays as it is and is reported.
            let _ = mmsg::force_receive_buffer(socket.as_fd(), options.receive_buffer);
        }
    }
    if options.send_buffer > 0 {
        socket.set_send_buffer_size(options.send_buffer)?;
        if send()? < options.send_buffer {
            let _ = mmsg::force_send_buffer(socket.as_fd(), options.send_buffer);
        }
    }
    Ok(Buffers { receive: receive()?, send: send()? })
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Why a listener could not be opened, in one line that names its address.
#[derive(Debug)]
pub struct BindError {
    addr: SocketAddr,
    step: &'static str,
    source: io::Error,
}

impl BindError {
    /// The kernel's reason.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, step, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(f, "{addr}: address already in use"),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "{addr}: no interface of this machine has this address")
            }
            io::ErrorKind::PermissionDenied if addr.port() < 1024 => {
                write!(f, "{addr}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE)")
            }
            _ => write!(f, "{addr}: {step}: {source}"),
        }
    }
}

// The kernel's reason is part of the text already: no `source`, or it would be printed twice.
impl std::error::Error for BindError {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::UdpSocket;

    use super::super::batch::{RecvBatch, SlotLen};
    use super::super::testing::{receive, v6_is_missing};
    use super::*;

    const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();

    fn local(addr: &str) -> SocketAddr {
        addr.parse().unwrap()
    }

    #[test]
    fn a_group_shares_one_port_and_spreads_its_peers() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            if addr.starts_with('[') && v6_is_missing() {
                continue;
            }
            let group = bind_group(local(addr), FOUR, &ListenerOptions::default()).unwrap();
            let mut to = group[0].local_addr();
            assert_ne!(to.port(), 0);
            assert!(group.iter().all(|listener| listener.local_addr() == to));
            if to.ip().is_unspecified() {
                to.set_ip(if to.is_ipv4() { local("127.0.0.1:0") } else { local("[::1]:0") }.ip());
            }
            let any = SocketAddr::new(to.ip(), 0);
            let peers: Vec<_> = (0..64).map(|_| UdpSocket::bind(any).unwrap()).collect();
            for _ in 0..2 {
                for peer in &peers {
                    peer.send_to(b"x", to).unwrap();
                }
            }
            let mut seen = HashSet::new();
            let mut busy = 0;
            let mut total = 0;
            let mut batch = RecvBatch::new(SlotLen::default());
            // Loopback has delivered when send_to returns, so an empty socket stays empty.
            for listener in &group {
                let mut here = HashSet::new();
                while batch.recv(listener).unwrap() > 0 {
                    total += batch.iter().len();
                    here.extend(batch.iter().map(|datagram| datagram.remote));
                }
                busy += usize::from(!here.is_empty());
                for remote in here {
                    assert!(seen.insert(remote), "{addr}: {remote} came to two sockets");
                }
            }
            assert_eq!(total, 128, "{addr}");
            assert!(busy > 1, "{addr}: all peers came to one socket of four");
        }
    }

    #[test]
    fn a_second_server_is_refused() {
        let options = ListenerOptions::default();
        let group = bind_group(local("127.0.0.1:0"), FOUR, &options).unwrap();
        let addr = group[0].local_addr();
        let wildcard = SocketAddr::new(local("0.0.0.0:0").ip(), addr.port());
        for taken in [addr, wildcard] {
            for error in [
                bind_group(taken, FOUR, &options).unwrap_err(),
                UdpListener::bind(taken, &options).unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert_eq!(error.to_string(), format!("{taken}: address already in use"));
            }
        }
    }

    #[test]
    fn a_port_that_a_stranger_is_ready_to_share_is_refused() {
        let stranger = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        stranger.set_reuse_port(true).unwrap();
        stranger.bind(&local("127.0.0.1:0").into()).unwrap();
        let addr = stranger.local_addr().unwrap().as_socket().unwrap();
        let error = bind_group(addr, FOUR, &ListenerOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_group_of_one_cannot_be_joined() {
        let options = ListenerOptions::default();
        let group = bind_group(local("127.0.0.1:0"), NonZeroUsize::MIN, &options).unwrap();
        let stranger = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        stranger.set_reuse_port(true).unwrap();
        let error = stranger.bind(&group[0].local_addr().into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv6_listener_leaves_ipv4_alone() {
        if v6_is_missing() {
            return;
        }
        let listener = UdpListener::bind(local("[::]:0"), &ListenerOptions::default()).unwrap();
        assert!(listener.socket.only_v6().unwrap());
    }

    #[test]
    fn errors_say_what_to_do() {
        let options = ListenerOptions::default();
        let error = UdpListener::bind(local("192.0.2.1:5060"), &options).unwrap_err();
        assert_eq!(
            error.to_string(),
            "192.0.2.1:5060: no interface of this machine has this address"
        );
        let source = io::ErrorKind::PermissionDenied.into();
        let error = BindError { addr: local("127.0.0.1:53"), step: "can't bind", source };
        assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"), "{error}");
    }

    #[test]
    fn buffers_are_reported_as_granted() {
        // 64 KiB is below every distribution's rmem_max (208 KiB).
        let options = ListenerOptions { receive_buffer: 65536, send_buffer: 65536 };
        let listener = UdpListener::bind(local("127.0.0.1:0"), &options).unwrap();
        assert_eq!(listener.buffers(), Buffers { receive: 65536, send: 65536 });
        let kept = ListenerOptions { receive_buffer: 0, send_buffer: 0 };
        let listener = UdpListener::bind(local("127.0.0.1:0"), &kept).unwrap();
        assert!(listener.buffers().receive > 0 && listener.buffers().send > 0);
    }

    #[test]
    fn what_the_kernel_dropped_is_counted() {
        let options = ListenerOptions { receive_buffer: 4096, send_buffer: 0 };
        let listener = UdpListener::bind(local("127.0.0.1:0"), &options).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener.drops().unwrap(), 0);
        for _ in 0..100 {
            peer.send_to(&[b'x'; 1000], listener.local_addr()).unwrap();
        }
        let mut batch = RecvBatch::new(SlotLen::default());
        let kept = receive(&listener, &mut batch);
        let drops = usize::try_from(listener.drops().unwrap()).unwrap();
        assert!(drops > 0 && kept > 0);
        assert_eq!(kept + drops, 100);
    }
}
