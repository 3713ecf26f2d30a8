//! A hook in the chain: questions that wait for its answer, each for no longer than `timeout`.

use std::{cell::Cell, cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    answer,
    body::{Ids, Object},
    client::{Client, Silence, shown},
    counts::Asked,
};
use crate::{
    backend::{
        chain::{Failure, Handler, Handles, Handling, OnError},
        message::{Message, MessageName},
        status::Status,
    },
    config::hooks::{Event, Hook},
    time::{Clock, SystemClock},
};

/// The priority at which a phone is let in that a hook has no objection to, and nobody else wanted.
const LAST: i32 = i32::MAX;

/// A fault that goes on is logged once in so long, and shown for so long after it was last seen.
const LOGGED: Duration = Duration::from_secs(60);

/// Questions in a row that have to fail before it counts as a fault: one that is late now and then
/// is no reason to take the node out of service.
const IN_A_ROW: u32 = 3;

/// A hook that is asked.
#[derive(Debug)]
pub(super) struct Questions {
    name: Rc<str>,
    client: Rc<Client>,
    ids: Rc<Ids>,
    under_way: Semaphore,
    waiting: Cell<usize>,
    clock: Arc<SystemClock>,
    status: Arc<Status>,
    logged: Cell<Option<Instant>>,
    /// How many questions in a row were not answered; when and why the last one was not.
    failing: RefCell<Option<(u32, Instant, String)>>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Silence(#[from] Silence),
    #[error(transparent)]
    Garbage(#[from] answer::Garbage),
    #[error("{0} questions wait already")]
    Overload(usize),
}

/// Where a question stands.
struct Waiting<'w>(&'w Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn event_of(name: MessageName) -> Option<Event> {
    match name {
        MessageName::UserAuth => Some(Event::Auth),
        MessageName::UserRegister => Some(Event::Register),
        MessageName::CallRoute => Some(Event::Route),
        _ => None,
    }
}

impl Questions {
    pub(super) fn new(
        client: Rc<Client>,
        ids: Rc<Ids>,
        clock: Arc<SystemClock>,
        status: Arc<Status>,
    ) -> Self {
        Self {
            name: format!("hook {}", client.hook().name).into(),
            under_way: Semaphore::new(client.hook().concurrency),
            client,
            ids,
            waiting: Cell::new(0),
            clock,
            status,
            logged: Cell::new(None),
            failing: RefCell::default(),
        }
    }

    fn hook(&self) -> &Hook {
        self.client.hook()
    }

    async fn ask(&self, event: Event, message: &mut Message) -> Result<Handling, Unanswered> {
        let hook = self.hook();
        let reply = async {
            let _permit = match self.under_way.try_acquire() {
                Ok(permit) => permit,
                Err(_) => {
                    if self.waiting.get() >= hook.queue {
                        return Err(Unanswered::Overload(self.waiting.get()));
                    }
                    self.waiting.set(self.waiting.get() + 1);
                    let _waiting = Waiting(&self.waiting);
                    let Ok(permit) = self.under_way.acquire().await else {
                        return Err(Unanswered::Overload(0));
                    };
                    permit
                }
            };
            let (id, unix) = (self.ids.next(), self.clock.now().unix);
            let mut body = Object::of(event, &id, &hook.name, unix);
            body.text("message", message.name.as_str());
            body.params("params", message);
            let body = body.finish().into();
            Ok(self.client.post((event, &id), body, unix).await?)
        };
        let reply = tokio::time::timeout(hook.timeout, reply).await;
        let reply = reply.map_err(|_| Silence::Late(hook.timeout))??;
        Ok(answer::take(event, &reply, message)?)
    }

    async fn handle_one(&self, event: Event, message: &mut Message) -> Handling {
        let begun = Instant::now();
        let asked = self.ask(event, message).await;
        self.status.took(&self.name, message.name, begun.elapsed());
        let count = match &asked {
            Ok(Handling::Handled) => Asked::Decided,
            Ok(_) if message.is_accepted => Asked::Decided,
            Ok(_) => Asked::Passed,
            Err(Unanswered::Silence(Silence::Late(_))) => Asked::Late,
            Err(Unanswered::Silence(Silence::Connection(_))) => Asked::Unreachable,
            Err(Unanswered::Silence(Silence::TooLong) | Unanswered::Garbage(_)) => Asked::Garbage,
            Err(Unanswered::Overload(_)) => Asked::Overload,
        };
        self.status.hooks().asked(&self.hook().name, event, count);
        match asked {
            Ok(handling) => {
                self.failing.replace(None);
                handling
            }
            Err(unanswered) => {
                let reason = format!("{}: {unanswered}", self.name);
                self.log(event, &unanswered);
                let mut failing = self.failing.borrow_mut();
                let before = failing.as_ref().map_or(0, |(count, ..)| *count);
                *failing = Some((before.saturating_add(1), begun, reason.clone()));
                drop(failing);
                Handling::Failed(Failure { reason, is_outage: true })
            }
        }
    }

    /// Logs a fault, within the rate.
    fn log(&self, event: Event, error: &Unanswered) {
        let now = Instant::now();
        if self.logged.get().is_some_and(|last| now < last + LOGGED) {
            return;
        }
        self.logged.set(Some(now));
        let (hook, url) = (self.hook(), shown(&self.hook().url));
        tracing::error!(hook = &*hook.name, url, event = event.as_str(), "{error}");
    }
}

impl Handler for Questions {
    fn name(&self) -> &Rc<str> {
        &self.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        let priority = self.hook().priority;
        match event_of(name).filter(|event| self.hook().wants(*event)) {
            None => Vec::new(),
            Some(Event::Register) => vec![priority, LAST],
            Some(_) => vec![priority],
        }
    }

    /// It is asked, and told by its own way: what handlers of `user.register` learn behind the
    /// answers is not for it.
    fn follows(&self) -> bool {
        false
    }

    fn on_error(&self) -> Option<OnError> {
        self.hook().on_error
    }

    fn fault(&self) -> Option<String> {
        let failing = self.failing.borrow();
        let is_fault = |count: u32, at: &Instant| count >= IN_A_ROW && at.elapsed() < LOGGED;
        let fault = failing.as_ref().filter(|(count, at, _)| is_fault(*count, at));
        fault.map(|(_, _, reason)| reason.clone())
    }

    fn handle<'m>(&'m self, priority: i32, message: &'m mut Message) -> Handles<'m> {
        Box::pin(async move {
            let Some(event) = event_of(message.name) else { return Handling::Passed };
            if event == Event::Register && !message.is_question {
                return Handling::Passed;
            }
            if event == Event::Register && priority == LAST {
                return if message.is_accepted { Handling::Handled } else { Handling::Passed };
            }
            self.handle_one(event, message).await
        })
    }
}
