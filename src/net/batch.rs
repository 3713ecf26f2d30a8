//! Batches of datagrams: arenas cut into equal slots, allocated once per worker.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::{fmt, io};

use super::mmsg::{self, Arrival, Departure, RecvSpace};
use super::socket::UdpListener;

/// Datagrams moved by one system call.
///
/// Measured on loopback with 640-octet requests and 420-octet answers: 8 a call save 12 % of the
/// CPU time of one a call, 32 save 16 %, 64 and 128 no more than 32. A batch is also how long the
/// first datagram's answer waits for the last one's.
pub const BATCH: usize = 32;

/// The size of a slot in octets: the longest datagram that is taken whole (`maxpkt`).
///
/// Pages of a slot that were never written cost no memory, and a typical request touches only the
/// first one, so that a generous size is nearly free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotLen(usize);

impl SlotLen {
    /// The smallest that makes sense, and Yate's.
    pub const MIN: Self = Self(524);
    /// More than any UDP datagram over IPv4 (65,507) or IPv6 (65,527) can hold.
    pub const MAX: Self = Self(65_535);
    /// Some twelve times a phone's REGISTER: room for one that passed proxies which add Path and
    /// Via, and arrives in fragments. Yate's 1500 cuts those.
    pub const DEFAULT: Self = Self(8192);

    /// `octets` between [`SlotLen::MIN`] and [`SlotLen::MAX`].
    pub fn new(octets: usize) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&octets).then_some(Self(octets))
    }

    /// In octets.
    pub fn octets(self) -> usize {
        self.0
    }
}

impl Default for SlotLen {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Octets between two slots. Without them the first octets of all slots, which are the ones in use,
/// would fall into the same few lines of the CPU's caches.
const STAGGER: usize = 9 * 64;

/// A received datagram; borrows its slot.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// What was received, cut to the slot's size.
    pub bytes: &'a [u8],
    /// Who sent it. Where the kernel gives no address it is 0.0.0.0:0, which
    /// [`is_answerable`](super::is_answerable) refuses.
    pub remote: SocketAddr,
    /// Our address that it was sent to; `None` if the listener is bound to that very address.
    pub local: Option<IpAddr>,
    /// Whether it was longer than the slot (or its control message than its space): count it, and
    /// never parse `bytes` as if they were a whole message.
    pub truncated: bool,
}

/// The receiving side: one slot for each datagram of a batch.
pub struct RecvBatch {
    arena: Box<[u8]>,
    slot: usize,
    space: Box<RecvSpace>,
    arrivals: Box<[Arrival; BATCH]>,
    count: usize,
}

impl RecvBatch {
    /// A batch that takes datagrams of up to `slot` octets.
    pub fn new(slot: SlotLen) -> Self {
        Self {
            arena: vec![0; BATCH * (slot.0 + STAGGER)].into_boxed_slice(),
            slot: slot.0,
            space: Box::new(RecvSpace::new()),
            arrivals: Box::new([Arrival::EMPTY; BATCH]),
            count: 0,
        }
    }

    /// Replaces the batch by what waits at `listener`, at once if nothing does. The result is how
    /// many datagrams that was: fewer than [`BATCH`] where the kernel found the socket empty after
    /// them, which with edge-triggered readiness has to be seen before there is another event.
    ///
    /// # Errors
    /// The kernel's, with the batch left empty. An unconnected UDP socket has no errors of its
    /// peers to report, so any error is about this machine.
    pub fn recv(&mut self, listener: &UdpListener) -> io::Result<usize> {
        self.count = 0;
        self.count = mmsg::recv(
            listener.as_fd(),
            &mut self.arena,
            self.slot,
            self.slot + STAGGER,
            &mut self.space,
            &mut self.arrivals,
        )?;
        Ok(self.count)
    }

    /// The datagrams of the batch, in the order of their arrival.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Datagram<'_>> {
        let arrivals = self.arrivals.iter().take(self.count);
        arrivals.zip(self.arena.chunks_exact(self.slot + STAGGER)).map(|(arrival, slot)| Datagram {
            bytes: slot.get(..arrival.len).unwrap_or_default(),
            remote: arrival.remote,
            local: arrival.local,
            truncated: arrival.truncated,
        })
    }
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, count, .. } = self;
        f.debug_struct("RecvBatch").field("slot", slot).field("count", count).finish()
    }
}

/// The sending side: answers are encoded into its slots and leave together.
pub struct SendBatch {
    arena: Box<[u8]>,
    slot: usize,
    departures: Box<[Departure; BATCH]>,
    count: usize,
}

/// Octets that a slot for answers has at least, however small `maxpkt` is: a 200 repeats the
/// request's Via, From, To and Call-ID and adds every binding of the AoR, 200 octets each and by
/// default ten of them.
const SEND_SLOT_MIN: usize = 4096;

impl SendBatch {
    /// A batch whose answers may be as long as the longest request, `slot` octets; at least 4096.
    ///
    /// An answer that finds no room is the encoder's to replace by a shorter one.
    pub fn new(slot: SlotLen) -> Self {
        let slot = slot.0.max(SEND_SLOT_MIN);
        Self {
            arena: vec![0; BATCH * (slot + STAGGER)].into_boxed_slice(),
            slot,
            departures: Box::new([Departure::EMPTY; BATCH]),
            count: 0,
        }
    }

    /// The next free slot; `None` if the batch is full and must be flushed first.
    pub fn slot(&mut self) -> Option<Slot<'_>> {
        let bytes = self.arena.chunks_exact_mut(self.slot + STAGGER).nth(self.count)?;
        let bytes = bytes.get_mut(..self.slot)?;
        let departure = self.departures.get_mut(self.count)?;
        Some(Slot { bytes, departure, count: &mut self.count })
    }

    /// Datagrams committed since the last flush.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets what was committed.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Sends what was committed from `listener` and empties the batch; never waits.
    ///
    /// Nothing is kept for later. What a full send buffer refuses is dropped and counted: a client
    /// over UDP sends its request again (Timer E, RFC 3261 §17.1.2.2), and an answer that waited
    /// here would be in the way of the ones that are still wanted.
    pub fn flush(&mut self, listener: &UdpListener) -> Sent {
        let Self { arena, slot, departures, count } = self;
        let sent = send_all(*count, |first| {
            let stride = *slot + STAGGER;
            let arena = arena.get(first * stride..).unwrap_or_default();
            mmsg::send(
                listener.as_fd(),
                arena,
                stride,
                departures.get(first..*count).unwrap_or_default(),
            )
        });
        self.count = 0;
        sent
    }
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, count, .. } = self;
        f.debug_struct("SendBatch").field("slot", slot).field("count", count).finish()
    }
}

/// A slot of a [`SendBatch`]: dropped without [`Slot::commit`], it sends nothing.
pub struct Slot<'a> {
    bytes: &'a mut [u8],
    departure: &'a mut Departure,
    count: &'a mut usize,
}

impl Slot<'_> {
    /// Where to encode; what an earlier answer left there has no meaning.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Adds the first `len` octets to the batch, for `remote`; `local` is the source address,
    /// as [`Datagram::local`] gave it.
    pub fn commit(self, len: usize, remote: SocketAddr, local: Option<IpAddr>) {
        debug_assert!(len <= self.bytes.len(), "an answer can't be longer than its slot");
        *self.departure = Departure::new(len, remote, local);
        *self.count += 1;
    }
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("len", &self.bytes.len()).finish()
    }
}

/// Why a datagram did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendFault {
    /// The socket's send buffer, or the device's queue, was full.
    Full,
    /// No route, a dead interface, or a peer that is known to be away.
    Unreachable,
    /// A local firewall rule, or a broadcast address.
    Denied,
    /// Longer than UDP can carry.
    TooLong,
    /// Port 0, the wrong family, or a source address that this machine no longer has.
    BadAddress,
    /// Anything else.
    Other,
}

impl SendFault {
    /// All faults.
    pub const ALL: [Self; 6] =
        [Self::Full, Self::Unreachable, Self::Denied, Self::TooLong, Self::BadAddress, Self::Other];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::TooLong => "too_long",
            Self::BadAddress => "bad_address",
            Self::Other => "other",
        }
    }

    /// Whether a datagram that did not leave for this reason would not a moment later.
    pub fn is_hopeless(self) -> bool {
        match self {
            Self::Unreachable | Self::Denied | Self::TooLong | Self::BadAddress => true,
            Self::Full | Self::Other => false,
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Self::Full,
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ECONNREFUSED,
            ) => Self::Unreachable,
            Some(libc::EPERM | libc::EACCES) => Self::Denied,
            Some(libc::EMSGSIZE) => Self::TooLong,
            Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => Self::BadAddress,
            _ => Self::Other,
        }
    }
}

/// What became of a flushed batch.
#[derive(Debug, Default)]
pub struct Sent {
    /// Datagrams the kernel took.
    pub sent: usize,
    /// The first error, for the log.
    pub error: Option<io::Error>,
    faults: [usize; SendFault::ALL.len()],
    /// The places in the batch of those that would not leave another time either.
    pub hopeless: Vec<usize>,
}

impl Sent {
    /// Datagrams that were lost, for whatever reason.
    pub fn dropped(&self) -> usize {
        self.faults.iter().sum()
    }

    /// Each reason that lost something, and how many datagrams.
    pub fn faults(&self) -> impl Iterator<Item = (SendFault, usize)> {
        SendFault::ALL.into_iter().zip(self.faults).filter(|&(_, count)| count > 0)
    }

    fn lose(&mut self, count: usize, error: io::Error) {
        if let Some(lost) = self.faults.get_mut(SendFault::of(&error) as usize) {
            *lost += count;
        }
        self.error.get_or_insert(error);
    }
}

/// Calls `send` with the first unsent index until all `total` datagrams have left or are lost.
fn send_all(total: usize, mut send: impl FnMut(usize) -> io::Result<usize>) -> Sent {
    let mut sent = Sent::default();
    let mut first = 0;
    while first < total {
        match send(first) {
            // sendmmsg reports an error only if it is the first datagram's, else the number that
            // left: so the one at which it stopped tells its reason when it is the first.
            Ok(count) if count > 0 => {
                sent.sent += count;
                first += count;
            }
            Ok(_) => {
                // No kernel does this; if one did, calling again would never end.
                sent.lose(total - first, io::ErrorKind::WriteZero.into());
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sent.lose(total - first, error);
                break;
            }
            Err(error) => {
                if SendFault::of(&error).is_hopeless() {
                    sent.hopeless.push(first);
                }
                sent.lose(1, error);
                first += 1;
            }
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    use super::super::socket::ListenerOptions;
    use super::super::testing::v6_is_missing;
    use super::*;

    fn listener(addr: &str) -> UdpListener {
        UdpListener::bind(addr.parse().unwrap(), &ListenerOptions::default()).unwrap()
    }

    /// A socket of the standard library, to judge ours by.
    fn peer(addr: &str) -> UdpSocket {
        let socket = UdpSocket::bind(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn send(batch: &mut SendBatch, text: &[u8], remote: SocketAddr, local: Option<IpAddr>) {
        let mut slot = batch.slot().unwrap();
        slot.bytes()[..text.len()].copy_from_slice(text);
        slot.commit(text.len(), remote, local);
    }

    #[test]
    fn requests_come_in_and_answers_go_out() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            if host.starts_with('[') && v6_is_missing() {
                continue;
            }
            let (listener, peer) = (listener(host), peer(host));
            peer.send_to(b"first", listener.local_addr()).unwrap();
            peer.send_to(b"", listener.local_addr()).unwrap();
            peer.send_to(b"third, longer", listener.local_addr()).unwrap();
            let mut received = RecvBatch::new(SlotLen::default());
            let count = received.recv(&listener).unwrap();
            assert_eq!(count, 3);
            let texts: Vec<_> = received.iter().map(|datagram| datagram.bytes).collect();
            assert_eq!(texts, [&b"first"[..], b"", b"third, longer"]);
            let mut answers = SendBatch::new(SlotLen::default());
            for datagram in received.iter() {
                assert_eq!(datagram.remote, peer.local_addr().unwrap());
                assert_eq!(datagram.local, None);
                assert!(!datagram.truncated);
                send(&mut answers, datagram.bytes, datagram.remote, datagram.local);
            }
            let sent = answers.flush(&listener);
            assert_eq!((sent.sent, sent.dropped()), (3, 0));
            assert!(answers.is_empty());
            let mut bytes = [0; 100];
            for text in [&b"first"[..], b"", b"third, longer"] {
                let (len, from) = peer.recv_from(&mut bytes).unwrap();
                assert_eq!((&bytes[..len], from), (text, listener.local_addr()));
            }
        }
    }

    #[test]
    fn a_full_batch_says_that_more_may_wait() {
        let (listener, peer) = (listener("127.0.0.1:0"), peer("127.0.0.1:0"));
        for number in 0..BATCH + 5 {
            peer.send_to(&[u8::try_from(number).unwrap()], listener.local_addr()).unwrap();
        }
        let mut batch = RecvBatch::new(SlotLen::MIN);
        assert_eq!(batch.recv(&listener).unwrap(), BATCH);
        assert!((0..).zip(batch.iter()).all(|(number, datagram)| datagram.bytes == [number]));
        assert_eq!(batch.recv(&listener).unwrap(), 5);
        assert_eq!(batch.iter().len(), 5);
        assert_eq!(batch.recv(&listener).unwrap(), 0);
        assert_eq!(batch.iter().len(), 0);
    }

    #[test]
    fn a_datagram_longer_than_its_slot_is_marked() {
        let (listener, peer) = (listener("127.0.0.1:0"), peer("127.0.0.1:0"));
        let size = SlotLen::MIN.octets();
        for len in [size + 1, size, 60_000, 1] {
            peer.send_to(&vec![b'x'; len], listener.local_addr()).unwrap();
        }
        let mut batch = RecvBatch::new(SlotLen::MIN);
        batch.recv(&listener).unwrap();
        let seen: Vec<_> = batch.iter().map(|d| (d.bytes.len(), d.truncated)).collect();
        assert_eq!(seen, [(size, true), (size, false), (size, true), (1, false)]);
    }

    #[test]
    fn a_fragmented_datagram_comes_whole_and_goes_whole() {
        let (listener, peer) = (listener("0.0.0.0:0"), peer("127.0.0.1:0"));
        let port = listener.local_addr().port();
        let text: Vec<u8> = (0..60_000u32).map(|n| n.to_le_bytes()[0]).collect();
        peer.send_to(&text, (Ipv4Addr::LOCALHOST, port)).unwrap();
        let mut batch = RecvBatch::new(SlotLen::MAX);
        batch.recv(&listener).unwrap();
        let datagram = batch.iter().next().unwrap();
        assert!(datagram.bytes == text && !datagram.truncated);
        let mut answers = SendBatch::new(SlotLen::MAX);
        send(&mut answers, datagram.bytes, datagram.remote, datagram.local);
        assert_eq!(answers.flush(&listener).sent, 1);
        let mut bytes = vec![0; 65_535];
        assert_eq!(peer.recv(&mut bytes).unwrap(), 60_000);
        assert!(bytes.starts_with(&text));
    }

    #[test]
    fn a_wildcard_listener_answers_from_the_address_it_was_asked_at() {
        let listener = listener("0.0.0.0:0");
        let peer = peer("127.0.0.1:0");
        let mut batch = RecvBatch::new(SlotLen::default());
        let mut answers = SendBatch::new(SlotLen::default());
        // Many rounds through the same slots: lengths that were not reset before each call would
        // lose the control message (MSG_CTRUNC) from the second round on.
        for round in 0..5u8 {
            let ours: Vec<_> = (1..=9).map(|last| Ipv4Addr::new(127, 0, round, last)).collect();
            for ip in &ours {
                peer.send_to(b"x", (*ip, listener.local_addr().port())).unwrap();
            }
            assert_eq!(batch.recv(&listener).unwrap(), ours.len());
            for (datagram, ip) in batch.iter().zip(&ours) {
                assert!(!datagram.truncated, "MSG_CTRUNC");
                assert_eq!(datagram.local, Some(IpAddr::from(*ip)));
                send(&mut answers, b"y", datagram.remote, datagram.local);
            }
            assert_eq!(answers.flush(&listener).sent, ours.len());
            for ip in ours {
                assert_eq!(peer.recv_from(&mut [0; 9]).unwrap().1.ip(), ip);
            }
        }
    }

    #[test]
    fn an_ipv6_wildcard_listener_does_so_too() {
        if v6_is_missing() {
            return;
        }
        let (listener, peer) = (listener("[::]:0"), peer("[::1]:0"));
        let ours = IpAddr::from(Ipv6Addr::LOCALHOST);
        let mut batch = RecvBatch::new(SlotLen::default());
        let mut answers = SendBatch::new(SlotLen::default());
        for _ in 0..3 {
            peer.send_to(b"x", (ours, listener.local_addr().port())).unwrap();
            assert_eq!(batch.recv(&listener).unwrap(), 1);
            let datagram = batch.iter().next().unwrap();
            assert_eq!((datagram.local, datagram.truncated), (Some(ours), false));
            send(&mut answers, b"y", datagram.remote, datagram.local);
            assert_eq!(answers.flush(&listener).sent, 1);
            assert_eq!(peer.recv_from(&mut [0; 9]).unwrap().1.ip(), ours);
        }
    }

    #[test]
    fn one_bad_answer_costs_no_other() {
        let (listener, peer) = (listener("0.0.0.0:0"), peer("127.0.0.1:0"));
        let good = peer.local_addr().unwrap();
        let not_ours = Some(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
        let mut batch = SendBatch::new(SlotLen::default());
        send(&mut batch, b"0", "127.0.0.1:0".parse().unwrap(), None);
        send(&mut batch, b"1", good, None);
        send(&mut batch, b"2", good, not_ours);
        send(&mut batch, b"3", "[::1]:9".parse().unwrap(), None);
        send(&mut batch, b"4", good, None);
        send(&mut batch, b"5", "255.255.255.255:9".parse().unwrap(), None);
        let sent = batch.flush(&listener);
        assert_eq!((sent.sent, sent.dropped()), (2, 4));
        assert_eq!(sent.hopeless, [0, 2, 3, 5]);
        assert_eq!(sent.error.as_ref().unwrap().raw_os_error(), Some(libc::EINVAL));
        // Port 0 and the other family; what the others are called depends on the routes here.
        let bad = sent.faults().find(|(fault, _)| *fault == SendFault::BadAddress);
        assert!(bad.is_some_and(|(_, count)| count >= 2), "{sent:?}");
        let mut bytes = [0; 9];
        for text in [b"1", b"4"] {
            let (len, _) = peer.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], text);
        }
    }

    #[test]
    fn partial_sends_go_on_and_a_full_buffer_ends_them() {
        let full = || io::Error::from_raw_os_error(libc::EAGAIN);
        let mut script = vec![
            (0, Ok(3)),
            (3, Err(io::Error::from_raw_os_error(libc::EPERM))),
            (4, Ok(2)),
            (6, Err(full())),
        ]
        .into_iter();
        let sent = send_all(10, |first| {
            let (expected, result) = script.next().unwrap();
            assert_eq!(first, expected);
            result
        });
        assert!(script.next().is_none());
        assert_eq!((sent.sent, sent.dropped()), (5, 5));
        let faults: Vec<_> = sent.faults().collect();
        assert_eq!(faults, [(SendFault::Full, 4), (SendFault::Denied, 1)]);
        assert_eq!(sent.hopeless, [3]);
        assert_eq!(sent.error.unwrap().raw_os_error(), Some(libc::EPERM));
        assert_eq!(send_all(4, |_| Ok(0)).dropped(), 4, "ends all the same");
        assert_eq!(send_all(0, |_| Err(full())).dropped(), 0, "nothing to do");
    }

    #[test]
    fn a_batch_has_as_many_slots_as_it_says() {
        let (listener, peer) = (listener("127.0.0.1:0"), peer("127.0.0.1:0"));
        let mut batch = SendBatch::new(SlotLen::MIN);
        assert_eq!(batch.slot().unwrap().bytes().len(), SEND_SLOT_MIN);
        assert!(batch.is_empty(), "a slot that is not committed sends nothing");
        for _ in 0..2 {
            for number in 0..BATCH {
                let text = [u8::try_from(number).unwrap()];
                send(&mut batch, &text, peer.local_addr().unwrap(), None);
            }
            assert!(batch.slot().is_none());
            assert_eq!(batch.len(), BATCH);
            assert_eq!(batch.flush(&listener).sent, BATCH);
            for number in 0..BATCH {
                let mut bytes = [0; 9];
                let len = peer.recv(&mut bytes).unwrap();
                assert_eq!(bytes[..len], [u8::try_from(number).unwrap()]);
            }
        }
    }

    #[test]
    fn mio_wakes_again_once_the_socket_was_drained() {
        let (listener, peer) = (listener("127.0.0.1:0"), peer("127.0.0.1:0"));
        let mut poll = Poll::new().unwrap();
        let fd = listener.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(7), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(4);
        let mut batch = RecvBatch::new(SlotLen::default());
        for _ in 0..3 {
            peer.send_to(b"x", listener.local_addr()).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(7)));
            assert_eq!(batch.recv(&listener).unwrap(), 1, "and it was seen to be empty then");
        }
    }

    #[test]
    fn slot_lengths_have_bounds() {
        assert_eq!(SlotLen::new(523), None);
        assert_eq!(SlotLen::new(524), Some(SlotLen::MIN));
        assert_eq!(SlotLen::new(65_536), None);
        assert_eq!(SlotLen::new(1500).unwrap().octets(), 1500);
    }
}
