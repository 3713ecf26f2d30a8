//! What a module says, and what is done about it.

use std::time::Duration;

use super::{
    super::{
        line::{self, Command, Malformed, Param, Sent},
        rate::Counted,
    },
    Effect, Installed, LONGEST, Module, State, bool_text, waits,
};
use crate::{
    backend::{
        garbage::on_one_line,
        message::{Message, MessageName},
    },
    config::{bounds, values::parse_bool},
};

/// Names that a module may install or watch, and things it may set that nobody knows.
pub(super) const MAX_NAMES: usize = 256;

/// Messages of its own that may be under way.
pub(super) const MAX_SENT: usize = 1000;

/// Octets of those: what is under way is kept twice.
pub(super) const MAX_SENT_OCTETS: usize = 2 << 20;

/// Modules of Yate whose work is done here.
const LOADED: [&str; 4] = ["extmodule", "regfile", "register", "ysipchan"];

impl Module {
    /// Takes a line from it.
    pub(in crate::backend::script) fn take(&self, line: &[u8]) -> Option<Effect> {
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
                self.take_malformed(line);
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
            self.hold(until);
        }
        if !line.starts_with(line::ERROR) {
            self.say(|out| line::error_into(out, line));
        }
        self.complain(|| {
            let line = line.get(..SHOWN).unwrap_or(line).escape_ascii();
            tracing::warn!(script = %self.name, "{why}: {line}");
        });
    }

    fn obey(&self, command: Command) -> Option<Effect> {
        if !matches!(command, Command::Answer(_)) {
            self.says_unasked();
        }
        match command {
            Command::Connect { .. } => None,
            Command::Install { priority, name, filter } => {
                let done = self.install(Installed { priority, name: name.clone(), filter });
                self.reply("install", &[&priority.to_string(), &name, bool_text(done)]);
                (done && is_known(&name)).then_some(Effect::Installed)
            }
            Command::Uninstall(name) => {
                let mut state = self.state.borrow_mut();
                let State { installed, inert, .. } = &mut *state;
                let of = if is_known(&name) { installed } else { inert };
                let at = of.iter().position(|installed| installed.name == name);
                let removed = at.map(|at| of.remove(at));
                drop(state);
                let priority = removed.as_ref().map_or(0, |removed| removed.priority);
                let done = bool_text(removed.is_some());
                self.reply("uninstall", &[&priority.to_string(), &name, done]);
                removed.filter(|_| is_known(&name)).map(|_| Effect::Installed)
            }
            Command::Watch(name) => {
                let mut state = self.state.borrow_mut();
                let done = !state.watched.contains(&name) && state.watched.len() < MAX_NAMES;
                if done {
                    state.watched.push(name.clone());
                }
                drop(state);
                self.reply("watch", &[&name, bool_text(done)]);
                (done && is_known(&name)).then_some(Effect::Installed)
            }
            Command::Unwatch(name) => {
                let mut state = self.state.borrow_mut();
                let before = state.watched.len();
                state.watched.retain(|watched| *watched != name);
                let done = state.watched.len() < before;
                drop(state);
                self.reply("unwatch", &[&name, bool_text(done)]);
                (done && is_known(&name)).then_some(Effect::Installed)
            }
            Command::SetLocal { name, value } => {
                let (value, done) = self.set_local(&name, value);
                self.reply("setlocal", &[&name, &value, bool_text(done)]);
                None
            }
            Command::Output(text) => {
                self.log(|| tracing::info!(script = %self.name, "{}", on_one_line(&text)));
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
        let State { installed: known, inert, .. } = &mut *state;
        let is_there = known.iter().chain(&*inert).any(|other| other.name == installed.name);
        if is_there || known.len() + inert.len() >= MAX_NAMES {
            return false;
        }
        let name = installed.name.clone();
        let is_known = is_known(&name);
        if is_known { known } else { inert }.push(installed);
        drop(state);
        if !is_known {
            self.warn_once(&format!("{name} is installed, and never sent here"));
        }
        true
    }

    /// A message of its own, unless too many are under way.
    fn send(&self, sent: Sent) -> Option<Effect> {
        let mut state = self.state.borrow_mut();
        let octets = sent.octets();
        if state.sent >= MAX_SENT || state.sent_octets + octets > MAX_SENT_OCTETS {
            drop(state);
            let params = sent.params.iter().filter_map(set_of);
            self.say(|out| {
                line::outcome_into(out, &sent.id, false, &sent.name, &sent.retval, params);
            });
            return None;
        }
        state.sent += 1;
        state.sent_octets += octets;
        Some(Effect::Sent(sent))
    }

    /// Tells it what became of a message of its own.
    pub(in crate::backend::script) fn sent(
        &self,
        sent: &Sent,
        outcome: Option<&Message>,
        handled: bool,
    ) {
        let mut state = self.state.borrow_mut();
        state.sent -= 1;
        state.sent_octets -= sent.octets();
        drop(state);
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

    /// Sets or asks for something about itself: its value now, and whether that went well.
    fn set_local(&self, name: &str, value: String) -> (String, bool) {
        let mut state = self.state.borrow_mut();
        let State { settings, restart, reenter, selfwatch, others, questions, .. } = &mut *state;
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
                    questions.set_timeout(waits(settings.timeout));
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
        let (script, text) = (&self.name, on_one_line(text));
        match level {
            0..=3 => tracing::error!(%script, "{text}"),
            4..=6 => tracing::warn!(%script, "{text}"),
            7..=9 => tracing::info!(%script, "{text}"),
            _ => tracing::debug!(%script, "{text}"),
        }
    }
}

/// Whether there is such a message here, or all are meant.
fn is_known(name: &str) -> bool {
    name.is_empty() || MessageName::parse(name).is_some()
}

fn set_of(param: &Param) -> Option<(&str, &str)> {
    match param {
        Param::Set(name, value) => Some((name, value)),
        Param::Remove(_) => None,
    }
}
