//! CPU time of a process, as the kernel counts it.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use super::clock::SECOND;

/// CPU time since some processes, or a thread, began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Nanoseconds of each thread that is alive, user and system together (`schedstat`), by
    /// process and thread.
    threads: BTreeMap<(u32, u32), u64>,
    /// User and system time in clock ticks (`stat`), threads that have ended included: their sum
    /// is coarser, their ratio good.
    user: u64,
    system: u64,
}

/// CPU time spent between two readings, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSpent {
    /// In the program itself.
    pub user: u64,
    /// In the kernel for it.
    pub system: u64,
}

/// How far the difference of two readings in ticks may be off, in ticks: user and system time are
/// each cut to whole ones.
const INEXACT: u64 = 2;

/// Ticks that must have been spent for them to tell how many there were, within a tenth.
const ENOUGH: u64 = 10 * INEXACT;

impl CpuSpent {
    /// Both.
    pub fn total(self) -> u64 {
        self.user + self.system
    }
}

impl CpuTime {
    /// That of processes together, all their threads included.
    ///
    /// # Errors
    /// There is no such process, or no /proc.
    pub fn of_processes(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            sum.add_process(*pid)
                .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))?;
        }
        Ok(sum)
    }

    fn add_process(&mut self, pid: u32) -> io::Result<()> {
        let folder = Path::new("/proc").join(pid.to_string());
        let (user, system) = ticks(&folder)?;
        for task in fs::read_dir(folder.join("task"))? {
            let task = task?;
            let thread = task.file_name().to_str().and_then(|name| name.parse().ok());
            // A thread may end while it is looked at: what it spent is in the ticks.
            if let (Some(thread), Ok(nanos)) = (thread, run_time(&task.path())) {
                self.threads.insert((pid, thread), nanos);
            }
        }
        self.user += user;
        self.system += system;
        Ok(())
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn of_this_thread() -> io::Result<Self> {
        let folder = Path::new("/proc/thread-self");
        let (user, system) = ticks(folder)?;
        Ok(Self { threads: [((0, 0), run_time(folder)?)].into(), user, system })
    }

    /// What was spent since an earlier reading; `None` where nobody knows.
    ///
    /// A thread that has ended takes its nanoseconds with it, and only the ticks still have them.
    pub fn since(&self, earlier: &Self) -> Option<CpuSpent> {
        let has_ended = earlier.threads.keys().any(|thread| !self.threads.contains_key(thread));
        let spent = |(thread, nanos): (_, &u64)| {
            nanos.saturating_sub(earlier.threads.get(thread).copied().unwrap_or(0))
        };
        let alive: u64 = self.threads.iter().map(spent).sum();
        let user = self.user.saturating_sub(earlier.user);
        let ticks = user + self.system.saturating_sub(earlier.system);
        let tick = SECOND / rustix::param::clock_ticks_per_second().max(1);
        // What some other thread has spent that began and ended between the readings is in the
        // ticks as well.
        let is_short = ticks.saturating_sub(INEXACT) * tick > alive;
        if has_ended && ticks < ENOUGH {
            return None;
        }
        let nanos = if has_ended || is_short { alive.max(ticks * tick) } else { alive };
        // Shorter than a tick: nobody knows which it was.
        let share = u128::from(nanos) * u128::from(user) / u128::from(ticks.max(1));
        let user = u64::try_from(share).unwrap_or(nanos);
        Some(CpuSpent { user, system: nanos - user })
    }
}

fn run_time(folder: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(folder.join("schedstat"))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn ticks(folder: &Path) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(folder.join("stat"))?;
    user_and_system(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn user_and_system(stat: &str) -> Option<(u64, u64)> {
    // The second field is the name in parentheses, which may itself hold blanks and parentheses;
    // user and system time are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse);
    Some((times.next()?.ok()?, times.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn reading(threads: &[(u32, u64)], user: u64, system: u64) -> CpuTime {
        let threads = threads.iter().map(|(thread, nanos)| ((7, *thread), *nanos)).collect();
        CpuTime { threads, user, system }
    }

    #[test]
    fn the_ratio_of_ticks_divides_the_nanoseconds() {
        let before = reading(&[(1, 400), (2, 600)], 5, 5);
        // Two ticks of the difference are within what cutting them leaves open.
        let after = reading(&[(1, 2400), (2, 2600)], 5, 7);
        assert_eq!(after.since(&before), Some(CpuSpent { user: 0, system: 4000 }));
        let after = reading(&[(1, 400), (2, 50_000_600)], 6, 8);
        let spent = CpuSpent { user: 12_500_000, system: 37_500_000 };
        assert_eq!(after.since(&before), Some(spent));
        let soon = reading(&[(1, 400), (2, 600), (3, 100)], 5, 5);
        assert_eq!(soon.since(&before), Some(CpuSpent { user: 0, system: 100 }));
    }

    #[test]
    fn what_an_ended_thread_took_with_it_is_in_the_ticks_or_unknown() {
        let before = reading(&[(1, 400), (2, 900_000_000)], 40, 50);
        let after = reading(&[(1, 900)], 90, 100);
        let spent = CpuSpent { user: 500_000_000, system: 500_000_000 };
        assert_eq!(after.since(&before), Some(spent));
        // Another one has its number.
        let after = reading(&[(1, 900), (2, 100)], 90, 100);
        assert_eq!(after.since(&before), Some(spent));
        let after = reading(&[(1, 900)], 41, 50);
        assert_eq!(after.since(&before), None);
    }

    #[test]
    fn this_thread_and_its_process_have_spent_time() {
        let spun: u64 = (0..2_000_000_u64).map(std::hint::black_box).sum();
        assert!(spun > 0);
        let thread = CpuTime::of_this_thread().unwrap();
        let process = CpuTime::of_processes(&[std::process::id()]).unwrap();
        let begun = CpuTime::default();
        assert!(thread.since(&begun).unwrap().total() > 0);
        assert!(process.since(&begun).unwrap().total() > 0);
        assert!(CpuTime::of_processes(&[u32::MAX]).is_err());
    }

    #[test]
    fn a_thread_that_ends_takes_nothing_with_it() {
        let (begin, begun) = mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            begun.recv().unwrap();
            let start = CpuTime::of_this_thread().unwrap();
            while CpuTime::of_this_thread().unwrap().since(&start).unwrap().total() < SECOND / 2 {}
        });
        let before = CpuTime::of_processes(&[std::process::id()]).unwrap();
        begin.send(()).unwrap();
        worker.join().unwrap();
        let after = CpuTime::of_processes(&[std::process::id()]).unwrap();
        let spent = after.since(&before).unwrap().total();
        assert!(spent >= SECOND / 2 - 20_000_000, "{spent} ns");
    }

    #[test]
    fn times_follow_a_name_of_any_form() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14";
        assert_eq!(user_and_system(stat), Some((150, 25)));
        assert_eq!(user_and_system("7 (a) S 1 2 3"), None);
    }
}
