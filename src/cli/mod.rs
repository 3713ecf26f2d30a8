//! The subcommands.

pub mod bench;
pub mod calls;
pub mod check;
pub mod client;
pub mod db;
pub mod list;
pub mod log;
pub mod processor;
pub mod reload;
pub mod remove;
pub mod script;
pub mod serve;
pub mod show;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod table;
pub mod terminal;
pub mod users;

use clap::error::ErrorKind;

/// Arguments that don't go together, as clap's own errors are told: exit code 2.
fn usage(said: String) -> anyhow::Error {
    clap::Error::raw(ErrorKind::ArgumentConflict, said + "\n").into()
}
