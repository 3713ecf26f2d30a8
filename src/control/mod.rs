//! The control plane: starting, watching, reloading and stopping what the workers run on.

mod node;
mod secrets;
mod serve;
mod status;

pub use self::{
    node::{Node, Pruned, ReloadError, Reloaded},
    serve::{ServeError, Started, serve},
    status::{Check, ListenerStatus},
};
