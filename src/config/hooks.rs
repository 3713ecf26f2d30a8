//! `[hook NAME]` of `bindery.conf`: who is asked, and told, over HTTP.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::http;

use super::bounds;
use super::conf::{Conf, Section};
use super::nearest::hint;
use super::section::Keys;
use super::values::{comma_list, lossy};
use super::{Findings, Place};
use crate::backend::chain::OnError;
use crate::time::DeltaSeconds;

/// Hooks that there may be.
pub const MAX_HOOKS: usize = 64;

/// Octets of a name: it is part of a file's.
const MAX_NAME: usize = 64;

/// Octets of a secret that nobody guesses, if they are random. A shorter one may be found by trying
/// all, by whoever sees one signed request.
const GOOD_SECRET: usize = 16;

/// Octets of a secret's file.
const MAX_SECRET: usize = 4096;

/// What a hook can be asked or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Asked: who is this user?
    Auth,
    /// Asked: may this phone be bound, which was not?
    Register,
    /// Asked: where does this call go?
    Route,
    /// Told: an AoR has phones that it had not.
    Registered,
    /// Told: it has fewer, since they said so or an operator did.
    Unregister,
    /// Told: it has fewer, since their time was up.
    Expire,
    /// Told: how a call goes, or went.
    Call,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Auth,
        Self::Register,
        Self::Route,
        Self::Registered,
        Self::Unregister,
        Self::Expire,
        Self::Call,
    ];

    /// Its name in configuration, requests and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Register => "register",
            Self::Route => "route",
            Self::Registered => "registered",
            Self::Unregister => "unregister",
            Self::Expire => "expire",
            Self::Call => "call",
        }
    }

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == name)
    }

    /// Whether it is about what an AoR is bound to, and told.
    pub fn is_about_bindings(self) -> bool {
        matches!(self, Self::Registered | Self::Unregister | Self::Expire)
    }
}

/// The key of the signatures, shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// One `[hook NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: Box<str>,
    /// Where it is: `http` or `https`.
    pub url: http::Uri,
    /// What it is asked and told, each once.
    pub events: Box<[Event]>,
    /// What its requests are signed with.
    pub secret: Secret,
    /// Where the secret stands, if not in `bindery.conf` itself.
    pub secret_file: Option<PathBuf>,
    /// The authorities to believe, in PEM; the system's without.
    pub ca_file: Option<PathBuf>,
    /// Its place among those that are asked; lower goes first.
    pub priority: i32,
    /// How long it may take to answer a question, or to take a notification.
    pub timeout: Duration,
    /// What becomes of a question that it doesn't answer; `[backend] on_error` if nothing is said.
    pub on_error: Option<OnError>,
    /// Requests under way at once: questions, and as many notifications.
    pub concurrency: usize,
    /// Questions that may wait for one of those.
    pub queue: usize,
    /// How long an answer to `auth` counts; zero: it is asked for each request.
    pub cache: DeltaSeconds,
    /// How long a notification is tried; zero: for ever.
    pub retry_max: DeltaSeconds,
    /// Notifications that may wait.
    pub spool: u64,
}

impl Hook {
    /// Whether it is asked or told of this.
    pub fn wants(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    /// Whether it is told of what AoRs are bound to.
    pub fn follows_bindings(&self) -> bool {
        self.events.iter().any(|event| event.is_about_bindings())
    }
}

/// What stands if nothing is written: before `regfile.conf`, which is at 100.
const PRIORITY: i32 = 50;

/// Reads all `[hook NAME]` sections.
pub(super) fn read(
    conf: &Conf,
    folder: &Path,
    named: impl Fn(&str) -> Option<String>,
    findings: &mut Findings,
) -> Box<[Hook]> {
    let mut hooks: Vec<Hook> = Vec::new();
    for section in conf.sections() {
        let Some(name) = named(&lossy(&section.name)) else { continue };
        let is_name = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        if name.len() > MAX_NAME || !name.bytes().all(is_name) {
            let what = format!(
                "[hook {name}] expected a name of at most {MAX_NAME} letters, digits, `-`, `_`, `.`"
            );
            findings.error(section.place.clone(), what);
            continue;
        }
        if hooks.len() >= MAX_HOOKS {
            let what = format!("[hook {name}] expected at most {MAX_HOOKS} hooks");
            findings.error(section.place.clone(), what);
            break;
        }
        hooks.extend(hook(&name, section, folder, findings));
    }
    hooks.into()
}

fn hook(name: &str, section: &Section, folder: &Path, findings: &mut Findings) -> Option<Hook> {
    let mut keys = Keys::new(&format!("hook {name}"), Some(section), findings);
    let url = url(&mut keys);
    let events = events(&mut keys);
    let (secret, secret_file) = secret(&mut keys, folder);
    let ca_file = keys.text("ca_file").map(|path| folder.join(path));
    if let Some(Err(error)) = ca_file.as_ref().map(std::fs::metadata) {
        keys.refuse("ca_file", &format!("a file that can be read ({error})"));
    }
    let priority = match keys.text("priority").map(str::parse::<i32>) {
        None => PRIORITY,
        Some(Ok(priority)) => priority,
        Some(Err(_)) => {
            keys.refuse("priority", "a whole number");
            PRIORITY
        }
    };
    let timeout = Duration::from_millis(keys.number("timeout", &bounds::HOOK_TIMEOUT).into());
    let is_written = keys.is_written("on_error");
    let on_error = keys.word("on_error", &[("next", OnError::Next), ("refuse", OnError::Refuse)]);
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let concurrency = size(keys.number("concurrency", &bounds::HOOK_CONCURRENCY));
    let queue = size(keys.number("queue", &bounds::HOOK_QUEUE));
    let cache = keys.seconds("cache", &bounds::HOOK_CACHE);
    let retry_max = keys.seconds("retry_max", &bounds::HOOK_RETRY_MAX);
    let spool = keys.number("spool", &bounds::HOOK_SPOOL).into();
    let enable = keys.flag("enable", true);
    let place = section.place.clone();
    let missing = |what: &str| format!("[hook {name}] {what}");
    let mut lacks = Vec::new();
    for (key, what) in [
        ("url", "url= is missing: where is it?"),
        ("events", "events= is missing: what is it asked and told?"),
    ] {
        if !keys.is_written(key) {
            lacks.push(missing(what));
        }
    }
    if !keys.is_written("secret") && !keys.is_written("secret_file") {
        lacks.push(missing("secret= or secret_file= is missing: how is it to know us?"));
    }
    keys.finish();
    lacks.into_iter().for_each(|what| findings.error(place.clone(), what));
    let (url, secret) = (url?, secret?);
    if enable {
        warn_of_clear_text(name, &url, &place, findings);
        if secret.0.len() < GOOD_SECRET {
            let what = format!(
                "[hook {name}] its secret has fewer than {GOOD_SECRET} octets: it can be guessed"
            );
            findings.warning(place.clone(), what);
        }
    }
    enable.then(|| Hook {
        name: name.into(),
        url,
        events,
        secret,
        secret_file,
        ca_file,
        priority,
        timeout,
        on_error: on_error.filter(|_| is_written),
        concurrency,
        queue,
        cache,
        retry_max,
        spool,
    })
}

fn warn_of_clear_text(name: &str, url: &http::Uri, place: &Place, findings: &mut Findings) {
    let host = url.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|addr| addr.is_loopback());
    if url.scheme() == Some(&http::uri::Scheme::HTTP) && !is_here {
        let what = format!("[hook {name}] url is not https: answers can be read, and forged");
        findings.warning(place.clone(), what);
    }
}

fn url(keys: &mut Keys<'_, '_>) -> Option<http::Uri> {
    let text = keys.text("url")?;
    // A password must not get into a log, wherever in it a `/` or a blank stands.
    let shown = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        (_, None) => text.to_owned(),
    };
    match parse_url(text) {
        Ok(url) => Some(url),
        Err(expected) => {
            keys.refuse_as("url", &shown, expected);
            None
        }
    }
}

/// A hook's URL, or what was expected.
fn parse_url(text: &str) -> Result<http::Uri, &'static str> {
    const FORM: &str = "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH";
    let after = text.split_once("://").map_or(text, |(_, after)| after);
    if after.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
        return Err("no user and no password in it: requests are signed with the secret");
    }
    let url: http::Uri = text.parse().map_err(|_| FORM)?;
    let host = url.host().filter(|host| !host.is_empty()).ok_or(FORM)?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || text.contains('#') {
        return Err(FORM);
    }
    // Of a port that is none, `port_u16` says only that it isn't there.
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let port = authority.strip_prefix(host).ok_or(FORM)?;
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if port.is_empty() || port.strip_prefix(':').is_some_and(is_port) {
        Ok(url)
    } else {
        Err("a port from 1 to 65535")
    }
}

fn events(keys: &mut Keys<'_, '_>) -> Box<[Event]> {
    let mut events = Vec::new();
    for name in comma_list(keys.text("events").unwrap_or_default()) {
        match Event::parse(name) {
            Some(event) if events.contains(&event) => keys.refuse("events", "each event once"),
            Some(event) => events.push(event),
            None => {
                let names = Event::ALL.map(Event::as_str);
                let list = names.join(", ");
                let hint = hint(name, names);
                keys.refuse("events", &format!("a comma list of {list}, not {name}{hint}"));
            }
        }
    }
    if events.is_empty() {
        keys.refuse("events", "at least one event");
    }
    events.into()
}

/// The key, and where it stands if not here.
fn secret(keys: &mut Keys<'_, '_>, folder: &Path) -> (Option<Secret>, Option<PathBuf>) {
    let written = keys.text("secret");
    let file = keys.text("secret_file").map(|path| folder.join(path));
    match (written, file) {
        (Some(_), Some(_)) => {
            keys.refuse("secret_file", "either secret or secret_file, not both");
            (None, None)
        }
        (Some(text), None) => (Some(Secret(text.as_bytes().into())), None),
        (None, Some(path)) => {
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            let read = read.and_then(|octets| {
                let key = octets.trim_ascii();
                let is_fit = !key.is_empty() && octets.len() <= MAX_SECRET;
                let fit = is_fit.then(|| Secret(key.into()));
                fit.ok_or_else(|| format!("it has not 1 to {MAX_SECRET} octets"))
            });
            match read {
                Ok(secret) => (Some(secret), Some(path)),
                Err(error) => {
                    keys.refuse("secret_file", &format!("a file with a secret ({error})"));
                    (None, None)
                }
            }
        }
        (None, None) => (None, None),
    }
}

impl fmt::Display for Hook {
    /// As its section.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[hook {}]", self.name)?;
        writeln!(f, "url={}", self.url)?;
        let events: Vec<&str> = self.events.iter().map(|event| event.as_str()).collect();
        writeln!(f, "events={}", events.join(","))?;
        match &self.secret_file {
            Some(path) => writeln!(f, "secret_file={}", path.display())?,
            None => writeln!(f, "secret={}", lossy(&self.secret.0))?,
        }
        if let Some(path) = &self.ca_file {
            writeln!(f, "ca_file={}", path.display())?;
        }
        writeln!(f, "priority={}", self.priority)?;
        writeln!(f, "timeout={}", self.timeout.as_millis())?;
        match self.on_error {
            Some(OnError::Next) => writeln!(f, "on_error=next")?,
            Some(OnError::Refuse) => writeln!(f, "on_error=refuse")?,
            None => {}
        }
        writeln!(f, "concurrency={}", self.concurrency)?;
        writeln!(f, "queue={}", self.queue)?;
        writeln!(f, "cache={}", self.cache.0)?;
        writeln!(f, "retry_max={}", self.retry_max.0)?;
        writeln!(f, "spool={}", self.spool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve::{self, Host, Overrides};

    fn read_text(text: &str) -> (Box<[Hook]>, Vec<String>, String) {
        let folder = tempfile::tempdir().unwrap();
        let bindery = format!("[listener a]\n{text}");
        std::fs::write(folder.path().join(resolve::FILE), bindery).unwrap();
        std::fs::write(folder.path().join("key"), "s3cret-of-20-octets!\n").unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        let host = Host { name: "box".into(), cpus: 1 };
        let mut findings = Findings::default();
        let config = resolve::read(folder.path(), &Overrides::default(), &host, &mut findings);
        let prefix = format!("{}/", folder.path().display());
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        let found = errors.chain(warnings).map(|line| line.replace(&prefix, "")).collect();
        let shown: String = config.hooks.iter().map(ToString::to_string).collect();
        (config.hooks, found, shown)
    }

    const LEAST: &str =
        "[hook crm]\nurl=http://127.0.0.1:8000/x\nevents=auth\nsecret=k123456789abcdef\n";

    #[test]
    fn what_is_not_written_has_its_default() {
        let (hooks, findings, shown) = read_text(LEAST);
        assert_eq!(findings, [""; 0]);
        let hook = &hooks[0];
        assert_eq!((&*hook.name, hook.priority, hook.concurrency), ("crm", 50, 16));
        assert_eq!((hook.timeout, hook.on_error), (Duration::from_secs(1), None));
        assert_eq!((hook.cache, hook.retry_max), (DeltaSeconds(0), DeltaSeconds(259_200)));
        // What is shown is read as the same.
        assert_eq!(read_text(&shown).0, hooks);
        assert!(!format!("{hook:?}").contains("secret: \"k"));
    }

    #[test]
    fn all_may_be_written() {
        let text = "[hook a-1]\nurl=https://example.org:8443/in?x=1\n\
            events=auth, register,route,registered,unregister,expire,call\nsecret_file=key\n\
            priority=-5\ntimeout=250\non_error=refuse\nconcurrency=4\nqueue=10\ncache=60\n\
            retry_max=0\nspool=5\n[hook off]\nenable=no\nurl=http://a/\nevents=call\nsecret=k\n";
        let (hooks, findings, shown) = read_text(text);
        assert_eq!(findings, [""; 0]);
        assert_eq!(hooks.len(), 1);
        let hook = &hooks[0];
        assert_eq!((hook.events.len(), hook.on_error), (7, Some(OnError::Refuse)));
        assert_eq!((&*hook.secret.0, hook.spool), (&b"s3cret-of-20-octets!"[..], 5));
        assert!(shown.contains("events=auth,register,route,registered,unregister,expire,call\n"));
    }

    #[test]
    fn this_machine_has_several_names() {
        for url in ["http://LOCALHOST:1", "http://[::1]:8000/@", "http://127.1.2.3"] {
            let (hooks, findings, _) = read_text(&LEAST.replace("http://127.0.0.1:8000/x", url));
            assert_eq!(findings, [""; 0], "{url}");
            assert_eq!(hooks.len(), 1);
        }
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let with = |line: &str| format!("{LEAST}{line}\n");
        let cases = [
            (
                with("tmeout=5"),
                "error bindery.conf:6: [hook crm] unknown key tmeout: did you mean timeout?",
            ),
            (
                with("timeout=5"),
                "error bindery.conf:6: [hook crm] timeout=5: expected milliseconds from 50 to 30000",
            ),
            (
                with("on_error=maybe"),
                "error bindery.conf:6: [hook crm] on_error=maybe: expected next or refuse",
            ),
            (
                with("priority=x"),
                "error bindery.conf:6: [hook crm] priority=x: expected a whole number",
            ),
            (
                with("secret_file=key"),
                "error bindery.conf:6: [hook crm] secret_file=key: expected either secret or secret_file, not both",
            ),
            (
                LEAST.replace("secret=k123456789abcdef", "secret_file=empty"),
                "error bindery.conf:5: [hook crm] secret_file=empty: expected a file with a secret (it has not 1 to 4096 octets)",
            ),
            (
                LEAST.replace("secret=k123456789abcdef\n", ""),
                "error bindery.conf:2: [hook crm] secret= or secret_file= is missing: how is it to know us?",
            ),
            (
                LEAST.replace("http:", "ftp:"),
                "error bindery.conf:3: [hook crm] url=ftp://127.0.0.1:8000/x: expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH",
            ),
            (
                LEAST.replace(":8000", ":99999"),
                "error bindery.conf:3: [hook crm] url=http://127.0.0.1:99999/x: expected a port from 1 to 65535",
            ),
            (
                LEAST.replace("127.0.0.1:8000", "[::1]:0"),
                "error bindery.conf:3: [hook crm] url=http://[::1]:0/x: expected a port from 1 to 65535",
            ),
            (
                LEAST.replace("127.0.0.1", "user:pass@example.org"),
                "error bindery.conf:3: [hook crm] url=http://***@example.org:8000/x: expected no user and no password in it: requests are signed with the secret",
            ),
            (
                LEAST.replace("127.0.0.1", "user:pa/ss@example.org"),
                "error bindery.conf:3: [hook crm] url=http://***@example.org:8000/x: expected a port from 1 to 65535",
            ),
            (
                LEAST.replace("127.0.0.1", "user:pa ss@example.org"),
                "error bindery.conf:3: [hook crm] url=http://***@example.org:8000/x: expected no user and no password in it: requests are signed with the secret",
            ),
            (
                LEAST.replace("=auth", "=auht"),
                "error bindery.conf:4: [hook crm] events=auht: expected a comma list of auth, register, route, registered, unregister, expire, call, not auht: did you mean auth?",
            ),
            (
                LEAST.replace("=auth", "=auth,auth"),
                "error bindery.conf:4: [hook crm] events=auth,auth: expected each event once",
            ),
            (
                LEAST.replace("crm", "a/b"),
                "error bindery.conf:2: [hook a/b] expected a name of at most 64 letters, digits, `-`, `_`, `.`",
            ),
            (
                LEAST.replace("[hook crm]", "[hook]"),
                "error bindery.conf:2: a hook needs a name: [hook NAME]",
            ),
            (
                LEAST.replace("127.0.0.1", "example.org"),
                "warning bindery.conf:2: [hook crm] url is not https: answers can be read, and forged",
            ),
            (
                LEAST.replace("k123456789abcdef", "123456789012345"),
                "warning bindery.conf:2: [hook crm] its secret has fewer than 16 octets: it can be guessed",
            ),
        ];
        for (text, expected) in cases {
            let findings = read_text(&text).1;
            assert_eq!(findings.first().map(String::as_str), Some(expected), "{text}");
        }
    }
}
