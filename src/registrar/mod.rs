//! The rules of RFC 3261 §10.3.

pub mod policy;
