//! The subcommands.

pub mod check;
pub mod terminal;
pub mod users;
