//! Dialogues of a caller, the proxy and its callees, on a clock that goes when it is told to.

mod calls;
mod failover;
mod forking;
mod forwarding;
mod probing;
mod transactions;

use std::{collections::VecDeque, net::SocketAddr};

use super::{
    Call, CallEvent, ContextId, Core, Effects, Matched, Parties, Plan, Policy, Refused, Side,
    Stage, Target, Terms, TokenKey,
};
use crate::{
    flow::{Flow, ListenerId, Transport},
    sip::{Limits, Parsed, Parser, Status},
    time::{DeltaSeconds, Now},
};

/// Where everybody is.
const PROXY: &str = "192.0.2.1:5060";
const ALICE: &str = "192.0.2.10:5070";
const BOB: &str = "192.0.2.20:5060";
const CAROL: &str = "192.0.2.30:5060";
const DAVE: &str = "192.0.2.40:5060";

/// A message that the proxy sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    to: SocketAddr,
    text: String,
}

impl Sent {
    /// The first line without the version: `INVITE sip:...`, or `180 Ringing`.
    fn start(&self) -> &str {
        let line = self.text.lines().next().unwrap();
        line.strip_prefix("SIP/2.0 ").unwrap_or_else(|| line.strip_suffix(" SIP/2.0").unwrap())
    }

    /// Its first word: the method or the code.
    fn kind(&self) -> &str {
        self.start().split(' ').next().unwrap()
    }

    /// The values of a header.
    fn all(&self, name: &str) -> Vec<&str> {
        let prefix = format!("{name}: ");
        self.text
            .lines()
            .take_while(|l| !l.is_empty())
            .filter_map(|l| l.strip_prefix(&prefix))
            .collect()
    }

    fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {}", self.text);
        all[0]
    }

    /// What its receiver answers.
    fn answer(&self, code: u16, extra: &str) -> String {
        let mut text = format!("SIP/2.0 {code} Answer\r\n");
        for line in self.text.lines().skip(1).take_while(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap();
            match name {
                "Via" | "From" | "Call-ID" | "CSeq" | "Record-Route" => {
                    text += &format!("{line}\r\n");
                }
                "To" if code > 100 && !line.contains(";tag=") => {
                    text += &format!("{line};tag=of-{}\r\n", self.to.ip());
                }
                "To" => text += &format!("{line}\r\n"),
                _ => {}
            }
        }
        text + extra + "Content-Length: 0\r\n\r\n"
    }
}

/// The proxy, and all that it has sent and told.
struct World {
    core: Core,
    fx: Effects,
    now: Now,
    sent: VecDeque<Sent>,
    events: Vec<CallEvent>,
    ring_timeout: u32,
    policy: Policy,
    strips: bool,
    /// Whether who sends from elsewhere is known to be there now.
    has_moved: bool,
    identity: &'static [u8],
}

/// What the proxy goes by.
macro_rules! terms {
    ($world:expr) => {
        Terms { policy: &$world.policy, realm: b"example.com", server: None }
    };
}

fn flow(remote: &str) -> Flow {
    Flow {
        listener: ListenerId(0),
        transport: Transport::Udp,
        local: None,
        remote: remote.parse().unwrap(),
    }
}

fn target(who: &str, remote: &str) -> Target {
    Target {
        uri: format!("sip:{who}@{remote}").into_bytes().into(),
        path: Box::default(),
        flow: flow(remote),
        side: Side::Flow(flow(remote)),
        aor: None,
        further: Box::default(),
    }
}

/// A request of Alice's.
fn request(method: &str, cseq: u32, branch: &str, extra: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP {ALICE};branch=z9hG4bK{branch};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@example.com>\r\n\
         Call-ID: call@alice\r\n\
         CSeq: {cseq} {method}\r\n\
         Contact: <sip:alice@{ALICE}>\r\n\
         {extra}Content-Length: 0\r\n\r\n"
    )
}

impl World {
    fn new() -> Self {
        let listeners = [PROXY.parse().unwrap()].into();
        let token = TokenKey::new([1; 16]);
        Self {
            core: Core::new([2; 16], token, listeners, Limits::default(), 1),
            fx: Effects::default(),
            now: Now { millis: 1_000_000, unix: 1_800_000_000 },
            sent: VecDeque::new(),
            events: Vec::new(),
            ring_timeout: 60,
            policy: Policy::default(),
            strips: true,
            has_moved: false,
            identity: b"",
        }
    }

    fn collect(&mut self) {
        let sent = self
            .fx
            .sends()
            .map(|(_, to, octets)| Sent { to, text: String::from_utf8(octets.to_vec()).unwrap() });
        self.sent.extend(sent);
        self.events.extend(self.fx.take_events());
        self.fx.clear();
    }

    /// The next message that was sent, which must be of this kind and go there.
    #[track_caller]
    fn expect(&mut self, kind: &str, to: &str) -> Sent {
        let sent = self.sent.pop_front().unwrap_or_else(|| panic!("no {kind} was sent"));
        assert_eq!((sent.kind(), sent.to.to_string().as_str()), (kind, to), "{}", sent.text);
        sent
    }

    #[track_caller]
    fn expect_silence(&mut self) {
        assert_eq!(self.sent.pop_front(), None);
    }

    /// What happens while time passes, millisecond by millisecond where anything does.
    fn pass(&mut self, millis: u64) -> Vec<(u64, Sent)> {
        let (start, end) = (self.now.millis, self.now.millis + millis);
        let mut happened = Vec::new();
        self.collect();
        assert_eq!(self.sent.len(), 0, "{:?}", self.sent);
        loop {
            let step = self.core.wait(self.now).map_or(u64::MAX, |wait| wait.max(1));
            let next = self.now.millis.saturating_add(step).min(end);
            self.now.unix += next / 1000 - self.now.millis / 1000;
            self.now.millis = next;
            self.core.pass_time(self.now, &terms!(self), &mut self.fx);
            self.collect();
            happened.extend(self.sent.drain(..).map(|sent| (next - start, sent)));
            if next == end {
                return happened;
            }
        }
    }

    /// Has a request come that is to be tried with these targets.
    fn invite(&mut self, text: &str, from: &str, groups: &[&[Target]]) -> Option<ContextId> {
        let mut parser = Parser::new(Limits::default());
        let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
        let from = flow(from);
        let matched = self.core.matched(self.now, &request, from, &terms!(self), &mut self.fx);
        let mut begun = None;
        if matched == Matched::New {
            let (now, fx) = (self.now, &mut self.fx);
            let id = self.core.begin(&request, text.as_bytes(), from, 7, fx).unwrap();
            let is_call = request.envelope.method == crate::sip::Method::Invite;
            let plan = Plan {
                groups: groups.iter().map(|group| group.to_vec()).collect(),
                caller: Side::Flow(from),
                extra: Box::default(),
                identity: self.identity.into(),
                strips: self.strips,
                ring_timeout: DeltaSeconds(self.ring_timeout),
                call: is_call.then(call),
            };
            assert!(self.core.forward(now, id, &request, plan, &terms!(self), fx));
            begun = Some(id);
        }
        self.collect();
        begun
    }

    /// The kernel did not take this; whether that is a failure of its target.
    fn unsent(&mut self, sent: &Sent) -> bool {
        let (now, fx) = (self.now, &mut self.fx);
        let is_failure = self.core.unsent(now, sent.text.as_bytes(), &terms!(self), fx);
        self.collect();
        is_failure
    }

    /// Has any other datagram come: a response, or a request of a dialog, an ACK, a CANCEL.
    fn come(&mut self, text: &str, from: &str) -> Result<(), Option<Status>> {
        let mut parser = Parser::new(Limits::default());
        let done = match parser.parse(text.as_bytes()) {
            Parsed::Response(response) => {
                let known = self.core.response(self.now, &response, &terms!(self), &mut self.fx);
                known.then_some(()).ok_or(None)
            }
            Parsed::Request(request) => {
                let (now, flow, fx) = (self.now, flow(from), &mut self.fx);
                match self.core.matched(now, &request, flow, &terms!(self), fx) {
                    Matched::Absorbed => Ok(()),
                    Matched::New => {
                        let within = self.core.within(
                            now,
                            &request,
                            text.as_bytes(),
                            (flow, 8),
                            || self.has_moved,
                            &terms!(self),
                            fx,
                        );
                        within.map_err(|refused| match refused {
                            Refused::Status(status) => Some(status),
                            Refused::Silence => None,
                        })
                    }
                }
            }
            _ => panic!("{text}"),
        };
        self.collect();
        done
    }

    /// The process is about to end.
    fn stop(&mut self) {
        self.core.stop(self.now, b"Retry-After: 5\r\n", &terms!(self), &mut self.fx);
        self.collect();
    }

    /// Alice calls Bob: what Bob gets.
    fn call_bob(&mut self) -> Sent {
        self.invite(&request("INVITE", 1, "1", ""), ALICE, &[&[target("bob", BOB)]]);
        self.expect("100", ALICE);
        self.expect("INVITE", BOB)
    }

    fn stages(&self) -> Vec<Stage> {
        self.events.iter().map(|event| event.call.stage).collect()
    }

    /// Lets everything end, and sees that nothing is left.
    fn let_end(&mut self) -> Vec<(u64, Sent)> {
        let happened = self.pass(400_000);
        assert_eq!((self.core.transactions(), self.core.calls()), (0, 0));
        happened
    }
}

fn call() -> Call {
    let parties = Parties {
        call_id: (*b"call@alice").into(),
        caller: (*b"alice").into(),
        called: (*b"bob").into(),
        username: None,
        from_aor: None,
        source: ALICE.parse().unwrap(),
    };
    Call::new(Now { millis: 0, unix: 0 }, parties.into(), None)
}

/// A request of a dialog that was begun by `invite` and answered with `answer`, from either side.
fn within(method: &str, cseq: u32, branch: &str, answer: &str, by_caller: bool) -> String {
    let header = |name: &str| {
        let prefix = format!("{name}: ");
        answer.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    };
    let routes: Vec<String> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("Record-Route: "))
        .map(str::to_owned)
        .collect();
    let (from, to, own, other) = if by_caller {
        (header("From"), header("To"), ALICE, BOB)
    } else {
        (header("To"), header("From"), BOB, ALICE)
    };
    let routes: Vec<String> = if by_caller { routes.into_iter().rev().collect() } else { routes };
    let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    format!(
        "{method} sip:x@{other} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {own};branch=z9hG4bK{branch};rport\r\n\
         Max-Forwards: 70\r\n{routes}\
         From: {from}\r\nTo: {to}\r\n\
         Call-ID: call@alice\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    )
}
