//! A phone: enough of a user agent to register, refresh, ask and unregister.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bindery::auth::{Ha1Set, policy::Algorithm};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the phones of one test run apart.
static PHONES: AtomicU32 = AtomicU32::new(0);

/// A user agent with one socket.
pub(crate) struct Phone {
    socket: UdpSocket,
    server: SocketAddr,
    user: String,
    password: String,
    call_id: String,
    cseq: u32,
    challenge: Option<(String, String)>,
    nc: u32,
    accepts_silence: bool,
    from: Option<String>,
    besides: String,
}

/// An answer to a phone.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) code: u16,
    /// The whole message.
    pub(crate) text: String,
    /// Where it came from.
    pub(crate) from: SocketAddr,
}

impl Answer {
    /// The values of a header.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let prefix = format!("{name}: ");
        self.text.lines().filter_map(|l| l.strip_prefix(&*prefix)).collect()
    }

    /// The value of a parameter of the first Contact.
    pub(crate) fn expires(&self) -> Option<u32> {
        let (_, rest) = self.headers("Contact").first()?.split_once(";expires=")?;
        rest.parse().ok()
    }
}

impl Phone {
    /// A phone of `user` that talks to `server` from a port of its own.
    pub(crate) fn new(server: SocketAddr, user: &str, password: &str) -> Self {
        let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let number = PHONES.fetch_add(1, Ordering::Relaxed);
        Self {
            socket,
            server,
            user: user.to_owned(),
            password: password.to_owned(),
            call_id: format!("call-{number}-{}", std::process::id()),
            cseq: 0,
            challenge: None,
            nc: 0,
            accepts_silence: false,
            from: None,
            besides: String::new(),
        }
    }

    /// Turns to another server with what it knows: the same nonce, and a CSeq that goes on.
    pub(crate) fn turn_to(&mut self, server: SocketAddr) {
        self.server = server;
    }

    /// Registers for `expires` seconds, answering a challenge if there is one.
    pub(crate) fn register(&mut self, expires: u32) -> Answer {
        let port = self.socket.local_addr().expect("it is bound").port();
        let contact =
            format!("Contact: <sip:{}@127.0.0.1:{port}>;expires={expires}\r\n", self.user);
        self.ask(&contact)
    }

    /// Takes silence for an answer, after `patience`: its code is zero.
    pub(crate) fn accept_silence(&mut self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).expect("a timeout");
        self.accepts_silence = true;
    }

    /// Says that it is somebody else in From.
    pub(crate) fn say_from(&mut self, uri: &str) {
        self.from = Some(uri.to_owned());
    }

    /// Has these header lines in all that it sends.
    pub(crate) fn say_besides(&mut self, lines: &str) {
        self.besides = lines.to_owned();
    }

    /// Asks for the bindings.
    pub(crate) fn query(&mut self) -> Answer {
        self.ask("")
    }

    fn ask(&mut self, headers: &str) -> Answer {
        let mut answer = self.send(headers);
        // Once to be challenged, and once more where only the nonce was not good enough.
        for _ in 0..2 {
            let first = self.challenge.is_none();
            if answer.code != 401 || !first && !answer.text.contains("stale=true") {
                break;
            }
            self.take_challenge(&answer);
            answer = self.send(headers);
        }
        answer
    }

    fn take_challenge(&mut self, answer: &Answer) {
        let quoted = |name: &str| {
            let (_, rest) = answer.text.split_once(&format!("{name}=\""))?;
            Some(rest.split('"').next()?.to_owned())
        };
        self.challenge = quoted("realm").zip(quoted("nonce"));
        self.nc = 0;
    }

    /// Sends one REGISTER and waits for its answer.
    pub(crate) fn send(&mut self, headers: &str) -> Answer {
        self.cseq += 1;
        let Self { server, user, call_id, cseq, from, besides, .. } = self;
        let from = from.clone().unwrap_or_else(|| format!("sip:{user}@127.0.0.1"));
        let text = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK-{call_id}-{cseq};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <{from}>;tag=t\r\n\
             To: <sip:{user}@127.0.0.1>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} REGISTER\r\n\
             {headers}{besides}"
        );
        let server = *server;
        let text = format!("{text}{}Content-Length: 0\r\n\r\n", self.authorization());
        self.socket.send_to(text.as_bytes(), server).expect("the server is on loopback");
        self.receive()
    }

    fn authorization(&mut self) -> String {
        let Some((realm, nonce)) = &self.challenge else { return String::new() };
        self.nc += 1;
        let (user, nc) = (&self.user, format!("{:08x}", self.nc));
        let md5 = |parts: [&str; 3]| {
            // H(A1) is the hash of three texts joined by colons, and so is everything else here.
            let [a, b, c] = parts.map(str::as_bytes);
            let hash = Ha1Set::of_password(&[Algorithm::Md5], a, b, c).md5.expect("asked for");
            hash.map(|b| format!("{b:02x}")).concat()
        };
        let ha1 = md5([user, realm, &self.password]);
        let ha2 = md5(["REGISTER", "sip", "127.0.0.1"]);
        let response = md5([&ha1, nonce, &format!("{nc}:cn:auth:{ha2}")]);
        format!(
            "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", \
             uri=\"sip:127.0.0.1\", response=\"{response}\", algorithm=MD5, qop=auth, nc={nc}, \
             cnonce=\"cn\"\r\n"
        )
    }

    fn receive(&self) -> Answer {
        let mut space = [0; 65_535];
        let received = self.socket.recv_from(&mut space);
        if self.accepts_silence && received.is_err() {
            return Answer { code: 0, text: String::new(), from: self.server };
        }
        let (len, from) = received.expect("an answer");
        let text = String::from_utf8_lossy(&space[..len]).into_owned();
        let code = text.get(8..11).and_then(|c| c.parse().ok()).expect("a status line");
        Answer { code, text, from }
    }
}
