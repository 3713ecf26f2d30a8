//! The best of the final responses to a forked request (RFC 3261 §16.7 steps 6 and 7).

use super::onward::put_response;
use crate::sip::{Response, encode::Buf};

/// What goes back if nothing better comes.
#[derive(Debug, Default)]
pub(super) struct Best {
    /// The code it had, and the response as it goes back.
    chosen: Option<(u16, Vec<u8>)>,
    /// Where more headers go into it.
    insert_at: usize,
    /// The challenges of all others, whole lines.
    challenges: Vec<u8>,
}

/// Lower is better: 6xx before all, then the lowest class; within 4xx what tells the caller how to do
/// better, and last what only says that a branch came to nothing.
fn rank(code: u16) -> (u16, u8) {
    let class = if code >= 600 { 0 } else { code / 100 };
    let within = match code {
        401 | 407 | 415 | 420 | 484 => 0,
        408 | 487 | 503 => 2,
        _ => 1,
    };
    (class, within)
}

impl Best {
    /// The code of the best so far.
    pub(super) fn code(&self) -> Option<u16> {
        self.chosen.as_ref().map(|(code, _)| *code)
    }

    /// Takes a final response that is no 2xx into account.
    pub(super) fn consider(&mut self, response: &Response<'_>, scratch: &mut [u8]) {
        let is_better = self.code().is_none_or(|best| rank(response.code) < rank(best));
        let old = is_better.then(|| self.chosen.take()).flatten();
        if is_better {
            // What one server can't do now says nothing of the others (§16.7 step 6).
            let code = if response.code == 503 { 500 } else { response.code };
            let mut out = Buf::new(scratch);
            put_response(&mut out, response, code, b"");
            if out.finish().is_some() {
                let text = out.written();
                self.insert_at = end_of_headers(text, response.body.len());
                self.chosen = Some((response.code, text.to_vec()));
            }
        }
        // §16.7 step 7: the caller learns of all who want to know who it is.
        match old {
            Some((401 | 407, text)) => collect_challenges(&text, &mut self.challenges),
            _ if !is_better && matches!(response.code, 401 | 407) => {
                for name in ["WWW-Authenticate", "Proxy-Authenticate"] {
                    for value in response.message.named(name) {
                        put_line(&mut self.challenges, name.as_bytes(), value);
                    }
                }
            }
            _ => {}
        }
    }

    /// A branch came to nothing, with this code.
    pub(super) fn consider_code(&mut self, code: u16) {
        if self.code().is_none_or(|best| rank(code) < rank(best)) {
            self.chosen = Some((code, Vec::new()));
        }
    }

    /// The response as it goes back; empty where the proxy makes it itself, of that code.
    pub(super) fn take(&mut self) -> Option<(u16, Vec<u8>)> {
        let (code, mut text) = self.chosen.take()?;
        if matches!(code, 401 | 407) && !text.is_empty() {
            let at = self.insert_at.min(text.len());
            text.splice(at..at, self.challenges.drain(..));
        }
        Some((code, text))
    }
}

/// Where the last header, Content-Length, begins.
fn end_of_headers(text: &[u8], body: usize) -> usize {
    let head = text.get(..text.len().saturating_sub(body + 4)).unwrap_or_default();
    memchr::memrchr(b'\n', head).map_or(0, |at| at + 1)
}

fn collect_challenges(text: &[u8], into: &mut Vec<u8>) {
    for line in text.split(|&b| b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        let is_challenge = name.eq_ignore_ascii_case(b"WWW-Authenticate")
            || name.eq_ignore_ascii_case(b"Proxy-Authenticate");
        if is_challenge {
            put_line(into, name, value.get(1..).unwrap_or_default().trim_ascii());
        }
    }
}

fn put_line(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        into.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Limits, Parsed, Parser};

    fn best(responses: &[(u16, &str)]) -> String {
        let (mut best, mut scratch) = (Best::default(), [0; 4096]);
        for (code, extra) in responses {
            let text = format!(
                "SIP/2.0 {code} X\r\nVia: SIP/2.0/UDP us;branch=z9hG4bK1\r\n\
                 Via: SIP/2.0/UDP them;branch=z9hG4bK2\r\nFrom: <sip:a@b>;tag=1\r\n\
                 To: <sip:b@b>;tag={code}\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\n{extra}\
                 Content-Length: 2\r\n\r\nhi"
            );
            let mut parser = Parser::new(Limits::default());
            let Parsed::Response(response) = parser.parse(text.as_bytes()) else {
                panic!("{text}")
            };
            best.consider(&response, &mut scratch);
        }
        String::from_utf8(best.take().unwrap().1).unwrap()
    }

    #[test]
    fn the_best_is_chosen_whatever_the_order() {
        for (codes, expected) in [
            (&[486, 503][..], "486"),
            (&[486, 603, 302], "603"),
            (&[486, 302, 500], "302"),
            (&[408, 486], "486"),
            (&[487, 480], "480"),
            (&[486, 484], "484"),
            (&[500, 487], "487"),
            // Not passed on as it is.
            (&[503], "500"),
            (&[503, 502], "502"),
        ] {
            for turned in [false, true] {
                let mut codes = codes.to_vec();
                if turned {
                    codes.reverse();
                }
                let responses: Vec<_> = codes.iter().map(|&code| (code, "")).collect();
                let text = best(&responses);
                assert!(text.starts_with(&format!("SIP/2.0 {expected} ")), "{codes:?}: {text}");
                assert!(!text.contains("us;branch") && text.contains("them;branch"), "{text}");
            }
        }
    }

    #[test]
    fn all_challenges_are_passed_on() {
        let text = best(&[
            (407, "Proxy-Authenticate: Digest realm=\"a\"\r\n"),
            (486, ""),
            (401, "WWW-Authenticate: Digest realm=\"b\"\r\n"),
            (401, "WWW-Authenticate: Digest realm=\"c\"\r\n"),
        ]);
        for realm in ["a", "b", "c"] {
            let line = format!("Authenticate: Digest realm=\"{realm}\"\r\n");
            assert_eq!(text.matches(&line).count(), 1, "{text}");
        }
        assert!(text.ends_with("Content-Length: 2\r\n\r\nhi"), "{text}");
    }
}
