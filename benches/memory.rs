//! Resident memory for each binding, while a registrar grows to a million and to ten million of
//! them: typical phones, one binding each, registered as a worker registers them.
//!
//! `cargo bench --bench memory` measures both sizes with a short and a long Contact, each in a
//! process of its own; `-- 10000000 long` one of them.

use std::{fs, process::Command};

use bindery::{location::Location, time::Now};

use crate::{
    arrival::START,
    typical::{Form, Space, Typical},
};

#[path = "support/arrival.rs"]
#[expect(dead_code, reason = "other benches and tests want the flow too")]
mod arrival;
#[path = "support/typical.rs"]
#[expect(dead_code, reason = "another bench refreshes")]
mod typical;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Seconds that the phones come in; within the shortest time that one is granted.
const SECONDS: u64 = 3000;

/// Steps that are shown, and looks at the memory in each of them.
const STEPS: u32 = 20;
const LOOKS: u32 = 50;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let [size, form] = &args[..] {
        let form = if form == "long" { Form::Long } else { Form::Short };
        return grow(size.parse().expect("a number of bindings"), form);
    }
    let program = std::env::current_exe().expect("this program");
    for size in ["1000000", "10000000"] {
        for form in ["short", "long"] {
            let done = Command::new(&program).args([size, form]).status().expect("it runs");
            assert!(done.success());
        }
    }
}

#[expect(clippy::print_stdout, reason = "a table is what this is for")]
fn grow(size: u32, form: Form) {
    let location = Location::new([1; 16], 0);
    let mut space = Space::default();
    let before = resident();
    println!("{size} bindings, {form:?} Contact: bindings, octets each, and the most since before");
    for step in 0..STEPS {
        let mut most = 0;
        for look in 0..LOOKS {
            let from = portion(size, step * LOOKS + look);
            let to = portion(size, step * LOOKS + look + 1);
            for number in from..to {
                let phone = Typical::new(number, form);
                let key = location.key(phone.aor.as_bytes());
                space.register(&location, key, &phone, 1, at(number, size));
            }
            most = most.max((resident() - before) / u64::from(to));
        }
        let bindings = location.bindings();
        let octets = (resident() - before) / bindings;
        println!("{bindings:>10} {octets:>5} {most:>5}");
    }
}

/// How many phones have come after so many looks.
fn portion(size: u32, looks: u32) -> u32 {
    u32::try_from(u64::from(size) * u64::from(looks) / u64::from(STEPS * LOOKS)).unwrap_or(size)
}

fn at(number: u32, size: u32) -> Now {
    let second = SECONDS * u64::from(number) / u64::from(size);
    Now { millis: START.millis + 1000 * second, unix: START.unix + second }
}

/// Octets of this process that are in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("KiB");
    kib * 1024
}
