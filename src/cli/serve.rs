//! `bindery serve`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use super::log::{self, LogArgs};
use crate::{
    config::{
        first_start::{self, FOLDERS, Located, Welcome},
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
    let (folder, welcome) = match first_start::locate(args.config.as_deref(), &FOLDERS)? {
        Located::Folder(folder) => (folder, None),
        Located::Nowhere(folder) => {
            let welcome = first_start::create(&folder).map_err(|error| {
                anyhow::anyhow!(
                    "can't write a first configuration to {}: {error}",
                    folder.display()
                )
            })?;
            (folder, Some(welcome))
        }
    };
    let served = control::serve(&folder, args.overrides, |started| announce(started, welcome));
    // Its sentence has the cause in it already.
    served.map(|()| ExitCode::SUCCESS).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Says what to type into a phone at the first start, and where it listens: what people and
/// scripts wait for.
fn announce(started: &Started, welcome: Option<Welcome>) {
    if let (Some(mut welcome), Some((_, addr))) = (welcome, started.listeners.first()) {
        welcome.server = *addr;
        // A closed standard output is no reason not to serve.
        let _ = writeln!(io::stdout().lock(), "{welcome}");
    }
    for (name, addr) in &started.listeners {
        tracing::info!(listener = %name, "listening on udp:{addr}");
    }
    if let Some(addr) = started.admin {
        tracing::info!("admin API on http://{addr}");
    }
}
