//! Where handlers say that a request goes: from what they made of `call.preroute` and `call.route`
//! to goals.

use super::{
    chain::{Chain, Dispatched, Failure},
    listed::{self, LISTED},
    message::{Message, MessageName},
    reason,
};
use crate::{
    proxy::{Goal, Routed},
    sip::uri::SipUri,
    worker::Rules,
};

/// Goals of one request: more phones than anybody has ring for one call.
const MAX_GOALS: usize = 64;

/// Has `call.preroute` dispatched and, with what it set, `call.route`.
///
/// # Errors
/// Nobody handled one of them, and not all who might have were able to say.
pub(super) async fn route(
    chain: &Chain,
    rules: &Rules,
    message: &mut Message,
) -> Result<Routed, Failure> {
    match chain.dispatch(message).await {
        // It ends here only where a handler turns the request down.
        Dispatched::Handled { .. } if is_refusal(&message.retval) => return Ok(refused(message)),
        Dispatched::Handled { .. } | Dispatched::Unhandled => {}
        Dispatched::Failed(failure) => return Err(failure),
    }
    message.name = MessageName::CallRoute;
    message.retval.clear();
    message.further.clear();
    match chain.dispatch(message).await {
        Dispatched::Handled { by, .. } if &*by == LISTED => Ok(listed::route(rules, message)),
        Dispatched::Handled { .. } => Ok(routed(message)),
        Dispatched::Unhandled => Ok(match reason::code_of(message) {
            Some(_) => refused(message),
            None => Routed::Unknown,
        }),
        Dispatched::Failed(failure) => Err(failure),
    }
}

fn is_refusal(retval: &str) -> bool {
    matches!(retval, "-" | "error")
}

/// The refusal that a message tells of. `noauth` asks for credentials, which is 407 here and not
/// Yate's 401, and means something only to who gave none.
fn refused(message: &Message) -> Routed {
    Routed::Refused(match reason::code_of(message) {
        Some(401 | 407) if message.get("username").is_none() => 407,
        Some(401 | 407) | None => 403,
        Some(code) => code,
    })
}

/// Where a message that was handled says that its request goes.
fn routed(message: &Message) -> Routed {
    if message.retval.is_empty() {
        return Routed::Unknown;
    }
    if is_refusal(&message.retval) {
        return refused(message);
    }
    match Goals::of(message).finish() {
        groups if groups.is_empty() => {
            tracing::debug!(retval = message.retval, "a route that leads nowhere");
            // Yate's `noconn`: it is known where the call goes, and nobody can take it there.
            Routed::Refused(503)
        }
        groups => Routed::To(groups),
    }
}

/// Whether what a handler returned for `call.route` can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Targets {
    /// All of it, or it says that the request goes nowhere.
    Readable,
    /// Some of it; the first target that can't.
    Partly(String),
    /// Nothing, so that somebody else is to say; the same.
    Unreadable(String),
}

/// What the targets of a message are that was handled.
pub(super) fn targets(message: &Message) -> Targets {
    if message.retval.is_empty() || is_refusal(&message.retval) {
        return Targets::Readable;
    }
    let Goals { count, others, unreadable, .. } = Goals::of(message);
    match unreadable {
        None => Targets::Readable,
        Some(word) if count + others > 0 => Targets::Partly(word),
        Some(word) => Targets::Unreadable(word),
    }
}

/// Whether a word is a target: a SIP URI, which Yate has `sip/` before.
pub(super) fn is_target(word: &str) -> bool {
    SipUri::parse(uri_of(word).as_bytes()).is_ok()
}

fn uri_of(word: &str) -> &str {
    word.strip_prefix("sip/").unwrap_or(word).trim()
}

/// Whether a word is for a module of Yate's that a proxy has none of: `tone/busy`, `external/...`.
fn is_of_another_module(word: &str) -> bool {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    word.split_once('/').is_some_and(|(module, _)| is_name(module) && module != "sip")
}

/// Groups of goals as they are read.
#[derive(Debug, Default)]
struct Goals {
    groups: Vec<Vec<Goal>>,
    current: Vec<Goal>,
    count: usize,
    /// Targets that are none of ours.
    others: usize,
    /// The first that is none at all.
    unreadable: Option<String>,
}

impl Goals {
    /// What a message says that was handled.
    fn of(message: &Message) -> Self {
        let mut goals = Self::default();
        goals.take(&message.retval, |number| message.get(&format!("callto.{number}")));
        for callto in &message.further {
            goals.begin();
            if !is_refusal(callto) {
                goals.take(callto, |_| None);
            }
        }
        goals
    }

    /// What follows belongs to another group.
    fn begin(&mut self) {
        if !self.current.is_empty() {
            self.groups.push(std::mem::take(&mut self.current));
        }
    }

    /// One return value: a target, or `fork` with targets behind it or in parameters that `numbered`
    /// knows, from one on.
    fn take<'m>(&mut self, callto: &str, numbered: impl Fn(u32) -> Option<&'m str>) {
        let mut words = callto.split_ascii_whitespace();
        if words.next() != Some("fork") {
            return self.word(callto);
        }
        let mut words = words.peekable();
        if words.peek().is_none() {
            (1..).map_while(numbered).take(2 * MAX_GOALS).for_each(|word| self.word(word));
        } else {
            words.for_each(|word| self.word(word));
        }
    }

    /// A target, or what stands between groups: `|`, `|next=2000`, `|drop=2000`, `|exec`. For how
    /// long a group may ring is `[calls] ring_timeout` for all.
    fn word(&mut self, word: &str) {
        if word.starts_with('|') {
            return self.begin();
        }
        if is_of_another_module(word) {
            self.others += 1;
            return tracing::debug!(word, "no goal of a call");
        }
        if !is_target(word) {
            self.unreadable.get_or_insert_with(|| word.to_owned());
            return;
        }
        if self.count >= MAX_GOALS {
            return tracing::debug!(word, "more goals than a call may have");
        }
        let goal = Goal::Uri(uri_of(word).as_bytes().into());
        if !self.current.contains(&goal) {
            self.count += 1;
            self.current.push(goal);
        }
    }

    fn finish(mut self) -> Vec<Vec<Goal>> {
        self.begin();
        self.groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::request::{self, Context},
        flow::{Flow, ListenerId, Transport},
        sip::{Limits, Parsed, Parser},
        time::Now,
        worker::parking::Learned,
    };

    fn message(retval: &str, params: &[(&str, &str)]) -> Message {
        let mut message = Message::new(MessageName::CallRoute);
        message.retval = retval.to_owned();
        for (name, value) in params {
            message.set(name, *value);
        }
        message
    }

    fn shown(routed: Routed) -> String {
        let goal = |goal: Goal| match goal {
            Goal::Uri(uri) | Goal::Foreign(uri) => String::from_utf8(uri.into()).unwrap(),
            Goal::Aor(aor) => format!("<{}>", String::from_utf8(aor.into()).unwrap()),
        };
        let group = |group: Vec<Goal>| group.into_iter().map(goal).collect::<Vec<_>>().join(" ");
        match routed {
            Routed::To(groups) => groups.into_iter().map(group).collect::<Vec<_>>().join(" | "),
            Routed::Unknown => "unknown".to_owned(),
            Routed::Refused(code) => code.to_string(),
        }
    }

    fn routes(retval: &str, params: &[(&str, &str)]) -> String {
        shown(routed(&message(retval, params)))
    }

    #[test]
    fn what_handlers_return_is_where_it_goes() {
        for (retval, goals) in [
            ("sip/sip:100@192.0.2.1:5060;transport=udp", "sip:100@192.0.2.1:5060;transport=udp"),
            ("sip:100@192.0.2.1", "sip:100@192.0.2.1"),
            ("fork sip/sip:a@h sip/sip:b@h", "sip:a@h sip:b@h"),
            (
                "fork sip/sip:a@h | sip/sip:b@h |next=2000 sip/sip:c@h",
                "sip:a@h | sip:b@h | sip:c@h",
            ),
            ("fork | | sip/sip:a@h |", "sip:a@h"),
            ("fork sip/sip:a@h sip/sip:a@h tone/busy", "sip:a@h"),
            ("tone/busy", "503"),
            ("sip/nonsense", "503"),
            ("fork", "503"),
            ("", "unknown"),
            ("-", "403"),
            ("error", "403"),
        ] {
            assert_eq!(routes(retval, &[]), goals, "{retval}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_told_from_what_leads_nowhere() {
        let unreadable = |word: &str| Targets::Unreadable(word.to_owned());
        for (retval, told) in [
            ("", Targets::Readable),
            ("-", Targets::Readable),
            ("sip/sip:100@192.0.2.1", Targets::Readable),
            ("tone/busy", Targets::Readable),
            ("fork", Targets::Readable),
            ("fork sip/sip:a@h |next=2000 sip/sip:b@h", Targets::Readable),
            ("nonsense", unreadable("nonsense")),
            ("sip/nonsense", unreadable("sip/nonsense")),
            ("sip/sip:a@h:port", unreadable("sip/sip:a@h:port")),
            ("tel:+1555", unreadable("tel:+1555")),
            ("fork x y", unreadable("x")),
            ("fork sip/sip:a@h nonsense", Targets::Partly("nonsense".to_owned())),
            ("fork nonsense tone/busy", Targets::Partly("nonsense".to_owned())),
        ] {
            assert_eq!(targets(&message(retval, &[])), told, "{retval}");
        }
        let params = [("callto.1", "sip/sip:a@h"), ("callto.2", "sip/x")];
        let told = targets(&message("fork", &params));
        assert_eq!(told, Targets::Partly("sip/x".to_owned()));
        let mut rows = message("x", &[]);
        rows.further = ["-", "sip/sip:c@h"].map(Into::into).into();
        assert_eq!(targets(&rows), Targets::Partly("x".to_owned()));
    }

    /// A parked INVITE, as its caller sent it.
    const INVITE: &str = "INVITE sip:2%300@Example.COM SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
        From: \"A \\\"B\\\"\" <sip:100@example.com>;tag=1\r\nTo: <sip:200@example.com>\r\n\
        Call-ID: c1\r\nCSeq: 1 INVITE\r\nContact: <sip:100@192.0.2.1>\r\n\
        User-Agent: Phone\r\nX-Account: 7\r\nProxy-Authorization: secret\r\n\
        Content-Length: 0\r\n\r\n";

    #[test]
    fn a_request_is_asked_about_with_yates_parameters() {
        let rules = listed::tests::rules(&["example.com"]);
        let context = Context {
            rules: &rules,
            now: Now { millis: 0, unix: 0 },
            listeners: &["office".into()],
        };
        let flow = Flow {
            listener: ListenerId(0),
            transport: Transport::Udp,
            local: None,
            remote: "192.0.2.1:5060".parse().unwrap(),
        };
        let shown = |caller: Option<Box<[u8]>>, text: &str| {
            let mut parser = Parser::new(Limits::default());
            let Parsed::Request(request) = parser.parse(text.as_bytes()) else { panic!("{text}") };
            let learned = Learned { caller, ..Learned::default() };
            let message = request::route(&request, (&flow, &learned), &context);
            assert_eq!(message.name, MessageName::CallPreroute);
            let params = message.params().map(|(name, value)| format!("{name}={value}"));
            params.collect::<Vec<_>>().join("\n")
        };
        let asked = "module=sip\nstatus=incoming\naddress=192.0.2.1:5060\nanswered=false\n\
            direction=incoming\ncallid=c1\ncaller=100\ncalled=200\ncallername=A \"B\"\n\
            ip_host=192.0.2.1\nip_port=5060\nip_transport=UDP\nconnection_id=office\n\
            connection_reliable=false\nsip_uri=sip:2%300@Example.COM\n\
            sip_from=sip:100@example.com\nsip_to=sip:200@example.com\nsip_callid=c1\n\
            device=Phone\nsip_contact=<sip:100@192.0.2.1>\nsip_user-agent=Phone\nsip_x-account=7\n";
        let ours = "domain=example.com\ncalled_domain=example.com\nmethod=INVITE";
        assert_eq!(shown(None, INVITE), format!("{asked}{ours}"));
        // Who has proved to be a user has a name.
        let proved = "username=100\nrealm=example.com\n";
        let caller = Some((*b"100").into());
        assert_eq!(shown(caller, INVITE), format!("{asked}{proved}{ours}"));
        let text = shown(None, &INVITE.replace("INVITE", "MESSAGE"));
        assert!(text.ends_with("method=MESSAGE\nroute_type=msg"), "{text}");
    }

    #[test]
    fn targets_may_be_parameters() {
        let params = [
            ("callto.1", "sip/sip:a@h"),
            ("callto.2", "sip/sip:b@h"),
            ("callto.3", "|drop=5000"),
            ("callto.4", "sip/sip:c@h"),
            ("callto.6", "sip/sip:d@h"),
        ];
        assert_eq!(routes("fork", &params), "sip:a@h sip:b@h | sip:c@h");
    }

    #[test]
    fn further_rows_are_tried_one_after_the_other() {
        let mut message = message("sip/sip:a@h", &[]);
        message.further =
            ["sip/sip:b@h", "-", "fork sip/sip:c@h sip/sip:d@h"].map(Into::into).into();
        assert_eq!(shown(routed(&message)), "sip:a@h | sip:b@h | sip:c@h sip:d@h");
    }

    #[test]
    fn a_refusal_has_its_code() {
        for (params, code) in [
            (&[("error", "offline")][..], "480"),
            (&[("error", "busy")], "486"),
            (&[("error", "nonsense"), ("reason", "403")], "403"),
            (&[("error", "busy"), ("code", "603")], "603"),
            (&[("error", "noauth")], "407"),
            (&[("error", "noauth"), ("username", "100")], "403"),
        ] {
            assert_eq!(routes("-", params), code, "{params:?}");
        }
    }

    #[test]
    fn there_is_an_end_to_what_one_call_may_ring() {
        let retval = (0..1000).fold("fork".to_owned(), |all, n| format!("{all} sip/sip:{n}@h"));
        let Routed::To(groups) = routed(&message(&retval, &[])) else { panic!() };
        assert_eq!(groups[0].len(), MAX_GOALS);
    }
}
