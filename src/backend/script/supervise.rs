//! The process between us and a script: it takes all that the script has started with it when that
//! ends, and when we do, however we end.
//!
//! A process group holds what a script starts, but for what leaves it (`setsid`, a shell with job
//! control) and for what is left when we are killed. The supervisor is a subreaper: whoever loses its
//! parent below it becomes its child, so that nothing that comes from the script is out of reach.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{self, Command, ExitStatus},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{
        Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_child_subreaper,
        set_parent_process_death_signal, wait,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
    low_level::emulate_default_handler,
};

/// Has a supervisor kill all that is below it. It comes by itself when we end.
pub(super) const END: Signal = Signal::USR1;

/// Rounds of killing what is left, and the pause between two: a process that forks faster than it
/// is killed is given up after two seconds.
const ROUNDS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a command until it ends or [`END`] comes, kills whatever it has left behind, and ends as it
/// did. It returns only if the command can't be started, or at once if `parent` is not there.
pub(super) fn supervise(command: &mut Command, parent: u32) -> io::Error {
    let mut started = || -> io::Result<(Signals, process::Child)> {
        // SIGTERM and its like are for the script, which is in the same group.
        let signals = Signals::new([SIGCHLD, SIGUSR1, SIGTERM, SIGHUP, SIGINT])?;
        set_child_subreaper(Some(getpid()))?;
        set_parent_process_death_signal(Some(END))?;
        let is_there = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
        if is_there != Some(parent) {
            return Err(io::Error::other("who has started this has gone"));
        }
        Ok((signals, command.spawn()?))
    };
    let (mut signals, child) = match started() {
        Ok(started) => started,
        Err(error) => return error,
    };
    // Its input and output are its own: they close when it closes them.
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let dup2 = || dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
        let _ = dup2().and_then(|()| dup2_stderr(&null));
    }
    let mut below =
        Below { child: i32::try_from(child.id()).ok().and_then(Pid::from_raw), ended: None };
    for signal in signals.forever() {
        match signal {
            SIGCHLD => {
                below.reap();
            }
            SIGUSR1 => break,
            _ => {}
        }
        if below.ended.is_some() {
            break;
        }
    }
    below.kill();
    end_as(below.ended)
}

/// The processes below this one.
struct Below {
    child: Option<Pid>,
    /// How `child` has ended, if it has.
    ended: Option<ExitStatus>,
}

impl Below {
    /// Takes note of who has ended; whether there are others.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.child => {
                    self.ended = Some(ExitStatus::from_raw(status.as_raw()));
                }
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Kills all of them, until there are none.
    #[expect(clippy::disallowed_methods, reason = "a process that has nothing else to do")]
    fn kill(&mut self) {
        for _ in 0..ROUNDS {
            // Whoever loses its parent by that is a child of ours in the next round.
            for pid in children_of(getpid()) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if !self.reap() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The processes whose parent this is, but for zombies.
fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    let names = folder.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_child = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        // The name, in parentheses, may have anything in it.
        let stat = stat.unwrap_or_default();
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let is_zombie = fields.next() == Some("Z");
        let own = fields.next().and_then(|own| own.parse().ok()).and_then(Pid::from_raw);
        !is_zombie && own == Some(parent)
    };
    names.filter_map(|name| Pid::from_raw(name.parse().ok()?)).filter(is_child).collect()
}

/// Ends as another process did.
fn end_as(status: Option<ExitStatus>) -> ! {
    let Some(status) = status else { process::exit(1) };
    if let Some(signal) = status.signal() {
        // No core of this process as well.
        let _ = rustix::process::setrlimit(
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
        );
        // Returns only for signals that end nothing.
        let _ = emulate_default_handler(signal);
    }
    process::exit(status.code().unwrap_or(1))
}
