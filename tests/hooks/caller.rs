//! Two ends of a call that nobody answers.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// A socket, and what comes to it.
pub(crate) struct End {
    socket: UdpSocket,
}

impl End {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The next message that begins with `first`, and who sent it.
    fn receive(&self, first: &str) -> (String, SocketAddr) {
        let mut space = [0; 65_535];
        loop {
            let (len, from) = self.socket.recv_from(&mut space).expect(first);
            let text = String::from_utf8_lossy(&space[..len]).into_owned();
            if text.starts_with(first) {
                return (text, from);
            }
        }
    }

    /// Asks `server` for a call to `called`, at whose phone `callee` says that it is busy. The
    /// result is the final answer.
    pub(crate) fn call(&self, server: SocketAddr, called: &str, callee: &Self) -> String {
        let here = self.addr();
        let id = here.port();
        let head = |method: &str, to_tag: &str, via: &str| {
            format!(
                "{method} sip:{called}@127.0.0.1 SIP/2.0\r\n{via}Max-Forwards: 70\r\n\
                 From: <sip:300@127.0.0.1>;tag=f{id}\r\nTo: <sip:{called}@127.0.0.1>{to_tag}\r\n\
                 Call-ID: c{id}\r\nCSeq: 1 {method}\r\nContact: <sip:300@{here}>\r\n\
                 Content-Length: 0\r\n\r\n"
            )
        };
        let via = format!("Via: SIP/2.0/UDP {here};branch=z9hG4bK{id};rport\r\n");
        let send = |text: &str| self.socket.send_to(text.as_bytes(), server).unwrap();
        send(&head("INVITE", "", &via));
        let (invite, proxy) = callee.receive("INVITE");
        let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
        let lines: String = invite
            .lines()
            .filter(|line| copied.iter().any(|name| line.starts_with(name)))
            .map(|line| match line.starts_with("To:") {
                true => format!("{line};tag=t\r\n"),
                false => format!("{line}\r\n"),
            })
            .collect();
        let busy = format!("SIP/2.0 486 Busy Here\r\n{lines}Content-Length: 0\r\n\r\n");
        callee.socket.send_to(busy.as_bytes(), proxy).unwrap();
        let (answer, _) = self.receive("SIP/2.0 4");
        send(&head("ACK", ";tag=t", &via));
        answer
    }
}
