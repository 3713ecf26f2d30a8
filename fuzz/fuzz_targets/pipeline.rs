#![no_main]

#[path = "../../benches/support/answer.rs"]
mod answer;
#[path = "../../benches/support/arrival.rs"]
mod arrival;
#[path = "../../benches/support/phone.rs"]
mod phone;
#[path = "../checks/pipeline.rs"]
mod pipeline;
#[path = "../../benches/support/registrar.rs"]
mod registrar;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| pipeline::check(octets));
