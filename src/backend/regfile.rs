//! `regfile.conf`: Yate's flat file of users, unchanged, and what we add to it.

use std::path::{Path, PathBuf};

use crate::config::conf::{Conf, Event, stream};
use crate::config::nearest::hint;
use crate::config::replace::replace;
use crate::config::settings::Config;
use crate::config::values::{lossy, parse_bool, parse_int};
use crate::config::{Findings, Place};
use crate::subscribers::Subscribers;
use crate::subscribers::builder::{Builder, Objection, Opened};
use crate::subscribers::split_name;
use crate::time::DeltaSeconds;

/// The name of the file in the configuration folder.
pub const FILE: &str = "regfile.conf";

/// The section that is no user.
pub const GENERAL: &str = "general";

/// Yate's priority of a handler that names none.
const PRIORITY: i32 = 100;

/// What `regfile.conf` says.
#[derive(Debug, Default)]
pub struct Regfile {
    /// `[general]`.
    pub general: General,
    /// All other sections.
    pub subscribers: Subscribers,
}

/// `[general]` of `regfile.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct General {
    /// Whether users without a section may register. They still need a password from somewhere.
    pub autocreate: bool,
    /// The priority of this file when credentials are looked for; lower goes first.
    pub auth: i32,
    /// The priority when somebody registers or unregisters.
    pub register: i32,
    /// The priority when a call is routed.
    pub route: i32,
    /// Where the snapshot goes instead of the state folder. What Yate saved there is read.
    pub file: Option<PathBuf>,
}

impl Default for General {
    fn default() -> Self {
        Self { autocreate: false, auth: PRIORITY, register: PRIORITY, route: PRIORITY, file: None }
    }
}

/// Reads `regfile.conf` of a folder. A missing file means no users, and a warning unless there are
/// others than its users.
///
/// The result is to be used only if `findings` holds no error.
pub fn read(folder: &Path, config: &Config, has_others: bool, findings: &mut Findings) -> Regfile {
    let path = folder.join(FILE);
    let mut found = Findings::default();
    let mut reading = Reading::new(folder, config);
    // What is odd about lines, which a tree no longer shows.
    let mut odd = Findings::default();
    let mut splices = false;
    let exists = stream(&path, &mut found, &mut |findings, at, event| match event {
        Event::Return(name) => {
            reading.section(findings, &|| at.place(), name);
        }
        Event::Section(name) => {
            if reading.section(findings, &|| at.place(), name) == Some(Opened::Again) {
                let name = lossy(name);
                let what = format!("[{name}] is written again: this adds to what it says before");
                odd.warning(at.place(), what);
            }
        }
        Event::Key { key, value, is_bare } => {
            if is_bare && !reading.is_general() {
                // The line may be a password, so it isn't shown.
                let section = lossy(&reading.section);
                let what = format!("[{section}] no `=`: taken for a key with an empty value");
                odd.warning(at.place(), what);
            }
            reading.key(findings, &|| at.place(), key, value);
        }
        Event::Splice(_) => splices = true,
    });
    if splices {
        // Sections that include others are known only when all is read; such files are small
        // enough for a tree.
        found = Findings::default();
        reading = Reading::new(folder, config);
        for section in Conf::read(&path, &mut found).unwrap_or_default().sections() {
            reading.section(&mut found, &|| section.place.clone(), &section.name);
            for key in &section.keys {
                reading.key(&mut found, &|| key.place.clone(), &key.key, &key.value);
            }
        }
    }
    if !exists && !has_others {
        found.warning(Place::of_file(path), "there is no such file: no users");
    }
    findings.append(found);
    findings.append(odd);
    Regfile { general: reading.general, subscribers: reading.users.build() }
}

/// A `regfile.conf` being read.
struct Reading<'c> {
    folder: &'c Path,
    domains: &'c [Box<str>],
    general: General,
    /// Whether `[general]` was opened.
    has_general: bool,
    /// The keys of `[general]` that were read; later ones with the same name don't count.
    general_keys: Vec<Box<[u8]>>,
    users: Builder,
    /// The section being read, for messages.
    section: Vec<u8>,
}

impl<'c> Reading<'c> {
    fn new(folder: &'c Path, config: &'c Config) -> Self {
        Self {
            folder,
            domains: &config.general.domains,
            general: General::default(),
            has_general: false,
            general_keys: Vec::new(),
            users: Builder::new(&config.auth.realm, &config.auth.algorithms),
            section: Vec::new(),
        }
    }

    /// A section is opened; `None` if its keys are passed over.
    fn section(
        &mut self,
        findings: &mut Findings,
        place: &dyn Fn() -> Place,
        name: &[u8],
    ) -> Option<Opened> {
        self.section.clear();
        self.section.extend_from_slice(name);
        if self.is_general() {
            let is_again = std::mem::replace(&mut self.has_general, true);
            return Some(if is_again { Opened::Again } else { Opened::New });
        }
        match self.users.section(name) {
            Ok(opened) => {
                if opened == Opened::New {
                    self.check_domain(findings, place, name);
                }
                Some(opened)
            }
            Err(objection) => {
                findings.error(place(), format!("[{}] {objection}", lossy(name)));
                None
            }
        }
    }

    fn key(
        &mut self,
        findings: &mut Findings,
        place: &dyn Fn() -> Place,
        key: &[u8],
        value: &[u8],
    ) {
        if self.is_general() {
            return self.general_key(findings, place, key, value);
        }
        if key == b"expires" && DeltaSeconds::granted(value).is_none() {
            let (section, value) = (lossy(&self.section), lossy(value));
            let longest = DeltaSeconds::LONGEST.0;
            let what = format!(
                "[{section}] expires={value}: expected seconds from 1 to {longest}; it grants nothing"
            );
            findings.warning(place(), what);
        }
        let Err(objection) = self.users.key(key, value) else {
            return;
        };
        let what = format!("[{}] {objection}", lossy(&self.section));
        match objection {
            Objection::SecondPassword => findings.warning(place(), what),
            _ => findings.error(place(), what),
        }
    }

    fn is_general(&self) -> bool {
        self.section == GENERAL.as_bytes()
    }

    /// Notes a `[user@domain]` that nobody can register as.
    fn check_domain(&self, findings: &mut Findings, place: &dyn Fn() -> Place, name: &[u8]) {
        let Some((_, domain)) = split_name(name) else {
            return;
        };
        let ours = |ours: &str| ours.as_bytes().eq_ignore_ascii_case(domain);
        if self.domains.iter().any(|domain| ours(domain)) {
            return;
        }
        let (name, domain) = (lossy(name), lossy(domain));
        let what = if self.domains.is_empty() {
            format!("[{name}] can't register while [general] domains of bindery.conf is empty")
        } else {
            format!("[{name}] {domain} is not among [general] domains of bindery.conf")
        };
        findings.warning(place(), what);
    }

    /// A key of `[general]`. Yate takes its default for a value it can't read; so do we, aloud.
    fn general_key(
        &mut self,
        findings: &mut Findings,
        place: &dyn Fn() -> Place,
        key: &[u8],
        value: &[u8],
    ) {
        const KEYS: [&str; 5] = ["autocreate", "auth", "register", "route", "file"];
        if self.general_keys.iter().any(|known| **known == *key) {
            let what = format!("[general] {} is written again: the first stands", lossy(key));
            return findings.warning(place(), what);
        }
        self.general_keys.push(key.into());
        let mut warn = |expected: &str| {
            let what = format!(
                "[general] {}={}: expected {expected}; the default stands",
                lossy(key),
                lossy(value)
            );
            findings.warning(place(), what);
        };
        let priority = |of: &mut i32, warn: &mut dyn FnMut(&str)| {
            let number = std::str::from_utf8(value).ok().and_then(parse_int);
            match number.and_then(|number| i32::try_from(number).ok()) {
                Some(number) => *of = number,
                None => warn("a priority"),
            }
        };
        match key {
            b"autocreate" => match parse_bool(value) {
                Some(flag) => self.general.autocreate = flag,
                None => warn("yes or no"),
            },
            b"auth" => priority(&mut self.general.auth, &mut warn),
            b"register" => priority(&mut self.general.register, &mut warn),
            b"route" => priority(&mut self.general.route, &mut warn),
            b"file" => {
                let path = replace(value, |name| {
                    let known = name == b"configpath";
                    known.then(|| self.folder.as_os_str().as_encoded_bytes().into())
                });
                let path = lossy(&path);
                self.general.file = (!path.is_empty()).then(|| self.folder.join(&*path));
            }
            _ => {
                let key = lossy(key);
                let what = format!("[general] unknown key {key}{}", hint(&key, KEYS));
                findings.warning(place(), what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::digest::Secret;
    use crate::config::resolve::{self, Host, Overrides};

    /// Reads a folder with this `regfile.conf`; findings name files without the folder.
    fn read_text(bindery: &str, regfile: &[u8]) -> (Regfile, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let bindery = format!("[listener a]\n{bindery}");
        std::fs::write(folder.path().join(resolve::FILE), bindery).unwrap();
        std::fs::write(folder.path().join(FILE), regfile).unwrap();
        std::fs::write(folder.path().join("more.conf"), "[dave]\npassword=d\nha1=x\n").unwrap();
        std::fs::write(folder.path().join("good.conf"), "[dave]\npassword=d\n").unwrap();
        let host = Host { name: "box".into(), cpus: 1 };
        let mut findings = Findings::default();
        let config = resolve::read(folder.path(), &Overrides::default(), &host, &mut findings);
        let regfile = read(folder.path(), &config, false, &mut findings);
        let prefix = format!("{}/", folder.path().display());
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        (regfile, errors.chain(warnings).map(|line| line.replace(&prefix, "")).collect())
    }

    #[test]
    fn a_file_of_yates_is_read_as_it_is() {
        let text = b"; users\n[general]\nautocreate=yes\nauth=50\nroute=0x10\n\
            file=${configpath}/saved.conf\n\n[100]\npassword=secret\nalternatives=900, 901\n\
            expires=77\n[200]\npassword=\n[300]\n";
        let (regfile, findings) = read_text("", text);
        assert_eq!(findings, [""; 0]);
        let general = regfile.general;
        assert!(general.autocreate);
        assert_eq!((general.auth, general.register, general.route), (50, 100, 16));
        assert!(general.file.unwrap().ends_with("saved.conf"));
        let users = regfile.subscribers;
        assert_eq!(users.len(), 3);
        assert!(matches!(users.account(b"100", b"").unwrap().secret(), Secret::Ha1(_)));
        assert_eq!(users.account(b"200", b"").unwrap().secret(), Secret::AnyPassword);
        assert_eq!(users.account(b"300", b"").unwrap().secret(), Secret::NoPassword);
        assert!(!users.exists(b"general", b""));
        assert_eq!(users.owners(b"901").count(), 1);
        let params: Vec<_> = users.account(b"100", b"").unwrap().params().collect();
        assert_eq!(params, [(&b"expires"[..], &b"77"[..])]);
    }

    #[test]
    fn a_relative_file_is_in_the_folder_of_the_configuration() {
        let written = |file: &str| {
            let (regfile, _) = read_text("", format!("[general]\nfile={file}\n").as_bytes());
            regfile.general.file.unwrap()
        };
        let saved = written("saved.conf");
        assert!(saved.is_absolute() && saved.ends_with("saved.conf"), "{}", saved.display());
        assert_eq!(written("/tmp/saved.conf"), Path::new("/tmp/saved.conf"));
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let cases: [(&[u8], &str); 15] = [
            (b"[bob]\n[alice", "error regfile.conf:2: `[` without `]`"),
            (b"[alice]\nha1=12", "error regfile.conf:2: [alice] ha1: expected 32 hexadecimal digits"),
            (
                b"[alice]\npassword=x\nha1_sha256=0000000000000000000000000000000000000000000000000000000000000000",
                "error regfile.conf:3: [alice] expected either password or ha1, not both",
            ),
            (b"[@a.org]", "error regfile.conf:1: [@a.org] no user before the `@`"),
            (b"[alice@]", "error regfile.conf:1: [alice@] no domain after the `@`"),
            (
                b"[alice]\npassword=x\npassword=y",
                "warning regfile.conf:3: [alice] password is written again: the first stands",
            ),
            (
                b"[alice@b.org]",
                "warning regfile.conf:1: [alice@b.org] b.org is not among [general] domains of \
                 bindery.conf",
            ),
            (
                b"[general]\nautocreate=Yes",
                "warning regfile.conf:2: [general] autocreate=Yes: expected yes or no; the default \
                 stands",
            ),
            (
                b"[general]\nauth=high",
                "warning regfile.conf:2: [general] auth=high: expected a priority; the default stands",
            ),
            (
                b"[general]\nauto_create=yes",
                "warning regfile.conf:2: [general] unknown key auto_create: did you mean autocreate?",
            ),
            (
                b"[general]\nauth=1\nauth=2",
                "warning regfile.conf:3: [general] auth is written again: the first stands",
            ),
            (
                b"[alice]\npassword secret\n",
                "warning regfile.conf:2: [alice] no `=`: taken for a key with an empty value",
            ),
            (
                b"[alice]\npassword=x\n[bob]\n[alice]\nexpires=60\n",
                "warning regfile.conf:4: [alice] is written again: this adds to what it says before",
            ),
            (
                b"[general]\nauth=1\n[alice]\n[general]\nroute=1\n",
                "warning regfile.conf:4: [general] is written again: this adds to what it says \
                 before",
            ),
            (
                b"[$include more.conf]",
                "error more.conf:3: [dave] ha1: expected 32 hexadecimal digits",
            ),
        ];
        for (text, expected) in cases {
            let (_, findings) = read_text("[general]\ndomains=a.org\n", text);
            assert_eq!(findings, [expected], "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_section_that_goes_on_after_an_include_is_not_written_again() {
        let (regfile, findings) =
            read_text("", b"[alice]\n[$include good.conf]\npassword=a\n[bob]\n");
        assert_eq!(findings, [""; 0]);
        assert_eq!(regfile.subscribers.len(), 3);
    }

    #[test]
    fn what_is_odd_is_told_where_sections_are_shared_too() {
        let text = b"[alice]\n[$includesection shared]\n[shared]\npassword\n[alice]\n";
        let (regfile, findings) = read_text("", text);
        assert_eq!(
            findings,
            [
                "warning regfile.conf:4: [shared] no `=`: taken for a key with an empty value",
                "warning regfile.conf:5: [alice] is written again: this adds to what it says before",
            ]
        );
        let alice = regfile.subscribers.account(b"alice", b"").unwrap();
        assert_eq!(alice.secret(), Secret::AnyPassword);
    }

    #[test]
    fn users_may_share_a_section() {
        let text = b"[alice]\n[$includesection shared]\n[shared]\nexpires=77\npassword=\n";
        let (regfile, findings) = read_text("", text);
        assert_eq!(findings, [""; 0]);
        let alice = regfile.subscribers.account(b"alice", b"").unwrap();
        assert_eq!(alice.secret(), Secret::AnyPassword);
        assert_eq!(alice.params().count(), 1);
    }

    #[test]
    fn without_a_file_there_are_no_users() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(resolve::FILE), "[listener a]\n").unwrap();
        let host = Host { name: "box".into(), cpus: 1 };
        let loaded = super::super::load(folder.path(), &Overrides::default(), &host).unwrap();
        assert!(loaded.value.regfile.subscribers.is_empty());
        let expected =
            format!("{}: there is no such file: no users", folder.path().join(FILE).display());
        assert_eq!(loaded.warnings[0].to_string(), expected);
    }

    #[test]
    fn nothing_is_taken_unless_all_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(resolve::FILE), "[listener a]\nport=x\n").unwrap();
        std::fs::write(folder.path().join(FILE), "[alice]\nha1=x\n[bob\n").unwrap();
        let host = Host { name: "box".into(), cpus: 1 };
        let refused = super::super::load(folder.path(), &Overrides::default(), &host).unwrap_err();
        assert_eq!(refused.errors.len(), 3);
        assert_eq!(refused.to_string().lines().count(), 3);
    }
}
