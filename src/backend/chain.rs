//! Handlers in the order of their priorities, as in Yate: the first to handle a message ends its way.

use std::{cell::RefCell, fmt, future::Future, pin::Pin, rc::Rc};

use super::{
    garbage::{Garbage, shown},
    listed::LISTED,
    message::{Message, MessageName},
    route::{self, Targets},
};

/// What a handler made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It is dealt with; no other handler sees it.
    Handled,
    /// Not this handler's; what it set on the message stays.
    Passed,
    /// It could not say.
    Failed(Failure),
}

/// Why a handler could not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the operator.
    pub reason: String,
    /// Whether it is of the handler's own, so that another time may go better; else it is about
    /// this message.
    pub is_outage: bool,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// A handler took it.
    Handled {
        /// Its name.
        by: Rc<str>,
        /// Whether one before it could not say.
        failed: bool,
    },
    /// None did.
    Unhandled,
    /// None did, and not all could say; the first of those.
    Failed(Failure),
}

/// A future of a handler's, on the back ends' thread.
pub type Handles<'m, T = Handling> = Pin<Box<dyn Future<Output = T> + 'm>>;

/// Something that handles messages: a file, a database, a script.
pub trait Handler: fmt::Debug {
    /// Its name, in logs and metrics.
    fn name(&self) -> &Rc<str>;

    /// The priorities at which it wants messages of a name, lower first; none if it doesn't.
    fn priorities(&self, name: MessageName) -> Vec<i32>;

    /// Whether it is there: not if it only keeps the place of somebody who was, or may come.
    fn is_present(&self) -> bool {
        true
    }

    /// Whether it takes more than memory to ask it.
    fn is_remote(&self) -> bool {
        true
    }

    /// Whether it is told behind the answers how AoRs are bound (`user.register`,
    /// `user.unregister`).
    fn follows(&self) -> bool {
        self.is_remote()
    }

    /// What happens to a message that it could not say anything about, if it has a say in that.
    fn on_error(&self) -> Option<OnError> {
        None
    }

    /// What it has to do once before it can say anything.
    fn start(&self) -> Handles<'_, ()> {
        Box::pin(async {})
    }

    /// What keeps it from saying anything, for the operator.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Handles a message that came to it at one of its priorities.
    fn handle<'m>(&'m self, priority: i32, message: &'m mut Message) -> Handles<'m>;

    /// Handles several messages of one name; one after the other, unless it knows better.
    fn handle_all<'m>(
        &'m self,
        priority: i32,
        messages: &'m mut [Message],
    ) -> Handles<'m, Vec<Handling>> {
        Box::pin(async move {
            let mut handlings = Vec::with_capacity(messages.len());
            for message in messages {
                handlings.push(self.handle(priority, message).await);
            }
            handlings
        })
    }
}

/// What happens to a message whose handler could not say (`[backend] on_error`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The next one is asked; if then nobody handled it, that it failed is the answer.
    #[default]
    Next,
    /// That is the answer at once.
    Refuse,
}

/// A handler with the priority and the name of what it wants.
type Placed = (i32, MessageName, Rc<dyn Handler>);

/// Handlers that come and go while messages are under way: what scripts have installed.
#[derive(Clone, Debug, Default)]
pub struct Guests(Rc<RefCell<Present>>);

#[derive(Debug, Default)]
struct Present {
    handlers: Vec<Placed>,
    watchers: Vec<Rc<dyn Watcher>>,
}

/// Somebody who sees what became of messages.
pub trait Watcher: fmt::Debug {
    /// Sees a message that has been through all handlers.
    fn see(&self, message: &Message, handled: bool);
}

impl Guests {
    /// These from now on. A message that is under way goes to those that were there when it began.
    pub(super) fn replace(&self, handlers: Vec<Placed>, watchers: Vec<Rc<dyn Watcher>>) {
        *self.0.borrow_mut() = Present { handlers, watchers };
    }

    /// Whether any wants messages of this name.
    pub fn want(&self, name: MessageName) -> bool {
        self.0.borrow().handlers.iter().any(|(_, wanted, _)| *wanted == name)
    }

    /// Those that want messages of this name.
    pub fn of(&self, name: MessageName) -> Vec<(i32, Rc<dyn Handler>)> {
        let present = self.0.borrow();
        let wanted = present.handlers.iter().filter(|(_, wanted, _)| *wanted == name);
        wanted.map(|(priority, _, handler)| (*priority, Rc::clone(handler))).collect()
    }

    /// Tells those that want a message of it, each on its own and in the order in which it happens;
    /// nobody's answer counts. `failed` hears of each that could not be told.
    pub fn notify(&self, message: &Message, failed: impl Fn() + Clone + 'static) {
        for (priority, handler) in self.of(message.name) {
            let (mut message, failed) = (message.clone(), failed.clone());
            tokio::task::spawn_local(async move {
                if let Handling::Failed(_) = handler.handle(priority, &mut message).await {
                    failed();
                }
            });
        }
        self.see(message, false);
    }

    /// Who wants which messages, and at which priority.
    pub fn wanted(&self) -> Vec<(Rc<str>, MessageName, i32)> {
        let present = self.0.borrow();
        let handlers = present.handlers.iter().filter(|(_, _, handler)| handler.is_present());
        handlers.map(|(at, name, handler)| (Rc::clone(handler.name()), *name, *at)).collect()
    }

    /// Shows those that watch what became of a message.
    pub fn see(&self, message: &Message, handled: bool) {
        for watcher in &self.0.borrow().watchers {
            watcher.see(message, handled);
        }
    }

    /// Who should be there, and isn't.
    pub fn away(&self) -> Vec<Rc<str>> {
        let present = self.0.borrow();
        let away = present.handlers.iter().filter(|(_, _, handler)| handler.fault().is_some());
        let mut names: Vec<Rc<str>> = away.map(|(_, _, who)| Rc::clone(who.name())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn faults(&self) -> Vec<String> {
        self.0.borrow().handlers.iter().filter_map(|(_, _, handler)| handler.fault()).collect()
    }
}

/// All handlers.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    handlers: Vec<Placed>,
    guests: Guests,
    on_error: OnError,
    garbage: Option<Rc<Garbage>>,
}

impl Chain {
    /// These handlers. Those of one priority keep their order.
    pub fn new(handlers: impl IntoIterator<Item = Rc<dyn Handler>>, on_error: OnError) -> Self {
        let mut all = Vec::new();
        for handler in handlers {
            for name in MessageName::ALL {
                for priority in handler.priorities(name) {
                    all.push((priority, name, Rc::clone(&handler)));
                }
            }
        }
        all.sort_by_key(|(priority, ..)| *priority);
        Self { handlers: all, guests: Guests::default(), on_error, garbage: None }
    }

    /// With these between them, after those of the same priority.
    pub fn with_guests(self, guests: Guests) -> Self {
        Self { guests, ..self }
    }

    /// Has `garbage` hear of answers that mean nothing.
    pub(super) fn with_garbage(self, garbage: Garbage) -> Self {
        Self { garbage: Some(Rc::new(garbage)), ..self }
    }

    /// Those that come and go.
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Whether anybody wants messages of this name who is not in memory.
    pub fn has_remote(&self, name: MessageName) -> bool {
        let is_wanted = |(_, wanted, handler): &Placed| *wanted == name && handler.is_remote();
        self.guests.want(name) || self.handlers.iter().any(is_wanted)
    }

    /// Whether anybody is told behind the answers how AoRs are bound.
    pub fn has_followers(&self) -> bool {
        let names = [MessageName::UserRegister, MessageName::UserUnregister];
        let follows = |(_, wanted, handler): &Placed| names.contains(wanted) && handler.follows();
        names.into_iter().any(|name| self.guests.want(name)) || self.handlers.iter().any(follows)
    }

    /// Those that stay and want messages of this name.
    fn fixed(&self, name: MessageName) -> impl Iterator<Item = (i32, Rc<dyn Handler>)> {
        let wanted = self.handlers.iter().filter(move |(_, wanted, _)| *wanted == name);
        wanted.map(|(priority, _, handler)| (*priority, Rc::clone(handler)))
    }

    fn of(&self, name: MessageName) -> Vec<(i32, Rc<dyn Handler>)> {
        let mut all: Vec<_> = self.fixed(name).chain(self.guests.of(name)).collect();
        all.sort_by_key(|(priority, _)| *priority);
        all
    }

    /// Has a message handled, and shows it to those who watch.
    pub async fn dispatch(&self, message: &mut Message) -> Dispatched {
        let dispatched = self.try_dispatch(message).await;
        self.guests.see(message, matches!(dispatched, Dispatched::Handled { .. }));
        dispatched
    }

    async fn try_dispatch(&self, message: &mut Message) -> Dispatched {
        let mut failure = None;
        for (priority, handler) in self.of(message.name) {
            let handling = handler.handle(priority, message).await;
            match self.unless_garbage(handler.name(), message, handling) {
                Handling::Handled => {
                    let by = Rc::clone(handler.name());
                    return Dispatched::Handled { by, failed: failure.is_some() };
                }
                Handling::Passed => {}
                Handling::Failed(reason) => {
                    failure.get_or_insert(reason);
                    if handler.on_error().unwrap_or(self.on_error) == OnError::Refuse {
                        break;
                    }
                }
            }
        }
        failure.map_or(Dispatched::Unhandled, Dispatched::Failed)
    }

    /// What a handler made of a message, but that it could not say where what it said means nothing.
    fn unless_garbage(&self, by: &Rc<str>, message: &mut Message, handling: Handling) -> Handling {
        // What regfile.conf says of a user is no URI's to spell.
        let is_route = message.name == MessageName::CallRoute && **by != *LISTED;
        if handling != Handling::Handled || !is_route {
            return handling;
        }
        let (word, is_all) = match route::targets(message) {
            Targets::Readable => return handling,
            Targets::Partly(word) => (word, false),
            Targets::Unreadable(word) => (word, true),
        };
        if let Some(garbage) = &self.garbage {
            garbage.tell(by, message.name, &word);
        }
        if !is_all {
            return handling;
        }
        message.retval.clear();
        message.further.clear();
        let reason = format!("{by}: {} is no target", shown(&word));
        Handling::Failed(Failure { reason, is_outage: false })
    }

    /// Shows a message to all handlers that want it, whoever handles it, as in Yate goes for
    /// `engine.timer`; whether any handled it.
    pub async fn broadcast(&self, message: &mut Message) -> bool {
        let mut is_handled = false;
        for (priority, handler) in self.of(message.name) {
            // Who fails says so itself, within the rate.
            is_handled |= handler.handle(priority, message).await == Handling::Handled;
        }
        self.guests.see(message, is_handled);
        is_handled
    }

    /// [`Chain::broadcast`] to those only that stay.
    pub async fn broadcast_to_fixed(&self, message: &mut Message) {
        for (priority, handler) in self.fixed(message.name) {
            let _ = handler.handle(priority, message).await;
        }
    }

    /// What keeps handlers from saying anything, each once.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = Vec::new();
        let fixed = self.handlers.iter().filter_map(|(_, _, handler)| handler.fault());
        for fault in fixed.chain(self.guests.faults()) {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        faults
    }

    /// Has messages of one name handled, each handler those together that come to it.
    pub async fn dispatch_all(&self, messages: Vec<Message>) -> Vec<Dispatched> {
        let mut dispatched = vec![Dispatched::Unhandled; messages.len()];
        let Some(name) = messages.first().map(|message| message.name) else { return dispatched };
        let mut open: Vec<(usize, Message)> = messages.into_iter().enumerate().collect();
        for (priority, handler) in self.of(name) {
            let (places, mut batch): (Vec<_>, Vec<_>) = open.into_iter().unzip();
            let handlings = handler.handle_all(priority, &mut batch).await;
            open = Vec::new();
            for ((place, message), handling) in places.into_iter().zip(batch).zip(handlings) {
                let Some(dispatched) = dispatched.get_mut(place) else { continue };
                match handling {
                    Handling::Handled => {
                        self.guests.see(&message, true);
                        let failed = matches!(dispatched, Dispatched::Failed(_));
                        let by = Rc::clone(handler.name());
                        *dispatched = Dispatched::Handled { by, failed };
                        continue;
                    }
                    Handling::Passed => {}
                    Handling::Failed(reason) => {
                        if !matches!(dispatched, Dispatched::Failed(_)) {
                            *dispatched = Dispatched::Failed(reason);
                        }
                        if self.on_error == OnError::Refuse {
                            self.guests.see(&message, false);
                            continue;
                        }
                    }
                }
                open.push((place, message));
            }
        }
        for (_, message) in &open {
            self.guests.see(message, false);
        }
        dispatched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does as it was told, and notes on the message that it was there.
    #[derive(Debug)]
    struct Told(Rc<str>, Vec<i32>, Handling);

    fn told(name: &str, priorities: Vec<i32>, handling: Handling) -> Told {
        Told(name.into(), priorities, handling)
    }

    impl Handler for Told {
        fn name(&self) -> &Rc<str> {
            &self.0
        }

        fn priorities(&self, name: MessageName) -> Vec<i32> {
            if name == MessageName::UserAuth { self.1.clone() } else { Vec::new() }
        }

        fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
            let seen = format!("{}{}", message.get("seen").unwrap_or_default(), self.0);
            message.set("seen", seen);
            Box::pin(async { self.2.clone() })
        }
    }

    fn down() -> Failure {
        Failure { reason: "down".to_owned(), is_outage: true }
    }

    fn failed() -> Handling {
        Handling::Failed(down())
    }

    fn run(handlers: Vec<Told>, on_error: OnError) -> (Dispatched, String) {
        let handlers = handlers.into_iter().map(|h| Rc::new(h) as Rc<dyn Handler>);
        let chain = Chain::new(handlers, on_error);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut message = Message::new(MessageName::UserAuth);
        let dispatched = runtime.block_on(chain.dispatch(&mut message));
        let all = runtime.block_on(chain.dispatch_all(vec![Message::new(MessageName::UserAuth)]));
        assert_eq!(all, std::slice::from_ref(&dispatched));
        (dispatched, message.get("seen").unwrap_or_default().to_owned())
    }

    fn handled(by: &str) -> Dispatched {
        Dispatched::Handled { by: by.into(), failed: false }
    }

    #[test]
    fn the_lowest_priority_goes_first_and_who_handles_ends_it() {
        let handlers = vec![
            told("c", vec![100], Handling::Handled),
            told("a", vec![-5], Handling::Passed),
            told("d", vec![100], Handling::Handled),
            told("b", vec![50], Handling::Passed),
        ];
        assert_eq!(run(handlers, OnError::Next), (handled("c"), "abc".to_owned()));
        let handlers = vec![told("a", vec![1, 2], Handling::Passed)];
        assert_eq!(run(handlers, OnError::Next), (Dispatched::Unhandled, "aa".to_owned()));
    }

    #[test]
    fn who_cannot_say_is_passed_over_but_not_forgotten() {
        let handlers = |last| vec![told("a", vec![1], failed()), told("b", vec![2], last)];
        let down = || Dispatched::Failed(down());
        assert_eq!(
            run(handlers(Handling::Handled), OnError::Next),
            (Dispatched::Handled { by: "b".into(), failed: true }, "ab".to_owned())
        );
        assert_eq!(run(handlers(Handling::Passed), OnError::Next), (down(), "ab".to_owned()));
        assert_eq!(run(handlers(Handling::Handled), OnError::Refuse), (down(), "a".to_owned()));
    }

    #[test]
    fn names_that_nobody_wants_are_unhandled() {
        let chain = Chain::default();
        assert!(!chain.has_remote(MessageName::CallRoute));
    }
}
