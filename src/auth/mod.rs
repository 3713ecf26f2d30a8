//! Digest access authentication (RFC 7616, RFC 8760, and RFC 2617/2069 clients).

pub mod policy;
