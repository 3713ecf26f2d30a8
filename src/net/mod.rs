//! The system calls of the data plane: UDP listeners, batches of datagrams, pinned threads.
//!
//! A worker owns one [`UdpListener`] per configured address, one [`RecvBatch`] and one
//! [`SendBatch`]. A turn receives a batch, answers into slots of the other, and flushes it to the
//! listener that the batch came from. Nothing here knows SIP, keeps a clock or allocates once it
//! is set up.

mod batch;
mod echo;
mod mmsg;
mod mmsg_peer;
mod peer;
mod slice;
mod socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub use batch::{BATCH, Datagram, RecvBatch, SendBatch, SendFault, Sent, Slot, SlotLen};
pub use echo::EchoServer;
pub use peer::{PEER_BATCH, PeerRecv, PeerSend, PeerSent, UdpPeer, await_any};
pub use slice::shorten_slices;
pub use socket::{BindError, Buffers, ListenerOptions, UdpListener, bind_group};

/// Whether a datagram from `remote` may be answered at all.
///
/// Nobody sends from port 0, from "this network" (0.0.0.0/8, RFC 1122 §3.2.1.3), from `::`, from
/// the limited broadcast address or from a multicast group: such a source is forged, and an
/// answer would be ours to multiply or the kernel's to refuse. Broadcast addresses of a subnet
/// can't be told without its netmask; the kernel refuses to send to them, as the listener never
/// asks for `SO_BROADCAST`.
pub fn is_answerable(remote: SocketAddr) -> bool {
    if remote.port() == 0 {
        return false;
    }
    match remote.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

/// The address of ours that datagrams to `remote` leave from, by the kernel's routes; nothing is
/// sent for it. `None` if no route leads there.
pub fn source_toward(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// The CPUs that this thread may run on, in ascending order.
///
/// This is the affinity mask, as `taskset`, `CPUAffinity=` or a cpuset sets it; a time quota of a
/// control group is not in it (`std::thread::available_parallelism` knows that one).
///
/// # Errors
/// The kernel's, on a machine with more CPUs than [`CpuSet`] has bits (1024).
pub fn available_cpus() -> io::Result<Vec<usize>> {
    let mask = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect())
}

/// Keeps the calling thread on `cpu` from now on; threads that it starts inherit this.
///
/// # Errors
/// `InvalidInput` if there is no such CPU or the process may not use it.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask = CpuSet::new();
    mask.set(cpu);
    Ok(sched_setaffinity(None, &mask)?)
}

#[cfg(test)]
mod testing {
    //! What the tests of this module share.

    use super::{BATCH, RecvBatch, UdpListener};

    /// Receives until the socket is empty; returns how many datagrams there were. Loopback has
    /// delivered a datagram by the time its sender's call returns, so there is nothing to wait for.
    pub(super) fn receive(listener: &UdpListener, batch: &mut RecvBatch) -> usize {
        let mut total = 0;
        loop {
            let received = batch.recv(listener).unwrap();
            total += received;
            if received < BATCH {
                return total;
            }
        }
    }

    /// Says aloud that a test leaves out IPv6 on a machine that has none.
    pub(super) fn v6_is_missing() -> bool {
        let missing = std::net::UdpSocket::bind("[::1]:0").is_err();
        if missing {
            eprintln!("skipped: no IPv6 loopback address here");
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_sources_are_never_answered() {
        for forged in [
            "192.0.2.1:0",
            "[2001:db8::1]:0",
            "0.0.0.0:5060",
            "0.1.2.3:5060",
            "255.255.255.255:5060",
            "224.0.1.75:5060",
            "[::]:5060",
            "[ff02::1]:5060",
            "[::ffff:224.0.1.75]:5060",
            "[::ffff:0.0.0.0]:5060",
        ] {
            assert!(!is_answerable(forged.parse().unwrap()), "{forged}");
        }
        for honest in ["192.0.2.1:5060", "127.0.0.1:1", "[::1]:5060", "[fe80::1%1]:5060"] {
            assert!(is_answerable(honest.parse().unwrap()), "{honest}");
        }
    }

    #[test]
    fn a_pinned_thread_may_use_one_cpu() {
        let cpu = *available_cpus().unwrap().last().unwrap();
        let left = std::thread::spawn(move || {
            pin_current_thread(cpu).unwrap();
            available_cpus().unwrap()
        });
        assert_eq!(left.join().unwrap(), [cpu]);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let error = pin_current_thread(CpuSet::MAX_CPU).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        if !available_cpus().unwrap().contains(&(CpuSet::MAX_CPU - 1)) {
            assert!(pin_current_thread(CpuSet::MAX_CPU - 1).is_err());
        }
    }
}
