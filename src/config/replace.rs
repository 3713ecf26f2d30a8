//! `${name}` and `${name$default}`: how Yate's files refer to values known only later.

use std::borrow::Cow;

use memchr::memmem;

use super::lines::trim;

/// `text` with each `${name$default}` replaced by what `lookup` knows for `name`.
///
/// Name and default are trimmed. The default stands in for an unknown name only: a value that is
/// known and empty stays empty. What was put in is not scanned again, so that a caller's display
/// name can't reach a password. An unterminated `${` ends the replacement; the rest stays.
pub fn replace<'a, 'v>(
    text: &'a [u8],
    mut lookup: impl FnMut(&[u8]) -> Option<Cow<'v, [u8]>>,
) -> Cow<'a, [u8]> {
    let mut rest = text;
    let mut out = Vec::new();
    while let Some(start) = memmem::find(rest, b"${") {
        let (before, placeholder) = rest.split_at(start);
        let Some(end) = memchr::memchr(b'}', placeholder) else {
            break;
        };
        out.extend_from_slice(before);
        let inside = placeholder.get(2..end).unwrap_or_default();
        let (name, default) = match memchr::memchr(b'$', inside) {
            Some(dollar) => (&inside[..dollar], &inside[dollar + 1..]),
            None => (inside, &b""[..]),
        };
        match lookup(trim(name)) {
            Some(value) => out.extend_from_slice(&value),
            None => out.extend_from_slice(trim(default)),
        }
        rest = placeholder.get(end + 1..).unwrap_or_default();
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_once() {
        let cases = [
            ("plain", "plain"),
            ("${a}", "A"),
            ("x${a}y${ a }z", "xAyAz"),
            ("${none}", ""),
            ("${none$d}", "d"),
            ("${none$ d }", "d"),
            ("${empty$d}", ""),
            ("${self}", "${a}"),
            ("${a", "${a"),
            ("${a}${a", "A${a"),
            ("$a {b}", "$a {b}"),
        ];
        for (text, expected) in cases {
            let replaced = replace(text.as_bytes(), |name| match name {
                b"a" => Some(b"A".into()),
                b"empty" => Some(b"".into()),
                b"self" => Some(b"${a}".into()),
                _ => None,
            });
            assert_eq!(replaced, expected.as_bytes(), "{text}");
        }
    }
}
