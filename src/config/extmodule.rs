//! `extmodule.conf`: Yate's external modules, and in `[bindery]`, which Yate passes over, what they
//! may do here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounds::{self, Bounds};
use super::conf::{Conf, Section};
use super::lenient::Lenient;
use super::nearest::{hint, section_hint};
use super::replace::replace;
use super::values::lossy;
use super::{Findings, Place};
use crate::time::DeltaSeconds;

/// The name of the file in the configuration folder.
pub const FILE: &str = "extmodule.conf";

/// Sections with names of their own.
const SECTIONS: [&str; 4] = ["general", "scripts", "execute", "bindery"];

/// Keys of `[general]` that have no effect: our pipes need no such care.
const WITHOUT_EFFECT: [&str; 9] = [
    "priority",
    "waitflush",
    "trackparam",
    "exec_use_printf",
    "recv_cleanup_waitpid",
    "recv_die_waitpid",
    "execute_use_filter",
    "halt_cleanup",
    "halt_priority",
];

/// All that `extmodule.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extmodule {
    /// What a module begins with.
    pub module: Module,
    /// `[scripts]`, in order.
    pub scripts: Box<[Program]>,
    /// `[execute]`, in order.
    pub execute: Box<[Program]>,
    /// `[listener NAME]`.
    pub listeners: Box<[Listener]>,
    /// `[bindery] cache`: how long what a script says to `user.auth` counts; zero: it is asked for
    /// each request.
    pub cache: DeltaSeconds,
}

impl Extmodule {
    /// Whether there may ever be a module.
    pub fn has_modules(&self) -> bool {
        !self.scripts.is_empty() || !self.listeners.is_empty()
    }
}

/// What a module begins with; it may set all of it for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// How long it may take to answer; zero: as long as it takes, within a bound.
    pub timeout: Duration,
    /// Whether one that takes longer is ended.
    pub timebomb: bool,
    /// How many messages may be on their way to it; zero: any number.
    pub maxqueue: usize,
    /// Octets of its longest line, with the end.
    pub bufsize: usize,
    /// Whether messages of its own have the time at which they come.
    pub settime: bool,
}

impl Default for Module {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(bounds::SCRIPT_TIMEOUT.default.into()),
            timebomb: false,
            maxqueue: size(bounds::SCRIPT_QUEUE.default),
            bufsize: size(bounds::SCRIPT_LINE.default),
            settime: false,
        }
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A program that is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// As it was written.
    pub name: Box<str>,
    /// Where it is.
    pub path: PathBuf,
    /// Its one argument, which may be empty.
    pub arg: Box<str>,
    /// Whether it is started again when it has ended.
    pub restart: bool,
    /// What it may do.
    pub rights: Rights,
}

/// What a program may do; `None` is what this process may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The user and the group that it runs as.
    pub user: Option<(u32, u32)>,
    /// Files that it may have open.
    pub files: Option<u64>,
    /// Processes that its user may have.
    pub processes: Option<u64>,
    /// Octets of its address space.
    pub memory: Option<u64>,
    /// Seconds that it may compute.
    pub cpu: Option<u64>,
    /// By how many steps its priority is below ours.
    pub nice: u32,
}

/// `[listener NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: Box<str>,
    /// Where it is.
    pub at: At,
    /// Whether those that connect are modules without having to say so.
    pub is_global: bool,
}

/// Where modules connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// `type=tcp`.
    Tcp(SocketAddr),
    /// `type=unix`.
    Unix(PathBuf),
}

/// Reads `extmodule.conf` of a folder; `None` if there is none.
///
/// The result is to be used only if `findings` holds no error.
pub fn read(folder: &Path, findings: &mut Findings) -> Option<Extmodule> {
    let conf = Conf::read(&folder.join(FILE), findings)?;
    let read = resolve(folder, &conf, findings);
    warn_of_missing(&conf, &read, findings);
    Some(read)
}

/// Notes programs that could not be started now. They may come later, and are tried again then.
fn warn_of_missing(conf: &Conf, read: &Extmodule, findings: &mut Findings) {
    for (section, programs) in [("scripts", &read.scripts), ("execute", &read.execute)] {
        let keys = conf.section(section.as_bytes()).map_or(&[][..], |section| &section.keys);
        for (key, program) in keys.iter().zip(programs) {
            if let Err(why) = startable(&program.path) {
                let (name, path) = (&program.name, program.path.display());
                let what = format!("[{section}] {name}: expected a program, {path}: {why}");
                findings.warning(key.place.clone(), what);
            }
        }
    }
}

/// Whether a file can be a program, which its start would tell less plainly. Who may start it is not
/// looked at: that is another user, perhaps.
///
/// # Errors
/// It can't, with the reason.
pub fn startable(path: &Path) -> io::Result<()> {
    const ANYBODY: u32 = 0o111;
    let file = path.metadata()?;
    if !file.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if file.permissions().mode() & ANYBODY == 0 {
        return Err(io::Error::other("it is not executable (chmod +x)"));
    }
    Ok(())
}

fn resolve(folder: &Path, conf: &Conf, findings: &mut Findings) -> Extmodule {
    let mut keys = Lenient::new("general", conf.section(b"general"), findings);
    let scripts_dir = keys.text("scripts_dir").map(|text| expand(text, folder));
    let module = Module {
        timeout: Duration::from_millis(keys.number("timeout", &bounds::SCRIPT_TIMEOUT).into()),
        timebomb: keys.flag("timebomb", false),
        maxqueue: size(keys.number("maxqueue", &bounds::SCRIPT_QUEUE)),
        bufsize: size(keys.number("bufsize", &bounds::SCRIPT_LINE)),
        settime: keys.flag("settime", false),
    };
    keys.without_effect(&WITHOUT_EFFECT);
    keys.finish();
    let scripts_dir = folder.join(scripts_dir.as_deref().unwrap_or("scripts"));

    let mut keys = Lenient::new("bindery", conf.section(b"bindery"), findings);
    let cache = DeltaSeconds(keys.number("cache", &bounds::SCRIPT_CACHE));
    let rights = Rights { nice: bounds::SCRIPT_NICE.default, ..Rights::default() };
    let common = Program { restart: true, rights, ..Program::default() };
    let common = permitted(&common, &mut keys);
    keys.finish();

    let mut programs = |section: &str| -> Box<[Program]> {
        let keys = conf.section(section.as_bytes()).map_or(&[][..], |section| &section.keys);
        keys.iter()
            .map(|key| {
                let (name, arg) = (lossy(&key.key), lossy(&key.value));
                let own = format!("bindery {name}");
                let mut keys = Lenient::new(&own, conf.section(own.as_bytes()), findings);
                let permitted = permitted(&common, &mut keys);
                keys.finish();
                Program {
                    path: scripts_dir.join(expand(&name, folder)),
                    arg: expand(&arg, folder).into(),
                    name: name.into(),
                    ..permitted
                }
            })
            .collect()
    };
    let (scripts, execute) = (programs("scripts"), programs("execute"));

    let mut listeners = Vec::new();
    for section in conf.sections() {
        let name = lossy(&section.name);
        let split = name.split_once([' ', '\t']).map(|(kind, name)| (kind, name.trim()));
        match split {
            Some(("listener", name)) => listeners.extend(listener(name, folder, section, findings)),
            Some(("bindery", of)) => {
                let all = scripts.iter().chain(&*execute);
                if !all.clone().any(|program| *program.name == *of) {
                    let hint = hint(of, all.map(|program| &*program.name));
                    let what = format!("[{name}] there is no such script{hint}");
                    findings.warning(section.place.clone(), what);
                }
            }
            _ if SECTIONS.contains(&&*name) => {}
            _ => {
                let what = format!("unknown section [{name}]{}", section_hint(&name, SECTIONS));
                findings.warning(section.place.clone(), what);
            }
        }
    }
    Extmodule { module, scripts, execute, listeners: listeners.into(), cache }
}

/// A value with `${configpath}` and the like replaced. Of Yate's other names none is known here.
fn expand(text: &str, folder: &Path) -> String {
    let replaced = replace(text.as_bytes(), |name| {
        let known = match name {
            b"configpath" => folder.as_os_str().as_encoded_bytes().to_vec(),
            b"sharedpath" => b"/usr/share/yate".to_vec(),
            _ => return None,
        };
        Some(known.into())
    });
    String::from_utf8_lossy(&replaced).into_owned()
}

/// `[bindery]` and `[bindery SCRIPT]`: the same keys, where those of the second go first.
fn permitted(common: &Program, keys: &mut Lenient<'_, '_>) -> Program {
    let mut rights = common.rights.clone();
    let restart = keys.flag("restart", common.restart);
    if let Some(name) = keys.text("user") {
        match user(name) {
            Some(found) => rights.user = Some(found),
            None => keys.refuse("user", "a user of this system, by name or number"),
        }
    }
    if let Some(name) = keys.text("group") {
        match (group(name), rights.user) {
            (Some(found), Some((user, _))) => rights.user = Some((user, found)),
            (Some(_), None) => keys.error("group", "expected a user as well"),
            (None, _) => keys.refuse("group", "a group of this system, by name or number"),
        }
    }
    let mut limit = |key, bounds, unit: u64| match keys.number(key, bounds) {
        0 => None,
        number => Some(u64::from(number) * unit),
    };
    rights.files = limit("files", &bounds::SCRIPT_FILES, 1).or(rights.files);
    rights.processes = limit("processes", &bounds::SCRIPT_PROCESSES, 1).or(rights.processes);
    rights.memory = limit("memory", &bounds::SCRIPT_MEMORY, 1 << 20).or(rights.memory);
    rights.cpu = limit("cpu", &bounds::SCRIPT_CPU, 1).or(rights.cpu);
    let nice = Bounds { default: rights.nice, ..bounds::SCRIPT_NICE };
    rights.nice = keys.number("nice", &nice);
    Program { restart, rights, ..Program::default() }
}

/// A user's number and that of its group, as `/etc/passwd` has them. A number alone is its own group.
fn user(name: &str) -> Option<(u32, u32)> {
    let found = entry("/etc/passwd", name).and_then(|fields| {
        let number = |place: usize| fields.get(place)?.parse().ok();
        Some((number(2)?, number(3)?))
    });
    found.or_else(|| name.parse().ok().map(|number| (number, number)))
}

fn group(name: &str) -> Option<u32> {
    let found = entry("/etc/group", name).and_then(|fields| fields.get(2)?.parse().ok());
    found.or_else(|| name.parse().ok())
}

/// The fields of the line for `name` in a file of the system's.
fn entry(file: &str, name: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines().map(|line| line.split(':').map(str::to_owned));
    lines.find_map(|mut fields| {
        let first = fields.next()?;
        (first == name).then(|| std::iter::once(first).chain(fields).collect())
    })
}

fn listener(
    name: &str,
    folder: &Path,
    section: &Section,
    findings: &mut Findings,
) -> Option<Listener> {
    let mut keys = Lenient::new(&lossy(&section.name), Some(section), findings);
    let kind = keys.text("type").unwrap_or_default();
    let path = keys.text("path").map(|path| folder.join(expand(path, folder)));
    let addr = match keys.text("addr") {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => text.parse().unwrap_or_else(|_| {
            keys.refuse("addr", "an address");
            Ipv4Addr::LOCALHOST.into()
        }),
    };
    let port = keys.text("port").map(|text| text.parse::<u16>());
    let is_global = match keys.text("role") {
        None => false,
        Some("global") => true,
        Some(_) => {
            keys.refuse("role", "global: there is no media here");
            false
        }
    };
    let at = match (kind, path, port) {
        ("unix", Some(path), _) => Some(At::Unix(path)),
        ("tcp", _, Some(Ok(port))) => {
            if !addr.is_loopback() {
                let what = "whoever reaches it is told passwords, and decides who may register";
                keys.warn("addr", what);
            }
            Some(At::Tcp(SocketAddr::new(addr, port)))
        }
        _ => None,
    };
    keys.finish();
    if at.is_none() {
        let what = format!(
            "[{}] expected type=unix with a path, or type=tcp with a port",
            lossy(&section.name)
        );
        findings.error(Place::clone(&section.place), what);
    }
    Some(Listener { name: name.into(), at: at?, is_global })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Extmodule, Vec<String>) {
        let mut findings = Findings::default();
        let conf = Conf::parse(Path::new(FILE), text.as_bytes(), &mut findings);
        let read = resolve(Path::new("/etc/x"), &conf, &mut findings);
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        (read, errors.chain(warnings).collect())
    }

    #[test]
    fn yates_own_sample_is_read_as_it_is() {
        let (read, findings) = read_text(
            "[general]\nscripts_dir=${configpath}/more\ntimeout=500\nmaxqueue=0\nsettime=yes\n\
             [listener sample1]\ntype=unix\npath=/tmp/socket\n[listener two]\ntype=tcp\nport=5039\n\
             role=global\n[scripts]\nauth.py=\nauth.py=${configpath}/db\n/bin/other=x y\n\
             [execute]\nonce.sh=\n",
        );
        assert_eq!(findings, [""; 0]);
        let module = Module {
            timeout: Duration::from_millis(500),
            maxqueue: 0,
            settime: true,
            ..Module::default()
        };
        assert_eq!(read.module, module);
        let programs: Vec<_> = read
            .scripts
            .iter()
            .chain(&*read.execute)
            .map(|program| (program.path.to_str().unwrap(), &*program.arg))
            .collect();
        assert_eq!(
            programs,
            [
                ("/etc/x/more/auth.py", ""),
                ("/etc/x/more/auth.py", "/etc/x/db"),
                ("/bin/other", "x y"),
                ("/etc/x/more/once.sh", "")
            ]
        );
        assert!(read.scripts.iter().all(|program| program.restart));
        let [one, two] = &*read.listeners else { panic!() };
        assert_eq!((&*one.name, one.is_global), ("sample1", false));
        assert_eq!(one.at, At::Unix("/tmp/socket".into()));
        assert_eq!(two.at, At::Tcp("127.0.0.1:5039".parse().unwrap()));
        assert!(two.is_global);
    }

    #[test]
    fn rights_are_for_all_or_for_one() {
        let (read, findings) = read_text(
            "[scripts]\na=\nb=\nc=\n[bindery]\ncache=60\nuser=root\nmemory=64\nfiles=32\nnice=7\n\
             [bindery b]\nmemory=128\nuser=12345\nrestart=no\n[bindery c]\nnice=0\n",
        );
        assert_eq!(findings, [""; 0]);
        assert_eq!(read.cache, DeltaSeconds(60));
        let [a, b, c] = &*read.scripts else { panic!() };
        let rights = Rights {
            user: Some((0, 0)),
            files: Some(32),
            memory: Some(64 << 20),
            nice: 7,
            ..Rights::default()
        };
        assert_eq!((a.restart, &a.rights), (true, &rights));
        let rights = Rights { user: Some((12_345, 12_345)), memory: Some(128 << 20), ..rights };
        assert_eq!((b.restart, &b.rights), (false, &rights));
        assert_eq!(c.rights, Rights { nice: 0, ..a.rights.clone() });
        let (read, _) = read_text("[scripts]\na=\n");
        assert_eq!(read.scripts[0].rights, Rights::default());
    }

    #[test]
    fn a_program_that_is_not_there_yet_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let scripts = folder.path().join("scripts");
        std::fs::create_dir_all(scripts.join("folder")).unwrap();
        for (name, mode) in [("good", 0o755), ("of-its-owner", 0o700), ("data", 0o644)] {
            std::fs::write(scripts.join(name), "").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(scripts.join(name), mode).unwrap();
        }
        let text = "[scripts]\ngood=\nnone=\ndata=1\ndata=2\nof-its-owner\n[execute]\nfolder=\n";
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let mut findings = Findings::default();
        let programs = read(folder.path(), &mut findings).unwrap().scripts;
        assert_eq!((programs.len(), &findings.errors[..]), (5, &[][..]));
        let prefix = format!("{}/", folder.path().display());
        let told = findings.warnings.iter().map(|fault| fault.to_string().replace(&prefix, ""));
        let expected = |place, of: &str, why| {
            let name = of.trim_start_matches("scripts/");
            format!("extmodule.conf:{place}] {name}: expected a program, {of}: {why}")
        };
        let not_executable = "it is not executable (chmod +x)";
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                expected("3: [scripts", "scripts/none", "No such file or directory (os error 2)"),
                expected("4: [scripts", "scripts/data", not_executable),
                expected("5: [scripts", "scripts/data", not_executable),
                expected("8: [execute", "scripts/folder", "it is no file"),
            ]
        );
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (text, expected) in [
            (
                "[general]\nwaitflush=5",
                "warning extmodule.conf:2: [general] waitflush: known, but not supported",
            ),
            (
                "[general]\ntimeout=soon",
                "warning extmodule.conf:2: [general] timeout=soon: expected milliseconds from 0 to \
                 300000; the default stands",
            ),
            (
                "[general]\ntimeuot=5",
                "warning extmodule.conf:2: [general] unknown key timeuot: did you mean timeout?",
            ),
            (
                "[script]\na=",
                "warning extmodule.conf:1: unknown section [script]: did you mean [scripts]?",
            ),
            (
                "[listener a]\ntype=tcp",
                "error extmodule.conf:1: [listener a] expected type=unix with a path, or type=tcp \
                 with a port",
            ),
            (
                "[listener a]\ntype=tcp\nport=1\nrole=channel",
                "error extmodule.conf:4: [listener a] role=channel: expected global: there is no \
                 media here",
            ),
            (
                "[listener a]\ntype=tcp\nport=1\naddr=0.0.0.0",
                "warning extmodule.conf:4: [listener a] addr: whoever reaches it is told \
                 passwords, and decides who may register",
            ),
            (
                "[bindery]\nuser=no such user",
                "error extmodule.conf:2: [bindery] user=no such user: expected a user of this \
                 system, by name or number",
            ),
            (
                "[bindery]\ngroup=0",
                "error extmodule.conf:2: [bindery] group: expected a user as well",
            ),
            (
                "[scripts]\nauth.py=\n[bindery auht.py]",
                "warning extmodule.conf:3: [bindery auht.py] there is no such script: did you \
                 mean auth.py?",
            ),
        ] {
            assert_eq!(read_text(text).1, [expected], "{text}");
        }
    }
}
