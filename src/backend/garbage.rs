//! Answers of handlers that mean nothing: counted, and logged within a rate.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{message::MessageName, status::Status};

/// What goes on is logged once in so long, for each handler.
const LOGGED: Duration = Duration::from_secs(60);

/// Octets of what is logged.
const SHOWN: usize = 128;

/// Who hears of what can't be used.
#[derive(Debug)]
pub(super) struct Garbage {
    status: Arc<Status>,
    /// When each handler was last logged; there are as many as are configured or installed.
    logged: RefCell<Vec<(Rc<str>, Instant)>>,
}

impl Garbage {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self { status, logged: RefCell::default() }
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
        let now = Instant::now();
        let mut logged = self.logged.borrow_mut();
        logged.retain(|(_, at)| now < *at + LOGGED);
        let is_due = logged.iter().all(|(known, _)| known != handler);
        if is_due {
            logged.push((Rc::clone(handler), now));
        }
        is_due
    }
}

/// What a handler said, as far as a line of the log has room for it.
pub(super) fn shown(what: &str) -> String {
    let mut end = what.len().min(SHOWN);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    what.get(..end).unwrap_or_default().escape_debug().to_string()
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
        assert_eq!(shown("a\r\nb"), "a\\r\\nb");
        assert_eq!(shown(&"ü".repeat(100)).chars().count(), 64);
    }
}
