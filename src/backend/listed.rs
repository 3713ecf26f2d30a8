//! `regfile.conf` as one of the handlers.

use std::rc::Rc;

use super::{
    chain::{Handler, Handles, Handling},
    message::{Message, MessageName},
    regfile::General,
};
use crate::{
    auth::Secret,
    worker::{Rules, SharedRules},
};

/// The name of this handler.
pub(super) const LISTED: &str = "regfile";

/// Handles messages about users that `regfile.conf` lists. Their passwords are not told: workers
/// have them.
#[derive(Debug)]
pub(super) struct Listed {
    name: Rc<str>,
    rules: SharedRules,
    auth: i32,
    register: i32,
}

impl Listed {
    pub(super) fn new(rules: SharedRules, general: &General) -> Self {
        Self { name: LISTED.into(), rules, auth: general.auth, register: general.register }
    }
}

impl Handler for Listed {
    fn name(&self) -> &Rc<str> {
        &self.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        match name {
            MessageName::UserAuth => vec![self.auth],
            MessageName::UserRegister | MessageName::UserUnregister => vec![self.register],
            _ => Vec::new(),
        }
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
        // What it takes, workers do; they know nothing of what a script sends.
        let is_mine = message.sender.is_none() && is_listed(&self.rules.load(), message);
        let handling = if is_mine { Handling::Handled } else { Handling::Passed };
        Box::pin(async { handling })
    }
}

fn is_listed(rules: &Rules, message: &Message) -> bool {
    let Some(username) = message.get("username") else { return false };
    let domain = message.get("domain").unwrap_or_default();
    let login = rules.subscribers.login(username.as_bytes(), domain.as_bytes());
    match message.name {
        // Without a password in its section, another handler may have one.
        MessageName::UserAuth => login.is_some_and(|l| !matches!(l.secret, Secret::NoPassword)),
        _ => login.is_some() || rules.autocreate,
    }
}
