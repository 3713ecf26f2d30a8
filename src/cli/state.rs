//! `bindery state`: what a state folder holds, while no server uses it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use persist::storage::{Storage, file::FileStorage};
use serde::Serialize;

use super::{
    snapshot::size,
    table::{Table, count, printed, span},
};
use crate::{
    admin::view::BindingView,
    durability::{File, Folder, Restored, SNAPSHOT},
    location::Location,
    registrar::Binding,
    time::{Clock, SystemClock},
};

/// Look at a state folder that no server uses, print it, or tidy it up
#[derive(Clone, Debug, clap::Args)]
pub struct State {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
    /// Read every snapshot and every segment of the journal; exit with 1 if anything is damaged
    Verify(At),
    /// Print all bindings that a start would restore, a line of JSON for each AoR
    Dump(At),
    /// Write a new snapshot of what a start would restore, and remove what no snapshot needs any more
    Compact {
        #[command(flatten)]
        at: At,
        /// Older snapshots that stay beside the new one, each with the segments of the journal that
        /// it needs: only with 0 do all of them go at once
        #[arg(long, value_name = "N", default_value_t = 2)]
        keep: usize,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct At {
    /// The state folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The newest snapshot, where regfile.conf says `file=` [default: DIR/regfile.snapshot]
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
}

/// An AoR as it is printed.
#[derive(Serialize)]
struct Line<'l> {
    aor: &'l str,
    sequence: u64,
    bindings: Vec<BindingView>,
}

/// Runs `bindery state`.
///
/// # Errors
/// One sentence on why the folder can't be used.
pub fn run(args: &State) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Verify(at) => verify(&open(at)?),
        Action::Dump(at) => dump(&open(at)?),
        Action::Compact { at, keep } => compact(&open(at)?, *keep),
    }
}

/// Opens a folder that is there, and keeps servers out of it meanwhile.
fn open(at: &At) -> anyhow::Result<Folder> {
    let storage = locked(&at.folder)?;
    let Some(snapshot) = &at.snapshot else {
        return Ok(Folder::new(Arc::clone(&storage), storage, SNAPSHOT));
    };
    let name = snapshot.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} names no file", snapshot.display()))?;
    let parent = snapshot.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    let is_same = parent.canonicalize().ok() == at.folder.canonicalize().ok();
    let snapshots = if is_same { Arc::clone(&storage) } else { locked(parent)? };
    let is_there = |found: &String| {
        found.strip_prefix(name).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('.').is_some_and(|n| n.parse::<usize>().is_ok())
        })
    };
    let names = snapshots.list().with_context(|| format!("can't list {}", parent.display()))?;
    anyhow::ensure!(names.iter().any(is_there), "there is no snapshot {}", snapshot.display());
    Ok(Folder::new(storage, snapshots, name))
}

fn locked(folder: &Path) -> anyhow::Result<Arc<dyn Storage>> {
    anyhow::ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    match FileStorage::create(folder) {
        Ok(storage) => Ok(Arc::new(storage)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            anyhow::bail!("a server uses the folder {}: stop it first", folder.display())
        }
        Err(error) => {
            Err(error).with_context(|| format!("can't use the folder {}", folder.display()))
        }
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn verify(folder: &Folder) -> anyhow::Result<ExitCode> {
    let now = SystemClock::new().now();
    let files = folder.verify(now)?;
    let mut out = io::stdout().lock();
    if files.is_empty() {
        return printed(writeln!(out, "nothing is saved here").map_err(Into::into));
    }
    let mut table = Table::new(["file", "size", "begun", "records", "bindings", "state"]);
    for file in &files {
        let File { name, bytes, begun, records, bindings, damage, notes } = file;
        let age = |begun: &u64| format!("{} ago", span(now.unix.saturating_sub(*begun)));
        let found: Vec<_> = damage.iter().chain(notes).map(String::as_str).collect();
        table.push([
            name.clone(),
            size(*bytes),
            begun.as_ref().map(age).unwrap_or_default(),
            records.to_string(),
            bindings.map(|bindings| bindings.to_string()).unwrap_or_default(),
            if found.is_empty() { "whole".to_owned() } else { found.join("; ") },
        ]);
    }
    let damaged = files.iter().filter(|file| !file.damage.is_empty()).count() as u64;
    let mut written = table.write(&mut out, "");
    if damaged > 0 {
        written = written.and_then(|()| writeln!(out, "{} damaged", count(damaged, "file")));
    }
    let code = printed(written.map_err(Into::into))?;
    Ok(if damaged > 0 { ExitCode::FAILURE } else { code })
}

fn dump(folder: &Folder) -> anyhow::Result<ExitCode> {
    let now = SystemClock::new().now();
    let contents = folder.contents(now, threads())?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    for part in 0..Location::PARTS {
        if written.is_err() {
            break;
        }
        contents.location.scan(part, None, |_, record| {
            let aor = String::from_utf8_lossy(record.aor());
            let view = |binding: Binding<'_>| {
                let listener = contents.listener(binding.flow.listener);
                BindingView::with_listener(&binding, listener, now)
            };
            let bindings: Vec<_> = record.bindings(now).map(view).collect();
            if bindings.is_empty() {
                return true;
            }
            let line = Line { aor: &aor, sequence: record.sequence(), bindings };
            written = serde_json::to_writer(&mut out, &line)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out));
            written.is_ok()
        });
    }
    let code = printed(written.and_then(|()| out.flush()).map_err(Into::into))?;
    Ok(if damaged(&contents.restored) { ExitCode::FAILURE } else { code })
}

/// Says on standard error whether anything could not be read.
fn damaged(restored: &Restored) -> bool {
    let Restored { damaged, unreadable, .. } = *restored;
    if damaged + unreadable == 0 {
        return false;
    }
    let (files, changes) = (count(damaged, "file"), count(unreadable, "registration"));
    eprintln!(
        "bindery: {files} damaged or missing, {changes} unreadable: `bindery state verify` says \
         which"
    );
    true
}

fn compact(folder: &Folder, keep: usize) -> anyhow::Result<ExitCode> {
    let (restored, taken, segments) = folder.compact(&SystemClock::new(), threads(), keep)?;
    let Restored { expired, changes, unreadable, .. } = restored;
    let bindings = count(taken.bindings, "binding");
    let aors = count(taken.aors, "AoR");
    let took = Duration::from_millis(taken.millis).as_secs_f64();
    let line = format!(
        "{bindings} of {aors} in a snapshot of {} ({took:.1} s); {} of the journal applied, \
         {expired} expired, {unreadable} unreadable; {} of the journal stay",
        size(taken.bytes),
        count(changes, "change"),
        count(segments as u64, "segment"),
    );
    let code = printed(writeln!(io::stdout(), "{line}").map_err(Into::into))?;
    // Then nothing of the journal was removed.
    Ok(if damaged(&restored) { ExitCode::FAILURE } else { code })
}
