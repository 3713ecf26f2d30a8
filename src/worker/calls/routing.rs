//! Where a request goes: from what the handlers and the accounts say to contacts and addresses.

use std::{collections::VecDeque, sync::Arc};

use super::{Calls, Stop, caller::Caller};
use crate::{
    flow::Flow,
    proxy::{Foreign, Goal, Routed, Side, Target, numeric},
    registrar::{Aor, nat},
    sip::{
        header::{Elements, NameAddr, Quality},
        uri::{SipUri, unescape_into},
    },
    subscribers,
    worker::{
        answer::RETRY_AFTER_FAULT,
        cause::Cause,
        exchange::Exchange,
        parking::{Learned, Learnt, Question},
        rules::Rules,
        ways::Ways,
    },
};

impl Calls {
    /// Where it goes, as the handlers say, or as the accounts and their alternatives do.
    pub(super) fn route(
        rules: &Rules,
        called: &Called,
        caller: &Caller,
        learned: Option<&Learned>,
    ) -> Result<Routed, Stop> {
        match learned.and_then(|learned| learned.routed.as_ref()) {
            Some(Learnt::Is(routed)) => return Ok((**routed).clone()),
            Some(Learnt::Unavailable) => {
                let what = "Back End Unavailable";
                return Err(Stop::later(Cause::Unavailable, what, RETRY_AFTER_FAULT));
            }
            None if rules.elsewhere.route => return Err(Stop::Asks(Question::Route)),
            None => {}
        }
        if !called.is_ours {
            // Nobody but our own users calls out.
            let is_let_out =
                rules.calls.foreign == Foreign::Dns && caller.admitted.username.is_some();
            let uri = Goal::Foreign(called.uri.clone());
            return Ok(if is_let_out { Routed::To(vec![vec![uri]]) } else { Routed::Unknown });
        }
        let (user, domain) = (&called.user, &called.domain);
        match subscribers::route::route(&rules.subscribers, &rules.domains, user, domain) {
            // Others than listed users may be bound.
            Routed::Unknown if rules.has_account(&called.aor(rules)) => {
                Ok(Routed::To(vec![vec![Goal::Aor(called.aor(rules).into())]]))
            }
            routed => Ok(routed),
        }
    }

    /// The contacts and addresses of the goals, in the order in which they are tried: by group, and
    /// in it by `q` (RFC 3261 §16.6). Users of ours who have `max_calls` are left out, unless that is
    /// zero.
    pub(super) fn targets(
        &self,
        x: &Exchange<'_, '_>,
        groups: Vec<Vec<Goal>>,
        max_calls: u32,
        ways: &mut Ways<'_>,
    ) -> Reached {
        let (mut targets, mut is_busy) = (VecDeque::new(), false);
        let (mut names_users, mut has_user) = (false, false);
        let mut bindings = |aor: &[u8], ways: &mut Ways<'_>, found: &mut Vec<_>| {
            let others = found.len();
            names_users = true;
            if self.shared.book.is_full(aor, max_calls) {
                is_busy = true;
            } else {
                bindings(x, aor, ways, found);
            }
            // Who is bound is somebody.
            has_user = has_user || found.len() > others || x.rules.has_user(aor);
        };
        for group in groups {
            let mut found: Vec<(u16, Target)> = Vec::new();
            for goal in group {
                match goal {
                    Goal::Aor(aor) => bindings(&aor, ways, &mut found),
                    Goal::Uri(uri) => match self.own_aor(x, &uri) {
                        Some(aor) => bindings(&aor, ways, &mut found),
                        None => found.extend(server(ways.to(&uri), uri)),
                    },
                    Goal::Foreign(uri) => {
                        found.extend(server(ways.foreign(&uri, &x.rules.calls.foreign_deny), uri));
                    }
                }
            }
            found.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
            for same in found.chunk_by(|(a, _), (b, _)| a == b) {
                targets.push_back(same.iter().map(|(_, target)| target.clone()).collect());
            }
        }
        Reached { groups: targets, is_busy, is_unknown: names_users && !has_user }
    }

    /// The AoR of ours that a URI names.
    fn own_aor(&self, x: &Exchange<'_, '_>, text: &[u8]) -> Option<Vec<u8>> {
        let (uri, rules) = (SipUri::parse(text).ok()?, x.rules);
        if !self.core.is_own(&uri, &x.flow)
            && (rules.domains.is_flat() || !rules.domains.serves(uri.host_port.host))
        {
            return None;
        }
        Some(Called::read(text, &uri, rules, true).aor(rules))
    }
}

/// Whom a request's goals lead to.
pub(super) struct Reached {
    /// In the order in which they are tried.
    pub(super) groups: VecDeque<Vec<Target>>,
    /// Whether anybody was left out who has as many calls as may be.
    pub(super) is_busy: bool,
    /// Whether users of ours are named, none of whom is one.
    pub(super) is_unknown: bool,
}

/// The server that a URI names, by these ways, of which the first is the best.
fn server(flows: Vec<Flow>, uri: Box<[u8]>) -> Option<(u16, Target)> {
    let (&flow, further) = flows.split_first()?;
    let (path, side, further) = (Box::default(), Side::Server(flow), further.into());
    Some((Quality::DEFAULT.0, Target { uri, path, flow, side, aor: None, further }))
}

/// Who is called.
pub(super) struct Called {
    /// The user part, escapes resolved.
    pub(super) user: Vec<u8>,
    /// The domain of ours; empty in a flat namespace.
    pub(super) domain: Vec<u8>,
    /// The Request-URI.
    pub(super) uri: Box<[u8]>,
    /// Whether it is one of our users.
    pub(super) is_ours: bool,
}

impl Called {
    pub(super) fn read(text: &[u8], uri: &SipUri<'_>, rules: &Rules, is_ours: bool) -> Self {
        let mut space = Vec::new();
        let aor = Aor::canonical(uri, &rules.domains, &mut space);
        let (user, domain) = match aor {
            Some(aor) => (aor.user().to_vec(), aor.domain().unwrap_or_default().to_vec()),
            None => {
                // At our address rather than at our domain: at the first of them.
                let mut user = Vec::new();
                unescape_into(uri.user.unwrap_or_default(), &mut user);
                let first = rules.domains.names().next().unwrap_or_default();
                (user, first.as_bytes().to_vec())
            }
        };
        Self { user, domain, uri: text.into(), is_ours }
    }

    pub(super) fn aor(&self, rules: &Rules) -> Vec<u8> {
        if rules.domains.is_flat() {
            return self.user.clone();
        }
        [&self.user, &b"@"[..], &self.domain].concat()
    }
}

/// The contacts that are bound to an AoR.
fn bindings(x: &Exchange<'_, '_>, aor: &[u8], ways: &mut Ways<'_>, found: &mut Vec<(u16, Target)>) {
    let first = found.len();
    let own: Arc<[u8]> = aor.into();
    x.location.read(aor, |record| {
        for binding in record.iter().flat_map(|record| record.bindings(x.now)) {
            let target = Target {
                uri: binding.uri.into(),
                path: binding.path.into(),
                flow: binding.flow,
                side: Side::Flow(binding.flow),
                aor: Some(Arc::clone(&own)),
                further: Box::default(),
            };
            found.push((binding.q.unwrap_or(Quality::DEFAULT).0, target));
        }
    });
    // Where there is a path, its first hop; else where the phone registered from. Only who is trusted
    // names other hosts than itself: else any account could have us call, by a Path of its own, whom
    // it may not call.
    for (_, target) in found.iter_mut().skip(first).filter(|(_, t)| !t.path.is_empty()) {
        let source = target.flow.remote.ip();
        let may_name = |uri: &[u8]| {
            x.rules.calls.trusts(source) || numeric(uri).is_some_and(|hop| hop.ip() == source)
        };
        let hop = Elements::new(&target.path).next();
        let hop = hop.and_then(|hop| NameAddr::parse(hop.ok()?).ok());
        let hop = hop.filter(|hop| may_name(hop.uri));
        let flows = hop.map(|hop| ways.by_path(hop.uri, target.flow)).unwrap_or_default();
        if let Some((&flow, further)) = flows.split_first() {
            (target.flow, target.side) = (flow, Side::Server(flow));
            target.further = further.into();
        }
    }
}

/// Contact lines of a 302.
pub(super) fn contacts(groups: &VecDeque<Vec<Target>>) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut q = 1000_u32;
    for group in groups {
        for target in group {
            lines.extend_from_slice(b"Contact: <");
            match target.side {
                // Its URI says all that there is to say.
                Side::Server(_) if target.path.is_empty() => lines.extend_from_slice(&target.uri),
                _ => nat::reachable_uri_into(&target.uri, &target.flow, &mut lines),
            }
            lines.extend_from_slice(format!(">;q={}.{:03}\r\n", q / 1000, q % 1000).as_bytes());
        }
        q = q.saturating_sub(100);
    }
    lines
}
