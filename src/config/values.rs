//! What a value may be: Yate's booleans and integers, text, addresses.

use std::borrow::Cow;

/// Text for a message: what isn't UTF-8 is marked, control characters are escaped.
pub fn lossy(text: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if text.contains(char::is_control) {
        return Cow::Owned(text.escape_default().to_string());
    }
    text
}

/// One of Yate's words for true and false; they are lower-case.
pub fn parse_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"yes" | b"on" | b"enable" | b"t" => Some(true),
        b"false" | b"no" | b"off" | b"disable" | b"f" => Some(false),
        _ => None,
    }
}

/// An integer as C's `strtol` takes it with base 0: decimal, `0x` hexadecimal or `0` octal.
pub fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, digits.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        (None, _) => (digits, 10),
    };
    // `from_str_radix` would take a second sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

/// The elements of a comma list, trimmed, empty ones left out.
pub fn comma_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_strtol() {
        let cases = [
            ("0", Some(0)),
            ("60", Some(60)),
            ("-5", Some(-5)),
            ("+5", Some(5)),
            ("0x40", Some(64)),
            ("0XfF", Some(255)),
            ("010", Some(8)),
            ("-010", Some(-8)),
            ("08", None),
            ("", None),
            ("-", None),
            ("--5", None),
            ("0x-5", None),
            ("0x", None),
            ("0+7", None),
            ("60s", None),
            ("6 0", None),
            ("9223372036854775808", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_int(text), expected, "{text}");
        }
    }

    #[test]
    fn booleans_are_lower_case_words() {
        assert_eq!(parse_bool(b"enable"), Some(true));
        assert_eq!(parse_bool(b"f"), Some(false));
        assert_eq!(parse_bool(b"Yes"), None);
        assert_eq!(parse_bool(b"1"), None);
    }
}
