//! Webhooks: who is asked, and told, over HTTP ([`crate::config::hooks`], `docs/webhooks.md`).
//!
//! Questions (`auth`, `register`, `route`) are a handler of the chain like any other. Notifications
//! (`registered`, `unregister`, `expire`, `call`) wait in an outbox of each hook, on disk, until the
//! receiver has them; what is to be told of AoRs, the herald finds in the change feed.

mod answer;
mod body;
mod client;
mod counts;
mod handler;
mod herald;
mod outbox;
mod signature;
mod waiting;

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

pub use self::counts::{Counts, HookLabels};
use self::{
    body::{Ids, Object},
    client::Client,
    handler::Questions,
    herald::Herald,
    outbox::{Note, Outbox},
};
use super::{
    cdr::{Operation, Operations, TakesRecords},
    chain::{Failure, Handler, Handles},
    message::Message,
    run::Shared,
};
use crate::{
    config::{
        hooks::{Event, Hook},
        settings::Records,
    },
    location::{Location, Subscription},
    time::Clock,
};

/// How often changes of the location service are looked for: that much of what happens may have to
/// be told again after a crash.
const LOOK: Duration = Duration::from_millis(20);

/// Changes that may wait to be looked at: two seconds of a storm.
const CHANGES: usize = 1 << 18;

/// The changes that these hooks are to be told of, from now on; `None` if they are to be told of
/// none.
pub(super) fn changes(hooks: &[Hook], location: &Location) -> Option<Subscription> {
    hooks.iter().any(Hook::follows_bindings).then(|| location.subscribe(CHANGES))
}

/// Connects to a hook's URL, and sends nothing.
///
/// # Errors
/// Why that can't be done, for the operator.
pub fn try_connection(hook: &Hook) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        // A name, a connection and a handshake take longer than a question on a connection.
        const PATIENCE: Duration = Duration::from_secs(10);
        let connected = tokio::time::timeout(PATIENCE, Client::new(hook).connect()).await;
        connected.unwrap_or_else(|_| Err(format!("no connection within {PATIENCE:?}")))
    })
}

/// What hooks are among those that are asked, and among those that are told of calls.
#[derive(Debug, Default)]
pub(super) struct Roles {
    pub(super) handlers: Vec<Rc<dyn Handler>>,
    pub(super) keepers: Vec<Rc<dyn TakesRecords>>,
}

/// All hooks, for as long as the process lives.
pub(super) struct Hooks {
    shared: Shared,
    ids: Rc<Ids>,
    outboxes: RefCell<Vec<(Rc<Outbox>, JoinHandle<()>)>>,
    herald: RefCell<Herald>,
    ticking: RefCell<Option<JoinHandle<()>>>,
    /// Rung when changes are to be looked at that were not.
    bell: Notify,
}

impl Hooks {
    /// Begins to look at changes; on the thread's local set.
    pub(super) fn start(shared: &Shared, changes: Option<Subscription>) -> Rc<Self> {
        let hooks = Rc::new(Self {
            shared: shared.clone(),
            ids: Rc::new(Ids::new()),
            outboxes: RefCell::default(),
            herald: RefCell::new(Herald::new(shared, changes)),
            ticking: RefCell::default(),
            bell: Notify::new(),
        });
        let own = Rc::clone(&hooks);
        let ticking = tokio::task::spawn_local(async move {
            loop {
                while own.look() {
                    tokio::task::yield_now().await;
                }
                if own.herald.borrow().is_wanted() {
                    tokio::time::sleep(LOOK).await;
                } else {
                    own.bell.notified().await;
                }
            }
        });
        hooks.ticking.replace(Some(ticking));
        hooks
    }

    /// Looks at changes; whether there may be more.
    fn look(&self) -> bool {
        let mut herald = self.herald.borrow_mut();
        herald.look(&mut |event, aor, write| self.tell(event, aor, write), || self.is_kept())
    }

    /// Whether all that waits and says what AoRs are bound to outlives the process.
    fn is_kept(&self) -> bool {
        let outboxes = self.outboxes.borrow();
        !outboxes.iter().any(|(outbox, _)| outbox.follows_bindings() && outbox.is_in_memory())
    }

    /// Has these be asked and told from now on, and no others. What waits for one of the same name
    /// goes to it; what waits for one that is gone stays.
    pub(super) fn replace(&self, hooks: &[Hook], legs: Records) -> Roles {
        let clients: Vec<Rc<Client>> = hooks.iter().map(|h| Rc::new(Client::new(h))).collect();
        let mut outboxes = self.outboxes.borrow_mut();
        for (outbox, _) in outboxes.iter() {
            let client = clients.iter().find(|client| *client.hook().name == *outbox.name());
            outbox.set_client(client.map(Rc::clone));
        }
        let mut roles = Roles::default();
        for client in clients {
            let hook = client.hook();
            let (name, status) = (&hook.name, Arc::clone(&self.shared.status));
            let known = outboxes.iter().find(|(outbox, _)| outbox.name() == &**name);
            let outbox = match known {
                Some((outbox, _)) => Rc::clone(outbox),
                None => {
                    let (folder, clock) =
                        (self.shared.spool.clone(), Arc::clone(&self.shared.clock));
                    let outbox = Outbox::open(name, folder, clock, Arc::clone(&status));
                    let outbox = Rc::new(outbox);
                    outbox.set_client(Some(Rc::clone(&client)));
                    let task = tokio::task::spawn_local(Rc::clone(&outbox).run());
                    outboxes.push((Rc::clone(&outbox), task));
                    outbox
                }
            };
            if hook.wants(Event::Call) {
                let (ids, clock) = (Rc::clone(&self.ids), Arc::clone(&self.shared.clock));
                let lane = format!("hook-{name}").into();
                roles.keepers.push(Rc::new(CallLane { lane, legs, outbox, ids, clock }));
            }
            if [Event::Auth, Event::Register, Event::Route].iter().any(|event| hook.wants(*event)) {
                let (ids, clock) = (Rc::clone(&self.ids), Arc::clone(&self.shared.clock));
                roles.handlers.push(Rc::new(Questions::new(client, ids, clock, status)));
            }
        }
        drop(outboxes);
        self.herald.borrow_mut().set_wanted(hooks.iter().any(Hook::follows_bindings));
        self.bell.notify_one();
        roles
    }

    /// Has a notification about an AoR wait for each hook that wants it. `write` adds what it says.
    fn tell(&self, event: Event, aor: &[u8], write: &dyn Fn(&mut Object)) {
        for (outbox, _) in self.outboxes.borrow().iter() {
            let Some(client) = outbox.client() else { continue };
            let hook = client.hook();
            if !hook.wants(event) {
                continue;
            }
            let (id, unix) = (self.ids.next(), self.shared.clock.now().unix);
            let mut body = Object::of(event, &id, &hook.name, unix);
            write(&mut body);
            let body = body.finish().into();
            // What is lost is counted there.
            let _ = outbox.put(Note { event, key: aor.into(), id: id.into(), unix, body });
        }
    }

    /// At the end: looks at all that has changed, and waits until receivers have what they are to be
    /// told, but for those that take longer than `patience`. What is left waits on disk.
    pub(super) async fn finish(&self, patience: Duration) {
        const STEP: Duration = Duration::from_millis(2);
        if let Some(ticking) = self.ticking.take() {
            ticking.abort();
        }
        let until = Instant::now() + patience;
        while self.look() && Instant::now() < until {}
        let all_told = async {
            while !self.outboxes.borrow().iter().all(|(outbox, _)| outbox.is_idle()) {
                tokio::time::sleep(STEP).await;
            }
        };
        let _ = tokio::time::timeout(patience, all_told).await;
        let mut is_kept = true;
        for (outbox, task) in self.outboxes.take() {
            task.abort();
            is_kept &= outbox.close() == 0 || !outbox.follows_bindings();
        }
        let left = self.herald.borrow_mut().finish(is_kept);
        if left > 0 {
            tracing::warn!(left, "changes are left, which the next start finds and tells");
        }
    }
}

/// Records of calls on their way to an outbox, which is on disk itself.
struct CallLane {
    lane: Box<str>,
    /// Which legs of a call are told of.
    legs: Records,
    outbox: Rc<Outbox>,
    ids: Rc<Ids>,
    clock: Arc<crate::time::SystemClock>,
}

impl std::fmt::Debug for CallLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallLane").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl TakesRecords for CallLane {
    fn lane(&self) -> &str {
        &self.lane
    }

    fn wants(&self, record: &Message) -> bool {
        let is_news = matches!(record.get("operation"), Some("initialize" | "update" | "finalize"));
        let is_its_leg = self.legs == Records::Leg || record.get("direction") == Some("incoming");
        is_news && is_its_leg && record.get("cdrwrite") != Some("false")
    }

    fn operations(&self) -> Operations {
        let news = [Operation::Initialize, Operation::Update, Operation::Finalize];
        news.into_iter().fold(Operations::default(), Operations::and)
    }

    fn is_spooled(&self) -> bool {
        false
    }

    fn take<'m>(&'m self, record: &'m mut Message) -> Handles<'m, Result<(), Failure>> {
        Box::pin(async move {
            let (id, unix) = (self.ids.next(), self.clock.now().unix);
            let mut body = Object::of(Event::Call, &id, self.outbox.name(), unix);
            body.text("message", record.name.as_str());
            body.params("params", record);
            let key = record.get("billid").unwrap_or_default().as_bytes().into();
            let body = body.finish().into();
            let note = Note { event: Event::Call, key, id: id.into(), unix, body };
            self.outbox.put(note);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn openapi_names_every_event() {
        let text = include_str!("../../../docs/examples/webhooks.openapi.json");
        let openapi: Value = serde_json::from_str(text).unwrap();
        let all: BTreeSet<&str> = Event::ALL.iter().map(|event| event.as_str()).collect();
        let described = openapi["webhooks"].as_object().unwrap();
        assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), all);
        let listed = openapi["components"]["schemas"]["event"]["enum"].as_array().unwrap();
        assert_eq!(listed.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), all);
        // Every reference leads somewhere.
        for reference in text.split("\"$ref\": \"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(openapi.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
