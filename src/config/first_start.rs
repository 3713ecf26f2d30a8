//! The first start: where the configuration is, and what is written when there is none.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{bounds, resolve, store};
use crate::backend::regfile;

/// Where the configuration is looked for when nobody says, in this order. The first is also where
/// the first start writes it.
pub const FOLDERS: [&str; 2] = ["conf", "/etc/bindery"];

/// The user of a fresh configuration.
const USER: &str = "100";

/// Characters of a random password: 80 bits, beyond guessing even from a captured digest.
const PASSWORD_LEN: usize = 16;

/// Five bits each. No `l` and `o`, no `0` and `1`: passwords are typed into phones.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere; it is to be made in this folder.
    Nowhere(PathBuf),
}

/// The configuration folder: the one `given`, else the first of `folders` ([`FOLDERS`]) that there
/// is.
///
/// # Errors
/// The folder given doesn't exist.
pub fn locate(given: Option<&Path>, folders: &[&str]) -> io::Result<Located> {
    if let Some(folder) = given {
        if folder.is_dir() {
            return Ok(Located::Folder(folder.to_path_buf()));
        }
        let what = format!("there is no folder {}", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    let existing = folders.iter().map(PathBuf::from).find(|folder| folder.is_dir());
    let first = || PathBuf::from(folders.first().copied().unwrap_or("."));
    Ok(existing.map_or_else(|| Located::Nowhere(first()), Located::Folder))
}

/// A configuration that was just made. It prints as five lines on what to type into a phone.
#[derive(Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Where it is.
    pub folder: PathBuf,
    /// Where the server listens.
    pub server: SocketAddr,
    /// Its only user.
    pub user: String,
    /// That user's password.
    pub password: String,
}

impl fmt::Display for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "There was no configuration: {} is a first one.", self.folder.display())?;
        writeln!(f, "Into a phone on this machine, type")?;
        writeln!(f, "  server    {}, port {}, UDP", self.server.ip(), self.server.port())?;
        writeln!(f, "  user      {}", self.user)?;
        writeln!(f, "  password  {}", self.password)?;
        // Without -u sipsak takes `100@` for its user; without -x it asks for 15 s, which is less
        // than expires_min.
        let Self { user, password, server, .. } = self;
        writeln!(f, "or type here, in another terminal, where sipsak is installed")?;
        writeln!(f, "  sipsak -U -x 600 -u {user} -a {password} -s sip:{user}@{server}")?;
        write!(f, "then `bindery show {user}` says where user {user} is.")
    }
}

impl fmt::Debug for Welcome {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome")
            .field("folder", &self.folder)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Makes `folder` with a commented `bindery.conf` that listens on the loopback interface, and a
/// `regfile.conf` with one user.
///
/// # Errors
/// The folder or a file can't be written; files that exist are left alone.
pub fn create(folder: &Path) -> io::Result<Welcome> {
    let password = random_password()?;
    std::fs::create_dir_all(folder)?;
    let regfile = regfile_conf(USER, &password);
    store::create(&folder.join(regfile::FILE), regfile.as_bytes(), store::PRIVATE)?;
    store::create(&folder.join(resolve::FILE), bindery_conf().as_bytes(), 0o644)?;
    let port = u16::try_from(bounds::LISTENER_PORT.default).unwrap_or_default();
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Welcome { folder: folder.to_path_buf(), server, user: USER.to_owned(), password })
}

/// A password that is safe to guess at and easy to type.
///
/// # Errors
/// The kernel gives no random octets.
pub fn random_password() -> io::Result<String> {
    let mut octets = [0; PASSWORD_LEN];
    getrandom::fill(&mut octets).map_err(io::Error::from)?;
    let letter = |octet: u8| LETTERS.get(usize::from(octet % 32)).copied().map(char::from);
    Ok(octets.into_iter().filter_map(letter).collect())
}

fn regfile_conf(user: &str, password: &str) -> String {
    format!(
        "; Users, one section each. `bindery users add NAME` adds one; SIGHUP reloads.\n\
         ; A section [name@domain] is a user of that domain only.\n\
         \n\
         [{user}]\n\
         password={password}\n"
    )
}

/// The first `bindery.conf`: all keys with their defaults, as comments.
fn bindery_conf() -> String {
    let mut text = String::from(
        "; Bindery's own settings. A line that starts with `;` is a comment and shows a default.\n\
         ; `bindery check` tells mistakes with file and line; SIGHUP reloads.\n\
         \n\
         [general]\n\
         ; realm=                  the first domain, else the name of this host\n\
         ; domains=                comma list; empty accepts every domain\n",
    );
    let mut number = |head: &str, keys: &[(&str, bounds::Bounds)]| {
        text += head;
        for (key, bounds) in keys {
            text += &format!("; {:23} {bounds}\n", format!("{key}={}", bounds.default));
        }
    };
    number("", &[("workers", bounds::WORKERS)]);
    number(
        "; pin=yes                 each worker stays on one CPU\n\
         ; useragent=              the Server header; empty sends none\n\
         \n\
         [listener loopback]\n\
         ; Only this machine is served. addr=0.0.0.0 serves every IPv4 network, addr=:: IPv6.\n\
         addr=127.0.0.1\n",
        &[("port", bounds::LISTENER_PORT), ("buffer", bounds::BUFFER), ("maxpkt", bounds::MAXPKT)],
    );
    number(
        "\n[registrar]\n",
        &[
            ("expires_min", bounds::EXPIRES_MIN),
            ("expires_def", bounds::EXPIRES_DEF),
            ("expires_max", bounds::EXPIRES_MAX),
            ("nat_refresh", bounds::NAT_REFRESH),
            ("max_contacts", bounds::MAX_CONTACTS),
            ("max_bindings", bounds::MAX_BINDINGS),
        ],
    );
    number(
        "; auth_required=yes\n\
         ; on_limit=reject         or evict_oldest\n\
         ; cseq=strict             or lenient\n\
         \n\
         [auth]\n\
         ; algorithms=MD5          or SHA-256, SHA-512-256; a comma list, the preferred first\n\
         ; qop=auth                or none\n\
         ; secret_file=            the nonces' key, where several nodes share it\n",
        &[("nonce_lifetime", bounds::NONCE_LIFETIME)],
    );
    number(
        "\n[cache]\n\
         ; preload=no              or the query that gives all accounts, with a column `username`\n",
        &[
            ("lifetime", bounds::CACHE_LIFETIME),
            ("negative", bounds::CACHE_NEGATIVE),
            ("stale", bounds::CACHE_STALE),
            ("size", bounds::CACHE_SIZE),
        ],
    );
    number(
        "\n[backend]\n\
         ; register_wait=new       or always, never: which registrations user.register can turn down\n\
         ; on_error=next           or refuse\n\
         ; allow_empty_password=no yes lets anybody in whose password is empty, as Yate does\n",
        &[("queue", bounds::QUEUE)],
    );
    number(
        "\n[calls]\n\
         ; enable=yes\n\
         ; mode=proxy              or redirect; [domain NAME] may differ\n\
         ; trusted=                networks that call without credentials: 10.0.0.0/8,...\n\
         ; check_from=yes          From names the user that the credentials prove\n\
         ; accept_foreign=no       yes lets strangers call our users\n\
         ; foreign=refuse          or dns: where calls of our users to other domains go\n\
         ; foreign_deny=internal   networks that those never reach; internal: all that is not public\n\
         ; dns=                    name servers for that: 192.0.2.53,...; else those of the system\n\
         ; probe_by=OPTIONS        or UPDATE: what parties are asked with, if probe is not 0\n\
         ; cdr=call                or leg: one record for the caller and one for who is called\n",
        &[
            ("ring_timeout", bounds::RING_TIMEOUT),
            ("dead_call", bounds::DEAD_CALL),
            ("probe", bounds::PROBE),
            ("max_calls", bounds::MAX_CALLS),
            ("dns_timeout", bounds::DNS_TIMEOUT),
        ],
    );
    number(
        "\n[persist]\n\
         ; durability=journal      or sync: safe from a power cut too; or snapshot: as Yate does\n\
         ; on_disk_error=serve     or refuse\n",
        &[
            ("snapshot_interval", bounds::SNAPSHOT_INTERVAL),
            ("snapshot_rate", bounds::SNAPSHOT_RATE),
            ("keep", bounds::KEEP),
        ],
    );
    number(
        "\n[admin]\n\
         ; enable=yes\n\
         ; addr=127.0.0.1\n",
        &[("port", bounds::ADMIN_PORT)],
    );
    number(
        "; token_file=             admin.token in the state folder\n\
         \n\
         [limits]\n",
        &[
            ("max_headers", bounds::LIMIT_HEADERS),
            ("max_uri", bounds::LIMIT_URI),
            ("max_call_id", bounds::LIMIT_CALL_ID),
            ("max_contacts", bounds::LIMIT_CONTACTS),
            ("max_path", bounds::LIMIT_PATH),
            ("max_contact_params", bounds::LIMIT_CONTACT_PARAMS),
        ],
    );
    text += "\n\
         ; Any number of sections may follow of\n\
         ; [listener NAME]         another address to listen on\n\
         ; [domain NAME]           mode= for calls to NAME, one of the domains above\n\
         ; [hook NAME]             url=, events= and secret= of a service that is asked and told\n\
         ;                         over HTTP who registers and calls\n";
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::digest::Secret;
    use crate::backend;
    use crate::config::resolve::{Host, Overrides};

    #[test]
    fn a_fresh_configuration_is_valid_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("conf");
        let welcome = create(&folder).unwrap();
        assert_eq!(welcome.password.len(), PASSWORD_LEN);
        assert_eq!(welcome.to_string().lines().count(), 8);
        assert!(!format!("{welcome:?}").contains(&welcome.password));
        let mode = std::fs::metadata(folder.join(regfile::FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let host = Host { name: "box".into(), cpus: 1 };
        let loaded = backend::load(&folder, &Overrides::default(), &host).unwrap();
        assert_eq!(loaded.warnings, []);
        let config = loaded.value.config;
        assert_eq!(config.listeners[0].addr, "127.0.0.1:5060".parse().unwrap());
        let login = loaded.value.regfile.subscribers.login(b"100", b"127.0.0.1").unwrap();
        assert!(matches!(login.secret, Secret::Ha1(_)));
        // A second first start changes nothing.
        assert_eq!(create(&folder).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn each_kind_of_section_is_mentioned() {
        let text = bindery_conf();
        for kind in resolve::SECTIONS
            .iter()
            .map(|name| format!("[{name}]"))
            .chain(["listener", "domain", "hook"].map(|kind| format!("[{kind} NAME]")))
        {
            assert!(text.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn each_commented_default_is_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host { name: "box".into(), cpus: 1 };
        let mut configs = Vec::new();
        for text in [bindery_conf(), uncommented(&bindery_conf())] {
            std::fs::write(folder.path().join(resolve::FILE), text).unwrap();
            let loaded = backend::load(folder.path(), &Overrides::default(), &host).unwrap();
            configs.push(loaded.value.config);
        }
        assert_eq!(configs[0], configs[1]);
    }

    /// The file with `; key=value   remark` as `key=value`.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| match line.strip_prefix("; ").map(str::split_whitespace) {
            Some(mut words) => match words.next() {
                Some(setting) if setting.contains('=') => setting.to_owned(),
                _ => String::new(),
            },
            None => line.to_owned(),
        };
        text.lines().map(|text| line(text) + "\n").collect()
    }

    #[test]
    fn the_folder_is_given_or_the_first_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let exists = folder.path().to_str().unwrap();
        let missing = folder.path().join("none");
        let missing = missing.to_str().unwrap();
        let found = Located::Folder(exists.into());
        assert_eq!(locate(Some(folder.path()), &[missing]).unwrap(), found);
        assert_eq!(locate(None, &[missing, exists]).unwrap(), found);
        assert_eq!(locate(None, &[missing]).unwrap(), Located::Nowhere(missing.into()));
        let error = locate(Some(Path::new(missing)), &[exists]).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no folder {missing}"));
    }

    #[test]
    fn random_passwords_differ() {
        assert_ne!(random_password().unwrap(), random_password().unwrap());
    }
}
