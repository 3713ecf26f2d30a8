//! `bindery reload`: has the server read its configuration again.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs, write_json},
    table::{count, printable, printed},
};
use crate::admin::view::ReloadedView;

/// Have the server read its configuration again: all of it, or nothing if a file has a mistake
#[derive(Clone, Debug, clap::Args)]
pub struct Reload {
    /// How to reach the server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery reload`.
///
/// # Errors
/// No server answers, or a file has a mistake.
pub fn run(args: &Reload) -> anyhow::Result<ExitCode> {
    let view: ReloadedView = Client::new(&args.server)?.post("reload")?;
    let mut out = io::stdout().lock();
    let written =
        if args.server.json { write_json(&mut out, &view) } else { write(&mut out, &view) };
    printed(written.map_err(Into::into))
}

fn write(out: &mut dyn Write, view: &ReloadedView) -> io::Result<()> {
    for warning in &view.warnings {
        writeln!(out, "warning: {}", printable(warning))?;
    }
    let (users, removed) = (count(view.users, "user"), count(view.removed, "binding"));
    writeln!(out, "reloaded: {users} in regfile.conf; {removed} of removed users ended")
}
