//! What a module is asked, and what comes of its answers.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        line::{self, Answer, Changes, Param},
        rate::Counted,
    },
    Answered, LONGEST_LINE, Module, State, waits,
};
use crate::{
    backend::{
        chain::{Failure, Handling},
        message::Message,
    },
    sip::extra::{self, Unfit},
    time::Clock,
};

impl Module {
    pub(super) fn answer(&self, answer: Answer) {
        let number = self.number_of(answer.id.as_bytes());
        let waiting = number.and_then(|number| self.take_waiting(number));
        match waiting {
            // Who has given up in this moment doesn't miss it.
            Some(waiting) => {
                self.unasked.earn();
                drop(waiting.send(Answered::By(answer)));
            }
            None => self.not_waited_for(number, &answer.id),
        }
    }

    /// Who waits for the answer to a question that was asked; what waits behind it may be asked.
    fn take_waiting(&self, number: u64) -> Option<oneshot::Sender<Answered>> {
        let mut state = self.state.borrow_mut();
        if !state.questions.has_asked(number) {
            return None;
        }
        state.questions.answered(number, Instant::now());
        state.hand_over();
        state.pending.remove(&number)
    }

    /// Takes the beginning of a line that is too long. If it answers a question, that alone has
    /// failed; `false` if it doesn't.
    pub(in crate::backend::script) fn take_too_long(&self, line: &[u8]) -> bool {
        let number = self.answers(line);
        if let Some(number) = number {
            match self.take_waiting(number) {
                Some(waiting) => drop(waiting.send(Answered::TooLong)),
                None => self.not_waited_for(Some(number), "too long"),
            }
        }
        number.is_some()
    }

    /// Takes a line that means nothing. If it is to be an answer, nothing else will come.
    pub(super) fn take_malformed(&self, line: &[u8]) {
        let waiting = self.answers(line).and_then(|number| self.take_waiting(number));
        if let Some(waiting) = waiting {
            drop(waiting.send(Answered::Malformed));
        }
    }

    /// The number of the question that a line answers, or is meant to.
    fn answers(&self, line: &[u8]) -> Option<u64> {
        let id = line.strip_prefix(line::ANSWER)?.split(|c| *c == b':').next()?;
        self.number_of(id).filter(|number| self.state.borrow().questions.has_asked(*number))
    }

    /// Of an answer that nobody waits for, what was owed costs nothing: who is slow still has others
    /// to answer.
    fn not_waited_for(&self, number: Option<u64>, id: &str) {
        let mut state = self.state.borrow_mut();
        let was_asked = number.is_some_and(|number| state.questions.has_asked(number));
        let is_owed = number.is_some_and(|number| state.questions.is_owed(number));
        drop(state);
        if was_asked && !is_owed {
            self.says_unasked();
        } else if !was_asked && let Counted::Beyond { until } = self.mistakes.count() {
            self.hold(until);
        }
        self.complain(|| {
            let id = id.escape_debug();
            tracing::warn!(script = %self.name, "an answer that is late, or nobody asked for: {id}");
        });
    }

    /// The number of the question that has this id, if it is of this module's.
    fn number_of(&self, id: &[u8]) -> Option<u64> {
        std::str::from_utf8(id).ok()?.strip_prefix(&*self.prefix())?.parse().ok()
    }

    /// What the numbers of its questions begin with.
    fn prefix(&self) -> String {
        format!("0x{:04x}.", self.number)
    }

    /// Asks it to handle a message.
    pub(in crate::backend::script) async fn ask(&self, message: &mut Message) -> Handling {
        if message.sender == Some(self.number) && !self.state.borrow().reenter {
            return Handling::Passed;
        }
        let (asked, begun) = (self.begin(message), Instant::now());
        let (number, waiting, timeout) = match asked {
            Ok(asked) => asked,
            Err(Unasked::Cannot(why)) => return self.failed(why),
            Err(Unasked::TooLong) => {
                return self.garbled(message, "the question is longer than 64 KiB");
            }
        };
        let guard = Guard { module: self, number };
        let answered = self.wait(number, waiting, timeout).await;
        drop(guard);
        self.status.took(&self.name, message.name, begun.elapsed());
        match answered {
            Ok(Answered::By(answer)) => self.apply(message, answer),
            Ok(Answered::Malformed) => self.garbled(message, "its answer means nothing"),
            Ok(Answered::TooLong) => self.garbled(message, "its answer is longer than bufsize"),
            Err(Vain::Ended) => self.failed("it has ended"),
            Err(Vain::Unwritten) => {
                self.complain(|| {
                    let name = message.name;
                    tracing::warn!(script = %self.name, "{name}: it is asked more than it takes");
                });
                self.failed("it is asked more than it takes")
            }
            Err(Vain::Late) => {
                if self.state.borrow().settings.timebomb {
                    self.end("it has not answered in time (timebomb)");
                }
                self.complain(|| {
                    let name = message.name;
                    tracing::warn!(script = %self.name, "{name}: no answer in {timeout:?}");
                });
                self.failed("it does not answer")
            }
        }
    }

    /// Waits for an answer. What is not even written in a quarter of the time is given up: of two
    /// questions that a module has no time for, one is answered if it has all the time for it.
    async fn wait(
        &self,
        number: u64,
        mut waiting: oneshot::Receiver<Answered>,
        timeout: Duration,
    ) -> Result<Answered, Vain> {
        let answered = match tokio::time::timeout(timeout / 4, &mut waiting).await {
            Err(_) if self.state.borrow().questions.is_waiting(number) => {
                return Err(Vain::Unwritten);
            }
            Err(_) => tokio::time::timeout(timeout - timeout / 4, waiting).await,
            answered => answered,
        };
        answered.map_err(|_| Vain::Late)?.map_err(|_| Vain::Ended)
    }

    /// A line that is too long or means nothing says nothing of the module: others may be good.
    fn garbled(&self, message: &Message, what: &str) -> Handling {
        let name = message.name;
        self.complain(|| tracing::warn!(script = %self.name, "{name}: {what}"));
        let reason = format!("{}: {what}", self.name);
        Handling::Failed(Failure { reason, is_outage: false })
    }

    fn failed(&self, why: &str) -> Handling {
        let reason = format!("{}: {why}", self.name);
        Handling::Failed(Failure { reason, is_outage: true })
    }

    /// Puts a question to it: its number, where the answer comes, and how long that may take.
    fn begin(
        &self,
        message: &Message,
    ) -> Result<(u64, oneshot::Receiver<Answered>, Duration), Unasked> {
        let mut state = self.state.borrow_mut();
        let State { settings, pending, questions, ends, .. } = &mut *state;
        if ends.is_some() {
            return Err(Unasked::Cannot("it has ended"));
        }
        if settings.maxqueue > 0 && pending.len() >= settings.maxqueue {
            return Err(Unasked::Cannot("as many messages wait for it as may"));
        }
        if !questions.has_room() {
            return Err(Unasked::Cannot("it does not read"));
        }
        let timeout = waits(settings.timeout);
        let (number, time) = (questions.number(), self.clock.now().unix);
        let mut line = Vec::new();
        line::message_into(&mut line, &format!("{}{number}", self.prefix()), time, message);
        if line.len() > LONGEST_LINE {
            return Err(Unasked::TooLong);
        }
        if let Some(tap) = &self.tap {
            tap(false, line.trim_ascii_end());
        }
        let (answered, waiting) = oneshot::channel();
        pending.insert(number, answered);
        questions.put(line);
        state.hand_over();
        drop(state);
        self.stirred.notify_one();
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
                    Param::Set(name, value) => match fit(&name, &value) {
                        Ok(()) => message.set(&name, value),
                        Err(why) => self.complain(|| {
                            let (name, script) = (name.escape_debug(), &self.name);
                            tracing::warn!(%script, "{name}: {why}; left out");
                        }),
                    },
                    Param::Remove(name) => message.remove(&name),
                }
            }
        }
        if answer.handled { Handling::Handled } else { Handling::Passed }
    }
}

/// Whether a value may go into what is sent (DESIGN §13.10).
fn fit(name: &str, value: &str) -> Result<(), Unfit> {
    if name == "reason" && value.contains(['\r', '\n']) {
        return Err(Unfit::Control);
    }
    extra::check(name.as_bytes(), value.as_bytes())
}

/// Why a question is not put.
enum Unasked {
    Cannot(&'static str),
    /// Its line.
    TooLong,
}

/// Why nobody answers.
enum Vain {
    Ended,
    /// It was not even written.
    Unwritten,
    Late,
}

/// Forgets a question when nobody waits for its answer any more, whyever.
struct Guard<'m> {
    module: &'m Module,
    number: u64,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut state = self.module.state.borrow_mut();
        if state.pending.remove(&self.number).is_some() {
            state.questions.give_up(self.number);
        }
    }
}
