//! The real binary on loopback, and a phone to call it with.

mod phone;
mod server;

pub(crate) use self::{
    phone::Phone,
    server::{Server, command, wait_until},
};
