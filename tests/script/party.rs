//! Somebody who calls or is called, message by message.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bindery::auth::{Ha1Set, policy::Algorithm};

/// Tells the calls of one test run apart.
static CALLS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Party {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Party {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, server }
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Calls `called` as `user`, and proves it if that is asked for; the final answer, acknowledged
    /// if it is a refusal.
    pub(crate) fn call(&self, user: &str, password: &str, called: &str) -> String {
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let answer = self.invite(user, called, (number, 1), "");
        if !answer.starts_with("SIP/2.0 407") {
            return answer;
        }
        let proof = proof(&answer, user, password, &format!("sip:{called}@127.0.0.1"));
        self.invite(user, called, (number, 2), &proof)
    }

    fn invite(&self, user: &str, called: &str, (call, cseq): (u32, u32), more: &str) -> String {
        let at = self.at();
        let head = |method| {
            format!(
                "{method} sip:{called}@127.0.0.1 SIP/2.0\r\n\
                 Via: SIP/2.0/UDP {at};branch=z9hG4bK-{call}-{cseq};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:{user}@127.0.0.1>;tag=f\r\n\
                 Call-ID: call-{call}-{}\r\nCSeq: {cseq} {method}\r\n",
                std::process::id()
            )
        };
        let to = format!("To: <sip:{called}@127.0.0.1>\r\n");
        let contact = format!("Contact: <sip:{user}@{at}>\r\n");
        self.send(&[&*head("INVITE"), &to, &contact, more, "Content-Length: 0\r\n\r\n"].concat());
        let answer = loop {
            let answer = self.receive();
            if !answer.starts_with("SIP/2.0 1") {
                break answer;
            }
        };
        if !answer.starts_with("SIP/2.0 2") {
            let to = header(&answer, "To");
            let to = format!("To: {to}\r\nContent-Length: 0\r\n\r\n");
            self.send(&[&*head("ACK"), &to].concat());
        }
        answer
    }

    /// Takes the next INVITE, rings, and turns it down.
    pub(crate) fn turn_down(&self, status: &str) -> String {
        let invite = self.receive();
        assert!(invite.starts_with("INVITE "), "{invite}");
        let copied = |line: &&str| {
            ["Via", "From", "Call-ID", "CSeq"]
                .iter()
                .any(|name| line.starts_with(&format!("{name}:")))
        };
        for status in ["180 Ringing", status] {
            let mut answer = format!("SIP/2.0 {status}\r\n");
            for line in invite.lines().filter(copied) {
                answer += &format!("{line}\r\n");
            }
            let to = header(&invite, "To");
            answer += &format!("To: {to};tag=c\r\nContent-Length: 0\r\n\r\n");
            self.send(&answer);
        }
        assert!(self.receive().starts_with("ACK "));
        invite
    }

    fn send(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), self.server).unwrap();
    }

    fn receive(&self) -> String {
        let mut space = vec![0; 65_535];
        let len = self.socket.recv(&mut space).unwrap();
        String::from_utf8(space[..len].to_vec()).unwrap()
    }
}

/// The value of a header.
pub(crate) fn header<'m>(message: &'m str, name: &str) -> &'m str {
    let value = |line: &'m str| line.strip_prefix(name)?.strip_prefix(": ");
    message.lines().find_map(value).unwrap_or_default()
}

/// Credentials for an INVITE.
fn proof(challenge: &str, user: &str, password: &str, uri: &str) -> String {
    let quoted = |name: &str| {
        let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap()
    };
    let (realm, nonce) = (quoted("realm"), quoted("nonce"));
    let md5 = |parts: [&str; 3]| {
        // H(A1) is the hash of three texts joined by colons, and so is everything else here.
        let [a, b, c] = parts.map(str::as_bytes);
        let hash = Ha1Set::of_password(&[Algorithm::Md5], a, b, c).md5.unwrap();
        hash.map(|b| format!("{b:02x}")).concat()
    };
    let ha1 = md5([user, realm, password]);
    let (scheme, rest) = uri.split_once(':').unwrap();
    let ha2 = md5(["INVITE", scheme, rest]);
    let response = md5([&ha1, nonce, &format!("00000001:cn:auth:{ha2}")]);
    format!(
        "Proxy-Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", \
         uri=\"{uri}\", response=\"{response}\", algorithm=MD5, qop=auth, nc=00000001, \
         cnonce=\"cn\"\r\n"
    )
}
