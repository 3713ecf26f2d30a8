//! When and whence datagrams come.

use bindery::{
    flow::{Flow, ListenerId, Transport},
    time::Now,
};

/// When everything starts: an hour after the clock did, so that nothing depends on zero.
pub(crate) const START: Now = Now { millis: 3_600_000, unix: 1_800_000_000 };

/// The path of a datagram that came over UDP from `remote`.
pub(crate) fn udp_from(remote: &str) -> Flow {
    Flow {
        listener: ListenerId(0),
        transport: Transport::Udp,
        local: None,
        remote: remote.parse().expect("an address and a port"),
    }
}
