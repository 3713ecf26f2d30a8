//! The parts of a canonical address-of-record (RFC 3261 §10.3 step 5).

use super::{grammar::find, unescaped};

/// Appends `bytes` with all `%` escapes resolved.
pub fn unescape_into(bytes: &[u8], out: &mut Vec<u8>) {
    if find(b'%', bytes).is_none() {
        out.extend_from_slice(bytes);
    } else {
        out.extend(unescaped(bytes));
    }
}

/// Appends a host in lower case, without the dot that a fully qualified name may end in.
pub fn canonical_host_into(host: &[u8], out: &mut Vec<u8>) {
    let host = host.strip_suffix(b".").unwrap_or(host);
    let start = out.len();
    out.extend_from_slice(host);
    out[start..].make_ascii_lowercase();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_parts() {
        let mut out = Vec::new();
        unescape_into(b"%61l%69ce%4", &mut out);
        out.push(b'@');
        canonical_host_into(b"AtLanta.COM.", &mut out);
        assert_eq!(out, b"alice%4@atlanta.com");
    }
}
