//! Why requests for others go no further than here: `calls_refused_total`, and the log.

use crate::proxy::Unreachable;

/// Why a request for somebody else is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many requests wait for back ends as may.
    NoBackEnd,
    /// It wants something of proxies that this one knows nothing of.
    ProxyRequire,
    /// Its Request-URI is no SIP URI.
    Scheme,
    /// It has passed by as many hops as it may.
    MaxForwards,
    /// It was here before.
    Loop,
    /// There is no such user.
    UnknownCallee,
    /// It is for a domain that is not ours, where nobody is called.
    ForeignCallee,
    /// A handler of `call.route` refuses it.
    Route,
    /// The callee has no phone.
    Offline,
    /// What was saved is still being read.
    Loading,
    /// Too many requests are being passed on.
    Full,
    /// It is from a domain that is not ours.
    ForeignCaller,
    /// A handler of `user.auth` refuses its sender.
    Refused,
    /// No back end could say.
    Unavailable,
    /// From is not the sender's.
    From,
    /// The caller or the callee has as many calls as it may.
    MaxCalls,
    /// The callee is to be reached by TLS.
    Sips,
    /// The callee's domain is to be reached by something else than UDP.
    Transport,
    /// There is no such domain.
    NoSuchDomain,
    /// No name server could say where the domain is.
    Dns,
    /// It leads to this server.
    LeadsBack,
    /// It leads where callers may not have us send.
    ForeignDeny,
    /// It leads where nobody can be.
    NoWay,
    /// The caller is told where to go.
    Redirect,
    /// Not a call's beginning: a CANCEL of nothing.
    NoTransaction,
    /// Not a call's beginning: an ACK of nothing.
    Ack,
    /// Not a call's beginning: a request of a dialog.
    WithinDialog,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 27] = [
        Self::NoBackEnd,
        Self::ProxyRequire,
        Self::Scheme,
        Self::MaxForwards,
        Self::Loop,
        Self::UnknownCallee,
        Self::ForeignCallee,
        Self::Route,
        Self::Offline,
        Self::Loading,
        Self::Full,
        Self::ForeignCaller,
        Self::Refused,
        Self::Unavailable,
        Self::From,
        Self::MaxCalls,
        Self::Sips,
        Self::Transport,
        Self::NoSuchDomain,
        Self::Dns,
        Self::LeadsBack,
        Self::ForeignDeny,
        Self::NoWay,
        Self::Redirect,
        Self::NoTransaction,
        Self::Ack,
        Self::WithinDialog,
    ];

    /// Whether a call that ends so was refused.
    pub fn is_refusal(self) -> bool {
        !matches!(self, Self::Redirect | Self::NoTransaction | Self::Ack | Self::WithinDialog)
    }

    /// The value of the `reason` label, and `cause` in the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoBackEnd => "no_back_end",
            Self::ProxyRequire => "proxy_require",
            Self::Scheme => "scheme",
            Self::MaxForwards => "max_forwards",
            Self::Loop => "loop",
            Self::UnknownCallee => "unknown_callee",
            Self::ForeignCallee => "foreign_callee",
            Self::Route => "route",
            Self::Offline => "offline",
            Self::Loading => "loading",
            Self::Full => "full",
            Self::ForeignCaller => "foreign_caller",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::From => "from",
            Self::MaxCalls => "max_calls",
            Self::Sips => "sips",
            Self::Transport => "transport",
            Self::NoSuchDomain => "no_such_domain",
            Self::Dns => "dns",
            Self::LeadsBack => "leads_back",
            Self::ForeignDeny => "foreign_deny",
            Self::NoWay => "no_way",
            Self::Redirect => "redirect",
            Self::NoTransaction => "no_transaction",
            Self::Ack => "ack",
            Self::WithinDialog => "within_dialog",
        }
    }
}

impl From<Unreachable> for Cause {
    fn from(why: Unreachable) -> Self {
        match why {
            Unreachable::Secure => Self::Sips,
            Unreachable::Transport => Self::Transport,
            Unreachable::Unknown => Self::NoSuchDomain,
            Unreachable::Unanswered => Self::Dns,
            Unreachable::Own => Self::LeadsBack,
            Unreachable::Denied => Self::ForeignDeny,
            Unreachable::NoWay => Self::NoWay,
        }
    }
}
