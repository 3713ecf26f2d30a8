#![no_main]

#[path = "../checks/uri.rs"]
mod uri;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| uri::check(octets));
