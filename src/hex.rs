//! Octets as hexadecimal digits, and back.

/// Octets written as hexadecimal digits of either case.
pub fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut octets = [0; N];
    (octets_into(text, &mut octets)?.len() == N).then_some(octets)
}

/// Octets written as hexadecimal digits of either case, at the start of `octets`; `None` if there
/// are more of them.
pub fn octets_into<'o>(text: &[u8], octets: &'o mut [u8]) -> Option<&'o [u8]> {
    let (pairs, rest) = text.as_chunks::<2>();
    let octets = octets.get_mut(..pairs.len()).filter(|_| rest.is_empty())?;
    for (octet, [high, low]) in octets.iter_mut().zip(pairs) {
        let high = char::from(*high).to_digit(16)?;
        let low = char::from(*low).to_digit(16)?;
        *octet = u8::try_from(high << 4 | low).ok()?;
    }
    Some(octets)
}

/// `octets` as lower-case hexadecimal digits.
pub fn to_hex(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_octets_round_trip() {
        assert_eq!(parse_hex(b"00fFa1"), Some([0, 255, 161]));
        assert_eq!(parse_hex::<2>(b"00f"), None);
        assert_eq!(parse_hex::<1>(b"0g"), None);
        assert_eq!(parse_hex::<1>(b"+1"), None);
        assert_eq!(to_hex(&[0, 255, 161]), "00ffa1");
    }
}
