//! Programs that we start: with two pipes and the log, with the rights that the configuration gives
//! them, in a process group of their own that ends with them.

use std::{
    fmt,
    io::{self, Error, ErrorKind},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::{net::unix::pipe, time::Instant};

use super::{
    link::Link,
    supervise::{self, END},
};
use crate::config::extmodule::{Program, Rights};

/// How often a process is looked at, whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process has to end by itself once its standard input is closed; Yate's.
const PATIENCE: Duration = Duration::from_millis(60);

/// How long it has after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);

/// How long its supervisor has to kill all that it has started.
const KILLS: Duration = Duration::from_secs(3);

/// The subcommand that supervises a program, and the one by which a process takes its limits before
/// it becomes the program.
const SUPERVISE: [&str; 2] = ["script", "supervise"];
const LAUNCH: [&str; 2] = ["script", "launch"];

/// A process and all that it has started. They end with this value, whatever they do.
#[derive(Debug)]
pub(super) struct Process {
    /// Its supervisor, which leads its group and ends as it does.
    child: Child,
    /// Until it has ended: another may have its number then.
    group: Option<Pid>,
    ended: Option<Ended>,
}

impl Process {
    /// Starts a program; what it reads and writes, and its standard error.
    pub(super) fn start(program: &Program) -> io::Result<(Self, Link, pipe::Receiver)> {
        // What is plain from here is said before there is a process.
        let file = std::fs::metadata(&program.path);
        let file = file.map_err(|error| Error::new(error.kind(), shown(&program.path, &error)))?;
        if !file.is_file() {
            return Err(Error::other(shown(&program.path, "no file")));
        }
        let mut child = command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // Whatever goes wrong now, it doesn't stay.
        let process = Self { child, group, ended: None };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let receiver = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd);
        let writer = pipe::Sender::from_owned_fd(stdin.into())?;
        let link = Link::Pipes(receiver(stdout.into())?, writer);
        Ok((process, link, receiver(stderr.into())?))
    }

    /// Waits for its end. What it has started ends then.
    pub(super) async fn ended(&mut self) -> Ended {
        if let Some(ended) = self.ended {
            return ended;
        }
        while self.runs() {
            tokio::time::sleep(LOOK).await;
        }
        // While it is not waited for, the group is its own.
        self.signal(Signal::KILL);
        self.group = None;
        let ended = Ended(self.child.wait().ok());
        self.ended = Some(ended);
        ended
    }

    fn runs(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = self.group.map(|pid| waitid(WaitId::Pid(pid), options));
        matches!(status, Some(Ok(None)))
    }

    /// Has it end: its input is closed already, or it has left us.
    pub(super) async fn stop(mut self) -> Ended {
        if let Ok(ended) = tokio::time::timeout(PATIENCE, self.ended()).await {
            return ended;
        }
        self.signal(Signal::TERM);
        let until = Instant::now() + GRACE;
        match tokio::time::timeout_at(until, self.ended()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.end();
                match tokio::time::timeout(KILLS, self.ended()).await {
                    Ok(ended) => ended,
                    // Somebody keeps the supervisor from it.
                    Err(_) => {
                        self.signal(Signal::KILL);
                        self.ended().await
                    }
                }
            }
        }
    }

    /// Has the supervisor kill all, though somebody may have stopped it.
    fn end(&self) {
        if let Some(group) = self.group {
            let _ = kill_process(group, END);
            let _ = kill_process(group, Signal::CONT);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Who has gone needs none.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.end();
            // A moment: it only kills.
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, if that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended(Option<ExitStatus>);

impl Ended {
    /// Whether it says that all went well.
    pub(super) fn is_success(self) -> bool {
        self.0.is_some_and(|status| status.success())
    }

    /// What the log says.
    pub(super) fn why(self) -> Box<str> {
        let Some(status) = self.0 else { return "it has ended".into() };
        match (status.code(), status.signal()) {
            (Some(code), _) => format!("it has ended with status {code}").into(),
            (_, Some(signal)) => format!("it was ended by signal {signal}").into(),
            _ => "it has ended".into(),
        }
    }
}

fn shown(path: &Path, what: impl fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

/// This very program, even if its file was replaced meanwhile: it supervises another one, which takes
/// the limits and becomes the program. Nothing can be done between fork and exec without `unsafe`.
fn command(program: &Program) -> Command {
    let mut command = Command::new(OURSELVES);
    command.args(SUPERVISE).arg(std::process::id().to_string()).process_group(0);
    if let Some((user, group)) = program.rights.user {
        command.uid(user).gid(group);
    }
    add_limits(&mut command, &program.rights);
    command.arg("--").arg(&program.path).arg(&*program.arg);
    command
}

/// Supervises a program for `parent`, at the priority that both are to have. It returns only if that
/// can't be done.
pub fn supervise(parent: u32, rights: &Rights, path: &Path, arg: &str) -> Error {
    let nice = i32::try_from(rights.nice).unwrap_or(i32::MAX);
    if let Err(error) = rustix::process::nice(nice) {
        return error.into();
    }
    let rights = &Rights { nice: 0, ..rights.clone() };
    let mut command = Command::new(OURSELVES);
    command.args(LAUNCH);
    add_limits(&mut command, rights);
    supervise::supervise(command.arg("--").arg(path).arg(arg), parent)
}

const OURSELVES: &str = "/proc/self/exe";

fn add_limits(command: &mut Command, rights: &Rights) {
    let Rights { user: _, files, processes, memory, cpu, nice } = rights;
    let limits = [("--files", files), ("--processes", processes), ("--memory", memory)];
    for (name, limit) in limits.into_iter().chain([("--cpu", cpu)]) {
        if let Some(limit) = limit {
            command.arg(name).arg(limit.to_string());
        }
    }
    if *nice > 0 {
        command.arg("--nice").arg(nice.to_string());
    }
}

/// Takes these limits and becomes the program. It returns only if that can't be done.
pub fn become_program(rights: &Rights, path: &Path, arg: &str) -> Error {
    let limits = [
        (Resource::Nofile, rights.files),
        (Resource::Nproc, rights.processes),
        (Resource::As, rights.memory),
        (Resource::Cpu, rights.cpu),
    ];
    for (resource, limit) in limits {
        let Some(limit) = limit else { continue };
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            return error.into();
        }
    }
    // Should its supervisor be killed, nobody would end it.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    Command::new(path).arg(arg).exec()
}
