//! `bindery serve`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::log::{self, LogArgs};
use crate::{
    config::{
        first_start::{self, FOLDERS, Located, Welcome},
        resolve::Overrides,
    },
    control::{self, Restoring, Started},
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
    let (folder, mut welcome) = match first_start::locate(args.config.as_deref(), &FOLDERS)? {
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
    let served =
        control::serve(&folder, args.overrides, |started| announce(started, welcome.take()));
    if let Some(welcome) = welcome {
        // It did not start, and the next start will find a configuration that is there already.
        let _ = writeln!(io::stdout().lock(), "{welcome}");
    }
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
    show(started.restoring.clone());
}

/// Shows how far what was saved is read, for as long as it takes: on the terminal, or now and then
/// in the log.
fn show(restoring: Restoring) {
    const BAR_EVERY: Duration = Duration::from_millis(100);
    const LOG_EVERY: Duration = Duration::from_secs(2);
    let is_terminal = io::stderr().is_terminal();
    let wait = if is_terminal { BAR_EVERY } else { LOG_EVERY };
    let bar = || {
        let style = "restoring registrations {wide_bar} {percent} % {eta}";
        let bar = ProgressBar::new(0);
        ProgressStyle::with_template(style)
            .map(|style| bar.clone().with_style(style))
            .unwrap_or(bar)
    };
    let body = move || {
        let mut bar_on_show = None;
        loop {
            // Most starts are over before there is anything to show.
            thread::park_timeout(wait);
            let Some((done, total)) = restoring.octets() else { break };
            if is_terminal {
                let bar = bar_on_show.get_or_insert_with(bar);
                bar.set_length(total);
                bar.set_position(done);
            } else {
                tracing::info!(done, total, "restoring registrations, octets");
            }
        }
        if let Some(bar) = bar_on_show {
            bar.finish_and_clear();
        }
    };
    // Nothing but the show is lost without it.
    let _ = thread::Builder::new().name("progress".to_owned()).spawn(body);
}
