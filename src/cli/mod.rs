//! The subcommands.

pub mod check;
pub mod log;
pub mod serve;
pub mod terminal;
pub mod users;
