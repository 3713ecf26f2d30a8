//! Bindery: a carrier-edge SIP registrar.

pub mod admin;
pub mod auth;
pub mod backend;
pub mod bench;
pub mod calls;
pub mod cli;
pub mod config;
pub mod control;
pub mod durability;
pub mod flow;
pub mod hex;
pub mod location;
pub mod metrics;
pub mod net;
mod octets;
mod packed;
pub mod proxy;
pub mod registrar;
pub mod sip;
pub mod subscribers;
pub mod time;
pub mod worker;
