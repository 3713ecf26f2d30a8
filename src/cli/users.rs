//! `bindery users`: edits `regfile.conf` and leaves the rest of it alone, or a database's table.

pub mod database;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use self::database::{Named, Table};
use super::check::existing_folder;
use super::table::printed;
use super::terminal::{read_line, read_password};
use crate::auth::digest::{Ha1Set, Secret};
use crate::auth::policy::Algorithm;
use crate::backend::regfile;
use crate::config::conf::Conf;
use crate::config::edit::{Text, check_name, check_value};
use crate::config::first_start::random_password;
use crate::config::resolve::{self, Host, Overrides};
use crate::config::settings::Config;
use crate::config::store::Replacement;
use crate::config::{Findings, Refused};
use crate::hex::to_hex;
use crate::subscribers::Account;
use crate::subscribers::builder::Builder;
use crate::subscribers::split_name;

/// The keys that say how a user authenticates.
const SECRET_KEYS: [&str; 4] = ["password", "ha1", "ha1_sha256", "ha1_sha512_256"];

/// Add, change, remove and list users
///
/// Those of regfile.conf, where a running server takes the change with `bindery reload`; with --db
/// those of a database, in the table that `bindery db init` makes. There a new user counts within
/// `[cache] negative`, a new password within `[cache] lifetime` seconds, or at once with SIGHUP.
#[derive(Clone, Debug, clap::Args)]
pub struct Users {
    /// The folder with regfile.conf [default: ./conf, else /etc/bindery]
    #[arg(long, value_name = "DIR", global = true)]
    pub config: Option<PathBuf>,
    /// The users of a database instead: an SQLite file, or an account of pgsqldb.conf,
    /// mysqldb.conf or sqlitedb.conf
    #[arg(long, value_name = "sqlite:PATH|ACCOUNT", global = true)]
    pub db: Option<Named>,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with a user.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Add a user: NAME for all domains, NAME@DOMAIN for one
    Add {
        /// The user
        user: String,
        /// Where the password comes from, and how it is kept
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give a user another password
    Passwd {
        /// The user
        user: String,
        /// Where the password comes from, and how it is kept
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Remove a user
    Remove {
        /// The user
        user: String,
    },
    /// List all users, or one
    List {
        /// The user
        user: Option<String>,
    },
}

/// Where a password comes from, and how it is kept.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of standard input
    #[arg(long, conflicts_with = "random")]
    pub password_stdin: bool,
    /// Make a random password and print it
    #[arg(long)]
    pub random: bool,
    /// Keep hashes instead of the password; they hold for the present realm only
    #[arg(long)]
    pub ha1: bool,
}

/// Runs `bindery users`.
///
/// # Errors
/// The sentence that says why nothing was changed.
pub fn run(args: &Users) -> anyhow::Result<ExitCode> {
    if let Some(named) = &args.db {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(run_in(named, args));
    }
    let folder = existing_folder(args.config.as_deref())?;
    let mut out = io::stdout().lock();
    match &args.action {
        Action::Add { user, password } => {
            check_user(user)?;
            check_presence(&folder, user, false)?;
            let chosen = choose(Some(&folder), user, password)?;
            chosen.check()?;
            edit(&folder, user, Change::Add(&chosen.keys))?;
            chosen.tell(&mut out)?;
        }
        Action::Passwd { user, password } => {
            check_user(user)?;
            check_presence(&folder, user, true)?;
            let chosen = choose(Some(&folder), user, password)?;
            chosen.check()?;
            edit(&folder, user, Change::Passwd(&chosen.keys))?;
            chosen.tell(&mut out)?;
        }
        Action::Remove { user } => {
            check_user(user)?;
            edit(&folder, user, Change::Remove)?;
        }
        Action::List { user } => return printed(list(&folder, user.as_deref(), &mut out)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The same in a database.
async fn run_in(named: &Named, args: &Users) -> anyhow::Result<ExitCode> {
    let folder = args.config.as_deref();
    let table = Table::named(named, folder)?;
    let mut out = io::BufWriter::new(io::stdout());
    match &args.action {
        Action::Add { user, password } => {
            check_account(user)?;
            table.check_presence(user, false).await?;
            let chosen = choose(folder, user, password)?;
            table.add(user, &chosen.keys).await?;
            chosen.tell(&mut out)?;
        }
        Action::Passwd { user, password } => {
            check_account(user)?;
            table.check_presence(user, true).await?;
            let chosen = choose(folder, user, password)?;
            table.passwd(user, &chosen.keys).await?;
            chosen.tell(&mut out)?;
        }
        Action::Remove { user } => table.remove(user).await?,
        Action::List { user } => {
            let listed = table.list(user.as_deref(), &mut out).await;
            return printed(listed.and_then(|()| Ok(out.flush()?)));
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A password as it will be kept.
struct Chosen {
    keys: Vec<(&'static str, String)>,
    /// The password, where nobody knows it yet.
    random: Option<String>,
}

impl Chosen {
    /// Whether it can be kept in a `.conf` file.
    fn check(&self) -> anyhow::Result<()> {
        self.keys.iter().try_for_each(|(_, value)| {
            check_value(value.as_bytes()).context("the password can't be kept in a .conf file")
        })
    }

    /// Prints a random password, once it counts.
    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        self.random.iter().try_for_each(|password| writeln!(out, "{password}"))
    }
}

/// A change to one user. The keys given are all that say how the user authenticates.
#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Add(&'a [(&'static str, String)]),
    Passwd(&'a [(&'static str, String)]),
    Remove,
}

/// Whether a user may have this name.
fn check_user(user: &str) -> anyhow::Result<()> {
    let refused = format!("{user:?} can't be a user's name");
    ensure!(user != regfile::GENERAL, "{refused}: [general] holds settings");
    check_name(user.as_bytes()).context(refused)?;
    check_account(user)
}

/// Whether an account may have this name, wherever it is kept.
fn check_account(user: &str) -> anyhow::Result<()> {
    let objection = Builder::new("", &[]).section(user.as_bytes()).err();
    objection.map_or(Ok(()), |objection| bail!("{user:?} can't be a user's name: {objection}"))
}

/// Whether a user is there or isn't, as a command wants it; asked before a password is typed.
fn check_presence(folder: &Path, user: &str, wanted: bool) -> anyhow::Result<()> {
    let path = folder.join(regfile::FILE);
    match find(&users(&path)?, user.as_bytes()) {
        Some((place, _)) if !wanted => bail!("there is a user {user} at {place}"),
        None if wanted => bail!("there is no user {user} in {}", path.display()),
        _ => Ok(()),
    }
}

/// The keys for the password that the arguments choose.
fn choose(folder: Option<&Path>, user: &str, args: &PasswordArgs) -> anyhow::Result<Chosen> {
    // Settings are read first, so that nobody types a password in vain.
    let config = match args.ha1 {
        true => Some(settings(&existing_folder(folder)?)?),
        false => None,
    };
    let password = if args.random {
        random_password()?
    } else if args.password_stdin {
        read_line(&mut io::stdin().lock())?
    } else {
        read_password(user)?
    };
    ensure!(!password.is_empty(), "an empty password would let anybody in");
    let random = args.random.then(|| password.clone());
    let keys = match config {
        None => vec![("password", password)],
        Some(config) => hashes(user, &password, &config),
    };
    Ok(Chosen { keys, random })
}

fn hashes(user: &str, password: &str, config: &Config) -> Vec<(&'static str, String)> {
    let auth = &config.auth;
    // Phones send the user part alone unless told otherwise.
    let username = split_name(user.as_bytes()).map_or(user.as_bytes(), |(user, _)| user);
    let (realm, password) = (auth.realm.as_bytes(), password.as_bytes());
    let set = Ha1Set::of_password(&Algorithm::ALL, username, realm, password);
    let key = |algorithm: &Algorithm| match algorithm {
        Algorithm::Md5 => "ha1",
        Algorithm::Sha256 => "ha1_sha256",
        Algorithm::Sha512_256 => "ha1_sha512_256",
    };
    let hash = |algorithm: &Algorithm| Some((key(algorithm), to_hex(set.ha1(*algorithm)?)));
    auth.algorithms.iter().filter_map(hash).collect()
}

/// The settings, if they are valid.
fn settings(folder: &Path) -> Result<Config, Refused> {
    let mut findings = Findings::default();
    let config = resolve::read(folder, &Overrides::default(), &Host::probe(), &mut findings);
    findings.finish(config).map(|accepted| accepted.value)
}

/// Changes one user in `regfile.conf`.
fn edit(folder: &Path, user: &str, change: Change<'_>) -> anyhow::Result<()> {
    let path = folder.join(regfile::FILE);
    let name = user.as_bytes();
    let replacement = Replacement::begin(&path)?;
    check_presence(folder, user, !matches!(change, Change::Add(_)))?;
    let mut text = Text::new(replacement.read()?);
    if let Some((place, _)) = find(&users(&path)?, name)
        && !text.has_section(name)
    {
        bail!("{user} stands at {place}, not in {}: edit it there", path.display());
    }
    match change {
        Change::Add(secret) => text.add_section(name, &borrowed(secret)),
        Change::Passwd(secret) => text.replace_keys(name, &SECRET_KEYS, &borrowed(secret)),
        Change::Remove => text.remove_section(name),
    }
    replacement.commit(text.as_bytes(), |draft| {
        let after = users(draft)?;
        let found = find(&after, name).map(|(_, secret)| secret);
        let expected = match change {
            Change::Add(secret) | Change::Passwd(secret) => Some(secret.to_vec()),
            Change::Remove => None,
        };
        // An `[$enabled no]` above, or another file that holds the same section.
        ensure!(
            found == expected,
            "the change would have no effect; includes or conditions in {} are in its way",
            path.display()
        );
        Ok(())
    })
}

fn borrowed<'a>(secret: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a [u8])> {
    secret.iter().map(|(key, value)| (*key, value.as_bytes())).collect()
}

/// All sections of `regfile.conf` and what it includes; an invalid file isn't edited.
fn users(path: &Path) -> Result<Conf, Refused> {
    let mut findings = Findings::default();
    let conf = Conf::read(path, &mut findings).unwrap_or_default();
    findings.finish(conf).map(|accepted| accepted.value)
}

/// Where a user stands, and the keys that say how it authenticates.
fn find(conf: &Conf, name: &[u8]) -> Option<(String, Vec<(&'static str, String)>)> {
    let section = conf.section(name)?;
    let mut secret = Vec::new();
    for key in &section.keys {
        if let Some(known) = SECRET_KEYS.iter().find(|known| known.as_bytes() == &*key.key) {
            secret.push((*known, String::from_utf8_lossy(&key.value).into_owned()));
        }
    }
    Some((section.place.to_string(), secret))
}

/// Prints users, one a line: the name and how it authenticates.
fn list(folder: &Path, user: Option<&str>, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = settings(folder)?;
    let mut findings = Findings::default();
    let regfile = regfile::read(folder, &config, false, &mut findings);
    let subscribers = findings.finish(regfile)?.value.subscribers;
    let mut found = false;
    for account in subscribers.iter() {
        let name = format!("{account:?}");
        if user.is_none_or(|user| user == name) {
            found = true;
            writeln!(out, "{name:32} {}", authenticates(account))?;
        }
    }
    match user {
        Some(user) if !found => bail!("there is no user {user} in {}", folder.display()),
        _ => Ok(()),
    }
}

fn authenticates(account: Account<'_>) -> String {
    match account.secret() {
        Secret::AnyPassword => "any password".to_owned(),
        Secret::NoPassword => "no password: registers where authentication is off".to_owned(),
        Secret::Ha1(set) => {
            let known = Algorithm::ALL.into_iter().filter(|known| set.ha1(*known).is_some());
            known.map(Algorithm::token).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(regfile: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("bindery.conf", "[general]\nrealm=r\n[listener a]\n");
            folder.write("regfile.conf", regfile);
            folder
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        fn regfile(&self) -> String {
            std::fs::read_to_string(self.0.path().join("regfile.conf")).unwrap()
        }

        /// The edit's error, the folder left out.
        fn edit(&self, user: &str, change: Change<'_>) -> Result<(), String> {
            let prefix = format!("{}/", self.0.path().display());
            edit(self.0.path(), user, change)
                .map_err(|error| error.to_string().replace(&prefix, ""))
        }

        fn list(&self, user: Option<&str>) -> String {
            let mut out = Vec::new();
            list(self.0.path(), user, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        }
    }

    fn password(text: &str) -> Vec<(&'static str, String)> {
        vec![("password", text.to_owned())]
    }

    #[test]
    fn users_come_change_and_go_and_comments_stay() {
        let folder = Folder::new("; ours\n\n[alice]\n; desk\npassword=a\nexpires=77\n");
        folder.edit("bob", Change::Add(&password("b\\"))).unwrap();
        folder.edit("alice", Change::Passwd(&password("new"))).unwrap();
        assert_eq!(
            folder.regfile(),
            "; ours\n\n[alice]\n; desk\npassword=new\nexpires=77\n\n[bob]\npassword=b\\ \n"
        );
        folder.edit("alice", Change::Remove).unwrap();
        assert_eq!(folder.regfile(), "; ours\n\n[bob]\npassword=b\\ \n");
    }

    #[test]
    fn what_cannot_be_done_is_told_and_not_done() {
        let text = "[alice]\npassword=a\n[$include more.conf]\n[$enabled no]\n[off]\n";
        let folder = Folder::new(text);
        folder.write("more.conf", "[carol]\npassword=c\n");
        let secret = password("x");
        let cases = [
            ("alice", Change::Add(&secret), "there is a user alice at regfile.conf:1"),
            ("dave", Change::Remove, "there is no user dave in regfile.conf"),
            ("off", Change::Passwd(&secret), "there is no user off in regfile.conf"),
            (
                "carol",
                Change::Remove,
                "carol stands at more.conf:1, not in regfile.conf: edit it there",
            ),
            (
                "bob",
                Change::Add(&secret),
                "the change would have no effect; includes or conditions in regfile.conf are in \
                 its way",
            ),
        ];
        for (user, change, expected) in cases {
            assert_eq!(folder.edit(user, change), Err(expected.to_owned()), "{user}");
            assert_eq!(folder.regfile(), text);
        }
        let folder = Folder::new("[alice\n");
        let error = folder.edit("bob", Change::Add(&secret)).unwrap_err();
        assert_eq!(error, "regfile.conf:1: `[` without `]`");
    }

    #[test]
    fn a_missing_file_is_created() {
        let folder = Folder::new("");
        std::fs::remove_file(folder.0.path().join("regfile.conf")).unwrap();
        folder.edit("bob", Change::Add(&password("b"))).unwrap();
        assert_eq!(folder.regfile(), "[bob]\npassword=b\n");
    }

    #[test]
    fn hashes_stand_for_the_password_in_the_realm() {
        let folder = Folder::new("[alice]\npassword=x\n");
        let config = settings(folder.0.path()).unwrap();
        for user in ["alice", "alice@a.org"] {
            let hashes = hashes(user, "secret", &config);
            let keys: Vec<&str> = hashes.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys, ["ha1"]);
            // MD5 of alice:r:secret.
            assert_eq!(hashes[0].1, "5a2a1586d5189f527d03bc41fbde1937", "{user}");
        }
        folder.edit("alice", Change::Passwd(&hashes("alice", "secret", &config))).unwrap();
        assert!(!folder.regfile().contains("password"));
        assert!(folder.list(None).contains("  MD5"), "{}", folder.list(None));
    }

    #[test]
    fn names_that_cannot_be_a_section_are_refused() {
        let cases = [
            ("general", "\"general\" can't be a user's name: [general] holds settings"),
            ("a]b", "\"a]b\" can't be a user's name: it contains `]`"),
            ("", "\"\" can't be a user's name: it is empty"),
            ("@a.org", "\"@a.org\" can't be a user's name: no user before the `@`"),
            ("$x", "\"$x\" can't be a user's name: it starts with `$` or contains `${`"),
        ];
        for (user, expected) in cases {
            assert_eq!(format!("{:#}", check_user(user).unwrap_err()), expected);
        }
        check_user("alice@a.org").unwrap();
    }

    #[test]
    fn users_are_listed_with_how_they_authenticate() {
        let folder = Folder::new("[alice]\npassword=a\n[any]\npassword=\n[none@a.org]\n");
        assert_eq!(
            folder.list(None),
            format!(
                "{:32} MD5\n{:32} any password\n{:32} no password: registers where \
                 authentication is off\n",
                "alice", "any", "none@a.org"
            )
        );
        assert_eq!(folder.list(Some("any")).lines().count(), 1);
        assert!(list(folder.0.path(), Some("x"), &mut Vec::new()).is_err());
    }
}
