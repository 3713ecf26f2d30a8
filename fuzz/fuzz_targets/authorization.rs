#![no_main]

#[path = "../checks/authorization.rs"]
mod authorization;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| authorization::check(octets));
