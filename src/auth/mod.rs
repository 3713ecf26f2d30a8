//! Digest access authentication (RFC 7616, RFC 8760, and RFC 2617/2069 clients).
//!
//! Header values, a method, keys and a moment in; a [`Verdict`] out. Nothing here reads a clock,
//! draws a random number, keeps a table or allocates for a request.
//!
//! A request passes through in this order:
//!
//! 1. [`Authenticator::verify_any`] reads the credentials ([`Authorization`]), refuses what is not
//!    an answer to a challenge of ours before any account is looked up, and then compares the
//!    digest. Unknown users cost the same work and get the same answer as wrong passwords.
//!    For a batch of requests [`Trials`] does the comparing, with the same verdicts.
//! 2. A [`Verdict::Granted`] carries a [`NonceUse`]. Whoever holds the record of the address of
//!    record asks its [`NonceCounts`] whether that use is new, and records it in the same step that
//!    commits the registration.
//! 3. Everything but a grant is answered by a [`Challenge`].
//!
//! # What is offered, what is taken
//!
//! Offered: the configured algorithms, each as one challenge with `qop="auth"`. Taken beyond that:
//! no `qop` (RFC 2069), `qop` with odd quoting, `nc` and `cnonce` without `qop` (ignored: such
//! clients leave them out of the hash).
//!
//! Not taken, and answered with a challenge: `auth-int`, because a REGISTER has no body that is
//! worth protecting while To and Contact stay unprotected; the `-sess` variants, because a session
//! key only pays when a third party verifies; `username*`, which the grammar of SIP does not know;
//! and `userhash=true`, which would need an index of hashed names and counts as an unknown user.

pub mod authenticator;
pub mod authorization;
pub mod challenge;
pub mod digest;
pub mod md5_lanes;
pub mod nonce;
pub mod nonce_count;
pub mod policy;
mod trial;
pub mod verdict;

pub use authenticator::{Authenticator, Claim};
pub use authorization::Authorization;
pub use challenge::{Challenge, Sink};
pub use digest::{Ha1Set, Secret};
pub use nonce::NonceKeys;
pub use nonce_count::{NonceCounts, NonceUse, Renewal, RequestHash, Use};
pub use trial::{Trial, Trials};
pub use verdict::{Grant, Refusal, Verdict};
