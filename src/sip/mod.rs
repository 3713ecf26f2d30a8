//! SIP messages, read where they lie.

pub mod limits;
