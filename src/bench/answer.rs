//! What an answer says: found where the last one had it, and searched for only where it is not.

use memchr::memmem;

use super::challenge::lines;

/// Hexadecimal digits of a user's number in its Call-ID.
pub(super) const INDEX_LEN: usize = 8;
/// Hexadecimal digits of the run's mark, which follows.
pub(super) const MARK_LEN: usize = 16;

/// An answer to one of our requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// All of it.
    pub(super) octets: &'a [u8],
    /// The status code.
    pub(super) status: u16,
    /// Whose request it answers.
    pub(super) user: u32,
    /// The number in CSeq.
    pub(super) cseq: u32,
    /// The method in CSeq.
    pub(super) method: &'a [u8],
}

/// Reads answers; a registrar writes all of them in the same order.
#[derive(Debug)]
pub(super) struct Reader {
    /// The hyphen and the run's mark, which follow the user's number in our Call-IDs.
    mark: [u8; MARK_LEN + 1],
    mark_at: usize,
    cseq_at: usize,
    contact_at: usize,
}

const CSEQ: &[u8] = b"\nCSeq: ";

impl Reader {
    /// A reader of answers to requests whose Call-ID has `mark` in it.
    pub(super) fn new(mark: &[u8; MARK_LEN]) -> Self {
        let mut with_hyphen = [b'-'; MARK_LEN + 1];
        if let Some(digits) = with_hyphen.last_chunk_mut() {
            *digits = *mark;
        }
        Self { mark: with_hyphen, mark_at: 0, cseq_at: 0, contact_at: 0 }
    }

    /// What a datagram says; `None` if it answers nothing that this run has asked.
    pub(super) fn read<'a>(&mut self, octets: &'a [u8]) -> Option<Answer<'a>> {
        let status = match octets {
            [b'S', b'I', b'P', b'/', b'2', b'.', b'0', b' ', a, b, c, b' ', ..] => {
                [a, b, c].iter().try_fold(0_u16, |status, digit| {
                    digit.is_ascii_digit().then(|| status * 10 + u16::from(*digit - b'0'))
                })?
            }
            _ => return None,
        };
        if !stands_at(octets, self.mark_at, &self.mark) {
            self.mark_at = memmem::find(octets, &self.mark)?;
        }
        let user = octets.get(self.mark_at.checked_sub(INDEX_LEN)?..self.mark_at)?;
        let user = user.iter().try_fold(0_u32, |number, digit| {
            Some(number << 4 | char::from(*digit).to_digit(16)?)
        })?;
        let value = if stands_at(octets, self.cseq_at, CSEQ) {
            octets.get(self.cseq_at + CSEQ.len()..)?
        } else {
            self.cseq_at = memmem::find(octets, CSEQ).unwrap_or(0);
            header(octets, b"cseq")?
        };
        let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let (digits, method) = value.split_at(digits);
        let cseq = digits.iter().try_fold(0_u32, |number, digit| {
            number.checked_mul(10)?.checked_add(u32::from(*digit - b'0'))
        })?;
        let method = method.trim_ascii_start();
        let end = method.iter().position(|octet| !octet.is_ascii_alphabetic());
        let method = method.get(..end.unwrap_or(method.len()))?;
        Some(Answer { octets, status, user, cseq, method })
    }

    /// Whether an answer names `contact`: user, host and port of a URI.
    pub(super) fn lists(&mut self, answer: &Answer<'_>, contact: &[u8]) -> bool {
        if stands_at(answer.octets, self.contact_at, contact) {
            return true;
        }
        match memmem::find(answer.octets, contact) {
            Some(at) => {
                self.contact_at = at;
                true
            }
            None => false,
        }
    }
}

impl<'a> Answer<'a> {
    /// Seconds after which a client may come again (RFC 3261 §20.33).
    pub(super) fn retry_after(&self) -> Option<u32> {
        let value = header(self.octets, b"retry-after")?;
        let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
        std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
    }

    /// The status line.
    pub(super) fn status_line(&self) -> &'a [u8] {
        lines(self.octets).next().unwrap_or_default()
    }
}

/// The value of a header by its name.
fn header<'a>(octets: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    lines(octets).find_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|&octet| octet == b':')?);
        let is_it = name.trim_ascii_end().eq_ignore_ascii_case(wanted);
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

#[inline]
fn stands_at(octets: &[u8], at: usize, text: &[u8]) -> bool {
    octets.get(at..).is_some_and(|rest| rest.starts_with(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; MARK_LEN] = b"0123456789abcdef";

    fn text(padding: &str, cseq: &str) -> String {
        format!(
            "SIP/2.0 200 OK\r\nVia: x{padding}\r\nCall-ID: 0000002a-0123456789abcdef@h\r\n\
             {cseq}\r\nContact: <sip:u7@127.0.0.1:26000>;expires=9\r\nRetry-After: 17 (soon)\r\n\r\n"
        )
    }

    #[test]
    fn everything_is_found_wherever_it_stands() {
        let mut reader = Reader::new(MARK);
        for (padding, cseq) in [
            ("", "CSeq: 7 REGISTER"),
            ("", "CSeq: 7 REGISTER"),
            ("longer", "CSeq: 7 REGISTER"),
            ("", "cseq :  7  REGISTER"),
            ("longer", "CSeq: 7 REGISTER"),
        ] {
            let text = text(padding, cseq);
            let answer = reader.read(text.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.user, answer.cseq), (200, 42, 7));
            assert_eq!(answer.method, b"REGISTER");
            assert_eq!(answer.retry_after(), Some(17));
            assert!(reader.lists(&answer, b"u7@127.0.0.1:26000"));
            assert!(!reader.lists(&answer, b"u8@127.0.0.1:26000"));
        }
    }

    #[test]
    fn what_answers_nothing_of_ours_is_nothing() {
        let good = text("", "CSeq: 7 REGISTER");
        let mut reader = Reader::new(MARK);
        for (from, to) in [
            ("SIP/2.0 200", "SIP/2.0 2x0"),
            ("SIP/2.0", "SIP/3.0"),
            ("-0123456789abcdef", "-1123456789abcdef"),
            ("0000002a-", "000000xa-"),
            ("CSeq: 7", "CSeq: 4294967296"),
            ("CSeq", "CSequence"),
        ] {
            let text = good.replace(from, to);
            assert_eq!(reader.read(text.as_bytes()), None, "{to}");
            assert!(reader.read(good.as_bytes()).is_some());
        }
        for end in 0..60 {
            let _ = reader.read(good.get(..end).unwrap().as_bytes());
        }
        assert_eq!(reader.read(b""), None);
    }
}
