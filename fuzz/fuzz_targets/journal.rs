#![no_main]

#[path = "../checks/crc32.rs"]
mod crc32;
#[path = "../checks/journal.rs"]
mod journal;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| journal::check(octets));
