//! recvmmsg(2) and sendmmsg(2) with their control messages, and socket options socket2 lacks.
//!
//! Nearly all of the program's unsafe code. Every pointer that the kernel gets is made for one call
//! from slices borrowed for that call, so none can dangle and nothing has to stay in its place.
//! Measured, that is some 150 ns a call: 5 ns a datagram of a full batch, where each costs 1 µs.
//!
//! The kernel overwrites the lengths of name and control space with what it used. They are set
//! anew before each call: left alone, one datagram with less control data than the next would
//! make that one lose its own (`MSG_CTRUNC`).
#![expect(unsafe_code, reason = "no crate wraps both calls with a source address per message")]

use std::mem::{offset_of, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use libc::{
    c_int, c_uint, cmsghdr, in_pktinfo, in6_pktinfo, iovec, mmsghdr, sockaddr_in, sockaddr_in6,
    socklen_t,
};

use super::batch::BATCH;

/// What the kernel told about one received datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Octets written to the slot.
    pub(super) len: usize,
    /// The sender; IPv4 even where the socket saw it as an IPv4-mapped IPv6 address.
    pub(super) remote: SocketAddr,
    /// Our address that it was sent to, if the socket reports it.
    pub(super) local: Option<IpAddr>,
    /// Whether the datagram or its control message did not fit.
    pub(super) truncated: bool,
}

impl Arrival {
    /// From nobody: 0.0.0.0:0 is a source that is never answered.
    pub(super) const EMPTY: Self = Self { len: 0, remote: NOBODY, local: None, truncated: false };
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where the kernel writes names and control messages of one batch.
pub(super) struct RecvSpace {
    names: [Name; BATCH],
    controls: [Control; BATCH],
}

impl RecvSpace {
    pub(super) fn new() -> Self {
        Self { names: [Name::ZERO; BATCH], controls: [Control::ZERO; BATCH] }
    }
}

/// Receives what is there, a datagram into the first `slot` octets of each `stride` of `arena`;
/// never waits.
///
/// Returns how many of `arrivals` are filled.
pub(super) fn recv(
    fd: BorrowedFd<'_>,
    arena: &mut [u8],
    slot: usize,
    stride: usize,
    space: &mut RecvSpace,
    arrivals: &mut [Arrival; BATCH],
) -> io::Result<usize> {
    let mut headers = [EMPTY_HEADER; BATCH];
    let mut iovecs = [EMPTY_IOVEC; BATCH];
    let mut prepared: c_uint = 0;
    let spaces = space.names.iter_mut().zip(&mut space.controls);
    for (((header, iovec), bytes), (name, control)) in
        headers.iter_mut().zip(&mut iovecs).zip(arena.chunks_exact_mut(stride)).zip(spaces)
    {
        iovec.iov_base = bytes.as_mut_ptr().cast();
        iovec.iov_len = bytes.len().min(slot);
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = NAME_LEN;
        header.msg_iov = ptr::from_mut(iovec);
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(control).cast();
        header.msg_controllen = size_of::<Control>();
        prepared += 1;
    }
    let received = retry_if_interrupted(|| {
        // SAFETY: the first `prepared` headers (at most BATCH) each point to one iovec over a
        // slot, a name and a control space, all exclusively borrowed until the function ends and
        // disjoint, with the lengths stated. A null timeout means none.
        unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                prepared,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        }
    });
    let received = match received {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        other => other?,
    };
    let told = headers.iter().zip(space.names.iter().zip(&space.controls));
    for (arrival, (header, (name, control))) in arrivals.iter_mut().zip(told).take(received) {
        let flags = header.msg_hdr.msg_flags;
        *arrival = Arrival {
            len: usize::try_from(header.msg_len).unwrap_or(0),
            remote: name.decode(header.msg_hdr.msg_namelen).unwrap_or(NOBODY),
            local: control.decode(header.msg_hdr.msg_controllen),
            truncated: flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        };
    }
    Ok(received)
}

/// One datagram that is ready to leave: where to, where from, how long.
#[derive(Clone, Copy)]
pub(super) struct Departure {
    len: usize,
    name: Name,
    name_len: socklen_t,
    control: Control,
    control_len: usize,
}

impl Departure {
    pub(super) const EMPTY: Self =
        Self { len: 0, name: Name::ZERO, name_len: 0, control: Control::ZERO, control_len: 0 };

    /// `local` is the source address; `None`, or one of the other family, leaves it to routing.
    pub(super) fn new(len: usize, remote: SocketAddr, local: Option<IpAddr>) -> Self {
        let (name, name_len) = Name::encode(remote);
        let (control, control_len) = match local {
            Some(local) if local.is_ipv4() == remote.is_ipv4() => Control::encode(local),
            _ => (Control::ZERO, 0),
        };
        Self { len, name, name_len, control, control_len }
    }
}

/// Sends `departures`, each from its `stride` of `arena`; never waits.
///
/// Returns how many left, counted from the first. An error concerns the first one only.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    arena: &[u8],
    stride: usize,
    departures: &[Departure],
) -> io::Result<usize> {
    let mut headers = [EMPTY_HEADER; BATCH];
    let mut iovecs = [EMPTY_IOVEC; BATCH];
    let mut prepared: c_uint = 0;
    for (((header, iovec), bytes), departure) in
        headers.iter_mut().zip(&mut iovecs).zip(arena.chunks_exact(stride)).zip(departures)
    {
        iovec.iov_base = bytes.as_ptr().cast_mut().cast();
        iovec.iov_len = departure.len.min(bytes.len());
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_ref(&departure.name).cast_mut().cast();
        header.msg_namelen = departure.name_len;
        header.msg_iov = ptr::from_mut(iovec);
        header.msg_iovlen = 1;
        if departure.control_len > 0 {
            header.msg_control = ptr::from_ref(&departure.control).cast_mut().cast();
            header.msg_controllen = departure.control_len;
        }
        prepared += 1;
    }
    retry_if_interrupted(|| {
        // SAFETY: the first `prepared` headers (at most BATCH) each point to one iovec within a
        // slot, a name and, if any, a control message, all borrowed until the function ends, with
        // lengths no greater than theirs. The kernel reads through these pointers and writes to
        // nothing but `msg_len` of the headers.
        unsafe {
            libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), prepared, libc::MSG_DONTWAIT)
        }
    })
}

/// A socket address as the kernel writes and reads it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

const NAME_LEN: socklen_t = socklen(size_of::<Name>());
const NAME_LEN_V4: socklen_t = socklen(size_of::<sockaddr_in>());
const NAME_LEN_V6: socklen_t = socklen(size_of::<sockaddr_in6>());

impl Name {
    // SAFETY: both views consist of integers, for which zero is a value.
    const ZERO: Self = unsafe { zeroed() };

    fn decode(&self, len: socklen_t) -> Option<SocketAddr> {
        // SAFETY: all octets are initialised since `ZERO`, and both views consist of integers, so
        // either may be read whatever the kernel wrote; the family tells which one has meaning.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match c_int::from(v4.sin_family) {
            libc::AF_INET if len >= NAME_LEN_V4 => {
                let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 if len >= NAME_LEN_V6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_canonical() {
                    IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
                    // The scope leads back to the link that a link-local peer is on.
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }

    fn encode(addr: SocketAddr) -> (Self, socklen_t) {
        let mut name = Self::ZERO;
        match addr {
            SocketAddr::V4(addr) => {
                name.v4.sin_family = AF_INET;
                name.v4.sin_port = addr.port().to_be();
                name.v4.sin_addr.s_addr = addr.ip().to_bits().to_be();
                (name, NAME_LEN_V4)
            }
            SocketAddr::V6(addr) => {
                name.v6.sin6_family = AF_INET6;
                name.v6.sin6_port = addr.port().to_be();
                name.v6.sin6_addr.s6_addr = addr.ip().octets();
                name.v6.sin6_scope_id = addr.scope_id();
                (name, NAME_LEN_V6)
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the constants 2 and 10")]
const AF_INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "the constants 2 and 10")]
const AF_INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// The one control message that is ever asked for or sent: our own address (ip(7), ipv6(7)).
///
/// Its size is the room the kernel gets, so a second kind of message would be cut off and the
/// datagram reported as truncated.
#[derive(Clone, Copy)]
#[repr(C)]
union Control {
    v4: ControlMessage<in_pktinfo>,
    v6: ControlMessage<in6_pktinfo>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ControlMessage<T> {
    head: cmsghdr,
    body: T,
}

impl<T> ControlMessage<T> {
    /// Octets up to the end of the body, without what pads it: `CMSG_LEN`.
    const LEN: usize = offset_of!(Self, body) + size_of::<T>();
}

impl Control {
    // SAFETY: both views consist of integers, for which zero is a value.
    const ZERO: Self = unsafe { zeroed() };

    fn decode(&self, len: usize) -> Option<IpAddr> {
        // SAFETY: all octets are initialised since `ZERO`, and both views consist of integers, so
        // either may be read whatever the kernel wrote; level and type tell which has meaning.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        // A message of another datagram may still lie here: `len` says what this one wrote.
        match (v4.head.cmsg_level, v4.head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
                if len.min(v4.head.cmsg_len) >= ControlMessage::<in_pktinfo>::LEN =>
            {
                // Not `ipi_addr`: that one may be a broadcast address, which can't be answered from.
                Some(Ipv4Addr::from_bits(u32::from_be(v4.body.ipi_spec_dst.s_addr)).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                if len.min(v6.head.cmsg_len) >= ControlMessage::<in6_pktinfo>::LEN =>
            {
                Some(Ipv6Addr::from(v6.body.ipi6_addr.s6_addr).to_canonical())
            }
            _ => None,
        }
    }

    /// No interface is named: routing chooses it, as the way back may differ from the way here.
    fn encode(local: IpAddr) -> (Self, usize) {
        let mut control = Self::ZERO;
        match local {
            IpAddr::V4(ip) => {
                control.v4.head.cmsg_len = ControlMessage::<in_pktinfo>::LEN;
                control.v4.head.cmsg_level = libc::IPPROTO_IP;
                control.v4.head.cmsg_type = libc::IP_PKTINFO;
                control.v4.body.ipi_spec_dst.s_addr = ip.to_bits().to_be();
                (control, size_of::<ControlMessage<in_pktinfo>>())
            }
            IpAddr::V6(ip) => {
                control.v6.head.cmsg_len = ControlMessage::<in6_pktinfo>::LEN;
                control.v6.head.cmsg_level = libc::IPPROTO_IPV6;
                control.v6.head.cmsg_type = libc::IPV6_PKTINFO;
                control.v6.body.ipi6_addr.s6_addr = ip.octets();
                (control, size_of::<ControlMessage<in6_pktinfo>>())
            }
        }
    }
}

/// Has the kernel tell with each datagram which of our addresses it was sent to.
pub(super) fn report_local_address(fd: BorrowedFd<'_>, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        IpAddr::V6(_) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Clears DF on what an IPv4 socket sends and has larger answers leave in fragments.
pub(super) fn ignore_path_mtu(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
}

/// Sets the receive buffer beyond `net.core.rmem_max`, as `CAP_NET_ADMIN` may.
pub(super) fn force_receive_buffer(fd: BorrowedFd<'_>, octets: usize) -> io::Result<()> {
    let octets = c_int::try_from(octets).map_err(io::Error::other)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, octets)
}

/// Sets the send buffer beyond `net.core.wmem_max`, as `CAP_NET_ADMIN` may.
pub(super) fn force_send_buffer(fd: BorrowedFd<'_>, octets: usize) -> io::Result<()> {
    let octets = c_int::try_from(octets).map_err(io::Error::other)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, octets)
}

/// Datagrams the kernel has dropped at this socket, modulo 2³².
pub(super) fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut memory = [0u32; SK_MEMINFO_LEN];
    let mut len = socklen(size_of::<[u32; SK_MEMINFO_LEN]>());
    // SAFETY: `memory` and `len` are exclusively borrowed for the call, and `len` is the size of
    // `memory` in octets; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(memory[SK_MEMINFO_LEN - 1])
}

/// The drop counter is the ninth and last field of what `SO_MEMINFO` tells (Linux 4.12).
const SK_MEMINFO_LEN: usize = 9;
const _: () = assert!(libc::SK_MEMINFO_DROPS == 8);

fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is a `c_int` that lives through the call, and its size is stated.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            socklen(size_of::<c_int>()),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn retry_if_interrupted(mut call: impl FnMut() -> c_int) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

// SAFETY: null pointers and zero lengths are values of these C structures.
const EMPTY_HEADER: mmsghdr = unsafe { zeroed() };
const EMPTY_IOVEC: iovec = iovec { iov_base: ptr::null_mut(), iov_len: 0 };

#[expect(clippy::cast_possible_truncation, reason = "sizes of small C structures")]
const fn socklen(len: usize) -> socklen_t {
    len as socklen_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for addr in ["192.0.2.7:5060", "[2001:db8::7]:5061", "[fe80::7%3]:5062"] {
            let addr: SocketAddr = addr.parse().unwrap();
            let (name, len) = Name::encode(addr);
            assert_eq!(name.decode(len), Some(addr));
            assert_eq!(name.decode(len - 1), None, "a name cut short has no meaning");
        }
        assert_eq!(Name::ZERO.decode(NAME_LEN), None);
    }

    #[test]
    fn an_ipv4_mapped_name_is_ipv4() {
        let (name, len) = Name::encode("[::ffff:192.0.2.7]:5060".parse().unwrap());
        assert_eq!(name.decode(len), Some("192.0.2.7:5060".parse().unwrap()));
    }

    #[test]
    fn control_messages_have_the_kernels_layout() {
        for ip in ["192.0.2.7", "2001:db8::7"] {
            let ip: IpAddr = ip.parse().unwrap();
            let (control, len) = Control::encode(ip);
            assert_eq!(control.decode(len), Some(ip));
            assert_eq!(control.decode(0), None, "left over from another datagram");
            let body =
                if ip.is_ipv4() { size_of::<in_pktinfo>() } else { size_of::<in6_pktinfo>() };
            let body = c_uint::try_from(body).unwrap();
            // SAFETY: these two only compute.
            let (space, full) = unsafe { (libc::CMSG_SPACE(body), libc::CMSG_LEN(body)) };
            assert_eq!(len, usize::try_from(space).unwrap());
            // SAFETY: both views consist of initialised integers.
            assert_eq!(unsafe { control.v4.head.cmsg_len }, usize::try_from(full).unwrap());
        }
    }

    #[test]
    fn a_source_of_the_other_family_is_left_to_routing() {
        let remote = "192.0.2.7:5060".parse().unwrap();
        assert_eq!(Departure::new(1, remote, Some(Ipv6Addr::LOCALHOST.into())).control_len, 0);
        assert_ne!(Departure::new(1, remote, Some(Ipv4Addr::LOCALHOST.into())).control_len, 0);
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut calls = 0;
        let result = retry_if_interrupted(|| {
            calls += 1;
            if calls == 1 {
                // SAFETY: errno is the calling thread's own.
                unsafe { *libc::__errno_location() = libc::EINTR };
                -1
            } else {
                7
            }
        });
        assert_eq!((result.unwrap(), calls), (7, 2));
    }
}
