//! Answers of handlers that mean nothing: counted, and logged within a rate.

use std::{cell::RefCell, fmt::Write as _, rc::Rc, sync::Arc};

use super::{message::MessageName, spool::Complaint, status::Status};

/// Octets of what is logged.
const SHOWN: usize = 128;

/// Who hears of what can't be used.
#[derive(Debug)]
pub(super) struct Garbage {
    status: Arc<Status>,
    /// There are as many handlers as are configured or installed.
    complaints: RefCell<Vec<(Rc<str>, Complaint)>>,
}

impl Garbage {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self { status, complaints: RefCell::default() }
    }

    /// A handler has answered a message with `what`, which is no target.
    pub(super) fn tell(&self, handler: &Rc<str>, name: MessageName, what: &str) {
        self.status.garbage(handler, name);
        if self.is_due(handler) {
            let shown = shown(what);
            tracing::error!(%handler, "{name}: {shown} is no target");
        }
    }

    fn is_due(&self, handler: &Rc<str>) -> bool {
        let mut complaints = self.complaints.borrow_mut();
        if let Some((_, known)) = complaints.iter().find(|(known, _)| known == handler) {
            return known.is_due();
        }
        let complaint = Complaint::default();
        let is_due = complaint.is_due();
        complaints.push((Rc::clone(handler), complaint));
        is_due
    }
}

/// What a handler said, as far as a line of the log has room for it.
pub(super) fn shown(what: &str) -> String {
    let mut end = what.len().min(SHOWN);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    on_one_line(what.get(..end).unwrap_or_default())
}

/// What a handler said, on one line. Quotes stay as they are: nothing ends at them.
pub(super) fn on_one_line(what: &str) -> String {
    let mut shown = String::with_capacity(what.len());
    for c in what.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            // Writing to a string does not fail.
            c => drop(write!(shown, "{}", c.escape_debug())),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handler_is_counted_always_and_logged_once_a_minute() {
        let status = Arc::new(Status::default());
        let garbage = Garbage::new(Arc::clone(&status));
        let [a, b]: [Rc<str>; 2] = ["a".into(), "b".into()];
        assert_eq!([&a, &a, &b, &a].map(|name| garbage.is_due(name)), [true, false, true, false]);
        garbage.tell(&a, MessageName::CallRoute, "nonsense");
        garbage.tell(&a, MessageName::CallRoute, "nonsense");
        let told: Vec<_> = status.garbages();
        assert_eq!(told.len(), 1);
        assert_eq!((&*told[0].0.backend, told[0].0.query, told[0].1), ("a", "call.route", 2));
    }

    #[test]
    fn what_is_logged_is_short_and_has_no_line_end() {
        assert_eq!(shown("a\r\nb\u{1b}"), "a\\r\\nb\\u{1b}");
        assert_eq!(shown("\"it's\" \\"), "\"it's\" \\\\");
        assert_eq!(shown(&"ü".repeat(100)).chars().count(), 64);
    }
}
