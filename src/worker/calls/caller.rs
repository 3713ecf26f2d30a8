//! Who sends a request, and whether it may.

use siphasher::sip::SipHasher13;

use super::{Calls, Stop, extra};
use crate::{
    auth::{self, Authenticator, Grant, Verdict},
    proxy::Side,
    registrar::Aor,
    sip::{Request, Status, uri::SipUri},
    subscribers,
    worker::{
        answer::RETRY_AFTER_FAULT,
        cause::Cause,
        counters::AuthResult,
        exchange::Exchange,
        owner::{Claimant, Sought},
        parking::{Learned, Question},
        rules::Rules,
    },
};

/// What is known of a sender who may send.
#[derive(Clone, Debug, Default)]
pub(super) struct Admitted {
    /// The account that proved itself.
    pub(super) username: Option<Box<[u8]>>,
    /// Whether From names it.
    pub(super) owns_from: bool,
}

/// Who a request is from.
pub(super) struct Caller {
    pub(super) admitted: Admitted,
    /// Its AoR, which the call counts for.
    pub(super) aor: Option<Box<[u8]>>,
    /// Who it is, for whom it calls.
    pub(super) identity: Option<Box<[u8]>>,
    /// Where later requests to it go.
    pub(super) side: Side,
}

impl Calls {
    /// Who it is from, if it may be (DESIGN: users prove themselves, networks may be trusted).
    pub(super) fn caller<'a>(
        &mut self,
        x: &mut Exchange<'_, 'a>,
        request: &Request<'a>,
        is_ours: bool,
        learned: Option<&Learned>,
    ) -> Result<Caller, Stop> {
        let rules = x.rules;
        let policy = &rules.calls;
        let from = SipUri::parse(request.from.uri).ok();
        let mut space = Vec::new();
        let aor = from.as_ref().and_then(|uri| Aor::canonical(uri, &rules.domains, &mut space));
        let own_aor = || aor.map(|aor| aor.as_bytes().into());
        // What a network says of its callers is its own affair; it counts for no user of ours.
        let server = |aor| Caller {
            admitted: Admitted::default(),
            aor,
            identity: None,
            side: Side::Server(x.flow),
        };
        if policy.trusts(x.flow.remote.ip()) {
            return Ok(server(None));
        }
        // RFC 3323 §4.1.1.3: who hides its name proves it all the same.
        let is_anonymous =
            from.is_some_and(|from| from.host_port.host.eq_ignore_ascii_case(b"anonymous.invalid"));
        if aor.is_none() && !is_anonymous {
            // Phones show the name alone: nobody has one of ours by our address either.
            let is_own = from.is_some_and(|from| self.core.is_own(&from, &x.flow));
            let is_let_in = policy.accept_foreign && is_ours && !is_own;
            let status = Status::FORBIDDEN.because("Not From Here");
            return if is_let_in {
                Ok(server(None))
            } else {
                Err(Stop::status(Cause::ForeignCaller, status))
            };
        }
        let side = Side::Flow(x.flow);
        if !rules.registrar.auth_required {
            let admitted = Admitted::default();
            return Ok(Caller { admitted, aor: own_aor(), identity: None, side });
        }
        let domain = aor.and_then(|aor| aor.domain()).unwrap_or_default();
        let proven = |username: Box<[u8]>, owns_from: bool| {
            let realm = rules.authenticator.policy().realm.as_bytes();
            let identity: Box<[u8]> = if owns_from && !is_anonymous {
                request.from.uri.into()
            } else {
                [b"sip:", &*username, b"@", realm].concat().into()
            };
            // Whoever From names: the call is the account's that proved itself.
            let aor =
                if owns_from { own_aor() } else { Some(account_aor(rules, &username, domain)) };
            let admitted = Admitted { username: Some(username), owns_from };
            Caller { admitted, aor, identity: Some(identity), side }
        };
        if let Some(learned) = learned
            && let Some(username) = learned.caller.clone()
        {
            return Ok(proven(username, learned.owns_from));
        }
        let scope = rules.domains.position(domain);
        let challenge = |refusal: auth::Refusal| {
            x.counters.auth(AuthResult::from(refusal));
            Stop::Challenged(scope, false)
        };
        let values = request.envelope.message.named("Proxy-Authorization");
        let claim = rules.authenticator.screen_any(x.now, values).map_err(challenge)?;
        let mut login = None;
        Authenticator::look_up(&claim, |username| {
            login = Some(rules.subscribers.login_key(username, domain));
            None
        });
        let claimant = Claimant { claim, domain, login };
        let (owner, secret) = match claimant.seek(x.now, rules, learned) {
            Sought::Found { owner, secret, .. } => (Some(owner), Some(secret)),
            Sought::Unknown => (None, None),
            Sought::Asks => return Err(Stop::Asks(Question::Auth)),
            Sought::Refused(code) => {
                x.counters.auth(AuthResult::Refused);
                return Err(Stop::Refused(
                    Cause::Refused,
                    Status::of_refusal(code),
                    extra(learned),
                ));
            }
            Sought::Unavailable => {
                x.counters.auth(AuthResult::Unavailable);
                return Err(Stop::later(
                    Cause::Unavailable,
                    "Back End Unavailable",
                    RETRY_AFTER_FAULT,
                ));
            }
        };
        self.trials.clear();
        let method = request.envelope.method.as_bytes();
        let begun = self.trials.begin(&rules.authenticator, &claim, method, request.uri, secret);
        self.trials.compute();
        let verdict = begun.map_or_else(|verdict| verdict, |trial| self.trials.verdict(&trial));
        let grant = match verdict {
            Verdict::Granted(grant) if grant.used.nonce.scope() == scope => grant,
            Verdict::Granted(_) | Verdict::Stale => {
                x.counters.auth(AuthResult::Stale);
                return Err(Stop::Challenged(scope, true));
            }
            Verdict::Challenge(refusal) => return Err(challenge(refusal)),
        };
        let username: Box<[u8]> = grant.username.octets().collect();
        if !self.is_first_use(x, &grant, &claim) {
            x.counters.auth(AuthResult::Replay);
            return Err(Stop::Challenged(scope, true));
        }
        x.counters.auth(AuthResult::Granted);
        let owns = aor.zip(owner).is_some_and(|(aor, owner)| owner.owns(aor.user(), domain));
        if policy.check_from && !owns && !is_anonymous {
            let status = Status::FORBIDDEN.because("From Is Not Yours");
            return Err(Stop::status(Cause::From, status));
        }
        Ok(proven(username, owns))
    }

    /// Whether credentials are used for the first time.
    fn is_first_use(
        &self,
        x: &Exchange<'_, '_>,
        grant: &Grant<'_>,
        claim: &auth::Claim<'_>,
    ) -> bool {
        let (nonce, response) = claim.nonce_and_response();
        let nc = grant.used.nc.unwrap_or(0).to_le_bytes();
        let text = [nonce, &nc, response.as_bytes()].concat();
        let hash = SipHasher13::new_with_key(&self.shared.key).hash(&text);
        let lifetime = x.rules.authenticator.policy().nonce_lifetime;
        self.shared.spent.spend(x.now, lifetime, hash)
    }
}

/// The AoR of an account, whose name may have its domain in it; `domain` is From's, empty where that
/// is none of ours.
fn account_aor(rules: &Rules, username: &[u8], domain: &[u8]) -> Box<[u8]> {
    if rules.domains.is_flat() || subscribers::split_name(username).is_some() {
        return username.into();
    }
    let first = rules.domains.names().next().unwrap_or_default().as_bytes();
    let domain = if domain.is_empty() { first } else { domain };
    [username, b"@", domain].concat().into()
}
