//! The control plane: starting, watching, reloading and stopping what the workers run on.

mod node;
mod restore;
mod secrets;
mod serve;
mod status;

pub use self::{
    node::{Node, NotSaved, Pruned, ReloadError, Reloaded},
    serve::{Restoring, ServeError, Started, serve},
    status::{Check, ListenerStatus},
};
