//! REGISTER, from step 3 of RFC 3261 §10.3 on.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{
    answer::SUPPORTED,
    decide::{Decision, decide, keep_bindings},
    exchange::{Answered, Exchange},
};
use crate::{
    auth::{self, NonceCounts, NonceUse, Verdict},
    location::Cause,
    registrar::{Aor, AorRecord, Changes, Outcome, Register, Wanted, nat},
    sip::{
        Fault, Request, Status,
        header::{Contact, Contacts, Elements, HeaderName, NameAddr, option_tags},
        uri::{SipUri, is_well_formed},
    },
    subscribers::Account,
    time::{DeltaSeconds, Now},
};

impl<'a> Exchange<'a> {
    /// Answers a REGISTER that is for us and requires nothing unknown.
    pub(super) fn register(&mut self, request: &Request<'_>) -> Option<Answered> {
        let contacts = match self.survey() {
            Ok(contacts) => contacts,
            Err(fault) => return self.reject(fault),
        };
        let path = match self.read_path() {
            Ok(path) => path,
            Err(fault) => return self.reject(fault),
        };
        // RFC 3261 §10.2: an AoR is a SIP or SIPS URI.
        let Some(to) = &request.to_uri else {
            return self.reject(Fault::Bad(HeaderName::To));
        };
        // The texts that a registration is worked out from live in space that is used again.
        let mut aor = std::mem::take(&mut self.space.aor);
        let answered = self.register_aor(request, to, contacts, path.as_bytes(), &mut aor);
        self.space.aor = aor;
        if let Path::Joined(joined) = path {
            self.space.path = joined;
        }
        answered
    }

    fn register_aor(
        &mut self,
        request: &Request<'_>,
        to: &SipUri<'_>,
        contacts: Contacts,
        path: &[u8],
        aor_space: &mut Vec<u8>,
    ) -> Option<Answered> {
        let rules = self.rules;
        let aor = Aor::canonical(to, &rules.domains, aor_space);
        // In a flat namespace no domain counts, so an account with one owns nothing there.
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let scope = rules.domains.position(domain);

        // Step 3. Who may not register learns nothing of who there is.
        let (account, used) = if rules.registrar.auth_required {
            match self.authenticate(request, domain, scope) {
                Ok((account, used)) => (account, Some(used)),
                Err(answered) => return answered,
            }
        } else {
            (aor.and_then(|aor| rules.subscribers.account(aor.user(), domain)), None)
        };
        // Step 4.
        if let (Some(account), Some(aor)) = (account, aor)
            && !account.owns(aor.user(), domain)
        {
            self.spend(account, domain, used);
            self.counters.register("forbidden", 1);
            self.log_refusal("forbidden", Status::FORBIDDEN);
            return self.plain(Status::FORBIDDEN);
        }
        // Step 5. Our domains are one set: phones are often pointed at a host name of ours while
        // their address has the domain's, so a user of any of them is valid at any other.
        let Some(aor) = aor.filter(|_| account.is_some() || rules.autocreate) else {
            if let Some(account) = account {
                self.spend(account, domain, used);
            }
            self.counters.register("not_found", 1);
            self.log_refusal("not_found", Status::NOT_FOUND);
            return self.plain(Status::NOT_FOUND);
        };
        let message = self.envelope.message;
        let mut listed = Contact::all(message.all(HeaderName::Contact));
        let (one, many);
        let wanted = match contacts {
            Contacts::None => Wanted::Bindings,
            Contacts::All => Wanted::Nothing,
            Contacts::List { count: 1 } => {
                one = [listed.next()?];
                Wanted::Contacts(&one)
            }
            Contacts::List { .. } => {
                many = listed.collect::<Box<[_]>>();
                Wanted::Contacts(&many)
            }
        };
        let register = Register {
            wanted,
            expires: message.first(HeaderName::Expires),
            granted: account.and_then(granted_by),
            call_id: request.call_id,
            cseq: request.cseq.number,
            branch: branch_hash(self.envelope.via.branch),
            flow: self.flow,
            path,
            supports_path: self.supports_path(),
            agent: message.first(HeaderName::UserAgent).unwrap_or_default(),
        };

        // Steps 6 and 7.
        let used = used.map(|used| (used, self.request_hash()));
        let (now, location, space) = (self.now, self.location, &mut *self.space);
        let decision = location.update(aor.as_bytes(), now, Cause::Registered, |entry| {
            decide(now, rules, &register, aor, used, entry, space)
        });
        self.settle(&register, aor, scope, decision)
    }

    /// The account that a request proves to come from, and the use of a nonce that proves it;
    /// else the challenge that was written.
    fn authenticate(
        &mut self,
        request: &Request<'_>,
        domain: &[u8],
        scope: u8,
    ) -> Result<(Option<Account<'a>>, NonceUse), Option<Answered>> {
        let rules = self.rules;
        let mut account = None;
        let verdict = rules.authenticator.verify_any(
            self.now,
            self.envelope.method.as_bytes(),
            request.uri,
            self.envelope.message.all(HeaderName::Authorization),
            |username| {
                let login = rules.subscribers.login(username, domain)?;
                account = Some(login.account);
                Some(login.secret)
            },
        );
        match verdict {
            Verdict::Granted(grant) if grant.used.nonce.scope() == scope => {
                self.counters.auth("granted");
                Ok((account, grant.used))
            }
            Verdict::Granted(_) | Verdict::Stale => {
                self.counters.auth("stale");
                Err(self.challenge(scope, Some(0)))
            }
            Verdict::Challenge(refusal) => {
                self.counters.auth(refusal.label());
                if refusal != auth::Refusal::NoCredentials {
                    self.log_refusal(refusal.label(), Status::UNAUTHORIZED);
                }
                Err(self.challenge(scope, None))
            }
        }
    }

    /// Notes the use of a nonce that proved an account to a request for an AoR not its own, where
    /// its own REGISTERs will be counted: nobody may use the same credentials again.
    fn spend(&mut self, account: Account<'_>, domain: &[u8], used: Option<NonceUse>) {
        let Some(used) = used else { return };
        let first = self.rules.domains.names().next().unwrap_or_default().as_bytes();
        let domain = if domain.is_empty() { first } else { domain };
        let own = match domain {
            b"" => account.user().to_vec(),
            domain => [account.user(), b"@", &domain.to_ascii_lowercase()].concat(),
        };
        let (request, now, rules) = (self.request_hash(), self.now, self.rules);
        let space = &mut *self.space;
        self.location.update(&own, now, Cause::Registered, |entry| {
            let stored = entry.record().map(|r| r.nonces()).unwrap_or_default();
            space.nonces.clear();
            let mut counts = NonceCounts::decode(stored).unwrap_or_default();
            counts.prune(now, rules.authenticator.policy().nonce_lifetime);
            counts.record(used, request);
            counts.encode_into(&mut space.nonces);
            keep_bindings(now, &own, entry, space);
        });
    }

    /// Counts, logs and answers a decision (step 8).
    fn settle(
        &mut self,
        register: &Register<'_>,
        aor: Aor<'_>,
        scope: u8,
        decision: Decision,
    ) -> Option<Answered> {
        match decision {
            Decision::Done(Outcome::Queried) => self.counters.register("queried", 1),
            Decision::Done(Outcome::Retransmitted) => self.counters.register("retransmitted", 1),
            Decision::Done(Outcome::Registered(changes)) => self.registered(changes, register, aor),
            Decision::Stale { label, not_before } => {
                self.counters.auth(label);
                return self.challenge(scope, Some(not_before));
            }
            Decision::Refused(refusal) => {
                let status = refusal.status();
                self.counters.register(refusal.label(), 1);
                self.log_refusal(refusal.label(), status);
                let len = self.answer().refusal(self.out, refusal)?;
                return Some(Answered { len, status });
            }
            Decision::Full => {
                let status = Status::SERVICE_UNAVAILABLE;
                self.counters.register("location_full", 1);
                self.log_refusal("location_full", status);
                let len = self.answer().unavailable(self.out, "Too Many Bindings")?;
                return Some(Answered { len, status });
            }
        }
        let nat_refresh = self.rules.registrar.nat_refresh;
        let record = self.space.work.record();
        let hint =
            nat_refresh > DeltaSeconds(0) && is_behind_nat(self.now, register, record.as_ref());
        let answer = self.answer();
        let len = answer.bindings(
            self.out,
            self.now,
            self.space.date.at(self.now),
            record.as_ref(),
            register.path,
            hint.then_some(nat_refresh),
        )?;
        Some(Answered { len, status: Status::OK })
    }

    fn registered(&self, changes: Changes, register: &Register<'_>, aor: Aor<'_>) {
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

    /// The contacts, each seen to be well-formed and within the limits.
    fn survey(&self) -> Result<Contacts, Fault> {
        let limits = &self.rules.limits;
        let values = self.envelope.message.all(HeaderName::Contact);
        let contacts = Contacts::survey(values, |contact| {
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
                Err(Fault::TooMany(HeaderName::Contact))
            }
            contacts => Ok(contacts),
        }
    }

    /// All Path values (RFC 3327), each seen to be well-formed.
    fn read_path(&mut self) -> Result<Path<'a>, Fault> {
        let mut values = self.envelope.message.all(HeaderName::Path);
        let bad = |_| Fault::Bad(HeaderName::Path);
        let (mut lines, mut len) = (0, 0);
        for value in values.clone() {
            for element in Elements::new(value) {
                let element = element.map_err(bad)?;
                let hop = NameAddr::parse(element).map_err(bad)?;
                // RFC 3327 §4: without brackets, `;lr` would be no parameter of the URI.
                memchr::memchr(b'<', element).ok_or(Fault::Bad(HeaderName::Path))?;
                hop.params.check().map_err(bad)?;
                SipUri::parse(hop.uri).map_err(|_| Fault::Bad(HeaderName::Path))?;
            }
            lines += 1;
            len += value.len();
        }
        if len > usize::from(self.rules.limits.max_path) {
            return Err(Fault::Long(HeaderName::Path));
        }
        if lines < 2 {
            return Ok(Path::Whole(values.next().unwrap_or_default()));
        }
        let mut joined = std::mem::take(&mut self.space.path);
        joined.clear();
        for value in values {
            if !joined.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(value);
        }
        Ok(Path::Joined(joined))
    }

    fn supports_path(&self) -> bool {
        let message = &self.envelope.message;
        [HeaderName::Supported, HeaderName::Require]
            .into_iter()
            .flat_map(|name| message.all(name).flat_map(option_tags))
            .any(|tag| tag.eq_ignore_ascii_case(SUPPORTED[0].as_bytes()))
    }
}

/// The Path of a request.
enum Path<'a> {
    /// As one line has it; empty if there is none.
    Whole(&'a [u8]),
    /// Of several lines.
    Joined(Vec<u8>),
}

impl Path<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Whole(value) => value,
            Self::Joined(value) => value,
        }
    }
}

/// What the account grants whatever is asked: `expires=` in its section, as in Yate. A value out
/// of bounds was warned of when it was read.
fn granted_by(account: Account<'_>) -> Option<DeltaSeconds> {
    let (_, value) = account.params().find(|(key, _)| *key == b"expires")?;
    DeltaSeconds::granted(value)
}

/// Tells a retransmission from a CSeq that was used twice. Zero stands for no branch. The key is
/// no secret: it has to be the same after a restart, and who collides with himself gains nothing.
fn branch_hash(branch: &[u8]) -> u32 {
    if branch.is_empty() {
        return 0;
    }
    let mut hasher = SipHasher13::new();
    hasher.write(branch);
    let [h0, h1, h2, h3, ..] = hasher.finish().to_be_bytes();
    u32::from_be_bytes([h0, h1, h2, h3]).max(1)
}

/// Whether a contact that this request bound is behind NAT.
fn is_behind_nat(now: Now, register: &Register<'_>, record: Option<&AorRecord<'_>>) -> bool {
    record.iter().flat_map(|r| r.bindings(now)).any(|binding| {
        binding.cseq == register.cseq
            && binding.call_id == register.call_id
            && SipUri::parse(binding.uri).is_ok_and(|uri| nat::is_behind_nat(&uri, &binding.flow))
    })
}
