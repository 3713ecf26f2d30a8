//! What a receiver's answer to a question makes of the message.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use super::client::Reply;
use crate::{
    backend::{chain::Handling, garbage::shown, message::Message, route::is_target},
    config::hooks::Event,
    hex::parse_hex,
};

/// Parameters that an answer may set.
const MAX_PARAMS: usize = 64;

/// An answer that can't be used; the question counts as not answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbage {
    /// Neither an answer nor "not mine".
    #[error("it answered {0}")]
    Status(u16),
    /// Not what a question of this kind is answered with.
    #[error("its answer can't be read: {0}")]
    Json(String),
    /// Text that no header could have.
    #[error("{0} in its answer has a line end or another control character")]
    Control(&'static str),
    /// A code that is no refusal.
    #[error("it refuses with {0}: expected 400 to 699")]
    Code(u16),
    /// A code with which goes a header that only we could write.
    #[error("it refuses with {0}, which takes a header that it can't give")]
    Bare(u16),
    /// Too short, too long, or no hash.
    #[error("{0} in its answer is no hash")]
    Hash(&'static str),
    /// Neither a SIP URI nor what stands between such.
    #[error("{0} in its answer is no target")]
    Target(String),
    /// More than anybody needs.
    #[error("more than {MAX_PARAMS} params in its answer")]
    TooMany,
}

/// A refusal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refuse {
    #[serde(default = "forbidden")]
    code: u16,
    #[serde(default)]
    reason: String,
}

fn forbidden() -> u16 {
    403
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    password: Option<String>,
    ha1: Option<String>,
    ha1_sha256: Option<String>,
    ha1_sha512_256: Option<String>,
    expires: Option<u32>,
    params: BTreeMap<String, String>,
    refuse: Option<Refuse>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Register {
    expires: Option<u32>,
    refuse: Option<Refuse>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Route {
    targets: Vec<String>,
    fork: bool,
    refuse: Option<Refuse>,
}

/// Takes an answer to `event`, and sets on the message what it says.
pub(super) fn take(
    event: Event,
    reply: &Reply,
    message: &mut Message,
) -> Result<Handling, Garbage> {
    match (reply.status, event) {
        // "No objection", in as few words as there are.
        (204, Event::Register) => {}
        (204 | 404, _) => return Ok(Handling::Passed),
        (200..=299, _) => {}
        (status, _) => return Err(Garbage::Status(status)),
    }
    match event {
        Event::Auth => auth(read(&reply.body)?, message),
        Event::Register => register(read(&reply.body)?, message),
        Event::Route => route(read(&reply.body)?, message),
        Event::Registered | Event::Unregister | Event::Expire | Event::Call => Ok(Handling::Passed),
    }
}

/// Nothing is an answer without members.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Garbage> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // A list would be taken for the members in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Garbage::Json("it is no object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| Garbage::Json(error.to_string()))
}

fn clean(name: &'static str, text: &str) -> Result<(), Garbage> {
    if text.contains(char::is_control) { Err(Garbage::Control(name)) } else { Ok(()) }
}

/// A refusal. Its code is one that a response may have as it is: a 401 or 407 takes a challenge
/// (RFC 3261 §21.4.2, §21.4.8), which is made for a `route` only, and a 423 Min-Expires (§21.4.17).
fn refuse(
    event: Event,
    Refuse { code, reason }: &Refuse,
    message: &mut Message,
) -> Result<Handling, Garbage> {
    clean("reason", reason)?;
    if !(400..700).contains(code) {
        return Err(Garbage::Code(*code));
    }
    if *code == 423 || (matches!(code, 401 | 407) && event != Event::Route) {
        return Err(Garbage::Bare(*code));
    }
    message.retval = "-".to_owned();
    message.set("code", code.to_string());
    if !reason.is_empty() {
        message.set("reason", &**reason);
    }
    Ok(Handling::Handled)
}

fn auth(answer: Auth, message: &mut Message) -> Result<Handling, Garbage> {
    let Auth { password, ha1, ha1_sha256, ha1_sha512_256, expires, params, refuse: refusal } =
        answer;
    if let Some(refusal) = &refusal {
        return refuse(Event::Auth, refusal, message);
    }
    let mut has_hash = false;
    for (name, hash, len) in
        [("ha1", ha1, 32), ("ha1_sha256", ha1_sha256, 64), ("ha1_sha512_256", ha1_sha512_256, 64)]
    {
        let Some(hash) = hash.filter(|hash| !hash.is_empty()) else { continue };
        let is_hash = match len {
            32 => parse_hex::<16>(hash.as_bytes()).is_some(),
            _ => parse_hex::<32>(hash.as_bytes()).is_some(),
        };
        if !is_hash {
            return Err(Garbage::Hash(name));
        }
        has_hash = true;
        message.set(name, hash);
    }
    // An empty one is none: nobody is let in for want of a password (DESIGN §13.6).
    let password = password.filter(|password| !password.is_empty());
    if password.is_none() && !has_hash {
        return Ok(Handling::Passed);
    }
    if params.len() > MAX_PARAMS {
        return Err(Garbage::TooMany);
    }
    for (name, value) in &params {
        clean("params", name)?;
        clean("params", value)?;
        // A password may be anything, and is never part of a header.
        if message.get(name).is_none() {
            message.set(name, &**value);
        }
    }
    if let Some(expires) = expires {
        message.set("expires", expires.to_string());
    }
    // `-` is Yate's refusal, and no password here.
    match password.as_deref() {
        Some("-") if !has_hash => return Err(Garbage::Json("`-` is no password".to_owned())),
        Some("-") | None => message.retval.clear(),
        Some(password) => password.clone_into(&mut message.retval),
    }
    Ok(Handling::Handled)
}

fn register(answer: Register, message: &mut Message) -> Result<Handling, Garbage> {
    if let Some(refusal) = &answer.refuse {
        refuse(Event::Register, refusal, message)?;
        // Whoever handles `user.register` grants it: a refusal is that nobody else is asked.
        return Ok(Handling::Handled);
    }
    if let Some(expires) = answer.expires {
        message.set("expires", expires.to_string());
    }
    message.is_accepted = true;
    Ok(Handling::Passed)
}

fn route(answer: Route, message: &mut Message) -> Result<Handling, Garbage> {
    if let Some(refusal) = &answer.refuse {
        return refuse(Event::Route, refusal, message);
    }
    for target in &answer.targets {
        clean("targets", target)?;
        if target.is_empty() || target.contains(char::is_whitespace) {
            return Err(Garbage::Json("a target with a blank in it".to_owned()));
        }
        if !target.starts_with('|') && !is_target(target) {
            return Err(Garbage::Target(shown(target)));
        }
    }
    let mut targets = answer.targets.into_iter();
    let Some(first) = targets.next() else { return Ok(Handling::Passed) };
    if answer.fork {
        let all: Vec<String> = std::iter::once(first).chain(targets).collect();
        message.retval = format!("fork {}", all.join(" "));
    } else {
        message.retval = first;
        message.further = targets.collect();
    }
    Ok(Handling::Handled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::message::MessageName;

    fn taken(event: Event, status: u16, body: &str) -> (Result<Handling, Garbage>, Message) {
        let name = match event {
            Event::Auth => MessageName::UserAuth,
            Event::Register => MessageName::UserRegister,
            _ => MessageName::CallRoute,
        };
        let mut message = Message::new(name);
        message.set("username", "100");
        message.set("expires", "600");
        let reply = Reply { status, body: body.to_owned().into() };
        (take(event, &reply, &mut message), message)
    }

    #[test]
    fn a_password_or_hashes_are_an_account() {
        let (handling, message) =
            taken(Event::Auth, 200, r#"{"password":"secret","expires":77,"params":{"plan":"a"}}"#);
        assert_eq!((handling, &*message.retval), (Ok(Handling::Handled), "secret"));
        assert_eq!((message.get("expires"), message.get("plan")), (Some("77"), Some("a")));
        let ha1 = format!(r#"{{"ha1":"{}"}}"#, "ab".repeat(16));
        let (handling, message) = taken(Event::Auth, 200, &ha1);
        assert_eq!(handling, Ok(Handling::Handled));
        assert_eq!(message.get("ha1"), Some(&*"ab".repeat(16)));
        // What was asked about stays.
        let (_, message) = taken(Event::Auth, 200, r#"{"password":"x","params":{"username":"1"}}"#);
        assert_eq!(message.get("username"), Some("100"));
    }

    #[test]
    fn nothing_is_not_mine() {
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (204, ""),
            (404, "<html>"),
            (200, r#"{"password":""}"#),
            (200, r#"{"ha1":""}"#),
        ] {
            let (handling, message) = taken(Event::Auth, status, body);
            assert_eq!((handling, &*message.retval), (Ok(Handling::Passed), ""), "{status} {body}");
        }
        assert_eq!(taken(Event::Route, 200, "{}").0, Ok(Handling::Passed));
        assert_eq!(taken(Event::Route, 200, r#"{"targets":[]}"#).0, Ok(Handling::Passed));
    }

    #[test]
    fn a_refusal_has_its_code() {
        for event in [Event::Auth, Event::Register, Event::Route] {
            let (handling, message) = taken(event, 200, r#"{"refuse":{}}"#);
            assert_eq!((handling, &*message.retval), (Ok(Handling::Handled), "-"));
            assert_eq!(message.get("code"), Some("403"));
            let (_, message) = taken(event, 200, r#"{"refuse":{"code":486,"reason":"busy"}}"#);
            assert_eq!((message.get("code"), message.get("reason")), (Some("486"), Some("busy")));
            assert!(!message.is_accepted);
        }
    }

    #[test]
    fn a_code_that_takes_a_header_is_no_refusal() {
        for event in [Event::Auth, Event::Register, Event::Route] {
            for code in 400..700 {
                let body = format!(r#"{{"refuse":{{"code":{code}}}}}"#);
                let (handling, message) = taken(event, 200, &body);
                // A call is challenged, since that is known how.
                let is_bare = code == 423 || (matches!(code, 401 | 407) && event != Event::Route);
                if is_bare {
                    assert_eq!((handling, &*message.retval), (Err(Garbage::Bare(code)), ""));
                    assert_eq!(message.get("code"), None);
                } else {
                    assert_eq!(handling, Ok(Handling::Handled), "{event:?} {code}");
                }
            }
        }
    }

    #[test]
    fn who_has_no_objection_leaves_it_to_others() {
        for (status, body) in [(200, ""), (204, ""), (200, "{}"), (201, r#"{"expires":60}"#)] {
            let (handling, message) = taken(Event::Register, status, body);
            assert_eq!((handling, message.is_accepted), (Ok(Handling::Passed), true), "{body}");
        }
        let (handling, message) = taken(Event::Register, 404, "");
        assert_eq!((handling, message.is_accepted), (Ok(Handling::Passed), false));
        assert_eq!(taken(Event::Register, 200, r#"{"expires":60}"#).1.get("expires"), Some("60"));
    }

    #[test]
    fn targets_ring_together_or_in_turn() {
        let both = r#"{"targets":["sip:a@h","sip:b@h"],"fork":true}"#;
        assert_eq!(taken(Event::Route, 200, both).1.retval, "fork sip:a@h sip:b@h");
        let (_, message) = taken(Event::Route, 200, r#"{"targets":["sip:a@h","sip:b@h"]}"#);
        assert_eq!((&*message.retval, message.further), ("sip:a@h", vec!["sip:b@h".to_owned()]));
    }

    #[test]
    fn garbage_is_no_answer() {
        let cases = [
            (Event::Auth, 500, "", "it answered 500"),
            (Event::Auth, 302, "", "it answered 302"),
            (Event::Auth, 200, "<html>", "its answer can't be read: it is no object"),
            (Event::Auth, 200, r#"{"ha1":"xy"}"#, "ha1 in its answer is no hash"),
            (
                Event::Auth,
                200,
                r#"{"refuse":{"code":200}}"#,
                "it refuses with 200: expected 400 to 699",
            ),
            (
                Event::Auth,
                200,
                r#"{"refuse":{"reason":"a\r\nX: y"}}"#,
                "reason in its answer has a line end or another control character",
            ),
            (
                Event::Auth,
                200,
                r#"{"password":"x","params":{"a":"b\nc"}}"#,
                "params in its answer has a line end or another control character",
            ),
            (
                Event::Auth,
                200,
                r#"{"password":"-"}"#,
                "its answer can't be read: `-` is no password",
            ),
            (
                Event::Route,
                200,
                r#"{"targets":["sip:a@h\r\nVia: x"]}"#,
                "targets in its answer has a line end or another control character",
            ),
            (
                Event::Route,
                200,
                r#"{"targets":["fork sip:a@h"]}"#,
                "its answer can't be read: a target with a blank in it",
            ),
            (
                Event::Route,
                200,
                r#"{"targets":["sip:a@h","200"]}"#,
                "200 in its answer is no target",
            ),
        ];
        for (event, status, body, expected) in cases {
            let said = taken(event, status, body).0.unwrap_err().to_string();
            assert_eq!(said, expected, "{body}");
        }
        // A slip must not let anybody in.
        assert!(taken(Event::Register, 200, r#"{"refused":{}}"#).0.is_err());
        assert!(taken(Event::Auth, 200, "[]").0.is_err());
    }

    proptest! {
        /// Whatever is answered, what it sets could stand in a header, and what is refused is.
        #[test]
        fn no_answer_breaks_a_header(body in answers(), event in 0..3_usize) {
            let event = [Event::Auth, Event::Register, Event::Route][event];
            let (handling, message) = taken(event, 200, &body);
            for (name, value) in message.params().filter(|_| handling.is_ok()) {
                prop_assert!(!name.contains(char::is_control) && !value.contains(char::is_control));
            }
            if event == Event::Route && handling.is_ok() {
                prop_assert!(!message.retval.contains(char::is_control));
            }
        }
    }

    /// Answers as a receiver might make them, right or not.
    fn answers() -> impl Strategy<Value = String> {
        let names = ["password", "ha1", "expires", "params", "refuse", "targets", "fork", "x"];
        let text = "[a-z\r\n\0 -]{0,6}".prop_map(|text| serde_json::Value::from(text).to_string());
        let value = prop_oneof![
            text.clone(),
            Just("true".to_owned()),
            (0..1000_u16).prop_map(|number| number.to_string()),
            text.clone().prop_map(|text| format!("[{text}]")),
            text.prop_map(|text| format!("{{\"code\":403,\"reason\":{text}}}")),
            Just("{\"a\":\"b\\r\\nc\"}".to_owned()),
        ];
        let member =
            (0..names.len(), value).prop_map(move |(n, v)| format!("\"{}\":{v}", names[n]));
        prop_oneof![
            4 => prop::collection::vec(member, 0..3).prop_map(|m| format!("{{{}}}", m.join(","))),
            1 => ".{0,20}",
        ]
    }
}
