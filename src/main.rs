//! The `bindery` program.
fn main() {}
