//! Yate's external modules: scripts that handle messages, started by us or connected to a socket of
//! ours.
//!
//! What one installs is a handler in the chain like any other ([`crate::backend::chain`]), from then
//! until it goes. All of them live on the thread of the back ends; none can keep it: each waits for
//! its own answers, has bounded queues, and is not listened to while it talks nonsense or doesn't
//! read.

pub mod line;
mod link;
mod module;
mod modules;
mod process;
mod rate;
mod supervise;
pub mod trial;

pub(super) use self::modules::Modules;
pub use self::process::{become_program, supervise};
