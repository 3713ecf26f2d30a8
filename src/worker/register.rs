//! REGISTER, from step 3 of RFC 3261 §10.3 on.

use std::sync::Arc;

use super::{
    answer::{SUPPORTED, Unavailable},
    counters::{AuthResult, RegisterResult},
    decide::{AskFirst, Decision, decide, keep_bindings},
    exchange::{Answered, Exchange, Step},
    owner::{Claimant, Owner, Sought},
    parking::{Learned, Learnt, Question, Registered},
    rules::{AskRegister, Rules},
};
use crate::{
    auth::{self, Authenticator, NonceCounts, NonceUse, Trial, Trials, Verdict},
    location::{AorKey, Cause},
    registrar::{Aor, Binding, Changes, Outcome, Register, Wanted, nat},
    sip::{
        Fault, Method, Request, Status,
        header::{Contact, Contacts, Elements, HeaderName, NameAddr, option_tags},
        uri::{SipUri, UriError},
    },
    subscribers::LoginKey,
    time::{DeltaSeconds, Now},
};

/// The texts of a REGISTER that don't stand in one piece of its datagram.
#[derive(Debug, Default)]
pub(super) struct Texts {
    aor: Vec<u8>,
    path: Vec<u8>,
}

/// A REGISTER as far as it is known without its digest and without the record of its AoR.
#[derive(Debug)]
pub(super) struct Registration<'a> {
    call_id: &'a [u8],
    cseq: u32,
    contacts: Asked<'a>,
    /// Whether its phone is behind NAT, where it is one contact.
    behind_nat: bool,
    path: &'a [u8],
    aor: Option<Aor<'a>>,
    /// Where the AoR's record is.
    key: Option<AorKey>,
    /// The position of the AoR's domain.
    scope: u8,
    owner: Option<Owner<'a>>,
    /// Whether it is time to ask for the account again.
    is_stale: bool,
    /// Header lines that its account adds to answers.
    extra: Option<Arc<[u8]>>,
    proof: Proof<'a>,
    learned: Option<&'a Learned>,
}

/// Whether a request comes from its account.
#[derive(Clone, Copy, Debug)]
enum Proof<'a> {
    /// Nobody asks.
    Unasked,
    /// Somebody's, who is still to be looked up.
    Claimed(Claimed<'a>),
    /// That is being computed.
    Computed(Trial<'a>),
    /// That is known.
    Known(Verdict<'a>),
    /// Only a back end knows.
    Asks,
    /// A back end turned the user down.
    TurnedDown(u16),
    /// No back end could say.
    Unavailable,
}

/// Credentials that answer a challenge of ours.
#[derive(Clone, Copy, Debug)]
struct Claimed<'a> {
    claimant: Claimant<'a>,
    request_uri: &'a [u8],
}

/// How a REGISTER ends for now.
pub(super) enum Ended {
    Answered(Option<Answered>),
    /// So, by what was known of its user; this is to be asked behind the answer.
    Behind(Option<Answered>, Question),
    /// With a question.
    Asks(Question),
}

/// The contacts of a request.
#[derive(Clone, Copy, Debug)]
enum Asked<'a> {
    None,
    All,
    One(Contact<'a>),
    Many,
}

impl<'a> Registration<'a> {
    /// Where the account is that it says it comes from.
    pub(super) fn login(&self) -> Option<LoginKey> {
        match &self.proof {
            Proof::Claimed(claimed) => claimed.claimant.login,
            _ => None,
        }
    }

    /// Looks its account up, and has its digest computed with its group's.
    pub(super) fn prove(&mut self, now: Now, rules: &'a Rules, trials: &mut Trials) {
        let Proof::Claimed(Claimed { claimant, request_uri }) = &self.proof else {
            return;
        };
        let secret = match claimant.seek(now, rules, self.learned) {
            Sought::Found { owner, secret, is_stale, extra } => {
                (self.owner, self.is_stale, self.extra) = (Some(owner), is_stale, extra);
                Some(secret)
            }
            Sought::Unknown => None,
            Sought::Asks => return self.proof = Proof::Asks,
            Sought::Refused(code) => return self.proof = Proof::TurnedDown(code),
            Sought::Unavailable => return self.proof = Proof::Unavailable,
        };
        let (claim, method) = (&claimant.claim, Method::Register.as_bytes());
        let trial = trials.begin(&rules.authenticator, claim, method, request_uri, secret);
        self.proof = trial.map_or_else(Proof::Known, Proof::Computed);
    }

    /// Takes the verdict, once its group's digests are computed.
    pub(super) fn judge(&mut self, trials: &Trials) {
        if let Proof::Computed(trial) = &self.proof {
            self.proof = Proof::Known(trials.verdict(trial));
        }
        // The password may be new.
        if self.is_stale && matches!(self.proof, Proof::Known(Verdict::Challenge(_))) {
            self.proof = Proof::Asks;
        }
    }

    /// Where the record is that it will take, if it proved that it may.
    pub(super) fn key(&self) -> Option<AorKey> {
        match self.proof {
            Proof::Unasked | Proof::Known(Verdict::Granted(_)) => self.key,
            _ => None,
        }
    }

    /// What has to be asked before anything is bound, by rules that have a back end for it.
    fn ask_first(&self, rules: &Rules) -> AskFirst {
        if self.is_stale {
            return AskFirst::IfAdded(Question::Auth);
        }
        match rules.elsewhere.asks_register() {
            _ if self.learned.is_some_and(|learned| learned.registered.is_some()) => {
                AskFirst::Nothing
            }
            AskRegister::Always => AskFirst::Always(Question::Register),
            AskRegister::New => AskFirst::IfAdded(Question::Register),
            // Nobody has said yet that there is such a user.
            AskRegister::Later if self.owner.is_none() => AskFirst::IfAdded(Question::Register),
            AskRegister::Later | AskRegister::Never => AskFirst::Nothing,
        }
    }
}

impl<'a> Exchange<'_, 'a> {
    /// Begins a REGISTER that is for us and requires nothing unknown.
    pub(super) fn open(
        &mut self,
        request: &Request<'a>,
        texts: &'a mut Texts,
        learned: Option<&'a Learned>,
    ) -> Step<'a> {
        let Texts { aor, path } = texts;
        let asked = self.survey().and_then(|contacts| Ok((contacts, self.read_path(path)?)));
        let ((contacts, behind_nat), path) = match asked {
            Ok(asked) => asked,
            Err(fault) => return Step::Answered(self.reject(fault)),
        };
        // RFC 3261 §10.2: an AoR is a SIP or SIPS URI.
        let Some(to) = &request.to_uri else {
            return Step::Answered(self.reject(Fault::Bad(HeaderName::To)));
        };
        let rules = self.rules;
        let aor = Aor::canonical(to, &rules.domains, aor);
        // In a flat namespace no domain counts, so an account with one owns nothing there.
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let scope = rules.domains.position(domain);

        // Step 3. Who may not register learns nothing of who there is.
        let (owner, proof) = if rules.registrar.auth_required {
            match self.claim(request.uri, domain) {
                Ok(claimed) => (None, Proof::Claimed(claimed)),
                Err(refusal) => return Step::Answered(self.unauthorized(refusal, scope)),
            }
        } else {
            let account = aor.and_then(|aor| rules.subscribers.account(aor.user(), domain));
            (account.map(Owner::Listed), Proof::Unasked)
        };
        Step::Waits(Registration {
            call_id: request.call_id,
            cseq: request.cseq.number,
            contacts,
            behind_nat,
            path,
            aor,
            key: aor.map(|aor| self.location.key(aor.as_bytes())),
            scope,
            owner,
            is_stale: false,
            extra: None,
            proof,
            learned,
        })
    }

    /// Answers a REGISTER whose digest is computed.
    pub(super) fn register(&mut self, registration: &Registration<'a>) -> Ended {
        let Registration { aor, key, owner, scope, learned, .. } = *registration;
        // What was said of this very request goes before what is known of its account.
        let said = learned.and_then(|learned| learned.extra.clone());
        self.extra = said.or_else(|| registration.extra.clone());
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let used = match self.end_trial(registration) {
            Ok(used) => used,
            Err(ended) => return ended,
        };
        // Step 4.
        if let (Some(owner), Some(aor)) = (owner, aor)
            && !owner.owns(aor.user(), domain)
        {
            let result = RegisterResult::Forbidden;
            return self.unbound(registration, used, result, Status::FORBIDDEN);
        }
        // Step 5. Our domains are one set: phones are often pointed at a host name of ours while
        // their address has the domain's, so a user of any of them is valid at any other.
        let rules = self.rules;
        let is_known = owner.is_some()
            || rules.autocreate
            || rules.elsewhere.asks_register() != AskRegister::Never;
        let Some((aor, key)) = aor.zip(key).filter(|_| is_known) else {
            return self.unbound(registration, used, RegisterResult::NotFound, Status::NOT_FOUND);
        };
        let granted = match learned.and_then(|learned| learned.registered.as_ref()) {
            None => None,
            Some(Learnt::Is(Registered::Taken { granted })) => *granted,
            Some(Learnt::Is(Registered::Unhandled)) => {
                let result = RegisterResult::NotFound;
                return self.unbound(registration, used, result, Status::NOT_FOUND);
            }
            Some(Learnt::Is(Registered::Refused(code))) => {
                let status = Status::of_refusal(*code);
                return self.unbound(registration, used, RegisterResult::Refused, status);
            }
            Some(Learnt::Unavailable) => {
                return Ended::Answered(self.no_back_end(Unavailable::BackEnd));
            }
        };
        let message = self.envelope.message;
        let (one, many);
        let wanted = match registration.contacts {
            Asked::None => Wanted::Bindings,
            Asked::All => Wanted::Nothing,
            Asked::One(contact) => {
                one = [contact];
                Wanted::Contacts(&one)
            }
            Asked::Many => {
                many = Contact::all(message.all(HeaderName::Contact)).collect::<Box<[_]>>();
                Wanted::Contacts(&many)
            }
        };
        let register = Register {
            wanted,
            expires: message.first(HeaderName::Expires),
            granted: granted.or_else(|| owner.and_then(Owner::granted)),
            call_id: registration.call_id,
            cseq: registration.cseq,
            branch: self.branch_hash(),
            flow: self.flow,
            path: registration.path,
            supports_path: registration.path.is_empty() || self.supports_path(),
            agent: message.first(HeaderName::UserAgent).unwrap_or_default(),
        };

        // Steps 6 and 7.
        let used = used.map(|used| (used, self.request_hash()));
        if !matches!(register.wanted, Wanted::Bindings) && self.journal.refuses() {
            self.counters.register(RegisterResult::NotSaved, 1);
            self.log_refusal("not_saved", Status::SERVICE_UNAVAILABLE);
            return Ended::Answered(self.unavailable(Unavailable::NotSaved));
        }
        let ask = registration.ask_first(rules);
        let (now, location, space) = (self.now, self.location, &mut *self.space);
        let (when, journal) = ((now, Cause::Registered), &mut *self.journal);
        let decision = location.update_at(key, aor.as_bytes(), when, journal, |entry| {
            decide(now, rules, &register, aor, used, ask, entry, space)
        });
        if let Decision::Asks(question) = decision {
            return Ended::Asks(question);
        }
        let is_bound = matches!(decision, Decision::Done(Outcome::Registered(_)));
        let one = matches!(registration.contacts, Asked::One(_)).then_some(registration.behind_nat);
        let answered = self.settle(&register, aor, scope, one, decision);
        if is_bound && registration.is_stale {
            return Ended::Behind(answered, Question::Renew);
        }
        Ended::Answered(answered)
    }

    /// The credentials of a request.
    fn claim(&self, request_uri: &'a [u8], domain: &'a [u8]) -> Result<Claimed<'a>, auth::Refusal> {
        let Rules { authenticator, subscribers, .. } = self.rules;
        let message = self.envelope.message;
        let claim = authenticator.screen_any(self.now, message.all(HeaderName::Authorization))?;
        let mut login = None;
        Authenticator::look_up(&claim, |username| {
            login = Some(subscribers.login_key(username, domain));
            None
        });
        Ok(Claimed { claimant: Claimant { claim, domain, login }, request_uri })
    }

    /// The use of a nonce that proves a request to come from its account, if anybody asks; else the
    /// challenge that was written, or what has to be asked first.
    fn end_trial(&mut self, registration: &Registration<'a>) -> Result<Option<NonceUse>, Ended> {
        let scope = registration.scope;
        let verdict = match &registration.proof {
            Proof::Unasked => return Ok(None),
            Proof::Known(verdict) => *verdict,
            // What was not judged proves nothing.
            Proof::Claimed(_) | Proof::Computed(_) => Verdict::Stale,
            Proof::Asks => return Err(Ended::Asks(Question::Auth)),
            Proof::TurnedDown(code) => {
                let status = Status::of_refusal(*code);
                self.counters.auth(AuthResult::Refused);
                self.log_refusal(AuthResult::Refused.label(), status);
                return Err(Ended::Answered(self.plain(status)));
            }
            Proof::Unavailable => {
                self.counters.auth(AuthResult::Unavailable);
                return Err(Ended::Answered(self.unavailable(Unavailable::BackEnd)));
            }
        };
        let answered = match verdict {
            Verdict::Granted(grant) if grant.used.nonce.scope() == scope => {
                // Those that come back from a later question were counted before it.
                if registration.learned.is_none_or(|learned| learned.registered.is_none()) {
                    self.counters.auth(AuthResult::Granted);
                }
                return Ok(Some(grant.used));
            }
            Verdict::Granted(_) | Verdict::Stale => {
                self.counters.auth(AuthResult::Stale);
                self.challenge(scope, Some(0))
            }
            Verdict::Challenge(refusal) => {
                let answered = self.unauthorized(refusal, scope);
                let is_wrong = refusal == auth::Refusal::WrongPassword;
                if is_wrong && self.rules.elsewhere.tells_failures() {
                    return Err(Ended::Behind(answered, Question::AuthFailed));
                }
                answered
            }
        };
        Err(Ended::Answered(answered))
    }

    /// Answers an authorised request that binds nothing, whose credentials are spent all the same.
    fn unbound(
        &mut self,
        registration: &Registration<'a>,
        used: Option<NonceUse>,
        result: RegisterResult,
        status: Status,
    ) -> Ended {
        let domain = registration.aor.and_then(|aor| aor.domain()).unwrap_or_default();
        if let Some(owner) = registration.owner {
            self.spend(owner, domain, used);
        }
        self.counters.register(result, 1);
        self.log_refusal(result.label(), status);
        Ended::Answered(self.plain(status))
    }

    /// Turns away a request that a back end would be needed for.
    pub(super) fn no_back_end(&mut self, why: Unavailable) -> Option<Answered> {
        self.counters.register(RegisterResult::Unavailable, 1);
        self.log_refusal(RegisterResult::Unavailable.label(), Status::SERVICE_UNAVAILABLE);
        self.unavailable(why)
    }

    /// Challenges a client whose credentials did not count.
    fn unauthorized(&mut self, refusal: auth::Refusal, scope: u8) -> Option<Answered> {
        let result = AuthResult::from(refusal);
        self.counters.auth(result);
        if refusal != auth::Refusal::NoCredentials {
            self.log_refusal(result.label(), Status::UNAUTHORIZED);
        }
        self.challenge(scope, None)
    }

    /// Notes the use of a nonce that proved an account to a request that binds nothing, where its
    /// own REGISTERs will be counted: nobody may use the same credentials again.
    fn spend(&mut self, owner: Owner<'_>, domain: &[u8], used: Option<NonceUse>) {
        let Some(used) = used else { return };
        let first = self.rules.domains.names().next().unwrap_or_default().as_bytes();
        let domain = if domain.is_empty() { first } else { domain };
        let own = match domain {
            b"" => owner.user(),
            domain => [&owner.user(), &b"@"[..], &domain.to_ascii_lowercase()].concat(),
        };
        let (request, now, rules) = (self.request_hash(), self.now, self.rules);
        let (space, when) = (&mut *self.space, (now, Cause::Registered));
        self.location.update(&own, when, self.journal, |entry| {
            let stored = entry.record().map(|r| r.nonces()).unwrap_or_default();
            space.nonces.clear();
            let mut counts = NonceCounts::decode(stored).unwrap_or_default();
            counts.prune(now, rules.authenticator.policy().nonce_lifetime);
            counts.record(used, request);
            counts.encode_into(&mut space.nonces);
            keep_bindings(now, &own, entry, space);
        });
    }

    /// Counts, logs and answers a decision (step 8). `behind_nat` is whether the contact is, if it is
    /// one.
    fn settle(
        &mut self,
        register: &Register<'_>,
        aor: Aor<'_>,
        scope: u8,
        behind_nat: Option<bool>,
        decision: Decision,
    ) -> Option<Answered> {
        match decision {
            Decision::Done(Outcome::Queried) => self.counters.register(RegisterResult::Queried, 1),
            Decision::Done(Outcome::Retransmitted) => {
                self.counters.register(RegisterResult::Retransmitted, 1)
            }
            Decision::Done(Outcome::Registered(changes)) => self.registered(changes, register, aor),
            // Nothing is answered before it is.
            Decision::Asks(_) => return None,
            Decision::Stale { result, not_before } => {
                self.counters.auth(result);
                return self.challenge(scope, Some(not_before));
            }
            Decision::Refused(refusal) => {
                let status = refusal.status();
                let result = RegisterResult::from(refusal);
                self.counters.register(result, 1);
                self.log_refusal(result.label(), status);
                let len = self.answer().refusal(self.out, refusal)?;
                return Some(Answered { len, status });
            }
            Decision::Full => {
                self.counters.register(RegisterResult::LocationFull, 1);
                self.log_refusal("location_full", Status::SERVICE_UNAVAILABLE);
                return self.unavailable(Unavailable::Full);
            }
            Decision::Loading => {
                self.counters.register(RegisterResult::Loading, 1);
                return self.unavailable(Unavailable::Loading);
            }
        }
        let nat_refresh = self.rules.registrar.nat_refresh;
        // Of the contacts that this request bound.
        let is_behind_nat = |binding: &Binding<'_>| {
            nat_refresh > DeltaSeconds(0)
                && binding.cseq == register.cseq
                && binding.call_id == register.call_id
                && behind_nat.unwrap_or_else(|| {
                    SipUri::parse(binding.uri)
                        .is_ok_and(|uri| nat::is_behind_nat(&uri, &binding.flow))
                })
        };
        let record = self.space.work.record();
        let len = self.answer().bindings(
            self.out,
            self.now,
            self.space.date.at(self.now),
            record.as_ref(),
            register.path,
            nat_refresh,
            is_behind_nat,
        )?;
        Some(Answered { len, status: Status::OK })
    }

    fn unavailable(&mut self, why: Unavailable) -> Option<Answered> {
        let len = self.answer().unavailable(self.out, why)?;
        Some(Answered { len, status: Status::SERVICE_UNAVAILABLE })
    }

    fn registered(&self, changes: Changes, register: &Register<'_>, aor: Aor<'_>) {
        let Changes { added, refreshed, removed, expired, evicted } = changes;
        for (result, count) in [
            (RegisterResult::Added, added),
            (RegisterResult::Refreshed, refreshed),
            (RegisterResult::Removed, removed),
            (RegisterResult::Expired, expired),
            (RegisterResult::Evicted, evicted),
        ] {
            if count > 0 {
                self.counters.register(result, u64::from(count));
            }
        }
        tracing::debug!(
            aor = %aor.as_bytes().escape_ascii(),
            source = %register.flow.remote,
            added, refreshed, removed, expired, evicted,
            "registered"
        );
    }

    /// The contacts, each seen to be well-formed and within the limits; and whether the last names
    /// an address that its phone can't be reached at.
    fn survey(&self) -> Result<(Asked<'a>, bool), Fault> {
        let limits = &self.rules.limits;
        let values = self.envelope.message.all(HeaderName::Contact);
        let (mut first, mut behind_nat) = (None, false);
        let contacts = Contacts::survey(values, |contact| {
            behind_nat = match SipUri::parse(contact.uri) {
                Ok(uri) => nat::is_behind_nat(&uri, &self.flow),
                Err(UriError::OtherScheme) => false,
                Err(UriError::Malformed) => return Err(Fault::Bad(HeaderName::Contact)),
            };
            if contact.uri.len() > usize::from(limits.max_uri)
                || contact.params.as_bytes().len() > usize::from(limits.max_contact_params)
            {
                return Err(Fault::Long(HeaderName::Contact));
            }
            first.get_or_insert(*contact);
            Ok(())
        })?;
        let asked = match (contacts, first) {
            (Contacts::None, _) => Asked::None,
            (Contacts::List { count: 1 }, Some(contact)) => Asked::One(contact),
            (Contacts::List { count }, _) if count > usize::from(limits.max_contacts) => {
                return Err(Fault::TooMany(HeaderName::Contact));
            }
            (Contacts::List { .. }, _) => Asked::Many,
            (Contacts::All, _) => Asked::All,
        };
        Ok((asked, behind_nat))
    }

    /// All Path values (RFC 3327), each seen to be well-formed; `space` is for those of several
    /// lines.
    fn read_path(&self, space: &'a mut Vec<u8>) -> Result<&'a [u8], Fault> {
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
            return Ok(values.next().unwrap_or_default());
        }
        space.clear();
        for value in values {
            if !space.is_empty() {
                space.push(b',');
            }
            space.extend_from_slice(value);
        }
        Ok(space)
    }

    /// Tells a retransmission from a CSeq that was used twice, among the requests of one Call-ID and
    /// CSeq. Zero stands for no branch.
    fn branch_hash(&self) -> u32 {
        if self.envelope.via.branch.is_empty() { 0 } else { self.request_hash().0.max(1) }
    }

    fn supports_path(&self) -> bool {
        let message = &self.envelope.message;
        [HeaderName::Supported, HeaderName::Require]
            .into_iter()
            .flat_map(|name| message.all(name).flat_map(option_tags))
            .any(|tag| tag.eq_ignore_ascii_case(SUPPORTED[0].as_bytes()))
    }
}
