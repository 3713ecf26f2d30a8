//! CPU time of a process, as the kernel counts it.

use std::path::Path;
use std::{fs, io};

/// CPU time since a process or thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Nanoseconds, user and system together (`schedstat`).
    nanos: u64,
    /// User and system time in clock ticks (`stat`): their sum is coarser, their ratio good.
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
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let time = Self::of_process(*pid)
                .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))?;
            Ok(Self {
                nanos: sum.nanos + time.nanos,
                user: sum.user + time.user,
                system: sum.system + time.system,
            })
        })
    }

    fn of_process(pid: u32) -> io::Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let (user, system) = ticks(&folder)?;
        let mut nanos = 0;
        for task in fs::read_dir(folder.join("task"))? {
            // A thread may end while it is looked at.
            nanos += run_time(&task?.path()).unwrap_or(0);
        }
        Ok(Self { nanos, user, system })
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn of_this_thread() -> io::Result<Self> {
        let folder = Path::new("/proc/thread-self");
        let (user, system) = ticks(folder)?;
        Ok(Self { nanos: run_time(folder)?, user, system })
    }

    /// What was spent since an earlier reading.
    pub fn since(self, earlier: Self) -> CpuSpent {
        let nanos = self.nanos.saturating_sub(earlier.nanos);
        let user = self.user.saturating_sub(earlier.user);
        let ticks = user + self.system.saturating_sub(earlier.system);
        // Shorter than a tick: nobody knows which it was.
        let share = u128::from(nanos) * u128::from(user) / u128::from(ticks.max(1));
        let user = u64::try_from(share).unwrap_or(nanos);
        CpuSpent { user, system: nanos - user }
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

    #[test]
    fn the_ratio_of_ticks_divides_the_nanoseconds() {
        let before = CpuTime { nanos: 1000, user: 5, system: 5 };
        let after = CpuTime { nanos: 5000, user: 6, system: 8 };
        assert_eq!(after.since(before), CpuSpent { user: 1000, system: 3000 });
        let soon = CpuTime { nanos: 1100, ..before };
        assert_eq!(soon.since(before), CpuSpent { user: 0, system: 100 });
        assert_eq!(before.since(after).total(), 0);
    }

    #[test]
    fn this_thread_and_its_process_have_spent_time() {
        let spun: u64 = (0..2_000_000_u64).map(std::hint::black_box).sum();
        assert!(spun > 0);
        let thread = CpuTime::of_this_thread().unwrap();
        let process = CpuTime::of_processes(&[std::process::id()]).unwrap();
        assert!(thread.nanos > 0 && process.nanos > 0);
        assert!(CpuTime::of_processes(&[u32::MAX]).is_err());
    }

    #[test]
    fn times_follow_a_name_of_any_form() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14";
        assert_eq!(user_and_system(stat), Some((150, 25)));
        assert_eq!(user_and_system("7 (a) S 1 2 3"), None);
    }
}
