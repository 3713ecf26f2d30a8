#![no_main]

#[path = "../../benches/support/answer.rs"]
mod answer;
#[path = "../checks/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| message::check(octets));
