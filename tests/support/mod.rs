//! The real binary on loopback, and a phone to call it with.

mod phone;
mod server;

#[expect(clippy::allow_attributes, reason = "which of these are used depends on the test")]
#[allow(unused_imports, reason = "not every test uses all of it")]
pub(crate) use self::{
    phone::Phone,
    server::{Server, command, http_delete, http_get, wait_until},
};
