//! What is told of a call besides its records: Yate's `chan.startup`, `call.execute` and
//! `chan.hangup`, made of those.

use std::collections::HashMap;

use crate::backend::message::{Message, MessageName};

/// Of calls in progress, what messages about the other leg need.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The caller's leg, by `billid`.
    callers: HashMap<Box<str>, Caller>,
}

#[derive(Debug)]
struct Caller {
    chan: Box<str>,
    address: Box<str>,
}

impl Told {
    /// What happens when this record is made, in order.
    pub(super) fn of(&mut self, record: &Message) -> Vec<Message> {
        let value = |name| record.get(name).unwrap_or_default();
        let billid = value("billid");
        match (value("operation"), value("direction")) {
            ("initialize", "incoming") => {
                let (chan, address) = (value("chan").into(), value("address").into());
                self.callers.insert(billid.into(), Caller { chan, address });
                vec![startup(record)]
            }
            ("initialize", _) => {
                let executed = self.callers.get(billid).map(|caller| execute(record, caller));
                executed.into_iter().chain([startup(record)]).collect()
            }
            ("finalize", direction) => {
                if direction == "incoming" {
                    self.callers.remove(billid);
                }
                vec![hangup(record)]
            }
            _ => Vec::new(),
        }
    }
}

/// A message about a leg, with the parameters that Yate gives all of them.
fn about(name: MessageName, [id, status, address, direction]: [&str; 4], of: &Message) -> Message {
    let mut message = Message::new(name);
    message.set("id", id);
    message.set("module", "sip");
    message.set("status", status);
    if !address.is_empty() {
        message.set("address", address);
    }
    message.set("billid", of.get("billid").unwrap_or_default());
    let is_answered = of.get("status") == Some("answered");
    message.set("answered", if is_answered { "true" } else { "false" });
    message.set("direction", direction);
    message.set("callid", of.get("callid").unwrap_or_default());
    message
}

fn own(name: MessageName, record: &Message) -> Message {
    let of = ["chan", "status", "address", "direction"];
    about(name, of.map(|name| record.get(name).unwrap_or_default()), record)
}

/// Who calls whom.
fn set_parties(message: &mut Message, record: &Message) {
    for name in ["caller", "called", "username"] {
        if let Some(value) = record.get(name) {
            message.set(name, value);
        }
    }
}

fn startup(record: &Message) -> Message {
    let mut message = own(MessageName::ChanStartup, record);
    set_parties(&mut message, record);
    message
}

/// The leg of `record` begins because `caller`'s is to go there. Where that is, is known once
/// somebody has answered; until then it is whom.
fn execute(record: &Message, caller: &Caller) -> Message {
    let leg = [&*caller.chan, "incoming", &*caller.address, "incoming"];
    let mut message = about(MessageName::CallExecute, leg, record);
    set_parties(&mut message, record);
    let external = record.get("external").unwrap_or_default();
    message.set(
        "callto",
        match record.get("address") {
            Some(address) => format!("sip/sip:{external}@{address}"),
            None => format!("sip/sip:{external}"),
        },
    );
    message
}

fn hangup(record: &Message) -> Message {
    let mut message = own(MessageName::ChanHangup, record);
    if let Some(reason) = record.get("reason") {
        message.set("reason", reason);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(of: &[(&str, &str)]) -> Message {
        let mut record = Message::new(MessageName::CallCdr);
        let always = [("billid", "7-1"), ("callid", "abc"), ("caller", "100"), ("called", "200")];
        for (name, value) in of.iter().chain(&always) {
            record.set(name, *value);
        }
        record
    }

    fn shown(messages: &[Message]) -> Vec<String> {
        let shown = |message: &Message| {
            let param = |(name, value)| format!(" {name}={value}");
            format!("{}{}", message.name, message.params().map(param).collect::<String>())
        };
        messages.iter().map(shown).collect()
    }

    #[test]
    fn a_call_is_told_leg_by_leg() {
        let mut told = Told::default();
        let incoming =
            [("chan", "sip/1"), ("direction", "incoming"), ("address", "192.0.2.1:5060")];
        let outgoing = [("chan", "sip/2"), ("direction", "outgoing"), ("external", "200")];
        let mut of = |leg: &[(&str, &str)], operation, status| {
            let mut record = record(leg);
            record.set("operation", operation);
            record.set("status", status);
            record.set("reason", "busy");
            shown(&told.of(&record))
        };
        assert_eq!(
            of(&incoming, "initialize", "incoming"),
            ["chan.startup id=sip/1 module=sip status=incoming address=192.0.2.1:5060 billid=7-1 \
              answered=false direction=incoming callid=abc caller=100 called=200"]
        );
        assert_eq!(
            of(&outgoing, "initialize", "outgoing"),
            [
                "call.execute id=sip/1 module=sip status=incoming address=192.0.2.1:5060 \
                 billid=7-1 answered=false direction=incoming callid=abc caller=100 called=200 \
                 callto=sip/sip:200",
                "chan.startup id=sip/2 module=sip status=outgoing billid=7-1 answered=false \
                 direction=outgoing callid=abc caller=100 called=200",
            ]
        );
        assert!(of(&outgoing, "update", "answered").is_empty());
        assert_eq!(
            of(&outgoing, "finalize", "answered"),
            ["chan.hangup id=sip/2 module=sip status=answered billid=7-1 answered=true \
              direction=outgoing callid=abc reason=busy"]
        );
        assert_eq!(of(&incoming, "finalize", "answered").len(), 1);
        assert!(of(&incoming, "combined", "answered").is_empty());
        assert!(told.callers.is_empty());
    }
}
