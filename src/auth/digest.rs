//! The digest itself: H(A1), H(A2) and the response (RFC 7616 §3.4.1, RFC 2069 §2.1.2).

use md5::{Digest, Md5};
use sha2::{Sha256, Sha512_256};
use subtle::ConstantTimeEq;

use super::policy::Algorithm;

/// What is known about an account's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The hashes of a password.
    Ha1(Ha1Set),
    /// Every response is right: an empty `password=` in `regfile.conf`.
    AnyPassword,
    /// No response is right: a section without `password`.
    NoPassword,
}

/// H(A1) of one account, by algorithm; a hash that is not known is `None`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Ha1Set {
    /// For `MD5`.
    pub md5: Option<[u8; 16]>,
    /// For `SHA-256`.
    pub sha256: Option<[u8; 32]>,
    /// For `SHA-512-256`.
    pub sha512_256: Option<[u8; 32]>,
}

impl Ha1Set {
    /// Hashes a password for the algorithms given.
    ///
    /// `username` and `realm` are without quotes and escapes.
    pub fn of_password(
        algorithms: &[Algorithm],
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        let a1 = [username, b":", realm, b":", password];
        let mut set = Self::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Md5 => set.md5 = Some(hash::<Md5>(&a1).into()),
                Algorithm::Sha256 => set.sha256 = Some(hash::<Sha256>(&a1).into()),
                Algorithm::Sha512_256 => set.sha512_256 = Some(hash::<Sha512_256>(&a1).into()),
            }
        }
        set
    }

    /// The hash for an algorithm.
    pub fn ha1(&self, algorithm: Algorithm) -> Option<&[u8]> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_ref().map(<[u8; 16]>::as_slice),
            Algorithm::Sha256 => self.sha256.as_ref().map(<[u8; 32]>::as_slice),
            Algorithm::Sha512_256 => self.sha512_256.as_ref().map(<[u8; 32]>::as_slice),
        }
    }
}

impl std::fmt::Debug for Ha1Set {
    /// Names the algorithms, never the hashes: an H(A1) is as good as the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = Algorithm::ALL.into_iter().filter(|&a| self.ha1(a).is_some());
        f.write_str("Ha1Set")?;
        f.debug_list().entries(known).finish()
    }
}

/// What a response is computed from besides H(A1), every part as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The method of the request.
    pub method: &'a [u8],
    /// The `uri` parameter.
    pub uri: &'a [u8],
    /// The `nonce` parameter.
    pub nonce: &'a [u8],
    /// `nc` and `cnonce` with `qop=auth`; `None` without `qop`.
    pub auth: Option<(&'a [u8], &'a [u8])>,
}

/// A response in octets; those beyond the algorithm's length are zero.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    algorithm: Algorithm,
    octets: [u8; 32],
}

impl Response {
    /// Reads the `response` parameter, hexadecimal in either case and of the algorithm's length.
    pub fn parse(algorithm: Algorithm, text: &[u8]) -> Option<Self> {
        if text.len() != 2 * algorithm.digest_len() {
            return None;
        }
        let mut octets = [0; 32];
        for (octets, digits) in octets.as_chunks_mut().0.iter_mut().zip(text.as_chunks().0) {
            *octets = octets_of(digits)?;
        }
        Some(Self { algorithm, octets })
    }

    /// Whether this is the response to `input` by somebody who knows `ha1`; compared in constant
    /// time.
    pub fn is_right(&self, ha1: &[u8], input: &Input<'_>) -> bool {
        match self.algorithm {
            Algorithm::Md5 => self.compare::<Md5>(ha1, input),
            Algorithm::Sha256 => self.compare::<Sha256>(ha1, input),
            Algorithm::Sha512_256 => self.compare::<Sha512_256>(ha1, input),
        }
    }

    /// In lower-case hexadecimal.
    pub(super) fn to_text(self) -> String {
        let mut digits = [0; 64];
        let octets = self.octets.get(..self.algorithm.digest_len()).unwrap_or_default();
        String::from_utf8_lossy(hex_into(octets, &mut digits)).into_owned()
    }

    /// The octets of an MD5 digest.
    pub(super) fn md5(&self) -> [u8; 16] {
        self.octets.first_chunk().copied().unwrap_or_default()
    }

    fn compare<H: Digest>(&self, ha1: &[u8], input: &Input<'_>) -> bool {
        #[cfg(test)]
        COMPUTED.with(|count| count.set(count.get() + 1));
        let (mut ha1_hex, mut ha2_hex) = ([0; 64], [0; 64]);
        let ha1_hex = hex_into(ha1, &mut ha1_hex);
        let ha2 = hash::<H>(&[input.method, b":", input.uri]);
        let ha2_hex = hex_into(&ha2, &mut ha2_hex);
        let right = match input.auth {
            Some((nc, cnonce)) => {
                hash::<H>(&[ha1_hex, b":", input.nonce, b":", nc, b":", cnonce, b":auth:", ha2_hex])
            }
            None => hash::<H>(&[ha1_hex, b":", input.nonce, b":", ha2_hex]),
        };
        let claimed = self.octets.get(..right.len()).unwrap_or_default();
        right.as_slice().ct_eq(claimed).into()
    }
}

#[cfg(test)]
thread_local! {
    /// Digests compared by this thread, so that tests see work that leaves no trace.
    pub(super) static COMPUTED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

pub(super) fn hash<H: Digest>(parts: &[&[u8]]) -> md5::digest::Output<H> {
    let mut hasher = H::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// Lower-case hexadecimal, as RFC 7616 §3.1.3 wants it inside a digest.
pub(super) fn hex_into<'b>(octets: &[u8], buffer: &'b mut [u8; 64]) -> &'b [u8] {
    let mut len = 0;
    for (digits, octets) in buffer.as_chunks_mut().0.iter_mut().zip(octets.as_chunks().0) {
        *digits = digits_of(octets);
        len += digits.len();
    }
    &buffer[..len]
}

/// 16 octets in lower-case hexadecimal; every digest here is once or twice as long.
///
/// Neither this nor [`octets_of`] has a table or a branch, so that the compiler makes vectors of
/// them: a half and a quarter of the time.
pub fn digits_of(octets: &[u8; 16]) -> [u8; 32] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let mut digits = [0; 32];
    for i in 0..16 {
        digits[2 * i] = digit(octets[i] >> 4);
        digits[2 * i + 1] = digit(octets[i] & 15);
    }
    digits
}

/// 16 octets out of hexadecimal of either case; `None` if it is anything else.
pub fn octets_of(digits: &[u8; 32]) -> Option<[u8; 16]> {
    const NO_DIGIT: u8 = 0xff;
    let mut nibbles = [0; 32];
    let mut seen = 0;
    for (nibble, digit) in nibbles.iter_mut().zip(digits) {
        let (number, letter) = (digit.wrapping_sub(b'0'), (digit | 0x20).wrapping_sub(b'a'));
        *nibble = if number < 10 {
            number
        } else if letter < 6 {
            letter + 10
        } else {
            NO_DIGIT
        };
        seen |= *nibble;
    }
    let mut octets = [0; 16];
    for i in 0..16 {
        octets[i] = nibbles[2 * i] << 4 | nibbles[2 * i + 1] & 15;
    }
    (seen != NO_DIGIT).then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(algorithm: Algorithm, a1: [&str; 3], input: &Input<'_>, response: &str) {
        let [username, realm, password] = a1.map(str::as_bytes);
        let set = Ha1Set::of_password(&[algorithm], username, realm, password);
        let ha1 = set.ha1(algorithm).unwrap();
        for text in [response.to_lowercase(), response.to_uppercase()] {
            let response = Response::parse(algorithm, text.as_bytes()).unwrap();
            assert!(response.is_right(ha1, input));
            let other = Input { method: b"INVITE", ..*input };
            assert!(!response.is_right(ha1, &other));
            let wrong = Ha1Set::of_password(&[algorithm], username, realm, b"wrong");
            assert!(!response.is_right(wrong.ha1(algorithm).unwrap(), input));
        }
    }

    const MUFASA: [&str; 3] = ["Mufasa", "http-auth@example.org", "Circle of Life"];
    const RFC_7616: Input<'_> = Input {
        method: b"GET",
        uri: b"/dir/index.html",
        nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        auth: Some((b"00000001", b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")),
    };

    #[test]
    fn rfc_7616_3_9_1_md5() {
        check(Algorithm::Md5, MUFASA, &RFC_7616, "8ca523f5e9506fed4657c9700eebdbec");
    }

    #[test]
    fn rfc_7616_3_9_1_sha_256() {
        let response = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        check(Algorithm::Sha256, MUFASA, &RFC_7616, response);
    }

    /// RFC 7616 §3.9.2 truncates SHA-512 where SHA-512/256 is meant (its errata say so), hence the
    /// inputs of §3.9.1 here; the response was computed with OpenSSL.
    #[test]
    fn sha_512_256_as_openssl_computes_it() {
        let response = "430d05014cecc49cab6fbe03176d41a1da86cbfe24a16580e22aaad928d960d0";
        check(Algorithm::Sha512_256, MUFASA, &RFC_7616, response);
    }

    #[test]
    fn rfc_2617_3_5() {
        let input = Input {
            method: b"GET",
            uri: b"/dir/index.html",
            nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
            auth: Some((b"00000001", b"0a4f113b")),
        };
        let a1 = ["Mufasa", "testrealm@host.com", "Circle Of Life"];
        check(Algorithm::Md5, a1, &input, "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn rfc_2069_2_4_as_corrected_by_its_erratum() {
        let input = Input {
            method: b"GET",
            uri: b"/dir/index.html",
            nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
            auth: None,
        };
        let a1 = ["Mufasa", "testrealm@host.com", "CircleOfLife"];
        check(Algorithm::Md5, a1, &input, "1949323746fe6a43ef61f9606e7febea");
    }

    #[test]
    fn responses_have_the_length_of_their_algorithm() {
        let md5 = "8ca523f5e9506fed4657c9700eebdbec".as_bytes();
        assert!(Response::parse(Algorithm::Md5, md5).is_some());
        assert!(Response::parse(Algorithm::Sha256, md5).is_none());
        assert!(Response::parse(Algorithm::Md5, &md5[..31]).is_none());
        assert!(Response::parse(Algorithm::Md5, b"").is_none());
        assert!(Response::parse(Algorithm::Md5, &[b'g'; 32]).is_none());
    }

    #[test]
    fn digits_are_those_of_the_simple_form() {
        for octet in 0..=u8::MAX {
            let octets = b"0123456789abcdef".map(|other| octet ^ other);
            let digits = digits_of(&octets);
            assert_eq!(digits.escape_ascii().to_string(), crate::hex::to_hex(&octets));
            assert_eq!(octets_of(&digits), Some(octets));
            assert_eq!(octets_of(&digits.map(|digit| digit.to_ascii_uppercase())), Some(octets));
        }
        let octets = *b"\x00\x09\x0a\x0f\x10\x90\xa0\xf0\x99\x9a\xa9\xaa\xff\xf9\x9f\x01\x00 is not text \xff.";
        assert_eq!(hex_into(&octets, &mut [0; 64]), crate::hex::to_hex(&octets).as_bytes());
        assert_eq!(hex_into(&octets[..16], &mut [0; 64]), digits_of(octets.first_chunk().unwrap()));
    }

    #[test]
    fn one_wrong_digit_is_found_anywhere() {
        for place in 0..32 {
            for octet in 0..=u8::MAX {
                let mut digits = *b"0123456789abcdefFEDCBA9876543210";
                digits[place] = octet;
                assert_eq!(
                    octets_of(&digits),
                    crate::hex::parse_hex(&digits),
                    "{octet} at {place}"
                );
            }
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let set = Ha1Set { md5: Some([0xab; 16]), ..Ha1Set::default() };
        assert_eq!(format!("{:?}", Secret::Ha1(set)), "Ha1(Ha1Set[Md5])");
    }
}
