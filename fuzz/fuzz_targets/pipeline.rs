#![no_main]

#[path = "../../benches/support/answer.rs"]
mod answer;
#[path = "../../benches/support/phone.rs"]
mod phone;
#[path = "../../benches/support/registrar.rs"]
mod registrar;
#[path = "../checks/pipeline.rs"]
mod pipeline;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| pipeline::check(octets));
