//! The answers a worker writes, each into its slot.

use std::{net::SocketAddr, sync::Arc};

use super::rules::Rules;
use crate::{
    auth::Challenge,
    registrar::{AorRecord, Binding, Refusal},
    sip::{
        Envelope, Status,
        encode::{Buf, Response},
        header::{Elements, HeaderName, option_tags},
    },
    time::{DeltaSeconds, Now},
};

/// Methods that this server takes, as its Allow header says.
const ALLOW: &[u8] = b"Allow: REGISTER, OPTIONS\r\n";
/// Extensions that this server knows (RFC 3327).
pub(super) const SUPPORTED: [&str; 1] = ["path"];
const SUPPORTED_HEADER: &[u8] = b"Supported: path\r\n";
/// Octets of the last header and the empty line.
const END: usize = b"Content-Length: 0\r\n\r\n".len();
/// Seconds after which a client that was turned away for lack of room may come again: some
/// bindings will have ended by then.
const RETRY_AFTER: u32 = 60;
/// Seconds after which one may come again that asks for what is being restored: ten million
/// bindings take no longer.
pub(super) const RETRY_AFTER_LOADING: u32 = 10;
/// Seconds after which one may come again whose back end is down or behind: long enough for it not
/// to be kept down by those who ask, short enough for phones not to be without calls.
pub(super) const RETRY_AFTER_FAULT: u32 = 30;

/// Why a request is turned away that may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unavailable {
    /// No back end can say what it takes to answer.
    BackEnd,
    /// As many requests wait for back ends as may.
    Busy,
    /// There are as many bindings as there may be.
    Full,
    /// What was saved is still being read.
    Loading,
    /// What it changes could not be saved.
    NotSaved,
}

/// What is the same for all answers to one request.
pub(super) struct Answer<'a> {
    pub(super) rules: &'a Rules,
    pub(super) envelope: &'a Envelope<'a>,
    pub(super) source: SocketAddr,
    /// Header lines that back ends add, but to challenges.
    pub(super) extra: Option<Arc<[u8]>>,
    /// The To tag, the same for each retransmission (RFC 3261 §8.2.7).
    pub(super) tag: u32,
}

impl Answer<'_> {
    /// An answer of `status`, with what `headers` adds.
    pub(super) fn plain(
        &self,
        out: &mut [u8],
        status: Status,
        headers: impl FnOnce(&mut Buf<'_>),
    ) -> Option<usize> {
        let mut buf = Buf::new(out);
        let mut response = Response::start(&mut buf, status, self.envelope, self.source, self.tag);
        headers(response.buf());
        if let Some(server) = &self.rules.server {
            response.header(b"Server: ", server.as_bytes());
        }
        if let Some(extra) = &self.extra
            && !matches!(status.code, 401 | 407)
            // Better an answer without than none: where `maxpkt` is small, so is the room.
            && response.buf().room() >= extra.len() + END
        {
            response.buf().put(extra);
        }
        response.finish()
    }

    /// 401.
    pub(super) fn challenge(&self, out: &mut [u8], challenge: &Challenge<'_>) -> Option<usize> {
        self.plain(out, Status::UNAUTHORIZED, |buf| challenge.encode_into(buf))
    }

    /// 200 to a REGISTER: every binding in force, the one just registered first (RFC 3261 §10.3
    /// step 8). If one of them `is_behind_nat`, its phone is told to come every `nat_refresh`.
    #[expect(clippy::too_many_arguments, reason = "all that the answer is made of")]
    pub(super) fn bindings(
        &self,
        out: &mut [u8],
        now: Now,
        date: &[u8],
        record: Option<&AorRecord<'_>>,
        path: &[u8],
        nat_refresh: DeltaSeconds,
        is_behind_nat: impl Fn(&Binding<'_>) -> bool,
    ) -> Option<usize> {
        self.plain(out, Status::OK, |buf| {
            let mut has_nat = false;
            for binding in record.into_iter().flat_map(|r| r.bindings(now)) {
                has_nat = has_nat || is_behind_nat(&binding);
                buf.put(b"Contact: <");
                buf.put(binding.uri);
                buf.put(b">");
                buf.put(binding.params);
                buf.put(b";expires=");
                buf.put_number(binding.deadline.remaining(now).0);
                buf.put(b"\r\n");
            }
            if !path.is_empty() {
                // RFC 3327 §5.3: the client learns which path was stored.
                buf.put(b"Path: ");
                buf.put(path);
                buf.put(b"\r\n");
                buf.put(SUPPORTED_HEADER);
            }
            if has_nat {
                buf.put(b"P-NAT-Refresh: ");
                buf.put_number(nat_refresh.0);
                buf.put(b"\r\n");
            }
            buf.put(b"Date: ");
            buf.put(date);
            buf.put(b"\r\n");
        })
    }

    /// The answer to a REGISTER that breaks a rule of the registrar.
    pub(super) fn refusal(&self, out: &mut [u8], refusal: Refusal) -> Option<usize> {
        self.plain(out, refusal.status(), |buf| match refusal {
            Refusal::IntervalTooBrief { min } => {
                buf.put(b"Min-Expires: ");
                buf.put_number(min.0);
                buf.put(b"\r\n");
            }
            Refusal::PathUnsupported => buf.put(b"Unsupported: path\r\n"),
            Refusal::TooManyContacts => put_retry_after(buf, RETRY_AFTER),
            Refusal::ContactTooLong | Refusal::OutOfOrder | Refusal::WildcardExpires => {}
        })
    }

    /// 503 to a client that may come again.
    pub(super) fn unavailable(&self, out: &mut [u8], why: Unavailable) -> Option<usize> {
        let (phrase, seconds) = match why {
            Unavailable::BackEnd => ("Back End Unavailable", RETRY_AFTER_FAULT),
            Unavailable::Busy => ("Too Many Requests Wait", RETRY_AFTER_FAULT),
            Unavailable::Full => ("Too Many Bindings", RETRY_AFTER),
            Unavailable::Loading => ("Registrations Are Being Restored", RETRY_AFTER_LOADING),
            Unavailable::NotSaved => ("Registrations Cannot Be Saved", RETRY_AFTER),
        };
        let status = Status::SERVICE_UNAVAILABLE.because(phrase);
        self.plain(out, status, |buf| put_retry_after(buf, seconds))
    }

    /// 200 to OPTIONS (RFC 3261 §11.2).
    pub(super) fn capabilities(&self, out: &mut [u8]) -> Option<usize> {
        self.plain(out, Status::OK, |buf| {
            buf.put(ALLOW);
            // No body is of use to a registrar.
            buf.put(b"Accept: \r\n");
            buf.put(b"Accept-Encoding: identity\r\n");
            buf.put(b"Accept-Language: en\r\n");
            buf.put(SUPPORTED_HEADER);
        })
    }

    /// 405.
    pub(super) fn not_allowed(&self, out: &mut [u8]) -> Option<usize> {
        self.plain(out, Status::METHOD_NOT_ALLOWED, |buf| buf.put(ALLOW))
    }

    /// 420 with the required option tags that this server does not know (RFC 3261 §8.2.2.3).
    pub(super) fn bad_extension(&self, out: &mut [u8]) -> Option<usize> {
        self.plain(out, Status::BAD_EXTENSION, |buf| {
            let mut prefix = &b"Unsupported: "[..];
            for tag in self.envelope.message.all(HeaderName::Require).flat_map(option_tags) {
                if !is_supported(tag) {
                    buf.put(prefix);
                    buf.put(tag);
                    prefix = b", ";
                }
            }
            buf.put(b"\r\n");
        })
    }

    /// 415 to a body in a coding that this server does not know (RFC 3261 §8.2.3).
    pub(super) fn bad_encoding(&self, out: &mut [u8]) -> Option<usize> {
        self.plain(out, Status::UNSUPPORTED_MEDIA_TYPE, |buf| {
            buf.put(b"Accept-Encoding: identity\r\n");
        })
    }
}

fn put_retry_after(buf: &mut Buf<'_>, seconds: u32) {
    buf.put(b"Retry-After: ");
    buf.put_number(seconds);
    buf.put(b"\r\n");
}

/// Whether this server knows the extension.
pub(super) fn is_supported(tag: &[u8]) -> bool {
    SUPPORTED.iter().any(|known| tag.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether each element of a Content-Encoding is `identity`.
pub(super) fn is_identity(value: &[u8]) -> bool {
    Elements::new(value).all(|e| e.is_ok_and(|e| e.eq_ignore_ascii_case(b"identity")))
}
