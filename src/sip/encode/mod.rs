//! Writing answers into a caller's slot.

mod buf;
mod response;

pub use self::{
    buf::Buf,
    response::{Response, destination},
};
