//! What is known of one external module: what it has installed, what it was asked, what it is still
//! to be sent. No pipe and no socket: lines come in, and octets are taken out.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
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

use super::line::{self, Answer, Changes, Command, Malformed, Param, Sent};
use crate::{
    backend::{
        chain::{Failure, Handling, Watcher},
        message::{Message, MessageName},
        status::Status,
    },
    config::{bounds, extmodule, values::parse_bool},
    time::{Clock, SystemClock},
};

/// The longest that anybody is waited for, by `timeout=0` too: a request has to come back some time.
const LONGEST: Duration = Duration::from_millis(bounds::SCRIPT_TIMEOUT.ceiling as u64);

/// Octets that may wait to be taken by a module that doesn't read; with more it is asked nothing, is
/// told nothing that it watches, and is not listened to.
const MAX_OUT: usize = 4 << 20;

/// Lines a second that a module may put into the log.
const LOGGED: u32 = 100;

/// Lines a second that mean nothing, before a module is not listened to for the rest of it.
const MISTAKES: u32 = 200;

/// Names that a module may install or watch, and things it may set that nobody knows.
const MAX_NAMES: usize = 256;

/// Messages of its own that may be under way.
const MAX_SENT: usize = 1000;

/// At most so many in each second.
#[derive(Debug)]
pub(super) struct Rate {
    most: u32,
    /// When the second began, and how many there have been in it.
    second: Cell<Option<(Instant, u32)>>,
}

impl Rate {
    pub(super) fn new(most: u32) -> Self {
        Self { most, second: Cell::new(None) }
    }

    /// Counts one more; how many were too many in the second that has just passed, else when the
    /// next begins.
    fn count(&self) -> Counted {
        let now = Instant::now();
        let (begun, count) = self.second.get().unwrap_or((now, 0));
        if now >= begun + Duration::from_secs(1) {
            self.second.set(Some((now, 1)));
            return Counted::Within { left_out: count.saturating_sub(self.most) };
        }
        self.second.set(Some((begun, count + 1)));
        if count < self.most {
            Counted::Within { left_out: 0 }
        } else {
            Counted::Beyond { until: begun + Duration::from_secs(1) }
        }
    }

    /// Whether one more is within the rate; where some were left out, `said` is told.
    pub(super) fn allows(&self, said: impl FnOnce(u32)) -> bool {
        match self.count() {
            Counted::Within { left_out } => {
                if left_out > 0 {
                    said(left_out);
                }
                true
            }
            Counted::Beyond { .. } => false,
        }
    }
}

enum Counted {
    Within { left_out: u32 },
    Beyond { until: Instant },
}

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
    /// While it says too much that means nothing.
    held: Cell<Option<Instant>>,
    mistakes: Rate,
    logged: Rate,
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
    watched: Vec<String>,
    /// Who waits for which answer.
    pending: HashMap<u64, oneshot::Sender<Answer>>,
    asked: u64,
    /// Messages of its own that are under way.
    sent: usize,
    out: BytesMut,
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

/// What a line asks for that a module can't do for itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It has installed or uninstalled something, or watches something else.
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
        let state = State {
            settings,
            is_connected: !has_to_connect,
            restart,
            reenter: false,
            selfwatch: false,
            others: HashMap::new(),
            installed: Vec::new(),
            watched: Vec::new(),
            pending: HashMap::new(),
            asked: 0,
            sent: 0,
            out: BytesMut::new(),
            ends: None,
            has_quit: false,
            warned: Vec::new(),
        };
        Self {
            name,
            number,
            state: RefCell::new(state),
            stirred: Notify::new(),
            held: Cell::new(None),
            mistakes: Rate::new(MISTAKES),
            logged: Rate::new(LOGGED),
            status,
            clock,
            tap,
            has_timer: Cell::new(false),
            is_started: Cell::new(false),
        }
    }

    /// What it handles.
    pub(super) fn installed(&self) -> Vec<Installed> {
        self.state.borrow().installed.clone()
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

    /// Until when it is not listened to; `None` if it is. While it doesn't read it is not listened
    /// to either.
    pub(super) fn held(&self) -> Option<Instant> {
        self.held.get().filter(|until| *until > Instant::now())
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
        state.out.advance(written);
        Ok(())
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
        state.watched.clear();
    }

    /// Takes a line from it.
    pub(super) fn take(&self, line: &[u8]) -> Option<Effect> {
        if line.is_empty() {
            return None;
        }
        if let Some(tap) = &self.tap {
            tap(true, line);
        }
        match Command::parse(line) {
            Ok(Command::Connect { role }) => self.connect(line, &role),
            Ok(_) if !self.state.borrow().is_connected => {
                self.end("it has not said %%>connect first");
                None
            }
            Ok(command) => self.obey(command),
            Err(why) => {
                self.mistake(line, why);
                None
            }
        }
    }

    fn connect(&self, line: &[u8], role: &str) -> Option<Effect> {
        if self.state.borrow().is_connected {
            self.mistake(line, Malformed::Keyword);
        } else if role == "global" {
            self.state.borrow_mut().is_connected = true;
        } else {
            self.end(&format!("role {role}: there is no media here"));
        }
        None
    }

    /// Answers a line that means nothing. What is itself such an answer draws none.
    fn mistake(&self, line: &[u8], why: Malformed) {
        const SHOWN: usize = 200;
        if !self.state.borrow().is_connected {
            return self.end("it has not said %%>connect first");
        }
        if let Counted::Beyond { until } = self.mistakes.count() {
            self.held.set(Some(until));
        }
        if !line.starts_with(line::ERROR) {
            self.say(|out| line::error_into(out, line));
        }
        self.log(|| {
            let line = line.get(..SHOWN).unwrap_or(line).escape_ascii();
            tracing::warn!(script = %self.name, "{why}: {line}");
        });
    }

    fn obey(&self, command: Command) -> Option<Effect> {
        match command {
            Command::Connect { .. } => None,
            Command::Install { priority, name, filter } => {
                let done = self.install(Installed { priority, name: name.clone(), filter });
                self.reply("install", &[&priority.to_string(), &name, bool_text(done)]);
                done.then_some(Effect::Installed)
            }
            Command::Uninstall(name) => {
                let mut state = self.state.borrow_mut();
                let at = state.installed.iter().position(|installed| installed.name == name);
                let removed = at.map(|at| state.installed.remove(at));
                drop(state);
                let priority = removed.as_ref().map_or(0, |removed| removed.priority);
                let done = bool_text(removed.is_some());
                self.reply("uninstall", &[&priority.to_string(), &name, done]);
                removed.map(|_| Effect::Installed)
            }
            Command::Watch(name) => {
                let mut state = self.state.borrow_mut();
                let done = !state.watched.contains(&name) && state.watched.len() < MAX_NAMES;
                if done {
                    state.watched.push(name.clone());
                }
                drop(state);
                self.reply("watch", &[&name, bool_text(done)]);
                done.then_some(Effect::Installed)
            }
            Command::Unwatch(name) => {
                let mut state = self.state.borrow_mut();
                let before = state.watched.len();
                state.watched.retain(|watched| *watched != name);
                let done = state.watched.len() < before;
                drop(state);
                self.reply("unwatch", &[&name, bool_text(done)]);
                done.then_some(Effect::Installed)
            }
            Command::SetLocal { name, value } => {
                let (value, done) = self.set_local(&name, value);
                self.reply("setlocal", &[&name, &value, bool_text(done)]);
                None
            }
            Command::Output(text) => {
                self.log(|| tracing::info!(script = %self.name, "{}", text.escape_debug()));
                None
            }
            Command::Debug { level, text } => {
                self.log(|| self.debug(level, &text));
                None
            }
            Command::Message(sent) => self.send(sent),
            Command::Answer(answer) => {
                self.answer(answer);
                None
            }
            Command::Quit => {
                self.state.borrow_mut().has_quit = true;
                self.reply("quit", &[]);
                self.end("it has quit");
                None
            }
        }
    }

    fn install(&self, installed: Installed) -> bool {
        let mut state = self.state.borrow_mut();
        let is_known = state.installed.iter().any(|known| known.name == installed.name);
        if is_known || state.installed.len() >= MAX_NAMES {
            return false;
        }
        let name = installed.name.clone();
        state.installed.push(installed);
        drop(state);
        if MessageName::parse(&name).is_none() {
            self.warn_once(&format!("{name} is installed, and never sent here"));
        }
        true
    }

    /// A message of its own, unless too many are under way.
    fn send(&self, sent: Sent) -> Option<Effect> {
        let mut state = self.state.borrow_mut();
        if state.sent >= MAX_SENT {
            drop(state);
            let params = sent.params.iter().filter_map(set_of);
            self.say(|out| {
                line::outcome_into(out, &sent.id, false, &sent.name, &sent.retval, params);
            });
            return None;
        }
        state.sent += 1;
        Some(Effect::Sent(sent))
    }

    /// Tells it what became of a message of its own.
    pub(super) fn sent(&self, sent: &Sent, outcome: Option<&Message>, handled: bool) {
        self.state.borrow_mut().sent -= 1;
        if sent.id.is_empty() {
            return;
        }
        self.say(|out| match outcome {
            Some(message) => {
                let (name, retval) = (message.name.as_str(), &message.retval);
                line::outcome_into(out, &sent.id, handled, name, retval, message.params());
            }
            None => {
                let params = sent.params.iter().filter_map(set_of);
                line::outcome_into(out, &sent.id, handled, &sent.name, &sent.retval, params);
            }
        });
    }

    fn answer(&self, answer: Answer) {
        let number = answer.id.strip_prefix(&*self.prefix()).and_then(|rest| rest.parse().ok());
        let waiting =
            number.and_then(|number: u64| self.state.borrow_mut().pending.remove(&number));
        match waiting {
            // Who has given up in this moment doesn't miss it.
            Some(waiting) => drop(waiting.send(answer)),
            None => {
                if let Counted::Beyond { until } = self.mistakes.count() {
                    self.held.set(Some(until));
                }
                self.log(|| {
                    let id = answer.id.escape_debug();
                    tracing::warn!(script = %self.name, "an answer that is late, or nobody asked for: {id}");
                });
            }
        }
    }

    /// What the numbers of its questions begin with.
    fn prefix(&self) -> String {
        format!("0x{:04x}.", self.number)
    }

    /// Asks it to handle a message.
    pub(super) async fn ask(&self, message: &mut Message) -> Handling {
        if message.sender == Some(self.number) && !self.state.borrow().reenter {
            return Handling::Passed;
        }
        let (asked, begun) = (self.begin(message), Instant::now());
        let (number, waiting, timeout) = match asked {
            Ok(asked) => asked,
            Err(why) => return self.failed(why),
        };
        let guard = Guard { module: self, number };
        let answered = tokio::time::timeout(timeout, waiting).await;
        drop(guard);
        self.status.took(&self.name, message.name, begun.elapsed());
        match answered {
            Ok(Ok(answer)) => self.apply(message, answer),
            Ok(Err(_)) => self.failed("it has ended"),
            Err(_) => {
                if self.state.borrow().settings.timebomb {
                    self.end("it has not answered in time (timebomb)");
                }
                self.log(|| {
                    let name = message.name;
                    tracing::warn!(script = %self.name, "{name}: no answer in {timeout:?}");
                });
                self.failed("it does not answer")
            }
        }
    }

    fn failed(&self, why: &str) -> Handling {
        let reason = format!("{}: {why}", self.name);
        Handling::Failed(Failure { reason, is_outage: true })
    }

    /// Puts a question to it: its number, where the answer comes, and how long that may take.
    fn begin(
        &self,
        message: &Message,
    ) -> Result<(u64, oneshot::Receiver<Answer>, Duration), &'static str> {
        let mut state = self.state.borrow_mut();
        let State { settings, pending, asked, out, ends, .. } = &mut *state;
        if ends.is_some() {
            return Err("it has ended");
        }
        if settings.maxqueue > 0 && pending.len() >= settings.maxqueue {
            return Err("as many messages wait for it as may");
        }
        if out.len() >= MAX_OUT {
            return Err("it does not read");
        }
        *asked += 1;
        let (number, (answered, waiting)) = (*asked, oneshot::channel());
        pending.insert(number, answered);
        let timeout = match settings.timeout {
            Duration::ZERO => LONGEST,
            timeout => timeout.min(LONGEST),
        };
        drop(state);
        let (id, time) = (format!("{}{number}", self.prefix()), self.clock.now().unix);
        self.say(|out| line::message_into(out, &id, time, message));
        Ok((number, waiting, timeout))
    }

    /// Does to a message what an answer says.
    fn apply(&self, message: &mut Message, answer: Answer) -> Handling {
        if let Some(Changes { name, retval, params }) = answer.changes {
            if !name.is_empty() && name != message.name.as_str() {
                self.warn_once(&format!(
                    "{} stays what it is: it can't become {name}",
                    message.name
                ));
            }
            message.retval = retval;
            for param in params {
                match param {
                    Param::Set(name, value) if is_harmful(&name, &value) => {
                        self.log(|| {
                            let (name, script) = (name.escape_debug(), &self.name);
                            tracing::warn!(%script, "{name}: a header's value has no line end; left out");
                        });
                    }
                    Param::Set(name, value) => {
                        if name.starts_with("osip_") && message.get(&name).is_none() {
                            self.warn_once(&format!("{name} is not sent to phones yet"));
                        }
                        message.set(&name, value);
                    }
                    Param::Remove(name) => message.remove(&name),
                }
            }
        }
        if answer.handled { Handling::Handled } else { Handling::Passed }
    }

    /// Sets or asks for something about itself: its value now, and whether that went well.
    fn set_local(&self, name: &str, value: String) -> (String, bool) {
        let mut state = self.state.borrow_mut();
        let State { settings, restart, reenter, selfwatch, others, .. } = &mut *state;
        let flag = |of: &mut bool, value: &str| {
            *of = parse_bool(value.as_bytes()).unwrap_or(*of);
            (bool_text(*of).to_owned(), true)
        };
        let clamped = |of: &mut usize, bounds: &bounds::Bounds, value: &str| {
            if let Ok(number) = value.parse::<u32>() {
                let number = number.clamp(bounds.floor, bounds.ceiling);
                *of = usize::try_from(number).unwrap_or(usize::MAX);
            }
            (of.to_string(), value.is_empty() || value.parse::<u32>().is_ok())
        };
        let fixed = |is: &str| (is.to_owned(), value.is_empty());
        match name {
            "timeout" => {
                if let Ok(millis) = value.parse::<i64>() {
                    let millis = u64::try_from(millis).unwrap_or(0);
                    settings.timeout = Duration::from_millis(millis).min(LONGEST);
                }
                (settings.timeout.as_millis().to_string(), true)
            }
            "timebomb" => flag(&mut settings.timebomb, &value),
            "settime" => flag(&mut settings.settime, &value),
            "reenter" => flag(reenter, &value),
            "selfwatch" => flag(selfwatch, &value),
            "restart" => match restart {
                Some(restart) => flag(restart, &value),
                None => (bool_text(false).to_owned(), true),
            },
            "maxqueue" => clamped(&mut settings.maxqueue, &bounds::SCRIPT_QUEUE, &value),
            "bufsize" => clamped(&mut settings.bufsize, &bounds::SCRIPT_LINE, &value),
            "runid" | "engine.runid" => fixed(&std::process::id().to_string()),
            "engine.version" => fixed(env!("CARGO_PKG_VERSION")),
            "engine.software" => fixed("Bindery"),
            "trackparam" | "reason" | "setdata" | "debuglevel" | "debugname" => {
                if !value.is_empty() {
                    others.insert(name.to_owned(), value);
                }
                (others.get(name).cloned().unwrap_or_default(), true)
            }
            _ => match name.strip_prefix("loaded.") {
                Some(module) => fixed(bool_text(LOADED.contains(&module))),
                None => (String::new(), false),
            },
        }
    }

    fn debug(&self, level: u8, text: &str) {
        let (script, text) = (&self.name, text.escape_debug());
        match level {
            0..=3 => tracing::error!(%script, "{text}"),
            4..=6 => tracing::warn!(%script, "{text}"),
            7..=9 => tracing::info!(%script, "{text}"),
            _ => tracing::debug!(%script, "{text}"),
        }
    }

    /// Logs something of it, within the rate.
    pub(super) fn log(&self, log: impl FnOnce()) {
        let left_out = |lines| tracing::warn!(script = %self.name, "{lines} lines were left out");
        if self.logged.allows(left_out) {
            log();
        }
    }

    fn warn_once(&self, what: &str) {
        let mut state = self.state.borrow_mut();
        if state.warned.len() < MAX_NAMES && !state.warned.iter().any(|known| known == what) {
            state.warned.push(what.to_owned());
            tracing::warn!(script = %self.name, "{what}");
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

impl Watcher for Module {
    fn see(&self, message: &Message, handled: bool) {
        let state = self.state.borrow();
        let name = message.name.as_str();
        let is_own = message.sender == Some(self.number) && !state.selfwatch;
        let has_room = state.out.len() < MAX_OUT;
        drop(state);
        if !self.is_watching(message.name) || is_own || !has_room {
            return;
        }
        self.say(|out| {
            line::outcome_into(out, "", handled, name, &message.retval, message.params());
        });
    }
}

/// Modules of Yate whose work is done here.
const LOADED: [&str; 4] = ["extmodule", "regfile", "register", "ysipchan"];

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn set_of(param: &Param) -> Option<(&str, &str)> {
    match param {
        Param::Set(name, value) => Some((name, value)),
        Param::Remove(_) => None,
    }
}

/// Whether a value would break out of the header that it is meant for (DESIGN §13.10).
fn is_harmful(name: &str, value: &str) -> bool {
    (name.starts_with("osip_") || name == "reason") && value.contains(['\r', '\n'])
}

/// Forgets a question when nobody waits for its answer any more, whyever.
struct Guard<'m> {
    module: &'m Module,
    number: u64,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.module.state.borrow_mut().pending.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module_with(change: impl FnOnce(&mut Beginning)) -> Rc<Module> {
        let mut beginning = Beginning {
            number: 7,
            name: "script test".into(),
            settings: extmodule::Module::default(),
            restart: Some(true),
            has_to_connect: false,
            status: Arc::default(),
            clock: Arc::new(SystemClock::new()),
            tap: None,
        };
        change(&mut beginning);
        Rc::new(Module::new(beginning))
    }

    fn module() -> Rc<Module> {
        module_with(|_| {})
    }

    /// What is to be written to it now.
    fn said(module: &Module) -> String {
        let mut text = String::new();
        let all: Result<(), ()> = module.write_out(|out| {
            text.push_str(std::str::from_utf8(out).unwrap());
            Ok(out.len())
        });
        all.unwrap();
        text
    }

    #[test]
    fn a_dialogue_goes_as_with_yate() {
        let module = module();
        for (line, answer) in [
            ("%%>install:50:user.auth", "%%<install:50:user.auth:true\n"),
            ("%%>install:60:user.auth", "%%<install:60:user.auth:false\n"),
            ("%%>install::a%zb:x:y", "%%<install:100:a%zb:true\n"),
            ("%%>uninstall:user.auth", "%%<uninstall:50:user.auth:true\n"),
            ("%%>uninstall:user.auth", "%%<uninstall:0:user.auth:false\n"),
            ("%%>watch:", "%%<watch::true\n"),
            ("%%>watch:", "%%<watch::false\n"),
            ("%%>unwatch:", "%%<unwatch::true\n"),
            ("%%>unwatch:x", "%%<unwatch:x:false\n"),
            ("%%>setlocal:timeout:500", "%%<setlocal:timeout:500:true\n"),
            ("%%>setlocal:timeout:", "%%<setlocal:timeout:500:true\n"),
            ("%%>setlocal:timeout:-1", "%%<setlocal:timeout:0:true\n"),
            ("%%>setlocal:bufsize:1", "%%<setlocal:bufsize:2048:true\n"),
            ("%%>setlocal:bufsize:99999", "%%<setlocal:bufsize:65536:true\n"),
            ("%%>setlocal:maxqueue:5", "%%<setlocal:maxqueue:5:true\n"),
            ("%%>setlocal:restart", "%%<setlocal:restart:true:true\n"),
            ("%%>setlocal:restart:false", "%%<setlocal:restart:false:true\n"),
            ("%%>setlocal:timebomb:yes", "%%<setlocal:timebomb:true:true\n"),
            ("%%>setlocal:loaded.regfile", "%%<setlocal:loaded.regfile:true:true\n"),
            ("%%>setlocal:loaded.regfile:x", "%%<setlocal:loaded.regfile:true:false\n"),
            ("%%>setlocal:id:x", "%%<setlocal:id::false\n"),
            ("%%>setlocal:trackparam:x", "%%<setlocal:trackparam:x:true\n"),
            ("%%>output:hello", ""),
            ("%%>debug:5:hello", ""),
            ("%%<message:nobody:true:", ""),
            ("%%>connect:global", "Error in: %%>connect:global\n"),
            ("print", "Error in: print\n"),
            ("Error in: print", ""),
            ("%%>message:1:0:a::b=%}", "Error in: %%>message:1:0:a::b=%}\n"),
            ("", ""),
            ("%%>quit", "%%<quit\n"),
        ] {
            module.take(line.as_bytes());
            assert_eq!(said(&module), answer, "{line}");
        }
        assert_eq!(module.ends().as_deref(), Some("it has quit"));
        assert!(!module.restarts());
    }

    #[test]
    fn a_socket_has_to_say_what_it_is() {
        for (line, ends) in [
            ("%%>connect:global", false),
            ("%%>connect:channel:x:y", true),
            ("%%>install:1:a", true),
            ("hello", true),
        ] {
            let module = module_with(|beginning| beginning.has_to_connect = true);
            module.take(line.as_bytes());
            assert_eq!((module.ends().is_some(), &*said(&module)), (ends, ""), "{line}");
        }
    }

    /// Runs what `asks` does with a module, on a clock that leaps.
    fn run<T>(asks: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(asks)
    }

    fn question() -> Message {
        let mut message = Message::new(MessageName::UserAuth);
        message.set("username", "100");
        message.set("gone", "x");
        message
    }

    /// Asks, and has `answer` make the line of the answer from the question's id.
    fn ask(module: &Rc<Module>, message: &mut Message, answer: fn(&str) -> String) -> Handling {
        run(async {
            let (handling, ()) = futures_util::future::join(module.ask(message), async {
                let line = said(module);
                let id = line.split(':').nth(1).unwrap().to_owned();
                for line in answer(&id).lines() {
                    module.take(line.as_bytes());
                }
            })
            .await;
            handling
        })
    }

    #[test]
    fn an_answer_changes_what_it_names() {
        let (module, mut message) = (module(), question());
        let handling = ask(&module, &mut message, |id| {
            format!("%%<message:{id}:true::secret:expires=60:gone:osip_X=a%Jb:osip_Y=c\n")
        });
        assert_eq!(handling, Handling::Handled);
        assert_eq!(message.retval, "secret");
        let params: Vec<_> = message.params().collect();
        assert_eq!(params, [("username", "100"), ("expires", "60"), ("osip_Y", "c")]);

        let mut message = question();
        let handling = ask(&module, &mut message, |id| {
            format!("%%<message:x:true::wrong\n%%<message:{id}:false:\n%%<message:{id}:true::late")
        });
        assert_eq!((handling, message), (Handling::Passed, question()));
        assert!(module.state.borrow().pending.is_empty());
    }

    fn failure(handling: Handling) -> String {
        let Handling::Failed(Failure { reason, is_outage: true }) = handling else { panic!() };
        reason
    }

    #[test]
    fn who_does_not_answer_fails_and_is_ended_if_so_set() {
        let module = module_with(|beginning| {
            beginning.settings.timeout = Duration::from_millis(5);
            beginning.settings.maxqueue = 1;
        });
        let mut message = question();
        let reason = failure(run(module.ask(&mut message)));
        assert_eq!((&*reason, module.ends()), ("script test: it does not answer", None));
        module.take(b"%%>setlocal:timebomb:true");
        run(module.ask(&mut message));
        assert!(module.ends().is_some());
        assert_eq!(failure(run(module.ask(&mut message))), "script test: it has ended");
    }

    #[test]
    fn no_more_wait_than_may() {
        let module = module_with(|beginning| beginning.settings.maxqueue = 1);
        let (mut one, mut two) = (question(), question());
        let (first, second) = run(async {
            let both = futures_util::future::join(module.ask(&mut one), async {
                let second = module.ask(&mut two).await;
                module.gone();
                second
            });
            both.await
        });
        assert_eq!(failure(first), "script test: it has ended");
        assert_eq!(failure(second), "script test: as many messages wait for it as may");
    }

    #[test]
    fn it_is_not_shown_its_own() {
        let module = module();
        module.take(b"%%>watch:user.auth");
        said(&module);
        let mut message = question();
        message.sender = Some(7);
        assert_eq!(run(module.ask(&mut message)), Handling::Passed);
        module.see(&message, true);
        assert_eq!(said(&module), "");
        module.take(b"%%>setlocal:selfwatch:true");
        said(&module);
        module.see(&message, true);
        assert_eq!(said(&module), "%%<message::true:user.auth::username=100:gone=x\n");
    }

    #[test]
    fn messages_of_its_own_are_bounded() {
        let module = module();
        for _ in 0..MAX_SENT {
            assert!(module.take(b"%%>message:1:0:a::b=c").is_some());
        }
        assert_eq!(said(&module), "");
        assert_eq!(module.take(b"%%>message:1:0:a::b=c"), None);
        assert_eq!(said(&module), "%%<message:1:false:a::b=c\n");
    }

    #[test]
    fn who_babbles_is_not_listened_to() {
        let module = module();
        for _ in 0..=MISTAKES {
            module.take(b"babble");
        }
        assert!(!module.may_read());
    }
}
