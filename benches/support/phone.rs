//! A phone: it writes REGISTERs, and answers challenges (RFC 7616, MD5).

use md5::{Digest, Md5};

/// One account on one device.
pub(crate) struct Phone {
    user: String,
    ha1: String,
    /// The last nonce it was given, and how often it has used it.
    nonce: Option<(String, u32)>,
    cseq: u32,
}

impl Phone {
    /// A phone that was never challenged.
    pub(crate) fn new(user: &str, password: &str) -> Self {
        let ha1 = hex(&format!("{user}:example.com:{password}"));
        Self { user: user.into(), ha1, nonce: None, cseq: 0 }
    }

    /// Its next REGISTER, with these headers and, once it was challenged, with credentials.
    pub(crate) fn register(&mut self, headers: &str) -> Vec<u8> {
        self.cseq += 1;
        let Self { user, cseq, .. } = self;
        let mut request = format!(
            "REGISTER sip:example.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.17:5060;rport;branch=z9hG4bK-{user}-{cseq}\r\n\
             Max-Forwards: 70\r\n\
             From: \"{user}\" <sip:{user}@example.com>;tag=a8f3c1\r\n\
             To: \"{user}\" <sip:{user}@example.com>\r\n\
             Call-ID: 8f1c2b7a90d14e55-{user}@192.0.2.17\r\n\
             CSeq: {cseq} REGISTER\r\n\
             {headers}"
        );
        if let Some((nonce, count)) = &mut self.nonce {
            *count += 1;
            let ha2 = hex("REGISTER:sip:example.com");
            let response = hex(&format!("{}:{nonce}:{count:08x}:0a4f113b:auth:{ha2}", self.ha1));
            request += &format!(
                "Authorization: Digest username=\"{user}\", realm=\"example.com\", \
                 nonce=\"{nonce}\", uri=\"sip:example.com\", response=\"{response}\", \
                 algorithm=MD5, cnonce=\"0a4f113b\", qop=auth, nc={count:08x}\r\n"
            );
        }
        request += "Content-Length: 0\r\n\r\n";
        request.into_bytes()
    }

    /// Takes the nonce of an answer; whether there was one.
    pub(crate) fn take_challenge(&mut self, answer: &[u8]) -> bool {
        let answer = String::from_utf8_lossy(answer);
        let nonce = answer.split("nonce=\"").nth(1).and_then(|rest| rest.split('"').next());
        let Some(nonce) = nonce.filter(|_| answer.starts_with("SIP/2.0 401 ")) else {
            return false;
        };
        self.nonce = Some((nonce.into(), 0));
        true
    }
}

fn hex(text: &str) -> String {
    Md5::digest(text).iter().map(|octet| format!("{octet:02x}")).collect()
}
