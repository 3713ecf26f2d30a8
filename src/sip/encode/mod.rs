//! Writing messages into a caller's slot.

mod buf;
mod response;

pub use self::{
    buf::Buf,
    response::{Response, destination, put_ip, put_top_via},
};
