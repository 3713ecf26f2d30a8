//! `bindery snapshot`: has the server save its bindings now.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use super::{
    client::{Client, ServerArgs, write_json},
    table::{count, printed},
};
use crate::admin::view::SnapshotView;

/// Have the server save all bindings now
#[derive(Clone, Debug, clap::Args)]
pub struct Snapshot {
    /// How to reach the server
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs `bindery snapshot`.
///
/// # Errors
/// No server answers, or it could not save them.
pub fn run(args: &Snapshot) -> anyhow::Result<ExitCode> {
    let view: SnapshotView = Client::new(&args.server)?.post("snapshot")?;
    let mut out = io::stdout().lock();
    let written = if args.server.json {
        write_json(&mut out, &view)
    } else {
        writeln!(out, "saved {}", summary(&view))
    };
    printed(written.map_err(Into::into))
}

/// What is in a snapshot, and what it took.
pub(super) fn summary(view: &SnapshotView) -> String {
    let (aors, bindings) = (count(view.aors, "AoR"), count(view.bindings, "binding"));
    let millis = Duration::try_from_secs_f64(view.seconds).unwrap_or_default().as_millis();
    format!("{aors}, {bindings}, {} in {millis} ms", size(view.bytes))
}

/// A size in the largest unit that leaves a number above one.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, rounded down.
    let mut tenths = bytes * 10 / 1024;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4300, "4.1 KiB"),
            (1 << 20, "1.0 MiB"),
            (1_900_000_000, "1.7 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
