//! `regfile.conf` as one of the handlers.

use std::{rc::Rc, sync::Arc};

use super::{
    chain::{Handler, Handles, Handling},
    message::{Message, MessageName},
    regfile::General,
    run::Shared,
};
use crate::{
    auth::Secret,
    config::{replace::replace, values::lossy},
    location::Location,
    proxy::{Goal, Routed},
    subscribers::route::{self, aor_of},
    time::{Clock, SystemClock},
    worker::{Rules, SharedRules},
};

/// The name of this handler.
pub(super) const LISTED: &str = "regfile";

/// Parameters of a section that change where its user's calls go, or what they are answered with if
/// they go nowhere. All others only mean something to other handlers.
const OF_ROUTES: [&str; 5] = ["called", "route_regfile", "error", "reason", "code"];

/// Whether the sections say more of where calls go than [`route::route`] knows.
pub(super) fn has_own_routes(subscribers: &crate::subscribers::Subscribers) -> bool {
    subscribers.has_param(|name| OF_ROUTES.iter().any(|own| own.as_bytes() == name))
}

/// Handles messages about users that `regfile.conf` lists. Their passwords are not told: workers
/// have them.
#[derive(Debug)]
pub(super) struct Listed {
    name: Rc<str>,
    rules: SharedRules,
    location: Arc<Location>,
    clock: Arc<SystemClock>,
    auth: i32,
    register: i32,
    route: i32,
}

impl Listed {
    pub(super) fn new(shared: &Shared, general: &General) -> Self {
        Self {
            name: LISTED.into(),
            rules: Arc::clone(&shared.rules),
            location: Arc::clone(&shared.location),
            clock: Arc::clone(&shared.clock),
            auth: general.auth,
            register: general.register,
            route: general.route,
        }
    }

    fn route(&self, message: &mut Message) -> Handling {
        let rules = self.rules.load();
        let now = self.clock.now();
        let is_bound = |aor: &[u8]| {
            self.location.read(aor, |record| {
                record.is_some_and(|record| record.bindings(now).next().is_some())
            })
        };
        set_callers(&rules, message);
        if message.get("route_regfile") == Some("false") {
            return Handling::Passed;
        }
        let Routed::To(groups) = route(&rules, message) else { return Handling::Passed };
        let bound: Vec<Box<[u8]>> = groups
            .into_iter()
            .flatten()
            .filter_map(|goal| match goal {
                Goal::Aor(aor) => is_bound(&aor).then_some(aor),
                Goal::Uri(_) | Goal::Foreign(_) => None,
            })
            .collect();
        let target = |aor: &[u8]| format!("sip/sip:{}", String::from_utf8_lossy(aor));
        match &*bound {
            [] => {
                if is_listed_at_all(&rules, message) {
                    message.set("error", "offline");
                }
                return Handling::Passed;
            }
            [one] => message.retval = target(one),
            all => {
                message.retval = "fork".to_owned();
                for (number, aor) in (1..).zip(all) {
                    message.set(&format!("callto.{number}"), target(aor));
                }
            }
        }
        message.set("driver", "sip");
        Handling::Handled
    }
}

impl Handler for Listed {
    fn name(&self) -> &Rc<str> {
        &self.name
    }

    fn priorities(&self, name: MessageName) -> Vec<i32> {
        match name {
            MessageName::UserAuth => vec![self.auth],
            MessageName::UserRegister | MessageName::UserUnregister => vec![self.register],
            MessageName::CallRoute => vec![self.route],
            _ => Vec::new(),
        }
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
        let handling = if message.name == MessageName::CallRoute {
            self.route(message)
        } else if message.sender.is_none() && is_listed(&self.rules.load(), message) {
            // What it takes, workers do; they know nothing of what a script sends.
            Handling::Handled
        } else {
            Handling::Passed
        };
        Box::pin(async { handling })
    }
}

fn is_listed(rules: &Rules, message: &Message) -> bool {
    let Some(username) = message.get("username") else { return false };
    let domain = message.get("domain").unwrap_or_default();
    let login = rules.subscribers.login(username.as_bytes(), domain.as_bytes());
    match message.name {
        // Without a password in its section, another handler may have one.
        MessageName::UserAuth => login.is_some_and(|l| !matches!(l.secret, Secret::NoPassword)),
        _ => login.is_some() || rules.autocreate,
    }
}

/// Whom a `call.route` is for.
fn called(message: &Message) -> (&[u8], &[u8]) {
    let part = |name| message.get(name).unwrap_or_default().as_bytes();
    (part("called"), part("called_domain"))
}

/// Whether a user or a user's alternative is called.
fn is_listed_at_all(rules: &Rules, message: &Message) -> bool {
    let (user, domain) = called(message);
    route::route(&rules.subscribers, &rules.domains, user, domain) != Routed::Unknown
}

/// Where a `call.route` goes that this handler took. With `autocreate`, whoever is bound is a user.
pub(super) fn route(rules: &Rules, message: &Message) -> Routed {
    let (user, domain) = called(message);
    match route::route(&rules.subscribers, &rules.domains, user, domain) {
        Routed::Unknown if rules.autocreate && rules.domains.serves(domain) => {
            Routed::To(vec![vec![Goal::Aor(aor_of(&rules.domains, user, domain))]])
        }
        routed => routed,
    }
}

/// Sets the parameters of the caller's section, in the order of the file; each may refer to those
/// before it. Only who has proved to be that user is a caller, unlike in Yate.
fn set_callers(rules: &Rules, message: &mut Message) {
    let Some(username) = message.get("username") else { return };
    let domain = message.get("domain").unwrap_or_default();
    let Some(login) = rules.subscribers.login(username.as_bytes(), domain.as_bytes()) else {
        return;
    };
    for (name, value) in login.account.params() {
        let value = replace(value, |name| {
            let known = std::str::from_utf8(name).ok().and_then(|name| message.get(name));
            known.map(|known| known.as_bytes().into())
        });
        let value = lossy(&value).into_owned();
        message.set(&lossy(name), value);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::{
        auth::{
            Authenticator, NonceKeys,
            policy::{self, Algorithm},
        },
        backend::{
            chain::{Chain, Failure, OnError},
            route::route as ask,
        },
        location::{Cause, Unrecorded},
        proxy,
        registrar::{Domains, Policy, RecordWriter, binding_for_tests},
        sip::Limits,
        subscribers::builder::Builder,
        time::DeltaSeconds,
        worker::Elsewhere,
    };

    /// A handler before or after `regfile.conf`, which says what it is told to.
    #[derive(Debug)]
    struct Other {
        name: Rc<str>,
        priority: i32,
        retval: &'static str,
    }

    impl Handler for Other {
        fn name(&self) -> &Rc<str> {
            &self.name
        }

        fn priorities(&self, name: MessageName) -> Vec<i32> {
            if name == MessageName::CallRoute { vec![self.priority] } else { Vec::new() }
        }

        fn handle<'m>(&'m self, _: i32, message: &'m mut Message) -> Handles<'m> {
            let seen = message.get("error").unwrap_or("nothing").to_owned();
            let handling = match self.retval {
                "" => Handling::Passed,
                "down" => Handling::Failed(Failure { reason: "down".into(), is_outage: true }),
                "seen" => {
                    message.retval = format!("sip/sip:{seen}@vm");
                    Handling::Handled
                }
                retval => {
                    message.retval = retval.to_owned();
                    Handling::Handled
                }
            };
            Box::pin(async { handling })
        }
    }

    /// Rules without any user.
    pub(in crate::backend) fn rules(domains: &[&str]) -> Rules {
        let policy = policy::Policy {
            realm: "example.com".into(),
            algorithms: [Algorithm::Md5].into(),
            nonce_lifetime: DeltaSeconds(300),
            qop_auth: true,
        };
        Rules {
            domains: Domains::new(domains.iter().copied()),
            autocreate: false,
            registrar: Policy::default(),
            authenticator: Authenticator::new(policy, NonceKeys::from_bytes(&[7; 32])).unwrap(),
            subscribers: Builder::new("example.com", &[Algorithm::Md5]).build(),
            elsewhere: Elsewhere::default(),
            server: None,
            limits: Limits::default(),
            calls: proxy::Policy::default(),
        }
    }

    fn shared(regfile: &[(&str, &[(&str, &str)])], autocreate: bool, bound: &[&str]) -> Shared {
        let mut builder = Builder::new("example.com", &[Algorithm::Md5]);
        for (name, keys) in regfile {
            builder.section(name.as_bytes()).unwrap();
            for (key, value) in *keys {
                builder.key(key.as_bytes(), value.as_bytes()).unwrap();
            }
        }
        let rules = Rules { autocreate, subscribers: builder.build(), ..rules(&[]) };
        let clock = Arc::new(SystemClock::new());
        let location = Arc::new(Location::new([1; 16], 0));
        for aor in bound {
            let now = clock.now();
            location.update(aor.as_bytes(), (now, Cause::Registered), &mut Unrecorded, |entry| {
                let mut packed = Vec::new();
                let mut writer = RecordWriter::new(&mut packed, aor.as_bytes(), b"").unwrap();
                writer.push(&binding_for_tests(b"sip:a@192.0.2.1")).unwrap();
                writer.finish();
                entry.commit(&packed).unwrap();
            });
        }
        Shared {
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            location,
            clock,
            listeners: Arc::new([]),
            status: Arc::default(),
            spool: None,
        }
    }

    fn routed(shared: &Shared, others: &[(i32, &'static str)], params: &[(&str, &str)]) -> String {
        let listed: Rc<dyn Handler> = Rc::new(Listed::new(shared, &General::default()));
        let other = |(priority, retval): &(i32, &'static str)| -> Rc<dyn Handler> {
            Rc::new(Other { name: "other".into(), priority: *priority, retval })
        };
        let chain = Chain::new(others.iter().map(other).chain([listed]), OnError::Next);
        let mut message = Message::new(MessageName::CallPreroute);
        for (name, value) in params {
            message.set(name, *value);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match runtime.block_on(ask(&chain, &shared.rules.load(), &mut message)) {
            Ok(Routed::To(groups)) => {
                let name = |goal: &Goal| match goal {
                    Goal::Aor(name) | Goal::Uri(name) | Goal::Foreign(name) => {
                        String::from_utf8_lossy(name).into_owned()
                    }
                };
                groups.concat().iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Ok(Routed::Unknown) => "unknown".to_owned(),
            Ok(Routed::Refused(code)) => code.to_string(),
            Err(failure) => failure.reason,
        }
    }

    const NUMBER: &[(&str, &str)] = &[("password", "x"), ("alternatives", "900")];

    #[test]
    fn who_is_there_is_called_and_who_is_not_is_offline() {
        let shared = shared(&[("100", NUMBER), ("101", NUMBER), ("102", &[])], false, &["100"]);
        for (called, goals) in
            [("100", "100"), ("900", "100 101"), ("101", "480"), ("102", "480"), ("999", "unknown")]
        {
            assert_eq!(routed(&shared, &[], &[("called", called)]), goals, "{called}");
        }
    }

    #[test]
    fn handlers_before_and_after_have_their_say() {
        let shared = shared(&[("100", NUMBER), ("101", &[])], false, &["100"]);
        let called = |name| [("called", name)];
        let other = [(50, "sip/sip:x@h")];
        assert_eq!(routed(&shared, &other, &called("100")), "sip:x@h");
        let other = [(120, "seen")];
        assert_eq!(routed(&shared, &other, &called("100")), "100");
        assert_eq!(routed(&shared, &other, &called("101")), "sip:offline@vm");
        assert_eq!(routed(&shared, &other, &called("999")), "sip:nothing@vm");
        let other = [(50, "down")];
        assert_eq!(routed(&shared, &other, &called("100")), "100");
        assert_eq!(routed(&shared, &other, &called("999")), "down");
        // Who says what means nothing could not say.
        let other = [(50, "nonsense")];
        assert_eq!(routed(&shared, &other, &called("100")), "100");
        assert_eq!(routed(&shared, &other, &called("999")), "other: nonsense is no target");
    }

    #[test]
    fn whoever_is_bound_is_a_user_with_autocreate() {
        let shared = shared(&[], true, &["stray"]);
        assert_eq!(routed(&shared, &[], &[("called", "stray")]), "stray");
        assert_eq!(routed(&shared, &[], &[("called", "other")]), "unknown");
    }

    #[test]
    fn the_callers_section_is_the_callers_alone() {
        let keys = &[("short", "${called}"), ("called", "1${short}"), ("error", "busy")][..];
        let shared = shared(&[("100", keys), ("102", &[])], false, &["102"]);
        assert!(has_own_routes(&shared.rules.load().subscribers));
        let call = [("caller", "100"), ("called", "02"), ("username", "100")];
        assert_eq!(routed(&shared, &[], &call), "102");
        // Who only says to be that user is nobody.
        assert_eq!(routed(&shared, &[], &call[..2]), "unknown");
        let call = [("caller", "100"), ("called", "03"), ("username", "100")];
        assert_eq!(routed(&shared, &[], &call), "486");
    }
}
