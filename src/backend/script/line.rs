//! One line of Yate's external module protocol, read and written. Pure: it knows no process, no
//! socket and no clock, and whatever the octets are it only answers that they mean nothing.
//!
//! Fields are apart by `:`. In each, octets below 0x20 and `:` are `%` and that octet plus 0x40, and
//! `%` is `%%`; in names of parameters that are written here `=` is escaped too, since the first `=`
//! ends the name. That is what Yate writes and takes, so that its `%}` for a `=` can be written here
//! and not read.

use std::fmt;

use memchr::memchr;

use crate::{backend::message::Message, config::values::parse_bool};

/// Why a line means nothing; the answer is `Error in:` and the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins with no keyword of an application's.
    #[error("no keyword")]
    Keyword,
    /// A `%` before something that it can't stand before, or an octet that had to be escaped.
    #[error("a wrong escape")]
    Escape,
    /// It is not UTF-8.
    #[error("not UTF-8")]
    Text,
    /// A number, `true` or `false` was expected.
    #[error("a wrong number")]
    Number,
    /// A field is missing.
    #[error("too few fields")]
    Fields,
    /// A parameter has no name before its `=`.
    #[error("a parameter without a name")]
    NoName,
}

/// Appends a text as a field.
pub fn escape_into(out: &mut Vec<u8>, text: &[u8]) {
    escape(out, text, |_| false);
}

/// Appends the name of a parameter.
fn escape_name_into(out: &mut Vec<u8>, name: &[u8]) {
    escape(out, name, |octet| octet == b'=');
}

fn escape(out: &mut Vec<u8>, text: &[u8], is_special: impl Fn(u8) -> bool) {
    out.reserve(text.len());
    for &octet in text {
        match octet {
            b'%' => out.extend_from_slice(b"%%"),
            0..0x20 | b':' => out.extend_from_slice(&[b'%', octet + 0x40]),
            _ if is_special(octet) => out.extend_from_slice(&[b'%', octet.wrapping_add(0x40)]),
            _ => out.push(octet),
        }
    }
}

/// The text of a field.
///
/// # Errors
/// It was escaped wrongly, or is not UTF-8.
pub fn unescape(field: &[u8]) -> Result<String, Malformed> {
    let mut out = Vec::with_capacity(field.len());
    let mut octets = field.iter().copied();
    while let Some(octet) = octets.next() {
        let plain = match octet {
            b'%' => match octets.next() {
                Some(b'%') => b'%',
                Some(b'z') => b':',
                Some(escaped @ 0x41..=0x5F) => escaped - 0x40,
                _ => return Err(Malformed::Escape),
            },
            0..0x20 => return Err(Malformed::Escape),
            plain => plain,
        };
        out.push(plain);
    }
    String::from_utf8(out).map_err(|_| Malformed::Text)
}

/// What an answer, or a message, says of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// It has this value.
    Set(String, String),
    /// It goes.
    Remove(String),
}

/// A message that an application sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How its answer is to be called; without one none is wanted.
    pub id: String,
    /// Unix seconds; zero is now.
    pub time: u64,
    /// What it is about.
    pub name: String,
    /// The return value that it begins with.
    pub retval: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
}

impl Sent {
    /// About how many octets it has.
    pub fn octets(&self) -> usize {
        let params = self.params.iter().map(|param| match param {
            Param::Set(name, value) => name.len() + value.len(),
            Param::Remove(name) => name.len(),
        });
        self.id.len() + self.name.len() + self.retval.len() + params.sum::<usize>()
    }
}

/// What an application made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message's.
    pub id: String,
    /// Whether nobody else has to see it.
    pub handled: bool,
    /// Name, return value and parameters, unless they stay as they were.
    pub changes: Option<Changes>,
}

/// How an application leaves a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Empty keeps the name.
    pub name: String,
    /// The return value.
    pub retval: String,
    /// Parameters that have changed, or may have.
    pub params: Vec<Param>,
}

/// What an application says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `%%>connect`: what it is, on a socket whose listener doesn't say.
    Connect {
        /// `global`, or what there is none of here.
        role: String,
    },
    /// `%%>install`: it handles these messages.
    Install {
        /// Lower goes first.
        priority: i32,
        /// The messages' name.
        name: String,
        /// Only those with this parameter, of this value.
        filter: Option<(String, String)>,
    },
    /// `%%>uninstall`: it no longer does.
    Uninstall(String),
    /// `%%>watch`: it wants to see what became of these messages.
    Watch(String),
    /// `%%>unwatch`: it no longer does.
    Unwatch(String),
    /// `%%>setlocal`: sets something about itself, or asks for it.
    SetLocal {
        /// What.
        name: String,
        /// Empty: asks.
        value: String,
    },
    /// `%%>output`: a line for the log.
    Output(String),
    /// `%%>debug`: the same, with Yate's level.
    Debug {
        /// 0 to 10, where 10 is the least important.
        level: u8,
        /// The text.
        text: String,
    },
    /// `%%>message`.
    Message(Sent),
    /// `%%<message`.
    Answer(Answer),
    /// `%%>quit`: it is about to go.
    Quit,
}

/// Yate's priority of a handler that names none.
const PRIORITY: i32 = 100;

impl Command {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let (keyword, rest) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], Some(&line[colon + 1..])),
            None => (line, None),
        };
        let mut fields = Fields(rest);
        Ok(match keyword {
            b"%%>connect" => Self::Connect { role: fields.needed()? },
            b"%%>install" => Self::install(fields)?,
            b"%%>uninstall" => Self::Uninstall(fields.needed()?),
            b"%%>watch" => Self::Watch(fields.needed()?),
            b"%%>unwatch" => Self::Unwatch(fields.needed()?),
            b"%%>setlocal" => Self::SetLocal { name: fields.needed()?, value: fields.or_empty()? },
            // Raw, as Yate takes it.
            b"%%>output" => {
                Self::Output(String::from_utf8_lossy(rest.unwrap_or_default()).into_owned())
            }
            b"%%>debug" => {
                let level = fields.number::<u8>()?.ok_or(Malformed::Number)?.min(10);
                let text = unescape(fields.0.unwrap_or_default())?;
                Self::Debug { level, text }
            }
            b"%%>message" => Self::Message(Sent {
                id: fields.needed()?,
                time: fields.number()?.unwrap_or(0),
                name: fields.needed()?,
                retval: fields.or_empty()?,
                params: fields.params()?,
            }),
            b"%%<message" => {
                let id = fields.needed()?;
                let handled = fields.next().ok_or(Malformed::Fields)?;
                let handled = parse_bool(handled).ok_or(Malformed::Number)?;
                let has_changes = fields.0.is_some_and(|rest| !rest.is_empty());
                let changes = if has_changes {
                    let (name, retval) = (fields.needed()?, fields.or_empty()?);
                    Some(Changes { name, retval, params: fields.params()? })
                } else {
                    None
                };
                Self::Answer(Answer { id, handled, changes })
            }
            b"%%>quit" => Self::Quit,
            _ => return Err(Malformed::Keyword),
        })
    }

    /// `[prio]:name[:fname[:fvalue]]`; Yate takes a name alone as well.
    fn install(mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let first = fields.needed()?;
        let (priority, name) = match fields.next() {
            None => (PRIORITY, first),
            Some(name) => (first.trim().parse().unwrap_or(PRIORITY), unescape(name)?),
        };
        if name.is_empty() {
            return Err(Malformed::Fields);
        }
        let filter = match fields.next().map(unescape).transpose()? {
            Some(param) if !param.is_empty() => Some((param, fields.or_empty()?)),
            _ => None,
        };
        Ok(Self::Install { priority, name, filter })
    }
}

/// The fields of a line that are left; `None` once there are none, which is not one empty field.
#[derive(Clone, Copy)]
struct Fields<'l>(Option<&'l [u8]>);

impl<'l> Fields<'l> {
    fn next(&mut self) -> Option<&'l [u8]> {
        let rest = self.0?;
        let Some(colon) = memchr(b':', rest) else { return self.0.take() };
        self.0 = Some(&rest[colon + 1..]);
        Some(&rest[..colon])
    }

    fn needed(&mut self) -> Result<String, Malformed> {
        unescape(self.next().ok_or(Malformed::Fields)?)
    }

    fn or_empty(&mut self) -> Result<String, Malformed> {
        self.next().map_or_else(|| Ok(String::new()), unescape)
    }

    /// A number; `None` if the field is empty.
    fn number<N: std::str::FromStr>(&mut self) -> Result<Option<N>, Malformed> {
        let field = self.needed()?;
        match field.trim() {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| Malformed::Number),
        }
    }

    fn params(&mut self) -> Result<Vec<Param>, Malformed> {
        let mut params = Vec::new();
        while let Some(field) = self.next() {
            match memchr(b'=', field) {
                Some(0) => return Err(Malformed::NoName),
                Some(equals) => {
                    let (name, value) = (&field[..equals], &field[equals + 1..]);
                    params.push(Param::Set(unescape(name)?, unescape(value)?));
                }
                None if field.is_empty() => {}
                None => params.push(Param::Remove(unescape(field)?)),
            }
        }
        Ok(params)
    }
}

/// Appends `%%>message` for an application, with its line end.
pub fn message_into(out: &mut Vec<u8>, id: &str, time: u64, message: &Message) {
    out.extend_from_slice(b"%%>message:");
    escape_into(out, id.as_bytes());
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(time).as_bytes());
    out.push(b':');
    rest_into(out, message.name.as_str(), &message.retval, message.params());
}

/// Appends `%%<message` for an application: what became of a message that it sent, or without an id
/// of one that it watches.
pub fn outcome_into<'m>(
    out: &mut Vec<u8>,
    id: &str,
    handled: bool,
    name: &str,
    retval: &str,
    params: impl Iterator<Item = (&'m str, &'m str)>,
) {
    out.extend_from_slice(b"%%<message:");
    escape_into(out, id.as_bytes());
    out.extend_from_slice(if handled { b":true:" } else { b":false:" });
    rest_into(out, name, retval, params);
}

fn rest_into<'m>(
    out: &mut Vec<u8>,
    name: &str,
    retval: &str,
    params: impl Iterator<Item = (&'m str, &'m str)>,
) {
    escape_into(out, name.as_bytes());
    out.push(b':');
    escape_into(out, retval.as_bytes());
    for (name, value) in params {
        out.push(b':');
        escape_name_into(out, name.as_bytes());
        out.push(b'=');
        escape_into(out, value.as_bytes());
    }
    out.push(b'\n');
}

/// Appends `%%<KEYWORD` with these fields, and its line end.
pub fn reply_into(out: &mut Vec<u8>, keyword: &str, fields: &[&str]) {
    out.extend_from_slice(b"%%<");
    out.extend_from_slice(keyword.as_bytes());
    for field in fields {
        out.push(b':');
        escape_into(out, field.as_bytes());
    }
    out.push(b'\n');
}

/// Appends the answer to a line that means nothing.
pub fn error_into(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(ERROR);
    out.extend_from_slice(b": ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// How the answer to a question begins.
pub const ANSWER: &[u8] = b"%%<message:";

/// How the answer to a line that means nothing begins; it is never answered itself.
pub const ERROR: &[u8] = b"Error in";

/// Any line of the protocol as people read it: fields unescaped, one parameter a line.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'l>(pub &'l [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_message = self.0.starts_with(b"%%>message:") || self.0.starts_with(b"%%<message:");
        if self.0.starts_with(ERROR) {
            // With the line as it was.
            return write!(f, "{}", String::from_utf8_lossy(self.0).escape_debug());
        }
        for (place, field) in self.0.split(|octet| *octet == b':').enumerate() {
            let text = match place {
                // The keyword's own escape is part of its name.
                0 => String::from_utf8_lossy(field).into_owned(),
                _ => unescape(field).unwrap_or_else(|_| String::from_utf8_lossy(field).into()),
            };
            let text = text.escape_debug();
            match place {
                0 => write!(f, "{text}")?,
                5.. if is_message => write!(f, "\n      {text}")?,
                _ => write!(f, " : {text}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::message::MessageName;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        escape_into(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_escaped_as_yate_does() {
        for (plain, written) in [
            ("plain", "plain"),
            ("a:b", "a%zb"),
            ("100%", "100%%"),
            ("line\nend\r\t", "line%Jend%M%I"),
            ("a=b;c=d", "a=b;c=d"),
            ("ü漢🦀", "ü漢🦀"),
            ("\u{1}\u{1f}", "%A%_"),
            ("", ""),
        ] {
            assert_eq!(escaped(plain), written);
            assert_eq!(unescape(written.as_bytes()).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn what_yate_refuses_is_refused() {
        for wrong in ["%", "a%", "%}", "%@", "%a", "%1", "\t", "a\u{1}"] {
            assert_eq!(unescape(wrong.as_bytes()), Err(Malformed::Escape), "{wrong:?}");
        }
        assert_eq!(unescape(b"\xff"), Err(Malformed::Text));
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn set(name: &str, value: &str) -> Param {
        Param::Set(text(name), text(value))
    }

    #[test]
    fn each_keyword_is_read() {
        let install = |priority, name: &str, filter: Option<(&str, &str)>| Command::Install {
            priority,
            name: text(name),
            filter: filter.map(|(name, value)| (text(name), text(value))),
        };
        let set_local =
            |name: &str, value: &str| Command::SetLocal { name: text(name), value: text(value) };
        for (line, command) in [
            ("%%>connect:global", Command::Connect { role: text("global") }),
            ("%%>connect:global:id:type", Command::Connect { role: text("global") }),
            ("%%>install:50:user.auth", install(50, "user.auth", None)),
            ("%%>install::user.auth", install(100, "user.auth", None)),
            ("%%>install:user.auth", install(100, "user.auth", None)),
            ("%%>install:-5:a:b:c%zd", install(-5, "a", Some(("b", "c:d")))),
            ("%%>install:1:a:b", install(1, "a", Some(("b", "")))),
            ("%%>uninstall:user.auth", Command::Uninstall(text("user.auth"))),
            ("%%>watch:", Command::Watch(text(""))),
            ("%%>unwatch:x", Command::Unwatch(text("x"))),
            ("%%>setlocal:timeout:500", set_local("timeout", "500")),
            ("%%>setlocal:bufsize:", set_local("bufsize", "")),
            ("%%>setlocal:bufsize", set_local("bufsize", "")),
            ("%%>output:a:b %z", Command::Output(text("a:b %z"))),
            ("%%>debug:5:text", Command::Debug { level: 5, text: text("text") }),
            ("%%>quit", Command::Quit),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn messages_and_answers_are_read() {
        let sent = Sent {
            id: text("a:1"),
            time: 7,
            name: text("user.auth"),
            retval: text(""),
            params: vec![set("username", "100"), Param::Remove(text("gone")), set("x", "a=b:c")],
        };
        let line = "%%>message:a%z1:7:user.auth::username=100:gone::x=a=b%zc";
        assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Message(sent)));
        let answer =
            |handled, changes| Ok(Command::Answer(Answer { id: text("1"), handled, changes }));
        assert_eq!(Command::parse(b"%%<message:1:true:"), answer(true, None));
        assert_eq!(Command::parse(b"%%<message:1:false"), answer(false, None));
        let changes =
            Changes { name: text(""), retval: text("secret"), params: vec![set("expires", "60")] };
        let line = b"%%<message:1:yes::secret:expires=60";
        assert_eq!(Command::parse(line), answer(true, Some(changes)));
    }

    #[test]
    fn what_means_nothing_has_a_reason() {
        for (line, why) in [
            ("", Malformed::Keyword),
            ("hello", Malformed::Keyword),
            ("%%>installed:1:a", Malformed::Keyword),
            ("%%<install:1:a:true", Malformed::Keyword),
            ("%%>install", Malformed::Fields),
            ("%%>install:1:", Malformed::Fields),
            ("%%>connect", Malformed::Fields),
            ("%%>message:1:now:a:", Malformed::Number),
            ("%%>message:1:0:a::=b", Malformed::NoName),
            ("%%>message:1:0:a::b=%}", Malformed::Escape),
            ("%%>message:1", Malformed::Fields),
            ("%%<message:1", Malformed::Fields),
            ("%%<message:1:maybe:", Malformed::Number),
            ("%%>debug:loud:x", Malformed::Number),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Err(why), "{line}");
        }
    }

    #[test]
    fn a_message_survives_both_ways() {
        let long = "x=:%\n".repeat(6144);
        let mut message = Message::new(MessageName::UserAuth);
        message.retval = "a:b".to_owned();
        for (name, value) in [("data", "sip/sip:1@h;transport=udp"), ("ü", &*long), ("e", "")] {
            message.set(name, value);
        }
        let mut line = Vec::new();
        message_into(&mut line, "0x1.2", 5, &message);
        assert_eq!(line.iter().filter(|octet| **octet == b'\n').count(), 1);
        let Ok(Command::Message(sent)) = Command::parse(line.trim_ascii_end()) else { panic!() };
        assert_eq!((&*sent.id, sent.time, &*sent.name), ("0x1.2", 5, "user.auth"));
        assert_eq!(sent.retval, message.retval);
        let params: Vec<Param> = message.params().map(|(name, value)| set(name, value)).collect();
        assert_eq!(sent.params, params);
    }

    #[test]
    fn an_equals_sign_in_a_name_is_escaped_where_it_is_written() {
        let mut line = Vec::new();
        outcome_into(&mut line, "", false, "n", "", [("a=b", "c=d")].into_iter());
        assert_eq!(line, b"%%<message::false:n::a%}b=c=d\n");
    }

    #[test]
    fn lines_are_shown_to_people() {
        let shown = Shown(b"%%>message:1:0:user.auth::username=a%zb:x=1").to_string();
        let expected = "%%>message : 1 : 0 : user.auth : \n      username=a:b\n      x=1";
        assert_eq!(shown, expected);
    }
}
