//! recvmmsg(2) and sendmmsg(2) without an address for each datagram, and the bare echo.
//!
//! As in `mmsg`, every pointer that the kernel gets is set for one call from slices borrowed for
//! that call. The headers live on, so that a call writes only what changes.
#![expect(unsafe_code, reason = "no crate wraps both calls")]

use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use libc::{c_int, c_uint, iovec, mmsghdr, sockaddr_storage, socklen_t};

/// The headers of a batch.
pub(super) struct Headers {
    headers: Box<[mmsghdr]>,
    iovecs: Box<[iovec]>,
}

impl Headers {
    pub(super) fn new(batch: usize) -> Self {
        // SAFETY: both are integers and pointers, for which zero is a value.
        let (header, iovec) = unsafe { (zeroed::<mmsghdr>(), zeroed::<iovec>()) };
        Self { headers: vec![header; batch].into(), iovecs: vec![iovec; batch].into() }
    }

    /// What the last call moved of each datagram, in octets.
    pub(super) fn lens(&self) -> impl Iterator<Item = usize> {
        self.headers.iter().map(|header| usize::try_from(header.msg_len).unwrap_or(0))
    }

    /// Points a header at each of `slots`, read or written in place; returns how many there are.
    fn aim(&mut self, slots: impl Iterator<Item = (*mut u8, usize)>) -> c_uint {
        let mut prepared = 0;
        for ((header, iovec), (octets, len)) in
            self.headers.iter_mut().zip(&mut self.iovecs).zip(slots)
        {
            iovec.iov_base = octets.cast();
            iovec.iov_len = len;
            header.msg_hdr.msg_iov = ptr::from_mut(iovec);
            header.msg_hdr.msg_iovlen = 1;
            prepared += 1;
        }
        prepared
    }
}

/// Receives what is there, at most one datagram per `slot` octets of `arena`; never waits.
pub(super) fn recv(
    fd: BorrowedFd<'_>,
    arena: &mut [u8],
    slot: usize,
    headers: &mut Headers,
) -> io::Result<usize> {
    let slots = arena.chunks_exact_mut(slot).map(|slot| (slot.as_mut_ptr(), slot.len()));
    let prepared = headers.aim(slots);
    let headers = headers.headers.as_mut_ptr();
    // SAFETY: the first `prepared` headers each point to one iovec over a slot of their own, all
    // exclusively borrowed until the function ends, with the lengths stated; they have no name
    // and no control space. A null timeout means none.
    let received = unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers, prepared, libc::MSG_DONTWAIT, ptr::null_mut())
    };
    match counted(received) {
        Err(error) if is_empty(&error) => Ok(0),
        other => other,
    }
}

/// Sends the first octets of each `slot` of `arena`, as many as `lens` says; never waits.
///
/// Returns how many left, counted from the first. An error concerns the first one only.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    arena: &[u8],
    slot: usize,
    lens: &[usize],
    headers: &mut Headers,
) -> io::Result<usize> {
    let slots = arena.chunks_exact(slot).zip(lens);
    let slots = slots.map(|(slot, len)| (slot.as_ptr().cast_mut(), slot.len().min(*len)));
    let prepared = headers.aim(slots);
    let headers = headers.headers.as_mut_ptr();
    // SAFETY: the first `prepared` headers each point to one iovec within a slot, borrowed until
    // the function ends. The kernel reads through these pointers and writes only `msg_len`.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, prepared, libc::MSG_DONTWAIT) };
    counted(sent)
}

/// The bare echo: what a UDP server costs that only receives and answers.
pub(super) struct Echo {
    requests: Headers,
    answers: Headers,
    names: Box<[sockaddr_storage]>,
    arena: Box<[u8]>,
    slot: usize,
    /// Octets of each answer.
    len: usize,
}

impl Echo {
    /// Answers of `len` octets, at most `slot`.
    pub(super) fn new(batch: usize, slot: usize, len: usize) -> Self {
        // SAFETY: a socket address consists of integers, for which zero is a value.
        let name = unsafe { zeroed::<sockaddr_storage>() };
        Self {
            requests: Headers::new(batch),
            answers: Headers::new(batch),
            names: vec![name; batch].into(),
            arena: vec![0; batch * slot].into(),
            slot,
            len: len.min(slot),
        }
    }

    /// Receives a batch and answers each datagram of it with its own octets, cut to their length or
    /// filled up with zeros; waits for the first one if `fd` blocks.
    /// Returns how many there were; 0 if there was nothing.
    pub(super) fn turn(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let Self { requests, answers, names, arena, slot, len } = self;
        let slots = arena.chunks_exact_mut(*slot).map(|slot| (slot.as_mut_ptr(), slot.len()));
        let prepared = requests.aim(slots);
        for (header, name) in requests.headers.iter_mut().zip(&mut *names) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = NAME_LEN;
        }
        let headers = requests.headers.as_mut_ptr();
        // SAFETY: the first `prepared` headers each point to one iovec over a slot and a name of
        // their own, all exclusively borrowed until the function ends, with the lengths stated.
        let received = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), headers, prepared, libc::MSG_WAITFORONE, ptr::null_mut())
        };
        let received = match counted(received) {
            Err(error) if is_empty(&error) => return Ok(0),
            other => other?,
        };
        let slots = arena.chunks_exact_mut(*slot).zip(requests.lens()).take(received);
        let prepared = answers.aim(slots.map(|(slot, asked)| {
            // Nobody gets what another one has sent.
            if let Some(rest) = slot.get_mut(asked..*len) {
                rest.fill(0);
            }
            (slot.as_mut_ptr(), *len)
        }));
        let asked = requests.headers.iter().zip(&mut *names);
        for (header, (request, name)) in answers.headers.iter_mut().zip(asked) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = request.msg_hdr.msg_namelen;
        }
        let headers = answers.headers.as_mut_ptr();
        // SAFETY: the first `prepared` headers each point to one iovec over the first octets of a
        // slot, which has `len` of them at least, and to the name of a request, borrowed until the
        // function ends, with the lengths stated; the kernel reads through these pointers and
        // writes only `msg_len`.
        // What a full send buffer refuses is lost, as with any UDP server.
        unsafe { libc::sendmmsg(fd.as_raw_fd(), headers, prepared, libc::MSG_DONTWAIT) };
        Ok(received)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "128 octets")]
const NAME_LEN: socklen_t = size_of::<sockaddr_storage>() as socklen_t;

/// Sets the receive buffer beyond `net.core.rmem_max`, as `CAP_NET_ADMIN` may.
pub(super) fn force_receive_buffer(fd: BorrowedFd<'_>, octets: usize) -> io::Result<()> {
    super::mmsg::force_receive_buffer(fd, octets)
}

fn counted(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether there was nothing, or a signal came first: then the caller asks again.
fn is_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
