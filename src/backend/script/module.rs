//! What is known of one external module: what it has installed, what it was asked, what it is still
//! to be sent. No pipe and no socket: lines come in, and octets are taken out.

mod ask;
mod obey;
mod questions;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    fmt,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use self::{obey::MAX_NAMES, questions::Questions};
use super::{
    line::{self, Answer, Sent},
    rate::{Credit, Rate},
};
use crate::{
    backend::{
        chain::Watcher,
        message::{Message, MessageName},
        status::Status,
    },
    config::{bounds, extmodule},
    time::SystemClock,
};

/// The longest that anybody is waited for, by `timeout=0` too: a request has to come back some time.
const LONGEST: Duration = Duration::from_millis(bounds::SCRIPT_TIMEOUT.ceiling as u64);

/// Octets that may wait to be taken by a module that doesn't read, before it is told nothing more that
/// it watches.
const MAX_WATCHED: usize = 2 << 20;

/// Octets of that which are handed over for writing at a time: what is to be asked then is behind them.
const SEEN_AT_ONCE: usize = 4 << 10;

/// The same, before it is not listened to: what it says draws answers. Questions are not among them,
/// so that it can always answer those.
const MAX_OUT: usize = 4 << 20;

/// Octets of the longest line that a module is sent, with its end: who reads lines into such a buffer,
/// as asyncio does, would lose its place.
const LONGEST_LINE: usize = bounds::SCRIPT_LINE.ceiling as usize;

/// A module that takes nothing of what waits for so long will not take any more.
const STUCK: Duration = Duration::from_secs(60);

/// How long one that has connected may take to say so.
const CONNECTS: Duration = Duration::from_secs(10);

/// Lines a second that a module may put into the log.
const LOGGED: u32 = 100;

/// Lines a second that we may put there about it.
const COMPLAINTS: u32 = 10;

/// Lines a second that mean nothing, before a module is not listened to for the rest of it.
const MISTAKES: u32 = 200;

/// Lines a second that are no answers, before a module is not listened to for a moment.
const UNASKED: u32 = 1000;

/// What a module is started with.
#[derive(Clone)]
pub(super) struct Beginning {
    /// Tells it from others of this process.
    pub(super) number: u32,
    /// For logs and metrics.
    pub(super) name: Rc<str>,
    pub(super) settings: extmodule::Module,
    /// Whether it is started again when it ends; `None` where it is not we who start it.
    pub(super) restart: Option<bool>,
    /// Whether it has to say first what it is.
    pub(super) has_to_connect: bool,
    pub(super) status: Arc<Status>,
    pub(super) clock: Arc<SystemClock>,
    /// Who is shown each line.
    pub(super) tap: Option<Tap>,
}

/// Is shown each line, and whether it comes from the module.
pub(super) type Tap = Rc<dyn Fn(bool, &[u8])>;

/// One external module.
pub(super) struct Module {
    pub(super) name: Rc<str>,
    pub(super) number: u32,
    state: RefCell<State>,
    /// There is something to write, or to end.
    stirred: Notify,
    began: Instant,
    /// While it says too much that means nothing.
    held: Cell<Option<Instant>>,
    mistakes: Rate,
    unasked: Credit,
    logged: Rate,
    complaints: Rate,
    status: Arc<Status>,
    clock: Arc<SystemClock>,
    tap: Option<Tap>,
    /// Whether it has yet to answer `engine.timer`.
    pub(super) has_timer: Cell<bool>,
    /// Whether it was told of `engine.start`.
    pub(super) is_started: Cell<bool>,
}

struct State {
    settings: extmodule::Module,
    is_connected: bool,
    restart: Option<bool>,
    reenter: bool,
    selfwatch: bool,
    /// What it has set that has no effect here.
    others: HashMap<String, String>,
    installed: Vec<Installed>,
    /// Of messages that there are none of here.
    inert: Vec<Installed>,
    watched: Vec<String>,
    /// Who waits for which answer.
    pending: HashMap<u64, oneshot::Sender<Answered>>,
    questions: Questions,
    /// Messages of its own that are under way, and their octets.
    sent: usize,
    sent_octets: usize,
    /// What is to be written, and next.
    out: BytesMut,
    /// What it watches: it is told once there is nothing to ask.
    seen: VecDeque<Vec<u8>>,
    /// Octets of that.
    seen_octets: usize,
    /// Since when nothing of `out` was taken.
    untaken: Option<Instant>,
    /// Why it is to end.
    ends: Option<Box<str>>,
    /// Whether it goes of its own accord.
    has_quit: bool,
    /// What it was warned of.
    warned: Vec<String>,
}

/// What a module handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) priority: i32,
    pub(super) name: String,
    pub(super) filter: Option<(String, String)>,
}

impl Installed {
    /// Whether it wants this message.
    pub(super) fn takes(&self, message: &Message) -> bool {
        self.filter.as_ref().is_none_or(|(name, value)| message.get(name) == Some(value))
    }
}

/// What comes of a question.
#[derive(Debug)]
enum Answered {
    By(Answer),
    /// By a line that means nothing.
    Malformed,
    /// By a line longer than may be.
    TooLong,
}

/// What a line asks for that a module can't do for itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It has installed or uninstalled something that there is, or watches something else.
    Installed,
    /// This is to be dispatched.
    Sent(Sent),
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Module {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning { number, name, settings, restart, has_to_connect, status, clock, tap } =
            beginning;
        let questions = Questions::new(waits(settings.timeout));
        let state = State {
            settings,
            is_connected: !has_to_connect,
            restart,
            reenter: false,
            selfwatch: false,
            others: HashMap::new(),
            installed: Vec::new(),
            inert: Vec::new(),
            watched: Vec::new(),
            pending: HashMap::new(),
            questions,
            sent: 0,
            sent_octets: 0,
            out: BytesMut::new(),
            seen: VecDeque::new(),
            seen_octets: 0,
            untaken: None,
            ends: None,
            has_quit: false,
            warned: Vec::new(),
        };
        Self {
            name,
            number,
            state: RefCell::new(state),
            stirred: Notify::new(),
            began: Instant::now(),
            held: Cell::new(None),
            mistakes: Rate::new(MISTAKES),
            unasked: Credit::new(UNASKED),
            logged: Rate::new(LOGGED),
            complaints: Rate::new(COMPLAINTS),
            status,
            clock,
            tap,
            has_timer: Cell::new(false),
            is_started: Cell::new(false),
        }
    }

    /// What it handles of what there is.
    pub(super) fn handles(&self) -> Vec<Installed> {
        self.state.borrow().installed.clone()
    }

    /// What it has installed, whether there is such a message or not.
    pub(super) fn installed(&self) -> Vec<Installed> {
        let state = self.state.borrow();
        state.installed.iter().chain(&state.inert).cloned().collect()
    }

    /// Whether it has installed anything.
    pub(super) fn has_installed(&self) -> bool {
        let state = self.state.borrow();
        !state.installed.is_empty() || !state.inert.is_empty()
    }

    /// Whether it handles messages of this name, with whatever parameters.
    pub(super) fn is_handling(&self, name: MessageName) -> bool {
        self.state.borrow().installed.iter().any(|installed| installed.name == name.as_str())
    }

    /// Goes by other settings from now on, but for what it has set itself.
    pub(super) fn renew(&self, old: &extmodule::Module, new: &extmodule::Module) {
        fn set<T: Clone + PartialEq>(own: &mut T, old: &T, new: &T) {
            if own == old {
                own.clone_from(new);
            }
        }
        let mut state = self.state.borrow_mut();
        let State { settings: own, questions, .. } = &mut *state;
        set(&mut own.timeout, &old.timeout, &new.timeout);
        set(&mut own.timebomb, &old.timebomb, &new.timebomb);
        set(&mut own.maxqueue, &old.maxqueue, &new.maxqueue);
        set(&mut own.bufsize, &old.bufsize, &new.bufsize);
        set(&mut own.settime, &old.settime, &new.settime);
        questions.set_timeout(waits(own.timeout));
    }

    /// Whether it watches anything.
    pub(super) fn watches(&self) -> bool {
        !self.state.borrow().watched.is_empty()
    }

    /// Whether it watches messages of this name.
    pub(super) fn is_watching(&self, name: MessageName) -> bool {
        let state = self.state.borrow();
        state.watched.iter().any(|watched| watched.is_empty() || watched == name.as_str())
    }

    /// Whether it is started again when it ends.
    pub(super) fn restarts(&self) -> bool {
        let state = self.state.borrow();
        state.restart.unwrap_or(false) && !state.has_quit
    }

    /// Whether it has gone of its own accord.
    pub(super) fn has_quit(&self) -> bool {
        self.state.borrow().has_quit
    }

    /// How many messages it is well asked at once.
    pub(super) fn at_once(&self) -> usize {
        const MOST: usize = 64;
        match self.state.borrow().settings.maxqueue {
            0 => MOST,
            maxqueue => (maxqueue / 2).clamp(1, MOST),
        }
    }

    /// Octets of its longest line, with the end.
    pub(super) fn bufsize(&self) -> usize {
        self.state.borrow().settings.bufsize
    }

    /// Until when it is not listened to; `None` if it is. While it doesn't read what it is answered
    /// it is not listened to either.
    pub(super) fn held(&self) -> Option<Instant> {
        let held = self.held.get().filter(|until| *until > Instant::now());
        self.held.set(held);
        held
    }

    /// It is not listened to until then, nor sooner than was said before.
    fn hold(&self, until: Instant) {
        self.held.set(self.held.get().max(Some(until)));
    }

    /// It says what nobody has asked for.
    pub(super) fn says_unasked(&self) {
        if let Some(until) = self.unasked.spend(Instant::now) {
            self.hold(until);
        }
    }

    /// Whether it may be listened to.
    pub(super) fn may_read(&self) -> bool {
        self.state.borrow().out.len() < MAX_OUT && self.held().is_none()
    }

    /// Waits until there is something to write, or to end.
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Whether there is something to write.
    pub(super) fn has_out(&self) -> bool {
        !self.state.borrow().out.is_empty()
    }

    /// Has `write` write, and say how much of it.
    pub(super) fn write_out<E>(
        &self,
        write: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let mut state = self.state.borrow_mut();
        let written = write(&state.out)?.min(state.out.len());
        if written > 0 {
            state.untaken = None;
        }
        state.out.advance(written);
        state.hand_over();
        Ok(())
    }

    /// Ends it if it does nothing for too long of what it has to; called now and then.
    pub(super) fn check(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        // Time alone may have it be asked more.
        state.hand_over();
        self.stirred.notify_one();
        if state.out.is_empty() {
            state.untaken = None;
        } else {
            state.untaken.get_or_insert(now);
        }
        let patience = STUCK.max(state.settings.timeout);
        let is_stuck = state.untaken.is_some_and(|since| now >= since + patience);
        let is_silent = !state.is_connected && now >= self.began + CONNECTS;
        drop(state);
        if is_stuck {
            self.end(&format!("it has taken nothing of what it was told for {patience:?}"));
        } else if is_silent {
            self.end(&format!("it has not said %%>connect in {CONNECTS:?}"));
        }
    }

    /// Why it is to end, if it is.
    pub(super) fn ends(&self) -> Option<Box<str>> {
        self.state.borrow().ends.clone()
    }

    /// Has it end, once what it is to be told is written.
    pub(super) fn end(&self, why: &str) {
        self.state.borrow_mut().ends.get_or_insert_with(|| why.into());
        self.stirred.notify_one();
    }

    /// It has ended: whoever waits for it need not.
    pub(super) fn gone(&self) {
        let mut state = self.state.borrow_mut();
        state.ends.get_or_insert_with(|| "it has ended".into());
        state.pending.clear();
        state.installed.clear();
        state.inert.clear();
        state.watched.clear();
    }

    /// Logs what it says, within the rate.
    pub(super) fn log(&self, log: impl FnOnce()) {
        self.log_within(&self.logged, log);
    }

    /// Logs what is wrong with it, within the rate.
    fn complain(&self, log: impl FnOnce()) {
        self.log_within(&self.complaints, log);
    }

    fn log_within(&self, rate: &Rate, log: impl FnOnce()) {
        let left_out = |lines| tracing::warn!(script = %self.name, "{lines} lines were left out");
        if rate.allows(left_out) {
            log();
        }
    }

    fn warn_once(&self, what: &str) {
        let mut state = self.state.borrow_mut();
        if state.warned.len() < MAX_NAMES && !state.warned.iter().any(|known| known == what) {
            state.warned.push(what.to_owned());
            drop(state);
            self.complain(|| tracing::warn!(script = %self.name, "{what}"));
        }
    }

    fn reply(&self, keyword: &str, fields: &[&str]) {
        self.say(|out| line::reply_into(out, keyword, fields));
    }

    fn say(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut line = Vec::new();
        write(&mut line);
        if let Some(tap) = &self.tap {
            tap(false, line.trim_ascii_end());
        }
        self.state.borrow_mut().out.extend_from_slice(&line);
        self.stirred.notify_one();
    }
}

impl State {
    /// Has some of the questions that wait written next; without any, some of what it watches.
    fn hand_over(&mut self) {
        self.questions.hand_over(Instant::now(), &mut self.out);
        while self.out.len() < SEEN_AT_ONCE
            && !self.questions.any_waits()
            && let Some(line) = self.seen.pop_front()
        {
            self.seen_octets -= line.len();
            self.out.extend_from_slice(&line);
        }
    }
}

impl Watcher for Module {
    fn see(&self, message: &Message, handled: bool) {
        let state = self.state.borrow();
        let name = message.name.as_str();
        let is_own = message.sender == Some(self.number) && !state.selfwatch;
        let has_room = state.seen_octets < MAX_WATCHED;
        drop(state);
        if !self.is_watching(message.name) || is_own || !has_room {
            return;
        }
        let mut line = Vec::new();
        line::outcome_into(&mut line, "", handled, name, &message.retval, message.params());
        if line.len() > LONGEST_LINE {
            return;
        }
        if let Some(tap) = &self.tap {
            tap(false, line.trim_ascii_end());
        }
        let mut state = self.state.borrow_mut();
        state.seen_octets += line.len();
        state.seen.push_back(line);
        state.hand_over();
        self.stirred.notify_one();
    }
}

/// How long a module is waited for that may take so long.
fn waits(timeout: Duration) -> Duration {
    if timeout.is_zero() { LONGEST } else { timeout.min(LONGEST) }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
