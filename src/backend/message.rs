//! Yate's internal messages, as handlers get them: a name, parameters in order, a return value.
//!
//! Their names, and those of their parameters, are what existing queries and scripts rely on.

use std::{fmt, sync::Arc};

use crate::sip::extra;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageName {
    /// `user.auth`: who is this user, or what is the password?
    UserAuth,
    /// `user.register`: a phone is there.
    UserRegister,
    /// `user.unregister`: its last one is gone.
    UserUnregister,
    /// `engine.timer`: some time has passed.
    EngineTimer,
    /// `call.preroute`: a call has come; whatever should be known before it is routed.
    CallPreroute,
    /// `call.route`: where does this call go?
    CallRoute,
    /// `call.cdr`: how a call goes, or went.
    CallCdr,
    /// `call.execute`: a call goes to where it was routed; to scripts a notification only.
    CallExecute,
    /// `user.authfail`: somebody has not got a password right.
    UserAuthfail,
    /// `engine.start`: everything runs.
    EngineStart,
    /// `engine.halt`: it is about to end.
    EngineHalt,
    /// `engine.status`: how does a module do?
    EngineStatus,
    /// `engine.command`: a line that an operator has typed.
    EngineCommand,
    /// `chan.startup`: a leg of a call begins.
    ChanStartup,
    /// `chan.hangup`: it has ended.
    ChanHangup,
}

impl MessageName {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::UserAuth,
        Self::UserRegister,
        Self::UserUnregister,
        Self::EngineTimer,
        Self::CallPreroute,
        Self::CallRoute,
        Self::CallCdr,
        Self::CallExecute,
        Self::UserAuthfail,
        Self::EngineStart,
        Self::EngineHalt,
        Self::EngineStatus,
        Self::EngineCommand,
        Self::ChanStartup,
        Self::ChanHangup,
    ];

    /// What is told of calls to whoever wants to hear of it, and asks nothing.
    pub const OF_CALLS: [Self; 4] =
        [Self::CallExecute, Self::CallCdr, Self::ChanStartup, Self::ChanHangup];

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }

    /// Whether all handlers see it, whoever handles it.
    pub fn is_broadcast(self) -> bool {
        matches!(
            self,
            Self::EngineTimer
                | Self::CallCdr
                | Self::UserAuthfail
                | Self::EngineStart
                | Self::EngineHalt
        )
    }

    /// Whether it concerns registrations.
    pub fn is_about_users(self) -> bool {
        matches!(self, Self::UserAuth | Self::UserRegister | Self::UserUnregister)
    }

    /// Its name in Yate, in configuration and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserAuth => "user.auth",
            Self::UserRegister => "user.register",
            Self::UserUnregister => "user.unregister",
            Self::EngineTimer => "engine.timer",
            Self::CallPreroute => "call.preroute",
            Self::CallRoute => "call.route",
            Self::CallCdr => "call.cdr",
            Self::CallExecute => "call.execute",
            Self::UserAuthfail => "user.authfail",
            Self::EngineStart => "engine.start",
            Self::EngineHalt => "engine.halt",
            Self::EngineStatus => "engine.status",
            Self::EngineCommand => "engine.command",
            Self::ChanStartup => "chan.startup",
            Self::ChanHangup => "chan.hangup",
        }
    }
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message on its way through the handlers.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub name: MessageName,
    /// What the handler that takes it returns: a password, a route.
    pub retval: String,
    /// What it returns besides, for when that fails: the routes of further rows.
    pub further: Vec<String>,
    /// The script that sent it, by its number, if one did: it is not shown its own.
    pub sender: Option<u32>,
    /// Whether a request waits for what becomes of it; else it tells of what is so already.
    pub is_question: bool,
    /// Whether somebody has no objection who leaves it to others all the same.
    pub is_accepted: bool,
    params: Vec<(Box<str>, String)>,
}

impl Message {
    /// A message without parameters.
    pub fn new(name: MessageName) -> Self {
        Self {
            name,
            retval: String::new(),
            further: Vec::new(),
            sender: None,
            is_question: false,
            is_accepted: false,
            params: Vec::new(),
        }
    }

    /// The first parameter of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| **key == *name).map(|(_, value)| &**value)
    }

    /// Sets the first parameter of this name, or adds it at the end.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.params.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, old)) => *old = value.into(),
            None => self.params.push((name.into(), value.into())),
        }
    }

    /// Adds a parameter at the end, of a name that it hasn't.
    pub fn add(&mut self, name: impl Into<Box<str>>, value: impl Into<String>) {
        self.params.push((name.into(), value.into()));
    }

    /// Takes all parameters of this name away.
    pub fn remove(&mut self, name: &str) {
        self.params.retain(|(key, _)| **key != *name);
    }

    /// The header lines that it adds to what is sent: those of `osip_` parameters.
    pub fn header_lines(&self) -> Option<Arc<[u8]>> {
        extra::lines(self.params().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    /// All parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl fmt::Debug for Message {
    /// Without the return value, which may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("name", &self.name)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_their_order_when_they_are_set_again() {
        let mut message = Message::new(MessageName::UserAuth);
        message.set("a", "1");
        message.set("b", "2");
        message.set("a", "3");
        assert_eq!(message.params().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
    }

    #[test]
    fn what_is_logged_has_no_password() {
        let mut message = Message::new(MessageName::UserAuth);
        message.retval = "secret".to_owned();
        assert!(!format!("{message:?}").contains("secret"));
    }
}
