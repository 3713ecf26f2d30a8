//! Any line of an external module: it is read without harm, and what is read says the same when it
//! is written and read again.

use bindery::backend::{
    message::{Message, MessageName},
    script::line::{Command, Param, Shown, escape_into, message_into, outcome_into, unescape},
};

/// Checks the lines of `octets`.
pub(crate) fn check(octets: &[u8]) {
    for line in octets.split(|&b| b == b'\n') {
        check_line(line);
    }
}

fn check_line(line: &[u8]) {
    let _ = Shown(line).to_string();
    for field in line.split(|&b| b == b':') {
        let Ok(text) = unescape(field) else { continue };
        let mut again = Vec::new();
        escape_into(&mut again, text.as_bytes());
        assert!(!again.iter().any(|octet| *octet < 0x20 || *octet == b':'), "it could end a field");
        assert_eq!(unescape(&again), Ok(text));
    }
    let Ok(Command::Message(sent)) = Command::parse(line) else { return };
    let set: Vec<(&str, &str)> = sent
        .params
        .iter()
        .filter_map(|param| match param {
            // A `=` that is escaped is written and never read, as with Yate.
            Param::Set(name, value) if !name.is_empty() && !name.contains('=') => {
                Some((&**name, &**value))
            }
            Param::Set(..) | Param::Remove(_) => None,
        })
        .collect();
    let mut written = Vec::new();
    outcome_into(&mut written, &sent.id, true, &sent.name, &sent.retval, set.iter().copied());
    let Some((b'\n', written)) = written.split_last() else { panic!("no line end") };
    let Ok(Command::Answer(answer)) = Command::parse(written) else {
        panic!("{}", written.escape_ascii())
    };
    assert_eq!((&answer.id, answer.handled), (&sent.id, true));
    match answer.changes {
        Some(changes) => {
            assert_eq!((&changes.name, &changes.retval), (&sent.name, &sent.retval));
            let read: Vec<Param> =
                set.iter().map(|(n, v)| Param::Set((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(changes.params, read);
        }
        None => panic!("the name is lost"),
    }

    let mut message = Message::new(MessageName::UserAuth);
    message.retval = sent.retval;
    for (name, value) in set {
        message.set(name, value);
    }
    let mut written = Vec::new();
    message_into(&mut written, &sent.id, sent.time, &message);
    let Some((b'\n', written)) = written.split_last() else { panic!("no line end") };
    let Ok(Command::Message(again)) = Command::parse(written) else {
        panic!("{}", written.escape_ascii())
    };
    assert_eq!((again.id, again.time, again.retval), (sent.id, sent.time, message.retval.clone()));
    assert_eq!(again.params.len(), message.params().count());
}
