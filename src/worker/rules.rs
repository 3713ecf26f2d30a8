//! What a worker goes by: all that a reload replaces, in one piece.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::{
    auth::Authenticator,
    registrar::{self, Domains},
    sip::Limits,
    subscribers::Subscribers,
};

/// Everything a request is judged by but the bindings.
///
/// # Reload
/// A reload builds new rules and swaps them in whole, or not at all; the next datagram of each
/// worker goes by them.
#[derive(Debug)]
pub struct Rules {
    /// The domains we are responsible for.
    pub domains: Domains,
    /// What may be granted.
    pub registrar: registrar::Policy,
    /// How users prove who they are.
    pub authenticator: Authenticator,
    /// Who they are.
    pub subscribers: Subscribers,
    /// Whether anybody may register who has no account (`autocreate`).
    pub autocreate: bool,
    /// The Server header.
    pub server: Option<Box<str>>,
    /// What a message may hold.
    pub limits: Limits,
}

/// The rules in force, shared by all threads.
pub type SharedRules = Arc<ArcSwap<Rules>>;

/// A worker's view of the rules in force: one load to see that they are still the same.
pub(super) type RulesCache = Cache<SharedRules, Arc<Rules>>;
