//! One request and its answer.

use std::{
    hash::Hasher,
    time::{Duration, UNIX_EPOCH},
};

use siphasher::sip::SipHasher13;

use super::{
    answer::{Answer, is_identity, is_supported},
    counters::Counters,
    refusals::Refusals,
    rules::Rules,
};
use crate::{
    auth::{NonceCounts, NonceUse, RequestHash, Use, Verdict},
    flow::Flow,
    location::{Cause, Entry, Location},
    registrar::{
        self, Aor, AorRecord, Changes, Outcome, Refusal, Register, Wanted, Workspace, nat,
    },
    sip::{
        Envelope, Fault, Method, Request, Status,
        encode::Buf,
        header::{BadValue, Contact, Contacts, Elements, HeaderName, NameAddr, option_tags},
        uri::{SipUri, UriError, is_well_formed},
    },
    subscribers::Account,
    time::{DeltaSeconds, Now},
};

/// Octets of a packed record: a 200 that lists the bindings of such a one fits into a datagram.
const MAX_RECORD: usize = 32 * 1024;

/// An answer that was written; `None` in its place means that it did not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) len: usize,
    pub(super) status: Status,
}

/// What is used again from request to request.
#[derive(Debug)]
pub(super) struct Space {
    hash_key: [u8; 16],
    work: Workspace,
    aor: Vec<u8>,
    path: Vec<u8>,
    nonces: Vec<u8>,
    date: Date,
    refusals: Refusals,
}

impl Space {
    pub(super) fn new(hash_key: [u8; 16]) -> Self {
        Self {
            hash_key,
            work: Workspace::default(),
            aor: Vec::new(),
            path: Vec::new(),
            nonces: Vec::new(),
            date: Date::default(),
            refusals: Refusals::default(),
        }
    }
}

/// The Date header's value, written once a second.
#[derive(Debug, Default)]
struct Date {
    unix: u64,
    text: String,
}

impl Date {
    fn at(&mut self, now: Now) -> &[u8] {
        if self.unix != now.unix || self.text.is_empty() {
            self.unix = now.unix;
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.unix));
        }
        self.text.as_bytes()
    }
}

/// What it takes to answer one request.
pub(super) struct Exchange<'a> {
    pub(super) now: Now,
    pub(super) flow: Flow,
    pub(super) rules: &'a Rules,
    pub(super) location: &'a Location,
    pub(super) counters: &'a Counters,
    pub(super) space: &'a mut Space,
    pub(super) out: &'a mut [u8],
}

/// How a registration ends, decided under the record's lock and answered after it.
enum Decision {
    /// The bindings are what the workspace holds.
    Done(Outcome),
    /// The location service holds as much as it may.
    Full,
    /// A rule of the registrar is broken.
    Refused(Refusal),
    /// The same request as the last one of this nonce: nothing changed.
    Retransmitted,
    /// The nonce was used before, or may have been.
    Stale { label: &'static str, not_before: u32 },
}

impl Exchange<'_> {
    /// Answers a broken request.
    pub(super) fn reject(&mut self, envelope: &Envelope<'_>, fault: Fault) -> Option<Answered> {
        let status = fault.status();
        self.refused(status.phrase, status, envelope);
        self.plain(envelope, status, |_| {})
    }

    /// Answers a request.
    pub(super) fn request(&mut self, request: &Request<'_>) -> Option<Answered> {
        let envelope = &request.envelope;
        match envelope.method {
            Method::Options | Method::Register => {}
            // There is no transaction that it could cancel (RFC 3261 §9.2).
            Method::Cancel => return self.plain(envelope, Status::CALL_DOES_NOT_EXIST, |_| {}),
            _ => {
                let len = self.answer(envelope).not_allowed(self.out)?;
                return Some(Answered { len, status: Status::METHOD_NOT_ALLOWED });
            }
        }
        let uri = match SipUri::parse(request.uri) {
            Ok(uri) => uri,
            Err(UriError::OtherScheme) => {
                return self.plain(envelope, Status::UNSUPPORTED_URI_SCHEME, |_| {});
            }
            Err(UriError::Malformed) => return self.reject(envelope, Fault::RequestUri),
        };
        // Step 1. A request for another domain would have to be passed on, which is a proxy's work.
        if envelope.method == Method::Register && !self.rules.domains.serves(uri.host_port.host) {
            let status = Status::NOT_FOUND.because("Domain Not Served Here");
            self.counters.register("not_found", 1);
            self.refused("domain", status, envelope);
            return self.plain(envelope, status, |_| {});
        }
        // Step 2.
        let mut required = envelope.message.all(HeaderName::Require).flat_map(option_tags);
        if !required.all(is_supported) {
            let len = self.answer(envelope).bad_extension(self.out, HeaderName::Require)?;
            return Some(Answered { len, status: Status::BAD_EXTENSION });
        }
        if let Some(value) = envelope.message.first(HeaderName::ContentEncoding)
            && !request.body.is_empty()
            && !is_identity(value)
        {
            let len = self.answer(envelope).bad_encoding(self.out)?;
            return Some(Answered { len, status: Status::UNSUPPORTED_MEDIA_TYPE });
        }
        if envelope.method == Method::Register {
            return self.register(request);
        }
        let len = self.answer(envelope).capabilities(self.out)?;
        Some(Answered { len, status: Status::OK })
    }

    /// RFC 3261 §10.3 from step 3 on.
    fn register(&mut self, request: &Request<'_>) -> Option<Answered> {
        let envelope = &request.envelope;
        let contacts = match self.survey(envelope) {
            Ok(contacts) => contacts,
            Err(fault) => return self.reject(envelope, fault),
        };
        let path = match self.read_path(envelope) {
            Ok(path) => path,
            Err(fault) => return self.reject(envelope, fault),
        };

        // Step 3. Who may not register learns nothing of what there is to register.
        let mut aor_space = std::mem::take(&mut self.space.aor);
        let answered = self.register_aor(request, contacts, &path, &mut aor_space);
        self.space.aor = aor_space;
        self.space.path = path.into_space();
        answered
    }

    fn register_aor(
        &mut self,
        request: &Request<'_>,
        contacts: Contacts,
        path: &Path<'_>,
        aor_space: &mut Vec<u8>,
    ) -> Option<Answered> {
        let envelope = &request.envelope;
        let rules = self.rules;
        let to = SipUri::parse(request.to.uri).ok();
        let aor = to.and_then(|to| Aor::canonical(&to, &rules.domains, aor_space));
        // In a flat namespace no domain counts, so that of an account's name can't match either.
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let hash = self.request_hash(request);

        let mut account: Option<Account<'_>> = None;
        let mut used = None;
        if rules.registrar.auth_required {
            let scope = rules.domains.position(domain);
            let verdict = rules.authenticator.verify_any(
                self.now,
                envelope.method.as_bytes(),
                request.uri,
                envelope.message.all(HeaderName::Authorization),
                |username| {
                    let login = rules.subscribers.login(username, domain)?;
                    account = Some(login.account);
                    Some(login.secret)
                },
            );
            match verdict {
                Verdict::Granted(grant) if grant.used.nonce.scope() == scope => {
                    self.counters.auth("granted");
                    used = Some(grant.used);
                }
                Verdict::Granted(_) | Verdict::Stale => {
                    self.counters.auth("stale");
                    return self.challenge(envelope, hash, scope, Some(0));
                }
                Verdict::Challenge(refusal) => {
                    self.counters.auth(refusal.label());
                    if refusal != crate::auth::Refusal::NoCredentials {
                        self.refused(refusal.label(), Status::UNAUTHORIZED, envelope);
                    }
                    return self.challenge(envelope, hash, scope, None);
                }
            }
            // Step 4.
            if let (Some(account), Some(aor)) = (account, aor)
                && !account.owns(aor.user(), domain)
            {
                self.counters.register("forbidden", 1);
                self.refused("forbidden", Status::FORBIDDEN, envelope);
                return self.plain(envelope, Status::FORBIDDEN, |_| {});
            }
        } else if let Some(aor) = aor {
            account = rules.subscribers.account(aor.user(), domain);
        }
        // Step 5.
        let Some(aor) = aor.filter(|_| account.is_some() || rules.autocreate) else {
            self.counters.register("not_found", 1);
            self.refused("not_found", Status::NOT_FOUND, envelope);
            return self.plain(envelope, Status::NOT_FOUND, |_| {});
        };
        if !path.is_empty() && !supports_path(envelope) {
            // RFC 3327 §5.3: the phone would not know that its requests take this path.
            self.counters.register("path_unsupported", 1);
            let len = self.answer(envelope).path_unsupported(self.out)?;
            return Some(Answered { len, status: Status::BAD_EXTENSION });
        }

        let one;
        let many;
        let wanted = match contacts {
            Contacts::None => Wanted::Bindings,
            Contacts::All => Wanted::Nothing,
            Contacts::List { count } => {
                let mut all = Contact::all(envelope.message.all(HeaderName::Contact));
                if count == 1 {
                    one = [all.next()?];
                    Wanted::Contacts(&one)
                } else {
                    many = all.collect::<Vec<_>>();
                    Wanted::Contacts(&many)
                }
            }
        };
        let register = Register {
            wanted,
            expires: envelope.message.first(HeaderName::Expires),
            granted: account.and_then(granted_by_account),
            call_id: request.call_id,
            cseq: request.cseq.number,
            branch: branch_hash(envelope.via.branch),
            flow: self.flow,
            path: path.as_bytes(),
            agent: envelope.message.first(HeaderName::UserAgent).unwrap_or_default(),
        };

        // Steps 6 and 7.
        let Self { now, location, space, .. } = self;
        let decision = location.update(aor.as_bytes(), *now, Cause::Registered, |entry| {
            decide(*now, rules, &register, aor, used.map(|used| (used, hash)), entry, space)
        });
        self.settle(envelope, &register, aor, decision, hash)
    }

    /// Counts, logs and answers a decision (step 8).
    fn settle(
        &mut self,
        envelope: &Envelope<'_>,
        register: &Register<'_>,
        aor: Aor<'_>,
        decision: Decision,
        hash: RequestHash,
    ) -> Option<Answered> {
        match decision {
            Decision::Done(outcome) => {
                self.count(outcome, aor, register);
            }
            Decision::Retransmitted => self.counters.register("retransmitted", 1),
            Decision::Stale { label, not_before } => {
                self.counters.auth(label);
                let domain = aor.domain().unwrap_or_default();
                let scope = self.rules.domains.position(domain);
                return self.challenge(envelope, hash, scope, Some(not_before));
            }
            Decision::Refused(refusal) => {
                self.counters.register(refusal.label(), 1);
                self.refused(refusal.label(), refusal.status(), envelope);
                let answer = answer(self.rules, envelope, self.flow, hash);
                let len = answer.refusal(self.out, refusal)?;
                return Some(Answered { len, status: refusal.status() });
            }
            Decision::Full => {
                self.counters.register("location_full", 1);
                self.refused("location_full", Status::SERVICE_UNAVAILABLE, envelope);
                let answer = answer(self.rules, envelope, self.flow, hash);
                let len = answer.unavailable(self.out, "Too Many Bindings")?;
                return Some(Answered { len, status: Status::SERVICE_UNAVAILABLE });
            }
        }
        let nat_refresh = self.rules.registrar.nat_refresh;
        let behind_nat = nat_refresh > DeltaSeconds(0) && is_behind_nat(register);
        let answer = answer(self.rules, envelope, self.flow, hash);
        let record = self.space.work.record();
        let len = answer.bindings(
            self.out,
            self.now,
            self.space.date.at(self.now),
            record.as_ref(),
            register.path,
            behind_nat.then_some(nat_refresh),
        )?;
        Some(Answered { len, status: Status::OK })
    }

    fn count(&self, outcome: Outcome, aor: Aor<'_>, register: &Register<'_>) {
        let Outcome::Registered(changes) = outcome else {
            self.counters.register("queried", 1);
            return;
        };
        let Changes { added, refreshed, removed, expired, evicted } = changes;
        for (label, count) in [
            ("added", added),
            ("refreshed", refreshed),
            ("removed", removed),
            ("expired", expired),
            ("evicted", evicted),
        ] {
            if count > 0 {
                self.counters.register(label, u64::from(count));
            }
        }
        tracing::debug!(
            aor = %aor.as_bytes().escape_ascii(),
            source = %register.flow.remote,
            added, refreshed, removed, expired, evicted,
            "registered"
        );
    }

    /// The contacts of a REGISTER, each seen to be well-formed and within the limits.
    fn survey(&self, envelope: &Envelope<'_>) -> Result<Contacts, Fault> {
        let limits = &self.rules.limits;
        let contacts = Contacts::survey(envelope.message.all(HeaderName::Contact), |contact| {
            if !is_well_formed(contact.uri) {
                return Err(Fault::Bad(HeaderName::Contact));
            }
            if contact.uri.len() > usize::from(limits.max_uri)
                || contact.params.as_bytes().len() > usize::from(limits.max_contact_params)
            {
                return Err(Fault::Long(HeaderName::Contact));
            }
            Ok(())
        })?;
        match contacts {
            Contacts::List { count } if count > usize::from(limits.max_contacts) => {
                Err(Fault::TooManyContacts)
            }
            contacts => Ok(contacts),
        }
    }

    /// All Path values, joined.
    fn read_path<'m>(&mut self, envelope: &Envelope<'m>) -> Result<Path<'m>, Fault> {
        let mut values = envelope.message.all(HeaderName::Path);
        let Some(first) = values.next() else { return Ok(Path::Whole(b"")) };
        let bad = Fault::Bad(HeaderName::Path);
        let mut len = 0;
        for value in envelope.message.all(HeaderName::Path) {
            len += value.len() + 1;
            for element in Elements::new(value) {
                let hop = element.and_then(NameAddr::parse).map_err(|_| bad)?;
                hop.params.check().map_err(|_| bad)?;
                SipUri::parse(hop.uri).map_err(|_| bad)?;
            }
        }
        if len > usize::from(self.rules.limits.max_path) + 1 {
            return Err(Fault::Long(HeaderName::Path));
        }
        let Some(second) = values.next() else { return Ok(Path::Whole(first)) };
        let mut joined = std::mem::take(&mut self.space.path);
        joined.clear();
        joined.extend_from_slice(first);
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Ok(Path::Joined(joined))
    }

    /// 401; `stale` is the time that the new nonce must not be older than.
    fn challenge(
        &mut self,
        envelope: &Envelope<'_>,
        hash: RequestHash,
        scope: u8,
        stale: Option<u32>,
    ) -> Option<Answered> {
        let unique = RequestHash(hash.0 << 8 | u32::from(scope));
        let authenticator = &self.rules.authenticator;
        let challenge = match stale {
            Some(not_before) => authenticator.stale_challenge(self.now, unique, not_before),
            None => authenticator.challenge(self.now, unique),
        };
        let answer = answer(self.rules, envelope, self.flow, hash);
        let len = answer.challenge(self.out, &challenge)?;
        Some(Answered { len, status: Status::UNAUTHORIZED })
    }

    fn plain(
        &mut self,
        envelope: &Envelope<'_>,
        status: Status,
        headers: impl FnOnce(&mut Buf<'_>),
    ) -> Option<Answered> {
        let len = self.answer(envelope).plain(self.out, status, headers)?;
        Some(Answered { len, status })
    }

    /// Logs a refusal, within the rate.
    fn refused(&mut self, label: &'static str, status: Status, envelope: &Envelope<'_>) {
        let to = envelope.message.first(HeaderName::To).unwrap_or_default();
        self.space.refusals.log(self.now, label, status, self.flow.remote, to);
    }
}
