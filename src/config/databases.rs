//! `pgsqldb.conf`, `mysqldb.conf` and `sqlitedb.conf`: each section is an account.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::SslMode;

use super::bounds::{self, Bounds};
use super::conf::{Conf, Section};
use super::lenient::Lenient;
use super::replace::replace;
use super::values::{comma_list, lossy};
use super::{Findings, Place};
use crate::backend::sql::{Account, Mysql, Password, Postgres, Server, Sqlite, Tls, TlsMode};

/// The files, in the order in which they are read.
pub const FILES: [&str; 3] = ["pgsqldb.conf", "mysqldb.conf", "sqlitedb.conf"];

/// Where Debian's MySQL and MariaDB listen for those of the same host.
const MYSQL_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// An account with the place of its section.
#[derive(Clone, Debug)]
pub struct Written {
    /// The account.
    pub account: Account,
    /// Its section.
    pub place: Place,
}

/// Reads the accounts of a folder. Missing files have none.
pub fn read(folder: &Path, findings: &mut Findings) -> Vec<Written> {
    let mut all: Vec<Written> = Vec::new();
    for (file, server) in FILES.into_iter().zip([postgres, mysql, sqlite]) {
        let Some(conf) = Conf::read(&folder.join(file), findings) else { continue };
        for section in conf.sections() {
            let name = lossy(&section.name);
            if name == "general" {
                let mut keys = Lenient::new("general", Some(section), findings);
                keys.without_effect(&["priority", "shared_cache"]);
                keys.finish();
                continue;
            }
            if let Some(first) = all.iter().find(|written| *written.account.name == *name) {
                let what = format!("[{name}] is an account already, at {}", first.place);
                findings.error(section.place.clone(), what);
                continue;
            }
            let account = server(&name, folder, section, findings);
            all.push(Written { account, place: section.place.clone() });
        }
    }
    all
}

/// The account that a file of SQLite is on the command line, and for the first tests.
pub fn sqlite_file(name: &str, file: &Path) -> Account {
    Account {
        name: name.into(),
        server: Server::Sqlite(Sqlite { file: Some(file.to_owned()), initialize: None }),
        timeout: milliseconds(bounds::SQLITE_TIMEOUT.default),
        poolsize: small(bounds::SQLITE_POOLSIZE.default),
        retry: small(bounds::RETRY.default),
        listen: Box::default(),
    }
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

fn small(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// What all engines have in common.
fn account(
    keys: &mut Lenient<'_, '_>,
    name: &str,
    server: Server,
    timeout: &Bounds,
    poolsize: &Bounds,
) -> Account {
    // Connections are made when they are needed, and again and again where they can't be.
    let _ = (keys.written("autostart"), keys.written("initretry"));
    Account {
        name: name.into(),
        server,
        timeout: milliseconds(keys.number("timeout", timeout)),
        poolsize: small(keys.number("poolsize", poolsize)),
        retry: small(keys.number("retry", &bounds::RETRY)),
        listen: Box::default(),
    }
}

fn postgres(name: &str, folder: &Path, section: &Section, findings: &mut Findings) -> Account {
    let mut keys = Lenient::new(name, Some(section), findings);
    let mut config = tokio_postgres::Config::new();
    let pieces = [
        keys.text("host").unwrap_or("localhost"),
        keys.text("database").unwrap_or("yate"),
        keys.text("user").unwrap_or("postgres"),
        keys.text("password").unwrap_or_default(),
    ];
    let [host, database, user, password] = pieces;
    let port = small(keys.number("port", &bounds::POSTGRES_PORT));
    let mut mode = TlsMode::Prefer;
    if let Some(connection) = keys.text("connection") {
        match connection.parse() {
            Ok(parsed) => config = parsed,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                keys.error("connection", &format!("{error}{}", cause.unwrap_or_default()));
            }
        }
        mode = match config.get_ssl_mode() {
            SslMode::Disable => TlsMode::No,
            SslMode::Require => TlsMode::Require,
            _ => TlsMode::Prefer,
        };
    } else {
        config.host(host).port(port).dbname(database).user(user);
        if !password.is_empty() {
            config.password(password);
        }
    }
    let tls = tls(&mut keys, folder, mode, true);
    config
        .ssl_mode(match tls.mode {
            TlsMode::No => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::Verify => SslMode::Require,
        })
        .application_name("bindery")
        // A server that vanished without a word is noticed within a minute.
        .keepalives_idle(Duration::from_secs(20))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    encoding(&mut keys);
    let listen = comma_list(keys.text("listen").unwrap_or_default()).map(Into::into).collect();
    let server = Server::Postgres(Box::new(Postgres { config, tls }));
    let account =
        account(&mut keys, name, server, &bounds::SERVER_TIMEOUT, &bounds::POSTGRES_POOLSIZE);
    keys.finish();
    Account { listen, ..account }
}

fn mysql(name: &str, folder: &Path, section: &Section, findings: &mut Findings) -> Account {
    let mut keys = Lenient::new(name, Some(section), findings);
    let host = keys.text("host").unwrap_or("localhost");
    let port = small(keys.number("port", &bounds::MYSQL_PORT));
    let mut socket = keys.text("socket").map(PathBuf::from);
    // As MySQL's own client: the host of that name is the socket, unless a port is named.
    if host == "localhost" && port == 0 && socket.is_none() {
        socket = Some(PathBuf::from(MYSQL_SOCKET)).filter(|path| path.exists());
    }
    let server = Mysql {
        host: host.into(),
        port: if port == 0 { 3306 } else { port },
        socket,
        database: keys.text("database").unwrap_or("yate").into(),
        user: keys.text("user").unwrap_or("mysql").into(),
        password: keys.text("password").map(|password| Password(password.into())),
        compress: keys.flag("compress", false),
        tls: tls(&mut keys, folder, TlsMode::No, false),
    };
    encoding(&mut keys);
    let server = Server::Mysql(Box::new(server));
    let account =
        account(&mut keys, name, server, &bounds::SERVER_TIMEOUT, &bounds::MYSQL_POOLSIZE);
    keys.finish();
    account
}

fn sqlite(name: &str, folder: &Path, section: &Section, findings: &mut Findings) -> Account {
    let mut keys = Lenient::new(name, Some(section), findings);
    let expanded = |text: &str| {
        let expanded = replace(text.as_bytes(), |name| {
            (name == b"configpath").then(|| folder.as_os_str().as_encoded_bytes().into())
        });
        String::from_utf8_lossy(&expanded).into_owned()
    };
    let database = keys.text("database").map(expanded);
    let file = database.filter(|database| database != ":memory:" && !database.is_empty());
    // SQLite reads a URI by itself.
    let file = file.map(|file| match file.starts_with("file:") {
        true => PathBuf::from(file),
        false => folder.join(file),
    });
    let mut initialize = keys.text("initialize").map(str::to_owned);
    if let Some(path) = initialize.as_deref().and_then(|text| text.strip_prefix('@')) {
        let path = folder.join(expanded(path));
        initialize = match std::fs::read_to_string(&path) {
            Ok(sql) => Some(sql),
            Err(error) => {
                let path = path.display();
                keys.error("initialize", &format!("{path} can't be read: {error}"));
                None
            }
        };
    }
    if file.is_none() && initialize.is_none() {
        keys.warn("database", "an empty database in memory: nobody is in it");
    }
    keys.without_effect(&["shared_cache"]);
    let server = Server::Sqlite(Sqlite { file, initialize: initialize.map(Into::into) });
    let account =
        account(&mut keys, name, server, &bounds::SQLITE_TIMEOUT, &bounds::SQLITE_POOLSIZE);
    keys.finish();
    account
}

/// `tls`, `tls_ca`, `tls_cert` and `tls_key`, which are ours: a mistake is an error.
fn tls(keys: &mut Lenient<'_, '_>, folder: &Path, default: TlsMode, prefer: bool) -> Tls {
    let mode = match keys.text("tls") {
        None => default,
        Some("no") => TlsMode::No,
        Some("prefer") if prefer => TlsMode::Prefer,
        Some("require") => TlsMode::Require,
        Some("verify") => TlsMode::Verify,
        Some(_) => {
            let words =
                if prefer { "no, prefer, require or verify" } else { "no, require or verify" };
            keys.refuse("tls", words);
            default
        }
    };
    let ca = keys.text("tls_ca").map(|path| folder.join(path));
    if ca.is_some() && mode != TlsMode::Verify {
        keys.error("tls_ca", "it is of use with tls=verify only");
    }
    let certificate = keys.text("tls_cert").map(|path| folder.join(path));
    let key = keys.text("tls_key").map(|path| folder.join(path));
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            keys.error("tls_cert", "tls_key is missing");
            None
        }
        (None, Some(_)) => {
            keys.error("tls_key", "tls_cert is missing");
            None
        }
    };
    Tls { mode, ca, identity }
}

/// All text is sent as UTF-8, which the server converts where the database is in another.
fn encoding(keys: &mut Lenient<'_, '_>) {
    let Some(encoding) = keys.text("encoding") else { return };
    let letters: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    let utf8 = ["utf8", "utf8mb4", "unicode"].iter().any(|utf8| letters.eq_ignore_ascii_case(utf8));
    if !utf8 {
        keys.warn("encoding", "text is always sent as UTF-8; the server converts it");
    }
}

/// The PATH of `sqlite:PATH`, as `--db` takes it.
///
/// # Errors
/// It is something else.
pub fn sqlite_path(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("expected sqlite:PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The accounts of a folder with these files; findings name files without the folder.
    fn read_files(files: &[(&str, &str)]) -> (Vec<Account>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut findings = Findings::default();
        let accounts = read(folder.path(), &mut findings);
        let prefix = format!("{}/", folder.path().display());
        let errors = findings.errors.iter().map(|fault| format!("error {fault}"));
        let warnings = findings.warnings.iter().map(|fault| format!("warning {fault}"));
        let told = errors.chain(warnings).map(|line| line.replace(&prefix, "")).collect();
        (accounts.into_iter().map(|written| written.account).collect(), told)
    }

    #[test]
    fn accounts_have_the_defaults_of_yate() {
        let (accounts, told) = read_files(&[
            ("pgsqldb.conf", "[general]\n[pg]\n"),
            ("mysqldb.conf", "[my]\nhost=db.example.org\n"),
            ("sqlitedb.conf", "[lite]\ndatabase=/tmp/x.db\n"),
        ]);
        assert_eq!(told, [""; 0]);
        let [pg, my, lite] = &accounts[..] else { panic!("{accounts:?}") };
        let Server::Postgres(server) = &pg.server else { panic!("{pg:?}") };
        assert_eq!(server.config.get_dbname(), Some("yate"));
        assert_eq!(server.config.get_user(), Some("postgres"));
        assert_eq!(server.config.get_ports(), [5432]);
        assert_eq!((pg.timeout, pg.retry), (Duration::from_secs(10), 5));
        let Server::Mysql(server) = &my.server else { panic!("{my:?}") };
        assert_eq!((&*server.host, server.port, &server.socket), ("db.example.org", 3306, &None));
        assert_eq!(lite.timeout, Duration::from_secs(2));
        let Server::Sqlite(server) = &lite.server else { panic!("{lite:?}") };
        assert_eq!(server.file.as_deref(), Some(Path::new("/tmp/x.db")));
    }

    #[test]
    fn a_relative_file_is_in_the_folder_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[a]\ndatabase=sub/users.db\n[b]\ndatabase=${configpath}/users.db\n\
            [c]\ndatabase=file:users.db?mode=ro\n[d]\ninitialize=@make.sql\n";
        std::fs::write(folder.path().join("sqlitedb.conf"), text).unwrap();
        std::fs::write(folder.path().join("make.sql"), "SELECT 1").unwrap();
        let mut findings = Findings::default();
        let accounts = read(folder.path(), &mut findings);
        assert_eq!((findings.errors, findings.warnings), (vec![], vec![]));
        let servers = accounts.iter().map(|written| match &written.account.server {
            Server::Sqlite(sqlite) => sqlite,
            other => panic!("{other:?}"),
        });
        let [a, b, c, d] = servers.collect::<Vec<_>>()[..] else { panic!("{accounts:?}") };
        assert_eq!(a.file.as_deref(), Some(&*folder.path().join("sub/users.db")));
        assert_eq!(b.file.as_deref(), Some(&*folder.path().join("users.db")));
        assert_eq!(c.file.as_deref(), Some(Path::new("file:users.db?mode=ro")));
        assert_eq!(d.initialize.as_deref(), Some("SELECT 1"));
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        let (_, told) = read_files(&[
            (
                "pgsqldb.conf",
                "[a]\ntimeout=soon\npasswrod=x\n[b]\nconnection=host=x sslmode=never\n[c]\ntls=on\n\
                 tls_cert=x\n[d]\nencoding=LATIN1\n",
            ),
            ("mysqldb.conf", "[a]\n[m]\ntls=prefer\n"),
            ("sqlitedb.conf", "[s]\n[t]\nshared_cache=yes\ninitialize=@none\n"),
        ]);
        assert_eq!(
            told,
            [
                "error pgsqldb.conf:5: [b] connection: invalid connection string: invalid value for \
                 option `sslmode`",
                "error pgsqldb.conf:7: [c] tls=on: expected no, prefer, require or verify",
                "error pgsqldb.conf:8: [c] tls_cert: tls_key is missing",
                "error mysqldb.conf:1: [a] is an account already, at pgsqldb.conf:1",
                "error mysqldb.conf:3: [m] tls=prefer: expected no, require or verify",
                "error sqlitedb.conf:4: [t] initialize: none can't be read: No such file or directory \
                 (os error 2)",
                "warning pgsqldb.conf:2: [a] timeout=soon: expected milliseconds from 100 to 600000; \
                 the default stands",
                "warning pgsqldb.conf:3: [a] unknown key passwrod: did you mean password?",
                "warning pgsqldb.conf:10: [d] encoding: text is always sent as UTF-8; the server \
                 converts it",
                "warning sqlitedb.conf:1: [s] database: an empty database in memory: nobody is in it",
                "warning sqlitedb.conf:2: [t] database: an empty database in memory: nobody is in it",
                "warning sqlitedb.conf:3: [t] shared_cache: known, but not supported",
            ]
        );
    }

    #[test]
    fn a_password_is_not_shown() {
        let (accounts, _) = read_files(&[
            ("pgsqldb.conf", "[a]\npassword=hunter2\n"),
            ("mysqldb.conf", "[b]\npassword=hunter2\n"),
        ]);
        assert!(!format!("{accounts:?}").contains("hunter2"));
    }
}
