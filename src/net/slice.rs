//! How soon a thread runs again that others share a CPU with.
//!
//! Linux (6.12 and later) has the thread run first that has used up its slice the soonest, of those
//! that have not had more than their share. A thread that wants little and wants it soon asks for
//! short slices: its share stays what it was, and it needs no privilege for that.

#![expect(unsafe_code, reason = "no crate wraps the call")]

use std::{io, mem::size_of};

use libc::{SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, c_long, sched_attr, syscall};

/// The shortest that there is, in nanoseconds.
const SHORTEST: u64 = 100_000;

/// Has the calling thread ask for the shortest slices; threads that it starts inherit that. Nothing
/// changes where the operator has set another policy than the normal one, or the kernel knows no
/// slices.
///
/// # Errors
/// The kernel's.
pub fn shorten_slices() -> io::Result<()> {
    let mut attr = current()?;
    if i32::try_from(attr.sched_policy) != Ok(SCHED_OTHER) {
        return Ok(());
    }
    attr.sched_runtime = SHORTEST;
    // SAFETY: the kernel reads `size` octets from where `attr` is; 0 is the calling thread, and no
    // flags.
    checked(unsafe { syscall(SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// How the calling thread is scheduled.
fn current() -> io::Result<sched_attr> {
    let size = u32::try_from(size_of::<sched_attr>()).unwrap_or(u32::MAX);
    let mut attr = sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` octets to where `attr` is, which has as many.
    checked(unsafe { syscall(SYS_sched_getattr, 0, &raw mut attr, size, 0) })?;
    Ok(attr)
}

fn checked(result: c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_short_and_all_else_stays() {
        std::thread::spawn(|| {
            let before = current().unwrap();
            shorten_slices().unwrap();
            let after = current().unwrap();
            assert_eq!(after.sched_policy, before.sched_policy);
            assert_eq!(after.sched_nice, before.sched_nice);
            // A kernel without slices has none to tell of.
            if before.sched_runtime > 0 {
                assert_eq!(after.sched_runtime, SHORTEST);
            }
        })
        .join()
        .unwrap();
    }
}
