//! Where `regfile.conf` says that a request goes (Yate's `call.route`).

use super::Subscribers;
use crate::{
    proxy::{Goal, Routed},
    registrar::Domains,
};

/// The key of a user of ours in the location service, by the parts of a URI without escapes.
pub fn aor_of(domains: &Domains, user: &[u8], domain: &[u8]) -> Box<[u8]> {
    if domains.is_flat() {
        return user.into();
    }
    let domain = domain.strip_suffix(b".").unwrap_or(domain);
    [user, b"@", &*domain.to_ascii_lowercase()].concat().into()
}

/// Where a request for `user` at `domain` goes, as far as the accounts say: to that user, or to
/// every user who lists the name among its `alternatives`, all together. A name that is a user's is
/// nobody's alternative, as in Yate.
///
/// Whether anybody of them is bound is not asked here: a user without a binding is offline. Nor is
/// [`Routed::Unknown`] the last word where others than listed users may be bound (`autocreate`,
/// users of a database): such a name is known if it has a binding.
pub fn route(subscribers: &Subscribers, domains: &Domains, user: &[u8], domain: &[u8]) -> Routed {
    if user.is_empty() || !domains.serves(domain) {
        return Routed::Unknown;
    }
    if subscribers.exists(user, domain) {
        return Routed::To(vec![vec![Goal::Aor(aor_of(domains, user, domain))]]);
    }
    // `[user@domain]` is a user of that domain, and so are its numbers.
    let owners = subscribers.owners(user).filter(|owner| match owner.domain() {
        Some(own) => !domains.is_flat() && own.eq_ignore_ascii_case(domain),
        None => true,
    });
    let mut group: Vec<Goal> = Vec::new();
    for owner in owners {
        let goal = Goal::Aor(aor_of(domains, owner.user(), domain));
        // `[alice]` and `[alice@example.com]` may be the same address.
        if !group.contains(&goal) {
            group.push(goal);
        }
    }
    if group.is_empty() { Routed::Unknown } else { Routed::To(vec![group]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::policy::Algorithm, subscribers::builder::Builder};

    fn subscribers(sections: &[(&str, &str)]) -> Subscribers {
        let mut builder = Builder::new("example.com", &[Algorithm::Md5]);
        for (name, alternatives) in sections {
            builder.section(name.as_bytes()).unwrap();
            builder.key(b"password", b"secret").unwrap();
            if !alternatives.is_empty() {
                builder.key(b"alternatives", alternatives.as_bytes()).unwrap();
            }
        }
        builder.build()
    }

    fn routed(sections: &[(&str, &str)], domains: &[&str], called: &str) -> String {
        let domains = Domains::new(domains.iter().copied());
        let (user, domain) = called.split_once('@').unwrap();
        match route(&subscribers(sections), &domains, user.as_bytes(), domain.as_bytes()) {
            Routed::To(groups) => {
                let [group] = &*groups else { panic!("{groups:?}") };
                let name = |goal: &Goal| match goal {
                    Goal::Aor(aor) => String::from_utf8(aor.to_vec()).unwrap(),
                    Goal::Uri(uri) | Goal::Foreign(uri) => panic!("{uri:?}"),
                };
                group.iter().map(name).collect::<Vec<_>>().join(" ")
            }
            Routed::Unknown => "unknown".to_owned(),
            Routed::Refused(code) => panic!("{code}"),
        }
    }

    #[test]
    fn users_and_their_numbers_in_a_flat_namespace() {
        let users = [("100", "900,901"), ("101", "900,100"), ("102@example.com", "900")];
        for (called, goals) in [
            ("100@192.0.2.1", "100"),
            ("101@anything", "101"),
            ("900@192.0.2.1", "100 101"),
            ("901@192.0.2.1", "100"),
            ("999@192.0.2.1", "unknown"),
            ("general@192.0.2.1", "unknown"),
        ] {
            assert_eq!(routed(&users, &[], called), goals, "{called}");
        }
    }

    #[test]
    fn users_and_their_numbers_with_domains() {
        let users = [
            ("alice", "900"),
            ("alice@example.com", "900,901"),
            ("bob@example.org", "900"),
            ("carol@example.com", ""),
        ];
        let domains = ["example.com", "example.org"];
        for (called, goals) in [
            ("alice@Example.COM", "alice@example.com"),
            ("alice@example.org.", "alice@example.org"),
            ("carol@example.com", "carol@example.com"),
            ("carol@example.org", "unknown"),
            ("900@example.com", "alice@example.com"),
            ("900@example.org", "alice@example.org bob@example.org"),
            ("901@example.org", "unknown"),
            ("alice@example.net", "unknown"),
        ] {
            assert_eq!(routed(&users, &domains, called), goals, "{called}");
        }
    }
}
