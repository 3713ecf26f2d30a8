//! The log: lines for people on a terminal, JSON for machines.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: colours on a terminal, plain elsewhere.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log: Format,
    /// How much is logged: error, warn, info, debug (a line for each registration), trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: Level,
}

/// Lines that may wait for a slow terminal or pipe; further ones are dropped, because a worker
/// must not wait for a reader of its log.
const WAITING_LINES: usize = 10_000;

/// Starts logging to standard error, until the guard is dropped.
pub fn start(args: &LogArgs) -> WorkerGuard {
    let stderr = io::stderr();
    let colours = stderr.is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .finish(stderr);
    let builder = tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_target(false)
        .with_writer(writer);
    match args.log {
        Format::Human => builder.with_ansi(colours).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    guard
}
