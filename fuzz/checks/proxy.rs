//! A script of requests, responses and passing time, put through the proxy.
//!
//! Whoever is asked and whatever is answered, in whatever order: nobody gets two different final
//! responses to one request but for 2xx to an INVITE, no ACK is answered, nobody is told what comes
//! of a probe, and once everybody has been silent for long enough, no transaction and no call is left.

use std::collections::HashMap;

use bindery::{
    flow::{Flow, ListenerId, Transport},
    proxy::{
        Call, Core, Effects, Matched, Parties, Plan, Policy, ProbeBy, Side, Target, Terms, TokenKey,
    },
    sip::{Limits, Method, Parsed, Parser, Status, header::HeaderName},
    time::{DeltaSeconds, Now},
};

/// Messages of one script: what more would show, fewer do.
const STEPS: usize = 120;

/// What a script is read as; at its end all numbers are zero.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn octet(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.octet()) % choices.len()].clone()
    }
}

/// What the proxy goes by.
fn policy(script: &mut Script<'_>) -> Policy {
    let (probe, probe_by) = script.pick(&[
        (0, ProbeBy::Options),
        (3, ProbeBy::Options),
        (60, ProbeBy::Options),
        (60, ProbeBy::Update),
    ]);
    let (dead_call, probe) = (DeltaSeconds(600), DeltaSeconds(probe));
    Policy { dead_call, probe, probe_by, ..Policy::default() }
}

struct Run {
    policy: Policy,
    core: Core,
    fx: Effects,
    now: Now,
    /// All that was sent.
    sent: Vec<(std::net::SocketAddr, Vec<u8>)>,
    /// Final responses by where they went and what they answer: all codes.
    finals: HashMap<(std::net::SocketAddr, Vec<u8>), Vec<u16>>,
    /// Branches are not used again once their transactions may have ended.
    epoch: u32,
}

fn terms(policy: &Policy) -> Terms<'_> {
    Terms { policy, realm: b"example.com", server: None }
}

fn flow(number: u8) -> Flow {
    Flow {
        listener: ListenerId(0),
        transport: Transport::Udp,
        local: None,
        remote: ([192, 0, 2, 10 + number % 4], 5060).into(),
    }
}

/// Checks one script.
pub(crate) fn check(octets: &[u8]) {
    let mut script = Script(octets);
    let listeners = [([192, 0, 2, 1], 5060).into()].into();
    let mut run = Run {
        policy: policy(&mut script),
        core: Core::new([2; 16], TokenKey::new([1; 16]), listeners, Limits::default(), 1),
        fx: Effects::default(),
        now: Now { millis: 1_000_000, unix: 1_800_000_000 },
        sent: Vec::new(),
        finals: HashMap::new(),
        epoch: 0,
    };
    for _ in 0..STEPS {
        if script.0.is_empty() {
            break;
        }
        match script.octet() % 8 {
            0 | 1 => run.request(&mut script),
            2..=4 => run.respond(&mut script),
            5 => run.within(&mut script),
            6 => run.again(&mut script),
            _ => {
                let millis = script.pick(&[1, 100, 500, 4000, 33_000, 70_000, 200_000]);
                run.pass(millis);
            }
        }
    }
    // Longer than any timer, in steps, since each may set others.
    for _ in 0..40 {
        run.pass(50_000);
    }
    assert_eq!((run.core.transactions(), run.core.calls()), (0, 0));
}

impl Run {
    fn pass(&mut self, millis: u64) {
        self.now.millis += millis;
        self.epoch += u32::from(millis >= 4000);
        self.now.unix += millis / 1000;
        self.core.pass_time(self.now, &terms(&self.policy), &mut self.fx);
        self.collect();
    }

    fn collect(&mut self) {
        let sent: Vec<_> = self.fx.sends().map(|(_, to, octets)| (to, octets.to_vec())).collect();
        let _ = self.fx.take_events();
        self.fx.clear();
        for (to, octets) in sent {
            let mut parser = Parser::new(Limits::default());
            match parser.parse(&octets) {
                Parsed::Request(request) => {
                    let hops = request.envelope.message.first(HeaderName::MaxForwards);
                    assert!(hops.is_some(), "{}", octets.escape_ascii());
                }
                Parsed::Response(response) if response.code >= 200 => {
                    let cseq = response.message.first(HeaderName::Cseq).unwrap_or_default();
                    assert_ne!(response.cseq.method, Method::Ack, "{}", octets.escape_ascii());
                    // No script has any, so it could only be a probe's.
                    let method = response.cseq.method;
                    assert_ne!(method, Method::Options, "{}", octets.escape_ascii());
                    let from = response.message.first(HeaderName::From).unwrap_or_default();
                    let key = [response.via.branch, response.call_id, cseq, from].join(&b' ');
                    let codes = self.finals.entry((to, key)).or_default();
                    let is_invite = response.cseq.method == Method::Invite;
                    let is_new = !codes.contains(&response.code);
                    let is_more = is_invite && response.code < 300;
                    assert!(
                        codes.is_empty() || !is_new || is_more && codes.iter().all(|c| *c < 300),
                        "{codes:?}, then {}",
                        octets.escape_ascii()
                    );
                    codes.push(response.code);
                }
                Parsed::Response(_) => {}
                other => panic!("{other:?}: {}", octets.escape_ascii()),
            }
            self.sent.push((to, octets));
        }
    }

    fn request(&mut self, script: &mut Script<'_>) {
        let method = script.pick(&["INVITE", "INVITE", "MESSAGE", "CANCEL", "ACK", "SUBSCRIBE"]);
        let (call, branch) = (script.octet() % 3, script.octet() % 4);
        let epoch = self.epoch;
        let extra = script.pick(&["", "", "Max-Breadth: 1\r\n", "Proxy-Authorization: x\r\n"]);
        let text = format!(
            "{method} sip:bob@example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK{branch}e{epoch}\r\nMax-Forwards: 70\r\n\
             From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\n\
             Call-ID: {call}\r\nCSeq: {branch} {method}\r\nContact: <sip:a@192.0.2.10>\r\n\
             {extra}Content-Length: 0\r\n\r\n"
        );
        let groups = (0..1 + script.octet() % 3).map(|_| {
            let targets = (0..1 + script.octet() % 3).map(|_| {
                let flow = flow(script.octet());
                let side = script.pick(&[Side::Flow(flow), Side::Server(flow)]);
                let uri = format!("sip:bob@{}", flow.remote).into_bytes().into();
                let further = match side {
                    Side::Server(_) => {
                        (0..script.octet() % 3).map(|_| self::flow(script.octet())).collect()
                    }
                    Side::Flow(_) => Box::default(),
                };
                Target { uri, path: Box::default(), flow, side, aor: None, further }
            });
            targets.collect()
        });
        let groups = groups.collect();
        let refusal = script.octet() == 1;
        let from = flow(0);
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        let (now, fx) = (self.now, &mut self.fx);
        let matched = self.core.matched(now, &request, from, &terms(&self.policy), fx);
        if matched == Matched::New && !matches!(method, "ACK" | "CANCEL") {
            let begun = self.core.begin(&request, text.as_bytes(), from, 7, fx);
            if let Some(id) = begun.filter(|id| !self.core.is_answered(*id)) {
                if refusal {
                    self.core.refuse(now, id, Status::NOT_FOUND, b"", &terms(&self.policy), fx);
                } else {
                    let plan = Plan {
                        groups,
                        caller: Side::Flow(from),
                        extra: Box::default(),
                        identity: Box::default(),
                        strips: true,
                        ring_timeout: DeltaSeconds(script.pick(&[0, 5, 60])),
                        call: (method == "INVITE").then(call_of_alice),
                    };
                    self.core.forward(now, id, &request, plan, &terms(&self.policy), fx);
                }
            }
        }
        self.collect();
    }

    /// Somebody answers a request that it got.
    fn respond(&mut self, script: &mut Script<'_>) {
        let which = usize::from(script.octet());
        let code = script.pick(&[
            100, 180, 183, 200, 200, 302, 401, 404, 407, 408, 481, 486, 487, 500, 503, 603,
        ]);
        let extra = script.pick(&[
            "",
            "WWW-Authenticate: Digest realm=\"r\"\r\n",
            "Session-Expires: 90\r\n",
            "Contact: <sip:b@192.0.2.11:5070>\r\n",
            "Contact: <sip:b@192.0.2.12>\r\n",
        ]);
        let requests: Vec<&Vec<u8>> = self
            .sent
            .iter()
            .map(|(_, octets)| octets)
            .filter(|o| !o.starts_with(b"SIP/"))
            .collect();
        if requests.is_empty() {
            return;
        }
        let request = String::from_utf8_lossy(requests[which % requests.len()]).into_owned();
        let mut text = format!("SIP/2.0 {code} Answer\r\n");
        for line in request.lines().skip(1).take_while(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap_or_default();
            if ["Via", "From", "Call-ID", "CSeq", "Record-Route"].contains(&name) {
                text += &format!("{line}\r\n");
            } else if name == "To" {
                let tag = if line.contains(";tag=") { "" } else { ";tag=b" };
                text += &format!("{line}{tag}\r\n");
            }
        }
        text += extra;
        text += "Content-Length: 0\r\n\r\n";
        let mut parser = Parser::new(Limits::default());
        if let Parsed::Response(response) = parser.parse(text.as_bytes()) {
            self.core.response(self.now, &response, &terms(&self.policy), &mut self.fx);
        }
        self.collect();
    }

    /// A request of a dialog, from either side, after a response that was passed back.
    fn within(&mut self, script: &mut Script<'_>) {
        let which = usize::from(script.octet());
        let method = script.pick(&["ACK", "BYE", "BYE", "INVITE", "UPDATE", "INFO"]);
        let epoch = self.epoch;
        let (by_caller, number) = (script.octet().is_multiple_of(2), script.octet() % 4);
        let is_answer = |octets: &&Vec<u8>| {
            octets.starts_with(b"SIP/2.0 2") && octets.windows(12).any(|w| w == b"Record-Route")
        };
        let answers: Vec<&Vec<u8>> =
            self.sent.iter().map(|(_, octets)| octets).filter(is_answer).collect();
        if answers.is_empty() {
            return;
        }
        let answer = String::from_utf8_lossy(answers[which % answers.len()]).into_owned();
        let header = |name: &str| {
            answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        let (from, to) = if by_caller { ("From: ", "To: ") } else { ("To: ", "From: ") };
        let text = format!(
            "{method} sip:x@192.0.2.13 SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKw{number}e{epoch}\r\nMax-Forwards: 70\r\n\
             Route: {}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\n\
             CSeq: {} {method}\r\nContent-Length: 0\r\n\r\n",
            header("Record-Route: "),
            header(from),
            header(to),
            header("Call-ID: "),
            100 + number,
        );
        self.come(&text);
    }

    /// Something comes again.
    fn again(&mut self, script: &mut Script<'_>) {
        let which = usize::from(script.octet());
        if !self.sent.is_empty() {
            let (_, octets) = &self.sent[which % self.sent.len()];
            let text = String::from_utf8_lossy(octets).into_owned();
            self.come(&text);
        }
    }

    fn come(&mut self, text: &str) {
        let mut parser = Parser::new(Limits::default());
        let from = flow(1);
        match parser.parse(text.as_bytes()) {
            Parsed::Request(request) => {
                let (now, fx) = (self.now, &mut self.fx);
                if self.core.matched(now, &request, from, &terms(&self.policy), fx) == Matched::New
                {
                    let _ = self.core.within(
                        now,
                        &request,
                        text.as_bytes(),
                        (from, 8),
                        || false,
                        &terms(&self.policy),
                        fx,
                    );
                }
            }
            Parsed::Response(response) => {
                self.core.response(self.now, &response, &terms(&self.policy), &mut self.fx);
            }
            _ => {}
        }
        self.collect();
    }
}

fn call_of_alice() -> Call {
    let parties = Parties {
        call_id: (*b"c").into(),
        caller: (*b"alice").into(),
        called: (*b"bob").into(),
        username: None,
        from_aor: None,
        source: ([192, 0, 2, 10], 5060).into(),
    };
    Call::new(Now { millis: 0, unix: 0 }, parties.into(), None)
}
