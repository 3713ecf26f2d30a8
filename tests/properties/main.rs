//! What holds for all messages, URIs, records and histories, tried on generated ones.

#[path = "../../benches/support/answer.rs"]
mod answer;
mod answers;
#[path = "../../benches/support/arrival.rs"]
mod arrival;
mod durability;
mod location;
mod passing_on;
#[path = "../../fuzz/checks/proxy.rs"]
mod proxy;
mod records;
#[path = "../../benches/support/registrar.rs"]
mod registrar;
mod requests;
mod script_lines;
mod spelling;
mod uris;
