//! `[registrar]`, `[auth]`, `[cache]`, `[backend]` and `[limits]`: who may register, how long, and
//! who says so.

use std::path::{Path, PathBuf};

use super::keys;
use crate::auth::{self, policy::Algorithm};
use crate::backend::chain::OnError;
use crate::config::conf::Conf;
use crate::config::settings::{BackEnd, Cache};
use crate::config::values::{comma_list, parse_bool};
use crate::config::{Findings, bounds};
use crate::registrar::policy::{CseqOrder, OnLimit, Policy};
use crate::sip::Limits;
use crate::subscribers::Lifetimes;
use crate::worker::AskRegister;

/// What phones are challenged with unless the operator says otherwise. Three of four phones in
/// Debian 12 can't register where SHA-256 is offered first, one of them not even where it comes
/// second (docs/decisions/0001-md5-alone-by-default.md).
const DEFAULT_ALGORITHMS: &str = "MD5";

pub(super) fn registrar(conf: &Conf, findings: &mut Findings) -> Policy {
    let mut keys = keys(conf, "registrar", findings);
    let policy = Policy {
        expires_min: keys.seconds("expires_min", &bounds::EXPIRES_MIN),
        expires_def: keys.seconds("expires_def", &bounds::EXPIRES_DEF),
        expires_max: keys.seconds("expires_max", &bounds::EXPIRES_MAX),
        max_contacts: keys.short("max_contacts", &bounds::MAX_CONTACTS),
        on_limit: keys
            .word(
                "on_limit",
                &[("reject", OnLimit::Reject), ("evict_oldest", OnLimit::EvictOldest)],
            )
            .unwrap_or(OnLimit::Reject),
        cseq: keys
            .word("cseq", &[("strict", CseqOrder::Strict), ("lenient", CseqOrder::Lenient)])
            .unwrap_or(CseqOrder::Strict),
        nat_refresh: keys.seconds("nat_refresh", &bounds::NAT_REFRESH),
        auth_required: keys.flag("auth_required", true),
        max_bindings: keys.number("max_bindings", &bounds::MAX_BINDINGS).into(),
    };
    let (least, usual, most) = (policy.expires_min, policy.expires_def, policy.expires_max);
    for (low, below, high, above) in
        [("expires_min", least, "expires_def", usual), ("expires_def", usual, "expires_max", most)]
    {
        if below <= above {
            continue;
        }
        // Told at the key that somebody wrote; the other may be a default.
        if keys.is_written(low) {
            keys.refuse(low, &format!("at most {high} ({})", above.0));
        } else {
            keys.refuse(high, &format!("at least {low} ({})", below.0));
        }
    }
    keys.finish();
    policy
}

/// `[auth]`: the policy and `secret_file`.
pub(super) fn auth(
    conf: &Conf,
    folder: &Path,
    realm: Box<str>,
    findings: &mut Findings,
) -> (auth::policy::Policy, Option<PathBuf>) {
    let mut keys = keys(conf, "auth", findings);
    let mut algorithms = Vec::new();
    let written = keys.text("algorithms").unwrap_or(DEFAULT_ALGORITHMS);
    for name in comma_list(written) {
        match Algorithm::from_token(name.as_bytes()) {
            Some(algorithm) if !algorithms.contains(&algorithm) => algorithms.push(algorithm),
            Some(_) => keys.refuse("algorithms", "each algorithm once"),
            None => keys.refuse("algorithms", "a comma list of SHA-512-256, SHA-256 and MD5"),
        }
    }
    if comma_list(written).next().is_none() {
        keys.refuse("algorithms", "at least one of SHA-512-256, SHA-256 and MD5");
    }
    let policy = auth::policy::Policy {
        realm,
        algorithms: algorithms.into(),
        nonce_lifetime: keys.seconds("nonce_lifetime", &bounds::NONCE_LIFETIME),
        qop_auth: keys.word("qop", &[("auth", true), ("none", false)]).unwrap_or(true),
    };
    let secret_file = keys.text("secret_file").map(|path| folder.join(path));
    keys.finish();
    (policy, secret_file)
}

pub(super) fn cache(conf: &Conf, findings: &mut Findings) -> Cache {
    let mut keys = keys(conf, "cache", findings);
    let lifetimes = Lifetimes {
        found: keys.seconds("lifetime", &bounds::CACHE_LIFETIME),
        negative: keys.seconds("negative", &bounds::CACHE_NEGATIVE),
        stale: keys.seconds("stale", &bounds::CACHE_STALE),
    };
    let size = keys.number("size", &bounds::CACHE_SIZE);
    let preload = keys.text("preload").filter(|text| parse_bool(text.as_bytes()) != Some(false));
    if preload.is_some_and(|text| parse_bool(text.as_bytes()) == Some(true)) {
        keys.refuse("preload", "no, or a query that gives all accounts, with a column `username`");
    }
    keys.finish();
    Cache { lifetimes, size, preload: preload.map(Into::into) }
}

pub(super) fn backend(conf: &Conf, findings: &mut Findings) -> BackEnd {
    let mut keys = keys(conf, "backend", findings);
    let register_wait =
        [("new", AskRegister::New), ("always", AskRegister::Always), ("never", AskRegister::Later)];
    let on_error = [("next", OnError::Next), ("refuse", OnError::Refuse)];
    let backend = BackEnd {
        register_wait: keys.word("register_wait", &register_wait).unwrap_or(AskRegister::New),
        queue: keys.number("queue", &bounds::QUEUE),
        on_error: keys.word("on_error", &on_error).unwrap_or(OnError::Next),
        auth_without_username: keys.flag("auth_without_username", false),
        allow_empty_password: keys.flag("allow_empty_password", false),
    };
    if backend.auth_without_username {
        keys.not_yet("auth_without_username");
    }
    keys.finish();
    backend
}

pub(super) fn limits(conf: &Conf, findings: &mut Findings) -> Limits {
    let mut keys = keys(conf, "limits", findings);
    let limits = Limits {
        max_headers: keys.short("max_headers", &bounds::LIMIT_HEADERS),
        max_uri: keys.short("max_uri", &bounds::LIMIT_URI),
        max_call_id: keys.short("max_call_id", &bounds::LIMIT_CALL_ID),
        max_contacts: keys.short("max_contacts", &bounds::LIMIT_CONTACTS),
        max_path: keys.short("max_path", &bounds::LIMIT_PATH),
        max_contact_params: keys.short("max_contact_params", &bounds::LIMIT_CONTACT_PARAMS),
    };
    keys.finish();
    limits
}
