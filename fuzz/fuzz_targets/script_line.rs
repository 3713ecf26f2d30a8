#![no_main]

#[path = "../checks/script_line.rs"]
mod script_line;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| script_line::check(octets));
