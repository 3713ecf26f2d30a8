//! Header values, one file a header.

mod contact;
mod cseq;
mod list;
mod name;
mod name_addr;
mod params;
mod via;

pub use self::{
    contact::{Contact, Contacts, Quality},
    cseq::Cseq,
    list::Elements,
    name::HeaderName,
    name_addr::NameAddr,
    params::{Param, Params},
    via::Via,
};

/// A header value that breaks its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue;

/// The option tags of a `Require`, `Proxy-Require` or `Supported` value (RFC 3261 §20.32).
pub fn option_tags(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    Elements::new(value).filter_map(Result::ok).filter(|tag| !tag.is_empty())
}
