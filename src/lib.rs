//! Bindery: a carrier-edge SIP registrar.

pub mod auth;
pub mod flow;
pub mod net;
pub mod registrar;
pub mod sip;
pub mod subscribers;
pub mod time;
