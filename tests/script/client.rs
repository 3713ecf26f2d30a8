//! An external module that connects, and does what a test says.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bindery::backend::script::line::{Command, Param, Sent, escape_into};

use crate::support::{Server, wait_until};

/// Where modules may connect.
pub(crate) fn listening(server: &Server) -> SocketAddr {
    let mut at = None;
    wait_until("the listener", || {
        let log = server.log();
        at = log
            .split("may connect to tcp:")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.trim_end_matches('"').parse().ok());
        at.is_some()
    });
    at.unwrap()
}

pub(crate) struct Module {
    reader: BufReader<TcpStream>,
}

impl Module {
    /// Connects, without a word.
    pub(crate) fn raw(at: SocketAddr) -> Self {
        let socket = TcpStream::connect(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { reader: BufReader::new(socket) }
    }

    /// Connects as a module.
    pub(crate) fn connect(at: SocketAddr) -> Self {
        let mut module = Self::raw(at);
        module.say("%%>connect:global");
        module
    }

    pub(crate) fn say(&mut self, line: &str) {
        let socket = self.reader.get_mut();
        // Who was ended is not listened to any more.
        let _ = socket.write_all(format!("{line}\n").as_bytes());
    }

    /// The next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.reader.read_line(&mut line);
        line.trim_end().to_owned()
    }

    /// The next message to it.
    pub(crate) fn message(&mut self) -> Sent {
        let line = self.line();
        match Command::parse(line.as_bytes()) {
            Ok(Command::Message(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Installs a message, and waits until it is.
    pub(crate) fn install(&mut self, priority: i32, name: &str) {
        self.say(&format!("%%>install:{priority}:{name}"));
        assert_eq!(self.line(), format!("%%<install:{priority}:{name}:true"));
    }
}

/// A field as it is written.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = Vec::new();
    escape_into(&mut out, text.as_bytes());
    String::from_utf8(out).unwrap()
}

pub(crate) fn names(message: &Sent) -> Vec<&str> {
    message
        .params
        .iter()
        .map(|param| match param {
            Param::Set(name, _) | Param::Remove(name) => &**name,
        })
        .collect()
}

pub(crate) fn value<'m>(message: &'m Sent, wanted: &str) -> Option<&'m str> {
    message.params.iter().find_map(|param| match param {
        Param::Set(name, value) if name == wanted => Some(&**value),
        _ => None,
    })
}
