//! Real servers on free ports in temporary folders.

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use bindery::backend::sql::{
    Account, Database, Mysql, Password, Postgres, Server as Where, Sqlite, Statements, Tls, TlsMode,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a server may take to come up: initialising one on a busy machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The password of the user that tests come as: nothing a shell or a URL would leave alone.
const PASSWORD: &str = "s3cret 'x' \\ @:/";

/// A database server, or a file.
pub(crate) struct Engine {
    folder: TempDir,
    kind: Kind,
    port: u16,
    server: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Mariadb,
    Sqlite,
}

impl Engine {
    /// Starts a server; `None`, and a word on standard error, where its program is missing.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        let missing = match kind {
            Kind::Postgres => program("initdb").is_none().then_some("postgresql"),
            Kind::Mariadb => program("mariadbd").is_none().then_some("mariadb-server"),
            Kind::Sqlite => None,
        };
        if let Some(package) = missing {
            // Not `eprintln!`, which the harness would keep to itself.
            let _ = writeln!(io::stderr(), "SKIPPED sql {kind:?}: needs {package}");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{package} is missing");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut engine = Self { folder, kind, port, server: None };
        match kind {
            Kind::Postgres => engine.initialise_postgres(),
            Kind::Mariadb => engine.initialise_mariadb(),
            Kind::Sqlite => {}
        }
        engine.resume_after_kill().await;
        if kind == Kind::Mariadb {
            engine.make_mariadb_user().await;
        }
        Some(engine)
    }

    /// An account on it.
    pub(crate) fn account(&self, timeout: Duration, poolsize: u16) -> Account {
        let server = match self.kind {
            Kind::Postgres => {
                let mut config = tokio_postgres::Config::new();
                config.host("127.0.0.1").port(self.port).user("tester").password(PASSWORD);
                config.dbname("postgres");
                Where::Postgres(Box::new(Postgres { config, tls: Tls::default() }))
            }
            Kind::Mariadb => Where::Mysql(Box::new(Mysql {
                host: "127.0.0.1".into(),
                port: self.port,
                socket: None,
                database: "bindery".into(),
                user: "tester".into(),
                password: Some(Password(PASSWORD.into())),
                compress: false,
                tls: Tls { mode: TlsMode::No, ..Tls::default() },
            })),
            Kind::Sqlite => {
                Where::Sqlite(Sqlite { file: Some(self.path("users.db")), initialize: None })
            }
        };
        Account {
            name: "default".into(),
            server,
            timeout,
            poolsize,
            retry: 2,
            listen: Box::default(),
        }
    }

    /// The name and the text of the configuration file with the account.
    pub(crate) fn conf(&self) -> (&'static str, String) {
        match self.kind {
            Kind::Postgres => {
                let (port, password) = (self.port, PASSWORD);
                let at = format!("host=127.0.0.1\nport={port}\ndatabase=postgres\nuser=tester\n");
                ("pgsqldb.conf", format!("[default]\n{at}password={password}\n"))
            }
            Kind::Mariadb => {
                let (port, password) = (self.port, PASSWORD);
                let at = format!("host=127.0.0.1\nport={port}\ndatabase=bindery\nuser=tester\n");
                ("mysqldb.conf", format!("[default]\n{at}password={password}\n"))
            }
            Kind::Sqlite => {
                let file = self.path("users.db");
                ("sqlitedb.conf", format!("[default]\ndatabase={}\n", file.display()))
            }
        }
    }

    /// The ready-made register.conf for its tables.
    pub(crate) fn ready_made(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => include_str!("../../deploy/sql/yate/postgresql.conf"),
            Kind::Mariadb => include_str!("../../deploy/sql/yate/mysql.conf"),
            Kind::Sqlite => include_str!("../../deploy/sql/yate/sqlite.conf"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Kills the server, with all it forked.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        self.signal(server.id(), libc::SIGKILL);
        server.wait().unwrap();
        // PostgreSQL's own find out that their master is gone; the next master waits for that.
    }

    /// Stops the server's clock, so to say: it takes connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.server.iter().for_each(|server| self.signal(server.id(), libc::SIGSTOP));
    }

    /// Lets a server that was paused go on.
    pub(crate) fn go_on(&self) {
        self.server.iter().for_each(|server| self.signal(server.id(), libc::SIGCONT));
    }

    /// Signals the server and its children, all of which are of its process group.
    fn signal(&self, process: u32, signal: i32) {
        let process = i32::try_from(process).unwrap();
        let mut all = children(process);
        all.push(process);
        for process in all {
            let process = rustix::process::Pid::from_raw(process).unwrap();
            let signal = match signal {
                libc::SIGKILL => rustix::process::Signal::KILL,
                libc::SIGSTOP => rustix::process::Signal::STOP,
                _ => rustix::process::Signal::CONT,
            };
            let _ = rustix::process::kill_process(process, signal);
        }
    }

    /// Starts the server on what it left, and waits until it answers.
    pub(crate) async fn resume_after_kill(&mut self) {
        let port = self.port.to_string();
        let folder = self.folder.path().to_owned();
        let child = match self.kind {
            Kind::Sqlite => return,
            Kind::Postgres => self.command(
                "postgres",
                [
                    "-D".as_ref(),
                    folder.join("data").as_os_str(),
                    "-p".as_ref(),
                    port.as_ref(),
                    "-k".as_ref(),
                    folder.as_os_str(),
                    "-c".as_ref(),
                    "listen_addresses=127.0.0.1".as_ref(),
                    "-c".as_ref(),
                    "fsync=off".as_ref(),
                ],
            ),
            Kind::Mariadb => self.command(
                "mariadbd",
                [
                    "--no-defaults".as_ref(),
                    joined("--datadir=", &folder.join("data")).as_ref(),
                    joined("--socket=", &folder.join("socket")).as_ref(),
                    joined("--pid-file=", &folder.join("pid")).as_ref(),
                    "--bind-address=127.0.0.1".as_ref(),
                    format!("--port={port}").as_ref(),
                    "--innodb-flush-log-at-trx-commit=2".as_ref(),
                ],
            ),
        };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = child;
        let child = child.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.server = Some(child.spawn().unwrap());
        self.answers().await;
    }

    /// Waits until the server answers.
    pub(crate) async fn answers(&self) {
        let mut account = self.account(Duration::from_secs(2), 1);
        if let Where::Mysql(server) = &mut account.server
            && !self.path("made").exists()
        {
            (server.user, server.password) = ("root".into(), None);
            server.database = "mysql".into();
            server.socket = Some(self.path("socket"));
        }
        let database = Database::open(&account).unwrap();
        let probe = Statements::compile("SELECT 1", account.dialect()).unwrap();
        let started = Instant::now();
        loop {
            let answer = database.query(&probe, &probe.bind(&())).await;
            if answer.is_ok() {
                return;
            }
            if started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!("{:?} doesn't answer: {answer:?}\n{log}", self.kind);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn initialise_postgres(&self) {
        fs::write(self.path("password"), PASSWORD).unwrap();
        self.own();
        let mut command = self.command(
            "initdb",
            [
                "-D".as_ref(),
                self.path("data").as_os_str(),
                "-U".as_ref(),
                "tester".as_ref(),
                "--auth=scram-sha-256".as_ref(),
                joined("--pwfile=", &self.path("password")).as_ref(),
                "--no-sync".as_ref(),
                "--encoding=UTF8".as_ref(),
                "--locale=C".as_ref(),
            ],
        );
        succeed(&mut command);
    }

    fn initialise_mariadb(&self) {
        self.own();
        let mut command = self.command(
            "mariadb-install-db",
            [
                "--no-defaults".as_ref(),
                joined("--datadir=", &self.path("data")).as_ref(),
                "--auth-root-authentication-method=normal".as_ref(),
                "--skip-test-db".as_ref(),
            ],
        );
        succeed(&mut command);
    }

    async fn make_mariadb_user(&self) {
        let mut account = self.account(Duration::from_secs(10), 1);
        let Where::Mysql(server) = &mut account.server else { return };
        (server.user, server.password) = ("root".into(), None);
        server.database = "mysql".into();
        server.socket = Some(self.path("socket"));
        let database = Database::open(&account).unwrap();
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
        for sql in [
            "CREATE DATABASE bindery CHARACTER SET utf8mb4".to_owned(),
            format!("CREATE USER tester@'%' IDENTIFIED BY '{password}'"),
            "GRANT ALL ON bindery.* TO tester@'%'".to_owned(),
        ] {
            database.script(&sql).await.unwrap();
        }
        fs::write(self.path("made"), "").unwrap();
    }

    /// Gives the folder to the user that the server runs as: neither runs as root.
    fn own(&self) {
        let Some((user, group)) = self.user() else { return };
        chown(self.folder.path(), Some(user), Some(group)).unwrap();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            chown(entry.unwrap().path(), Some(user), Some(group)).unwrap();
        }
    }

    /// The user and group of the server, if this is root.
    fn user(&self) -> Option<(u32, u32)> {
        let name = match self.kind {
            Kind::Postgres => "postgres",
            Kind::Mariadb => "mysql",
            Kind::Sqlite => return None,
        };
        if !rustix::process::getuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
        let fields: Vec<&str> = line.unwrap_or("nobody:x:65534:65534").split(':').collect();
        Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
    }

    /// A program of the server, as its user, which ends with this process.
    fn command<'a>(&self, name: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Command {
        let program = program(name).unwrap();
        let mut command = Command::new("setpriv");
        if let Some((user, group)) = self.user() {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
            command.arg("--clear-groups");
        }
        command.arg("--pdeathsig=KILL").arg(program).args(args).current_dir(self.folder.path());
        command
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn joined(option: &str, path: &Path) -> String {
    format!("{option}{}", path.display())
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A program in the path, or where Debian keeps those of PostgreSQL.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    for version in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        folders.push(version.path().join("bin"));
    }
    folders.extend(std::env::split_paths(&path));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// All descendants of a process.
fn children(process: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let list = list.unwrap_or_default();
    let direct = list.split_whitespace().filter_map(|child| child.parse().ok());
    direct.flat_map(|child: i32| children(child).into_iter().chain([child])).collect()
}
