//! Methods (IANA registry "Methods", RFC 3261 §27.4).

/// A request's method. Names are case-sensitive (RFC 3261 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// `ACK`.
    Ack,
    /// `BYE`.
    Bye,
    /// `CANCEL`.
    Cancel,
    /// `INFO` (RFC 6086).
    Info,
    /// `INVITE`.
    Invite,
    /// `MESSAGE` (RFC 3428).
    Message,
    /// `NOTIFY` (RFC 6665).
    Notify,
    /// `OPTIONS`.
    Options,
    /// `PRACK` (RFC 3262).
    Prack,
    /// `PUBLISH` (RFC 3903).
    Publish,
    /// `REFER` (RFC 3515).
    Refer,
    /// `REGISTER`.
    Register,
    /// `SUBSCRIBE` (RFC 6665).
    Subscribe,
    /// `UPDATE` (RFC 3311).
    Update,
    /// Any other token.
    Extension(&'a [u8]),
}

impl<'a> Method<'a> {
    /// The registered methods, in alphabetical order.
    pub const REGISTERED: [Method<'static>; 14] = [
        Method::Ack,
        Method::Bye,
        Method::Cancel,
        Method::Info,
        Method::Invite,
        Method::Message,
        Method::Notify,
        Method::Options,
        Method::Prack,
        Method::Publish,
        Method::Refer,
        Method::Register,
        Method::Subscribe,
        Method::Update,
    ];

    /// The method of this name; the caller has checked that it is a token.
    pub fn parse(token: &'a [u8]) -> Self {
        match token {
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            _ => Self::REGISTERED
                .into_iter()
                .find(|m| m.as_bytes() == token)
                .unwrap_or(Self::Extension(token)),
        }
    }

    /// The name as it stands in a message.
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Ack => b"ACK",
            Self::Bye => b"BYE",
            Self::Cancel => b"CANCEL",
            Self::Info => b"INFO",
            Self::Invite => b"INVITE",
            Self::Message => b"MESSAGE",
            Self::Notify => b"NOTIFY",
            Self::Options => b"OPTIONS",
            Self::Prack => b"PRACK",
            Self::Publish => b"PUBLISH",
            Self::Refer => b"REFER",
            Self::Register => b"REGISTER",
            Self::Subscribe => b"SUBSCRIBE",
            Self::Update => b"UPDATE",
            Self::Extension(token) => token,
        }
    }

    /// The name for metrics: `other` for extensions, so that strangers can't make up labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Extension(_) => "other",
            registered => Self::REGISTERED
                .into_iter()
                .find(|m| m == registered)
                .and_then(|m| std::str::from_utf8(m.as_bytes()).ok())
                .unwrap_or("other"),
        }
    }

    /// The position in [`Method::REGISTERED`]; extensions come after the last.
    pub fn ordinal(&self) -> usize {
        match self {
            Self::Ack => 0,
            Self::Bye => 1,
            Self::Cancel => 2,
            Self::Info => 3,
            Self::Invite => 4,
            Self::Message => 5,
            Self::Notify => 6,
            Self::Options => 7,
            Self::Prack => 8,
            Self::Publish => 9,
            Self::Refer => 10,
            Self::Register => 11,
            Self::Subscribe => 12,
            Self::Update => 13,
            Self::Extension(_) => Self::REGISTERED.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for (at, method) in Method::REGISTERED.into_iter().enumerate() {
            assert_eq!(method.ordinal(), at);
            assert_eq!(Method::parse(method.as_bytes()), method);
            assert_eq!(method.label().as_bytes(), method.as_bytes());
            assert_eq!(Method::REGISTERED[method.ordinal()], method);
        }
        assert_eq!(Method::parse(b"register"), Method::Extension(b"register"));
        assert_eq!(Method::Extension(b"NEWMETHOD").label(), "other");
    }
}
