//! `bindery remove`: ends bindings before their time.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    client::{Client, ServerArgs, aor_path, percent_encode_into, write_json},
    table::{count, printable, printed},
};
use crate::admin::view::RemovedView;

/// Remove the bindings of an AoR, or one of them
#[derive(Clone, Debug, clap::Args)]
pub struct Remove {
    /// The address of record: user@domain, or the user alone where there is at most one domain
    pub aor: String,
    /// The binding's id, as `bindery show` prints it
    #[arg(value_name = "CONTACT-ID")]
    pub id: Option<String>,
    /// How to reach the server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery remove`.
///
/// # Errors
/// No server answers, or there is no such binding.
pub fn run(args: &Remove) -> anyhow::Result<ExitCode> {
    let mut path = aor_path(&args.aor)?;
    if let Some(id) = &args.id {
        path.push('/');
        percent_encode_into(id.as_bytes(), &mut path);
    }
    let view: RemovedView = Client::new(&args.server)?.delete(&path)?;
    let mut out = io::stdout().lock();
    let written = if args.server.json {
        write_json(&mut out, &view)
    } else {
        let removed = count(view.removed, "binding");
        writeln!(out, "{}: {removed} removed, {} left", printable(&view.aor), view.left)
    };
    printed(written.map_err(Into::into))
}
