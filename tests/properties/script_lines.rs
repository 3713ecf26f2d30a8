//! Lines of external modules: what the fuzz target checks, on lines that look like some.

use proptest::prelude::*;

#[path = "../../fuzz/checks/script_line.rs"]
mod script_line;

/// A field: text, escapes that are right and wrong, and what ends names and fields.
fn field() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z0-9./@]{0,6}",
        1 => "%[A-_z%}@a]?",
        1 => prop_oneof![Just("="), Just("%J"), Just("ü"), Just("\u{1f980}"), Just("\t"), Just(" ")]
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_read_says_the_same_when_it_is_written(
        keyword in prop_oneof![
            6 => Just("%%>message:1:0:"),
            2 => Just("%%<message:1:true:"),
            1 => Just("%%>message:"),
            1 => Just("%%>install:"),
            1 => Just("%%>setlocal:"),
            1 => Just(""),
        ],
        fields in prop::collection::vec(field(), 0..8),
    ) {
        script_line::check(format!("{keyword}{}", fields.join(":")).as_bytes());
    }

    #[test]
    fn no_octets_do_harm(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        script_line::check(&octets);
        script_line::check(&[&b"%%>message:1:0:a:b:"[..], &octets].concat());
    }
}
