//! The CPU time of the workers' threads, as the kernel counts it.

use std::{fs, path::Path};

/// What a worker's thread is called, before its number.
const WORKER: &str = "worker-";

/// One worker's CPU time.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerCpu {
    /// The worker's number, as in its thread's name.
    pub worker: String,
    /// Seconds in user and system mode together.
    pub seconds: f64,
}

/// The CPU time of all workers of this process, by number. It is empty where there is no `/proc`.
pub(super) fn workers() -> Vec<WorkerCpu> {
    let ticks = rustix::param::clock_ticks_per_second();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut workers: Vec<_> = threads.filter_map(|t| worker(&t.path(), ticks)).collect();
    workers.sort_by(|a, b| a.worker.cmp(&b.worker));
    workers
}

fn worker(thread: &Path, ticks_per_second: u64) -> Option<WorkerCpu> {
    // A thread may end while it is looked at.
    let name = fs::read_to_string(thread.join("comm")).ok()?;
    let worker = name.trim_end().strip_prefix(WORKER)?.to_owned();
    let ticks = ticks(&fs::read_to_string(thread.join("stat")).ok()?)?;
    #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are three million years")]
    let seconds = ticks as f64 / ticks_per_second as f64;
    Some(WorkerCpu { worker, seconds })
}

/// User and system time of a line of `/proc/PID/task/TID/stat`, in clock ticks.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses, which may itself hold blanks and parentheses;
    // user and system time are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    times.next()?.ok()?.checked_add(times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::channel,
        thread::{self, Builder},
    };

    use super::*;

    #[test]
    fn times_follow_a_name_of_any_form() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("7 (a) S 1 2 3"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn threads_are_found_by_name() {
        let (end, ended) = channel::<()>();
        let (ready, started) = channel();
        let thread = Builder::new().name("worker-97".into());
        let thread = thread.spawn(move || {
            ready.send(()).unwrap();
            // Until the sender goes.
            let _ = ended.recv();
        });
        started.recv().unwrap();
        let found = workers();
        drop(end);
        thread.map(thread::JoinHandle::join).unwrap().unwrap();
        let worker = found.iter().find(|w| w.worker == "97").unwrap();
        assert!(worker.seconds < 60.0, "{worker:?}");
    }
}
