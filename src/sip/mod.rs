//! SIP messages, read where they lie (RFC 3261 §7, §25).
//!
//! [`Parser`] splits a datagram into a start line and an index of its header lines, and reads
//! the headers that every answer needs: the topmost Via, From, To, Call-ID and CSeq. All other
//! values stay octets until somebody asks for them. Everything borrows the datagram, or, for
//! messages with folded lines and other rarities, the parser's scratch copy of it.
//!
//! This ring is pure: no socket, thread, clock or logger, and no allocation for a message of the
//! usual form.

pub mod encode;
mod error;
pub mod extra;
mod grammar;
pub mod header;
pub mod limits;
mod message;
mod method;
mod parser;
mod request;
mod response;
mod scan;
mod status;
pub mod uri;

pub use self::{
    error::{Fault, Silence},
    limits::Limits,
    message::Message,
    method::Method,
    parser::Parser,
    request::{Envelope, Parsed, Rejected, Request},
    response::Response,
    status::{REGISTERED_CODES, Status, code_ordinal},
};
