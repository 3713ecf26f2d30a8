//! One request and its answer.

use std::{
    hash::Hasher,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use siphasher::sip::SipHasher13;

use super::{
    answer::{Answer, is_identity, is_supported},
    counters::{Counters, RegisterResult},
    parking::Learned,
    refusals::Refusals,
    register::{Registration, Texts},
    rules::Rules,
};
use crate::{
    auth::RequestHash,
    flow::Flow,
    location::{Location, Recorder},
    registrar::Workspace,
    sip::{
        Envelope, Fault, Method, Request, Status,
        encode::Buf,
        header::{HeaderName, option_tags},
    },
    time::Now,
};

/// An answer that was written. Where there is `None` in its place, it did not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) len: usize,
    pub(super) status: Status,
}

/// What is used again from request to request.
#[derive(Debug)]
pub(super) struct Space {
    hash_key: [u8; 16],
    pub(super) work: Workspace,
    pub(super) nonces: Vec<u8>,
    pub(super) date: Date,
    refusals: Refusals,
}

impl Space {
    pub(super) fn new(hash_key: [u8; 16]) -> Self {
        Self {
            hash_key,
            work: Workspace::default(),
            nonces: Vec::new(),
            date: Date::default(),
            refusals: Refusals::default(),
        }
    }

    /// What a request has in common with its retransmissions, and with nothing else: a keyed hash
    /// of Call-ID, CSeq and branch.
    pub(super) fn hash(&self, envelope: &Envelope<'_>) -> u64 {
        /// Octets that are hashed in one piece: more than phones need for the three.
        const PIECE: usize = 256;
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        let first = |name| envelope.message.first(name).unwrap_or_default();
        let parts = [first(HeaderName::CallId), first(HeaderName::Cseq), envelope.via.branch];
        let mut piece = [0; PIECE];
        let mut buf = Buf::new(&mut piece);
        for part in parts {
            buf.put(part);
            buf.put(b"\n");
        }
        if buf.finish().is_some() {
            return hasher.hash(buf.written());
        }
        for part in parts {
            hasher.write(part);
            hasher.write_u8(b'\n');
        }
        hasher.finish()
    }
}

/// The Date header's value, written once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    unix: u64,
    text: String,
}

impl Date {
    pub(super) fn at(&mut self, now: Now) -> &[u8] {
        if self.unix != now.unix || self.text.is_empty() {
            self.unix = now.unix;
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.unix));
        }
        self.text.as_bytes()
    }
}

/// How far a request has come.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack, for one datagram")]
pub(super) enum Step<'a> {
    Answered(Option<Answered>),
    /// A REGISTER, until the digests are computed.
    Waits(Registration<'a>),
}

/// What it takes to answer one request, whose octets live for `'a`.
pub(super) struct Exchange<'x, 'a> {
    pub(super) now: Now,
    pub(super) flow: Flow,
    pub(super) envelope: &'x Envelope<'a>,
    /// [`Space::hash`] of the request.
    pub(super) hash: u64,
    pub(super) rules: &'a Rules,
    pub(super) location: &'a Location,
    pub(super) journal: &'x mut dyn Recorder,
    pub(super) counters: &'a Counters,
    pub(super) space: &'x mut Space,
    pub(super) out: &'x mut [u8],
    /// Header lines that back ends have added to the answer.
    pub(super) extra: Option<Arc<[u8]>>,
}

impl<'x, 'a> Exchange<'x, 'a> {
    /// Answers a broken request.
    pub(super) fn reject(&mut self, fault: Fault) -> Option<Answered> {
        let status = fault.status();
        self.log_refusal("malformed", status);
        self.plain(status)
    }

    /// Answers a request, or takes it as far as it goes without a digest.
    pub(super) fn request(
        &mut self,
        request: &Request<'a>,
        texts: &'a mut Texts,
        learned: Option<&'a Learned>,
    ) -> Step<'a> {
        match self.preliminaries(request) {
            Ok(()) if self.envelope.method == Method::Register => {
                self.open(request, texts, learned)
            }
            Ok(()) => Step::Answered(
                self.answer()
                    .capabilities(self.out)
                    .map(|len| Answered { len, status: Status::OK }),
            ),
            Err(answered) => Step::Answered(answered),
        }
    }

    /// What goes for all methods (RFC 3261 §8.2), and RFC 3261 §10.3 steps 1 and 2; else the answer.
    fn preliminaries(&mut self, request: &Request<'_>) -> Result<(), Option<Answered>> {
        let answered = |len: Option<usize>, status| len.map(|len| Answered { len, status });
        match self.envelope.method {
            Method::Options | Method::Register => {}
            // There is no transaction that it could cancel (RFC 3261 §9.2).
            Method::Cancel => return Err(self.plain(Status::CALL_DOES_NOT_EXIST)),
            _ => {
                let len = self.answer().not_allowed(self.out);
                return Err(answered(len, Status::METHOD_NOT_ALLOWED));
            }
        }
        let Some(uri) = request.sip_uri else {
            return Err(self.plain(Status::UNSUPPORTED_URI_SCHEME));
        };
        let is_register = self.envelope.method == Method::Register;
        // Step 1. A request for another domain would have to be passed on: a proxy's work.
        if is_register && !self.rules.domains.serves(uri.host_port.host) {
            let status = Status::NOT_FOUND.because("Domain Not Served Here");
            self.counters.register(RegisterResult::NotFound, 1);
            self.log_refusal("domain_not_served", status);
            return Err(self.plain(status));
        }
        // Step 2.
        let message = &self.envelope.message;
        if !message.all(HeaderName::Require).flat_map(option_tags).all(is_supported) {
            let len = self.answer().bad_extension(self.out);
            return Err(answered(len, Status::BAD_EXTENSION));
        }
        if let Some(value) = message.first(HeaderName::ContentEncoding)
            && !request.body.is_empty()
            && !is_identity(value)
        {
            let len = self.answer().bad_encoding(self.out);
            return Err(answered(len, Status::UNSUPPORTED_MEDIA_TYPE));
        }
        Ok(())
    }

    /// Challenges the client. `stale` is the Unix second that the new nonce must not be older than,
    /// where only the nonce was not good enough.
    pub(super) fn challenge(&mut self, scope: u8, stale: Option<u32>) -> Option<Answered> {
        let RequestHash(hash) = self.request_hash();
        let unique = RequestHash(hash << 8 | u32::from(scope));
        let authenticator = &self.rules.authenticator;
        let challenge = match stale {
            Some(not_before) => authenticator.stale_challenge(self.now, unique, not_before),
            None => authenticator.challenge(self.now, unique),
        };
        let len = self.answer().challenge(self.out, &challenge)?;
        Some(Answered { len, status: Status::UNAUTHORIZED })
    }

    /// An answer that the status says all of.
    pub(super) fn plain(&mut self, status: Status) -> Option<Answered> {
        let len = self.answer().plain(self.out, status, |_| {})?;
        Some(Answered { len, status })
    }

    /// What the answer to this request is made of.
    pub(super) fn answer(&self) -> Answer<'x> {
        let [.., t0, t1, t2, t3] = self.hash.to_be_bytes();
        Answer {
            rules: self.rules,
            envelope: self.envelope,
            source: self.flow.remote,
            extra: self.extra.clone(),
            tag: u32::from_be_bytes([t0, t1, t2, t3]),
        }
    }

    /// The half of the hash that no answer shows.
    pub(super) fn request_hash(&self) -> RequestHash {
        let [h0, h1, h2, h3, ..] = self.hash.to_be_bytes();
        RequestHash(u32::from_be_bytes([h0, h1, h2, h3]))
    }

    /// Logs a refusal, within the rate.
    pub(super) fn log_refusal(&mut self, label: &'static str, status: Status) {
        let to = self.envelope.message.first(HeaderName::To).unwrap_or_default();
        self.space.refusals.log(self.now, label, status, self.flow.remote, to);
    }
}
