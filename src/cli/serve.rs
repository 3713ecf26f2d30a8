//! `bindery serve`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use super::log::{self, LogArgs};
use crate::{
    config::{
        first_start::{self, FOLDERS, Located},
        resolve::Overrides,
    },
    control::{self, Started},
};

/// Run the registrar until SIGTERM or SIGINT; SIGHUP reloads the configuration
#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    /// The folder with bindery.conf and regfile.conf [default: ./conf, else /etc/bindery, else a
    /// first configuration is written to ./conf]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// What goes before the files
    #[command(flatten)]
    pub overrides: Overrides,
    /// The log
    #[command(flatten)]
    pub log: LogArgs,
}

/// Runs `bindery serve`.
///
/// # Errors
/// One sentence on why it did not start, or had to stop.
pub fn run(args: Serve) -> anyhow::Result<ExitCode> {
    let _flush = log::start(&args.log);
    let folder = match first_start::locate(args.config.as_deref(), &FOLDERS)? {
        Located::Folder(folder) => folder,
        Located::Nowhere(folder) => {
            let welcome = first_start::create(&folder).map_err(|error| {
                anyhow::anyhow!(
                    "can't write a first configuration to {}: {error}",
                    folder.display()
                )
            })?;
            writeln!(io::stdout().lock(), "{welcome}")?;
            folder
        }
    };
    control::serve(&folder, args.overrides, announce)?;
    Ok(ExitCode::SUCCESS)
}

/// Says where it listens: what scripts and people wait for.
fn announce(started: &Started) {
    for (name, addr) in &started.listeners {
        tracing::info!(listener = %name, "listening on udp:{addr}");
    }
    if let Some(addr) = started.admin {
        tracing::info!("admin API on http://{addr}");
    }
}
