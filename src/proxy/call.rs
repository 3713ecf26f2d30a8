//! A call as its parties and the operator see it: who, whom, since when, and how it ended.

use std::{net::SocketAddr, sync::Arc};

use crate::time::Now;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its INVITE is on its way.
    Calling,
    /// A phone rings.
    Ringing,
    /// It was answered.
    Answered,
    /// It is over.
    Ended,
}

impl Stage {
    /// Its name in the API and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calling => "calling",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Ended => "ended",
        }
    }
}

/// Why a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A party hung up after it was answered.
    Bye,
    /// The caller gave up before.
    Cancelled,
    /// The INVITE was answered with this code, 300 to 699.
    Refused(u16),
    /// Neither party was heard of any more.
    Dead,
    /// A party that was asked does not have it any more, or is not there.
    Vanished,
}

impl End {
    /// Yate's word for it, as it stands in `reason` of a call's record; empty for a plain end. Yate
    /// asks nobody, and has no word for who vanished.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Bye => "",
            Self::Cancelled => "cancelled",
            Self::Dead => "timeout",
            Self::Vanished => "vanished",
            Self::Refused(code) => match code {
                300..=399 => "moved",
                401 | 407 => "noauth",
                403 => "forbidden",
                404 | 604 => "noroute",
                408 | 480 => "noanswer",
                410 => "unallocated",
                415 => "nomedia",
                481 => "nocall",
                482 | 483 => "looping",
                484 => "incomplete",
                486 | 600 => "busy",
                488 | 606 => "unacceptable",
                491 => "pending",
                500 => "failure",
                501 => "service-not-implemented",
                503 => "congestion",
                504 => "timeout",
                603 => "rejected",
                _ => "failure",
            },
        }
    }
}

/// Who calls whom: what stays as it is as long as the call lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// Call-ID.
    pub call_id: Box<[u8]>,
    /// The user part of From's URI, unescaped: who calls.
    pub caller: Box<[u8]>,
    /// The user part of the Request-URI, unescaped: who is called.
    pub called: Box<[u8]>,
    /// The account that proved to be the caller, as it was named in the credentials.
    pub username: Option<Box<[u8]>>,
    /// The AoR of ours that calls, which the call counts for.
    pub from_aor: Option<Box<[u8]>>,
    /// Where the INVITE came from.
    pub source: SocketAddr,
}

/// A call. Moments are milliseconds of the monotonic clock ([`Now::millis`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Tells it from all others of this process.
    pub id: u64,
    /// Who calls whom.
    pub parties: Arc<Parties>,
    /// The AoR of ours that is called; once a phone has answered, that phone's.
    pub to_aor: Option<Arc<[u8]>>,
    /// Where it went to, as far as anybody rang or answered there.
    pub target: Option<SocketAddr>,
    /// How far it has come.
    pub stage: Stage,
    /// When it began.
    pub began: u64,
    /// When a phone first rang.
    pub rang: Option<u64>,
    /// When it was answered.
    pub answered: Option<u64>,
    /// When and why it ended.
    pub ended: Option<(u64, End)>,
}

impl Call {
    /// A call that begins, without a number yet.
    pub fn new(now: Now, parties: Arc<Parties>, to_aor: Option<Arc<[u8]>>) -> Self {
        Self {
            id: 0,
            parties,
            to_aor,
            target: None,
            stage: Stage::Calling,
            began: now.millis,
            rang: None,
            answered: None,
            ended: None,
        }
    }
}

/// Something that has happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEvent {
    /// When.
    pub now: Now,
    /// What: the stage that it has come to is new.
    pub call: Call,
}
