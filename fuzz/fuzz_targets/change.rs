#![no_main]

#[path = "../checks/change.rs"]
mod change;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| change::check(octets));
