//! What is sent: JSON with Yate's parameters.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
};

use crate::{backend::message::Message, config::hooks::Event, hex::to_hex};

/// Gives out the names of requests, by which a receiver knows one that it has seen.
#[derive(Debug)]
pub(super) struct Ids {
    /// Tells this process from all others.
    run: String,
    last: Cell<u64>,
}

impl Ids {
    pub(super) fn new() -> Self {
        let mut octets = [0; 12];
        // Without random numbers nothing else would have started.
        let _ = getrandom::fill(&mut octets);
        Self { run: to_hex(&octets), last: Cell::new(0) }
    }

    pub(super) fn next(&self) -> String {
        self.last.set(self.last.get() + 1);
        format!("{}-{}", self.run, self.last.get())
    }
}

/// A JSON object that is written member by member, in this order.
#[derive(Debug)]
pub(super) struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    /// What all requests begin with.
    pub(super) fn of(event: Event, id: &str, hook: &str, unix: u64) -> Self {
        let mut object = Self::new();
        object.text("id", id);
        object.text("event", event.as_str());
        object.text("hook", hook);
        object.raw("time", unix);
        object
    }

    fn raw(&mut self, name: &str, value: impl fmt::Display) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}{}:{value}", quoted(name));
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.raw(name, quoted(value));
    }

    /// A message's parameters, as Yate has them: texts, under Yate's names.
    pub(super) fn params(&mut self, name: &str, message: &Message) {
        self.raw(name, params(message));
    }

    /// The parameters of several messages.
    pub(super) fn list(&mut self, name: &str, messages: &[Message]) {
        let all: Vec<String> = messages.iter().map(params).collect();
        self.raw(name, format_args!("[{}]", all.join(",")));
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push('}');
        self.0.into_bytes()
    }
}

fn params(message: &Message) -> String {
    let mut object = Object::new();
    for (name, value) in message.params() {
        object.text(name, value);
    }
    object.0.push('}');
    object.0
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::message::MessageName;

    #[test]
    fn any_text_is_json() {
        let mut message = Message::new(MessageName::UserAuth);
        message.set("username", "a\"b\\\n\u{0}é");
        message.set("z", "");
        message.set("a", "1");
        let mut object = Object::of(Event::Auth, "r-1", "crm", 7);
        object.params("params", &message);
        object.list("bindings", &[message.clone(), Message::new(MessageName::UserRegister)]);
        let octets = object.finish();
        let json: serde_json::Value = serde_json::from_slice(&octets).unwrap();
        assert_eq!(json["params"]["username"], "a\"b\\\n\u{0}é");
        assert_eq!(json["bindings"][1], serde_json::json!({}));
        assert_eq!((&json["time"], &json["event"]), (&7.into(), &"auth".into()));
        // In Yate's order.
        let text = String::from_utf8(octets).unwrap();
        assert!(
            text.starts_with("{\"id\":\"r-1\",\"event\":\"auth\",\"hook\":\"crm\",\"time\":7,")
        );
        assert!(text.contains("\"z\":\"\",\"a\":\"1\"}"));
    }

    #[test]
    fn no_two_requests_have_one_name() {
        let (ids, others) = (Ids::new(), Ids::new());
        assert_ne!(ids.next(), ids.next());
        assert_ne!(Ids::new().next(), others.next());
    }
}
