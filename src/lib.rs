//! Bindery: a carrier-edge SIP registrar.

pub mod flow;
pub mod time;
