//! The subcommands.

pub mod bench;
pub mod check;
pub mod client;
pub mod list;
pub mod log;
pub mod reload;
pub mod remove;
pub mod serve;
pub mod show;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod table;
pub mod terminal;
pub mod users;
