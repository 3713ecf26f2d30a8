//! Texts and addresses among packed octets, in memory and on disk.

use std::net::IpAddr;

/// In the place of a text's length: two octets with the length follow.
const LONG: u8 = u8::MAX;

/// Appends the length of a text and the text: one octet of length, or 255 and two more.
pub(crate) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(len) if len < LONG => out.push(len),
        _ => {
            out.push(LONG);
            let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&len.to_le_bytes());
        }
    }
    out.extend_from_slice(text);
}

/// Takes what [`put_text`] appended.
pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = match take::<1>(bytes)? {
        [LONG] => usize::from(u16::from_le_bytes(take(bytes)?)),
        [len] => usize::from(len),
    };
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(text)
}

/// Takes the first `N` octets.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (octets, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*octets)
}

/// Appends 4 or 16 octets.
pub(crate) fn put_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

/// Takes an address of 4 octets, or 16.
pub(crate) fn take_ip(bytes: &mut &[u8], v6: bool) -> Option<IpAddr> {
    Some(if v6 { IpAddr::from(take::<16>(bytes)?) } else { IpAddr::from(take::<4>(bytes)?) })
}
