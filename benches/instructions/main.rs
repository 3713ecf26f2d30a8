//! Operations to be counted in instructions, which no other load on the machine changes.
//!
//! `benches/instructions/run` runs this under callgrind, twice for each operation: with few and with
//! many repetitions, which share everything but the repetitions. So their difference is exact, and
//! no symbol has to be found. By itself this only shows that each operation does what it says.
//!
//! Nothing here is random: keys, times and requests are the same in every run.

use std::{
    hint::black_box,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
};

use bindery::{
    auth::{
        Authenticator, Ha1Set, NonceKeys, Secret, Verdict, md5_lanes,
        policy::{self, Algorithm},
    },
    calls::CallBook,
    flow::Flow,
    location::{Location, Unrecorded},
    net::BATCH,
    proxy::TokenKey,
    registrar::Policy,
    sip::{
        Limits, Parsed, Parser, Status,
        encode::{Buf, Response},
    },
    time::{DeltaSeconds, Now},
    worker::{Answers, Arrived, Calls, CallsShared, Handled, Hops, Pipeline},
};

use crate::{
    arrival::{START, udp_from},
    phone::Phone,
    registrar::{REALM, registrar},
    typical::{Form, Typical},
};

#[path = "../support/arrival.rs"]
mod arrival;
#[path = "../support/phone.rs"]
mod phone;
#[path = "../support/registrar.rs"]
mod registrar;
#[path = "../support/typical.rs"]
#[expect(dead_code, reason = "other benches want short Contacts too")]
mod typical;

/// The most repetitions of an operation: whatever they need is prepared for as many.
const MOST: usize = 1200;

/// Repetitions that only show that an operation works.
const FEW: usize = 32;

/// Phones that take turns.
const PHONES: usize = 48;

const SOURCE: &str = "192.0.2.17:5060";

const CONTACT: &str = "Contact: <sip:alice@192.0.2.17:5060;transport=udp>;expires=600\r\n\
    User-Agent: Example Phone 7/2.4.1\r\n";

const UNREGISTER: &str = "Contact: *\r\nExpires: 0\r\n";

/// A name, and what repeats the operation so many times.
type Operation = (&'static str, fn(usize));

/// What is counted: datagrams that arrive in full batches, as at a worker's limit; alone, as at a
/// worker that has little to do; the parts of a refresh; and a call: INVITE, 100, 180, 200, ACK, BYE,
/// 200, each alone.
const OPERATIONS: [Operation; 12] = [
    ("refresh", refresh),
    ("refresh alone", refresh_alone),
    ("challenge", challenge),
    ("query", query),
    ("unregister", unregister),
    ("options", options),
    ("parse", parse),
    ("digest", digest),
    ("digest in lanes", digest_in_lanes),
    ("location refresh", location_refresh),
    ("encode 200", encode),
    ("call", call),
];

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let operation = |wanted: &str| OPERATIONS.into_iter().find(|(name, _)| *name == wanted);
    match &*args {
        [list] if list == "--list" => {
            let mut out = io::stdout();
            OPERATIONS.into_iter().try_for_each(|(name, _)| writeln!(out, "{name}"))
        }
        [name, count] => {
            let count = count.parse().ok().filter(|count| *count <= MOST);
            let (Some((_, run)), Some(count)) = (operation(name), count) else {
                return Err(io::Error::other("usage: OPERATION COUNT, see --list"));
            };
            run(count);
            Ok(())
        }
        _ => {
            OPERATIONS.into_iter().for_each(|(_, run)| run(FEW));
            writeln!(io::stderr(), "all operations work; benches/instructions/run counts them")
        }
    }
}

/// When repetition `n` happens.
fn at(n: usize) -> Now {
    let millis = 10 * n as u64;
    Now { millis: START.millis + millis, unix: START.unix + millis / 1000 }
}

/// A registrar and its phones.
struct Site {
    pipeline: Pipeline,
    phones: Vec<Phone>,
    answers: Expected,
}

/// Takes answers of one status.
struct Expected {
    slots: Vec<Vec<u8>>,
    status: &'static str,
    seen: usize,
}

impl Answers for Expected {
    fn answer<E>(
        &mut self,
        _: &Flow,
        write: impl FnOnce(&mut [u8]) -> Result<(usize, SocketAddr), E>,
    ) -> Result<(), E> {
        let slot = &mut self.slots[self.seen % BATCH];
        let (len, _) = write(slot)?;
        assert!(slot.starts_with(self.status.as_bytes()), "{}", slot[..len].escape_ascii());
        self.seen += 1;
        Ok(())
    }
}

impl Site {
    fn new(phones: usize) -> Self {
        let names: Vec<String> = (0..phones).map(|n| format!("10{n:04}")).collect();
        let users: Vec<_> = names.iter().map(|name| (&**name, "secret")).collect();
        let ([pipeline], _) = registrar(&[REALM], &users, Policy::default());
        let phones = names.iter().map(|name| Phone::new(name, "secret")).collect();
        let answers = Expected { slots: vec![vec![0; 65_535]; BATCH], status: "", seen: 0 };
        Self { pipeline, phones, answers }
    }

    /// A site whose phones are registered.
    fn registered(phones: usize) -> Self {
        let mut site = Self::new(phones);
        let strangers = site.requests(phones, CONTACT);
        for (phone, stranger) in site.phones.iter_mut().zip(&strangers) {
            let out = &mut site.answers.slots[0];
            let len = answer(&mut site.pipeline, START, stranger, out);
            assert!(phone.take_challenge(&out[..len]), "it is challenged");
        }
        let first = site.requests(phones, CONTACT);
        site.handle_all(&first, "SIP/2.0 200 ");
        site
    }

    /// `count` requests with these headers, of each phone in turn.
    fn requests(&mut self, count: usize, headers: &str) -> Vec<Vec<u8>> {
        let phones = self.phones.len();
        (0..count).map(|n| self.phones[n % phones].register(headers)).collect()
    }

    /// Datagrams in, answers out, a batch at a time.
    fn handle_all(&mut self, requests: &[Vec<u8>], status: &'static str) {
        let flow = udp_from(SOURCE);
        self.answers.status = status;
        self.answers.seen = 0;
        for (n, batch) in requests.chunks(BATCH).enumerate() {
            let batch = batch.iter().map(|bytes| Arrived { bytes, flow, truncated: false });
            self.pipeline.handle_all(at(n * BATCH), batch, &mut Unrecorded, &mut self.answers);
        }
        assert_eq!(self.answers.seen, requests.len());
    }
}

fn answer(pipeline: &mut Pipeline, now: Now, bytes: &[u8], out: &mut [u8]) -> usize {
    let flow = udp_from(SOURCE);
    match pipeline.handle(now, Arrived { bytes, flow, truncated: false }, out) {
        Handled::Answer { len, .. } => len,
        Handled::Dropped(reason) => panic!("{reason:?}"),
    }
}

fn refresh(count: usize) {
    let mut site = Site::registered(PHONES);
    let requests = site.requests(MOST, CONTACT);
    site.handle_all(&requests[..count], "SIP/2.0 200 ");
}

fn refresh_alone(count: usize) {
    let mut site = Site::registered(PHONES);
    let requests = site.requests(MOST, CONTACT);
    for (n, request) in requests[..count].iter().enumerate() {
        let out = &mut site.answers.slots[0];
        answer(&mut site.pipeline, at(n), request, out);
        assert!(out.starts_with(b"SIP/2.0 200 "), "it is granted");
    }
}

fn challenge(count: usize) {
    let mut site = Site::new(PHONES);
    let requests = site.requests(MOST, CONTACT);
    site.handle_all(&requests[..count], "SIP/2.0 401 ");
}

fn query(count: usize) {
    let mut site = Site::registered(PHONES);
    let requests = site.requests(MOST, "");
    site.handle_all(&requests[..count], "SIP/2.0 200 ");
}

fn unregister(count: usize) {
    let mut site = Site::registered(MOST);
    let requests = site.requests(MOST, UNREGISTER);
    site.handle_all(&requests[..count], "SIP/2.0 200 ");
}

fn options(count: usize) {
    let requests: Vec<_> = (0..MOST)
        .map(|n| {
            format!(
                "OPTIONS sip:example.com SIP/2.0\r\n\
                 Via: SIP/2.0/UDP 192.0.2.17:5060;rport;branch=z9hG4bK-{n:04}\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:100001@example.com>;tag=1\r\n\
                 To: <sip:example.com>\r\nCall-ID: 1@192.0.2.17\r\nCSeq: {n} OPTIONS\r\n\
                 Content-Length: 0\r\n\r\n"
            )
            .into_bytes()
        })
        .collect();
    Site::new(1).handle_all(&requests[..count], "SIP/2.0 200 ");
}

fn parse(count: usize) {
    let requests = Site::registered(PHONES).requests(MOST, CONTACT);
    let mut parser = Parser::new(Limits::default());
    for request in &requests[..count] {
        assert!(matches!(parser.parse(black_box(request)), Parsed::Request(_)));
    }
}

fn digest(count: usize) {
    let policy = policy::Policy {
        realm: REALM.into(),
        algorithms: [Algorithm::Md5].into(),
        nonce_lifetime: DeltaSeconds(300),
        qop_auth: true,
    };
    let authenticator = Authenticator::new(policy, NonceKeys::from_bytes(&[7; 32]));
    let authenticator = authenticator.expect("a realm and an algorithm");
    let ha1s = Ha1Set::of_password(&[Algorithm::Md5], b"100000", REALM.as_bytes(), b"secret");
    let requests = Site::registered(1).requests(MOST, CONTACT);
    let credentials: Vec<_> = requests.iter().map(|r| header(r, b"Authorization: ")).collect();
    for (n, credentials) in credentials[..count].iter().enumerate() {
        let verdict = authenticator.verify_any(
            at(n),
            b"REGISTER",
            b"sip:example.com",
            [*credentials],
            |_| Some(Secret::Ha1(ha1s)),
        );
        assert!(matches!(verdict, Verdict::Granted(_)), "{verdict:?}");
    }
}

/// Responses to a message each, as many at once as arrive together.
fn digest_in_lanes(count: usize) {
    let mut batch = md5_lanes::Batch::with_capacity(BATCH);
    let (ha1, ha2) = (black_box([b'1'; 32]), black_box([b'2'; 32]));
    let (nonce, nc, cnonce) = (&[b'3'; 22][..], &b"00000001"[..], &b"0a4f113b"[..]);
    for begun in (0..count).step_by(BATCH) {
        batch.clear();
        for _ in begun..count.min(begun + BATCH) {
            let (nonce, nc, cnonce) = black_box((nonce, nc, cnonce));
            let parts: [&[u8]; 9] = [&ha1, b":", nonce, b":", nc, b":", cnonce, b":auth:", &ha2];
            batch.push(&parts).expect("it is not too long");
        }
        black_box(batch.digests());
    }
}

fn location_refresh(count: usize) {
    let location = Location::new([1; 16], 0);
    let mut space = typical::Space::default();
    let phones: Vec<_> = (0..1000).map(|number| Typical::new(number, Form::Long)).collect();
    let key = |phone: &Typical| location.key(phone.aor.as_bytes());
    for phone in &phones {
        space.register(&location, key(phone), phone, 1, START);
    }
    for (phone, n) in phones.iter().cycle().zip(0..count) {
        space.refresh(&location, key(phone), phone, 2 + u32::from(n >= phones.len()), at(n));
    }
}

fn encode(count: usize) {
    let requests = Site::registered(PHONES).requests(1, CONTACT);
    let mut parser = Parser::new(Limits::default());
    let Parsed::Request(request) = parser.parse(&requests[0]) else { panic!("no request") };
    let source = SOURCE.parse().expect("an address and a port");
    let mut out = vec![0; 65_535];
    for n in 0..count {
        let mut buf = Buf::new(&mut out);
        let envelope = black_box(&request.envelope);
        let mut response = Response::start(&mut buf, Status::OK, envelope, source, 0x1234_5678);
        let buf = response.buf();
        buf.put(b"Contact: <");
        buf.put(black_box(b"sip:alice@192.0.2.17:5060;transport=udp"));
        buf.put(b">;expires=");
        buf.put_number(500 + n % 100);
        buf.put(b"\r\nDate: ");
        buf.put(black_box(b"Mon, 23 Nov 2026 20:00:00 GMT"));
        buf.put(b"\r\n");
        black_box(response.finish()).expect("it fits");
    }
}

/// A caller, a phone that is called, and the proxy between them.
struct Exchange {
    pipeline: Pipeline,
    answers: Expected,
}

/// Who calls, from a domain that is not ours.
const CALLER: &str = "198.51.100.9:5060";

impl Exchange {
    fn new() -> Self {
        let Site { pipeline, answers, .. } = Site::registered(PHONES);
        let (hops, _) = Hops::new(1);
        let shared = CallsShared {
            book: Arc::new(CallBook::new(1)),
            hops,
            spent: Arc::default(),
            token: TokenKey::new([3; 16]),
            key: [4; 16],
            listeners: [SocketAddr::from(([192, 0, 2, 1], 5060))].into(),
        };
        Self { pipeline: pipeline.with_calls(Calls::new(shared, 0, None)), answers }
    }

    /// Has a datagram come; what is sent then.
    fn come(&mut self, now: Now, bytes: &[u8], from: &str, mut sent: impl FnMut(&[u8])) {
        let arrived = [Arrived { bytes, flow: udp_from(from), truncated: false }];
        let (answers, pipeline) = (&mut self.answers, &mut self.pipeline);
        pipeline.pass_time(now);
        pipeline.handle_all(now, arrived.into_iter(), &mut Unrecorded, answers);
        pipeline.pass_on(|_, _, octets| sent(octets));
    }

    /// What comes from both sides during call `n`.
    fn record(&mut self, n: usize) -> Vec<(&'static str, Vec<u8>)> {
        let now = at(n);
        let head = |method: &str, cseq: u32, uri: &str, routes: &str, tag: &str| {
            format!(
                "{method} {uri} SIP/2.0\r\n\
                 Via: SIP/2.0/UDP {CALLER};rport;branch=z9hG4bK-{method}-{n:04}\r\n\
                 Max-Forwards: 70\r\n{routes}From: \"Bob\" <sip:bob@biloxi.com>;tag=b{n:04}\r\n\
                 To: <sip:10{:04}@example.com>{tag}\r\nCall-ID: {n:04}@198.51.100.9\r\n\
                 CSeq: {cseq} {method}\r\nContact: <sip:bob@{CALLER}>\r\n\
                 User-Agent: Example Trunk 1.0\r\n",
                n % PHONES
            )
        };
        let uri = format!("sip:10{:04}@example.com", n % PHONES);
        let body = "v=0\r\no=- 1 1 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\n\
                    t=0 0\r\nm=audio 9 RTP/AVP 0\r\n";
        let described = format!(
            "Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut script = Vec::new();
        let mut go = |exchange: &mut Self, from, text: String, kind: &str| {
            let mut seen = None;
            exchange.come(now, text.as_bytes(), from, |octets| {
                let octets = String::from_utf8(octets.to_vec()).expect("ASCII");
                seen = seen.take().or_else(|| octets.starts_with(kind).then_some(octets));
            });
            script.push((from, text.into_bytes()));
            seen.unwrap_or_else(|| panic!("no {kind} was sent"))
        };
        let invite = head("INVITE", 1, &uri, "", "") + &described;
        let invite = go(self, CALLER, invite, "INVITE");
        go(self, SOURCE, reply(&invite, "180 Ringing", ""), "SIP/2.0 180");
        let answer = go(self, SOURCE, reply(&invite, "200 OK", &described), "SIP/2.0 200");
        let contact = "sip:alice@192.0.2.17:5060;transport=udp";
        let route = header(answer.as_bytes(), b"Record-Route: ").escape_ascii();
        let route = format!("Route: {route}\r\n");
        let ended = |method, cseq| {
            head(method, cseq, contact, &route, ";tag=a") + "Content-Length: 0\r\n\r\n"
        };
        go(self, CALLER, ended("ACK", 1), "ACK");
        let bye = go(self, CALLER, ended("BYE", 2), "BYE");
        go(self, SOURCE, reply(&bye, "200 OK", ""), "SIP/2.0 200");
        script
    }
}

/// What a phone answers to a request.
fn reply(request: &str, status: &str, described: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().skip(1).take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        if matches!(name, "Via" | "From" | "To" | "Call-ID" | "CSeq" | "Record-Route") {
            let tag = if name == "To" && !line.contains(";tag=") { ";tag=a" } else { "" };
            text += &format!("{line}{tag}\r\n");
        }
    }
    text += "Contact: <sip:alice@192.0.2.17:5060;transport=udp>\r\n";
    text + if described.is_empty() { "Content-Length: 0\r\n\r\n" } else { described }
}

fn call(count: usize) {
    // The proxy does the same again for the same datagrams.
    let mut first = Exchange::new();
    let scripts: Vec<_> = (0..MOST).map(|n| first.record(n)).collect();
    let mut exchange = Exchange::new();
    for (n, script) in scripts[..count].iter().enumerate() {
        let mut sent = 0;
        for (from, bytes) in script {
            exchange.come(at(n), bytes, from, |_| sent += 1);
        }
        assert_eq!(sent, 7, "a call is INVITE, 100, 180, 200, ACK, BYE, 200");
    }
}

/// The value of a header of a request that a phone wrote.
fn header<'a>(request: &'a [u8], name: &[u8]) -> &'a [u8] {
    let line = request.split(|octet| *octet == b'\n').find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.strip_suffix(b"\r")).expect("the phone has credentials")
}
