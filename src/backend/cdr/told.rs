//! What is told of a call besides its records: Yate's `chan.startup`, `call.execute` and
//! `chan.hangup`, made of those.

use crate::backend::message::{Message, MessageName};

/// What happens when this record is made: before it is told, and after.
pub(super) fn of(record: &Message) -> [Option<Message>; 2] {
    match (record.get("operation"), record.get("direction")) {
        // A call is one once it goes somewhere.
        (Some("initialize"), Some("incoming")) => [Some(startup(record)), Some(execute(record))],
        (Some("initialize"), _) => [Some(startup(record)), None],
        (Some("finalize"), _) => [Some(hangup(record)), None],
        _ => [None, None],
    }
}

/// A message about the leg of a record, with the parameters that Yate gives all of them.
fn about(name: MessageName, record: &Message) -> Message {
    let value = |name| record.get(name).unwrap_or_default();
    let mut message = Message::new(name);
    message.set("id", value("chan"));
    message.set("module", "sip");
    message.set("status", value("status"));
    if let Some(address) = record.get("address") {
        message.set("address", address);
    }
    message.set("billid", value("billid"));
    let is_answered = value("status") == "answered";
    message.set("answered", if is_answered { "true" } else { "false" });
    message.set("direction", value("direction"));
    message.set("callid", value("callid"));
    message
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
    let mut message = about(MessageName::ChanStartup, record);
    set_parties(&mut message, record);
    message
}

/// `callto` says whom it is for: where that is, is the proxy's to find out.
fn execute(record: &Message) -> Message {
    let mut message = about(MessageName::CallExecute, record);
    set_parties(&mut message, record);
    let called = record.get("called").unwrap_or_default();
    message.set("callto", format!("sip/sip:{called}"));
    message
}

fn hangup(record: &Message) -> Message {
    let mut message = about(MessageName::ChanHangup, record);
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

    fn shown(messages: [Option<Message>; 2]) -> Vec<String> {
        let shown = |message: &Message| {
            let param = |(name, value)| format!(" {name}={value}");
            format!("{}{}", message.name, message.params().map(param).collect::<String>())
        };
        messages.iter().flatten().map(shown).collect()
    }

    #[test]
    fn a_call_is_told_leg_by_leg() {
        let incoming =
            [("chan", "sip/1"), ("direction", "incoming"), ("address", "192.0.2.1:5060")];
        let outgoing = [("chan", "sip/2"), ("direction", "outgoing")];
        let told = |leg: &[(&str, &str)], operation, status| {
            let mut record = record(leg);
            record.set("operation", operation);
            record.set("status", status);
            record.set("reason", "busy");
            shown(of(&record))
        };
        let about = "id=sip/1 module=sip status=incoming address=192.0.2.1:5060 billid=7-1 \
                     answered=false direction=incoming callid=abc caller=100 called=200";
        assert_eq!(
            told(&incoming, "initialize", "incoming"),
            [format!("chan.startup {about}"), format!("call.execute {about} callto=sip/sip:200"),]
        );
        assert_eq!(
            told(&outgoing, "initialize", "outgoing"),
            ["chan.startup id=sip/2 module=sip status=outgoing billid=7-1 answered=false \
              direction=outgoing callid=abc caller=100 called=200"]
        );
        assert!(told(&outgoing, "update", "answered").is_empty());
        assert_eq!(
            told(&outgoing, "finalize", "answered"),
            ["chan.hangup id=sip/2 module=sip status=answered billid=7-1 answered=true \
              direction=outgoing callid=abc reason=busy"]
        );
        assert_eq!(told(&incoming, "finalize", "answered").len(), 1);
        assert!(told(&incoming, "combined", "answered").is_empty());
    }
}
