#![no_main]

#[path = "../checks/crc32.rs"]
mod crc32;
#[path = "../checks/snapshot.rs"]
mod snapshot;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| snapshot::check(octets));
