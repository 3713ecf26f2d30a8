//! What a module is asked, and what comes of its answers.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::{
        line::{self, Answer, Changes, Param},
        rate::Counted,
    },
    LONGEST, MAX_OUT, Module, State,
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
        let number = answer.id.strip_prefix(&*self.prefix());
        let number: Option<u64> = number.and_then(|rest| rest.parse().ok());
        let waiting = number.and_then(|number| self.state.borrow_mut().pending.remove(&number));
        match waiting {
            // Who has given up in this moment doesn't miss it.
            Some(waiting) => {
                self.unasked.earn();
                drop(waiting.send(answer));
            }
            None => {
                // One that is late is no nonsense: who is slow still has others to answer.
                if number.is_some_and(|number| number <= self.state.borrow().asked) {
                    self.says_unasked();
                } else if let Counted::Beyond { until } = self.mistakes.count() {
                    self.hold(until);
                }
                self.complain(|| {
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
    pub(in crate::backend::script) async fn ask(&self, message: &mut Message) -> Handling {
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
                self.complain(|| {
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
