//! What becomes of a request's credentials.

use super::authorization::{AuthorizationError, Quoted};
use super::nonce_count::NonceUse;

/// The authenticator's decision about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The client knows the password. Its nonce count remains to be checked.
    Granted(Grant<'a>),
    /// The client knows the password, but its nonce has aged: a challenge with `stale=true`, which
    /// phones answer without asking their user.
    Stale,
    /// A challenge, whatever the reason: the answer must not tell which.
    Challenge(Refusal),
}

/// Who was authenticated, and with which nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// The authenticated username.
    pub username: Quoted<'a>,
    /// What [`NonceCounts`](super::NonceCounts) has to check and to record.
    pub used: NonceUse,
    /// Whether the `uri` parameter names another host than the Request-URI; to be counted, not
    /// refused (see [`Authenticator::judge`](super::Authenticator::judge)).
    pub uri_differs: bool,
}

/// Why credentials did not count. For metrics and logs only; the client sees a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There were none, or the empty ones that IMS phones send first (3GPP TS 24.229 §5.1.1.2).
    NoCredentials,
    /// Not the Digest scheme.
    OtherScheme,
    /// For another realm: a proxy's, or ours before it was renamed.
    WrongRealm,
    /// The header can't be read.
    Malformed(AuthorizationError),
    /// The nonce is not of our making, or its key is gone.
    ForgedNonce,
    /// An algorithm that was not offered.
    UnsupportedAlgorithm,
    /// A `qop` that was not offered, such as `auth-int`.
    UnsupportedQop,
    /// No such account.
    UnknownUser,
    /// The account may not authenticate.
    NoPassword,
    /// The account has no hash for the algorithm that the client chose.
    NoHa1,
    /// The response is not that of the account's password.
    WrongPassword,
}

impl Refusal {
    /// Whether the credentials were not meant for this server, so that others beside them count.
    pub(super) const fn is_not_ours(self) -> bool {
        matches!(self, Self::NoCredentials | Self::OtherScheme | Self::WrongRealm)
    }
}
