//! Asking a running server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent,
    http::{Response, StatusCode},
};

use crate::{
    admin::{problem::Problem, text::octets, token::Token},
    config::{
        Findings, bounds,
        first_start::{FOLDERS, Located, locate},
        resolve::{self, Host, Overrides, TOKEN_FILE},
        settings::Admin,
    },
};

/// Where a packaged server keeps its state, if not in `./state`.
const PACKAGED_STATE: &str = "/var/lib/bindery";

/// How long a connection may take: the server is near.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long an answer may take. A snapshot or a reload of ten million takes a while.
const ANSWER_TIME: Duration = Duration::from_secs(600);

/// The longest answer taken, in octets: many times that of the longest page.
const MAX_ANSWER: u64 = 64 << 20;

/// How to reach the server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// The server's admin API [default: [admin] of bindery.conf, else 127.0.0.1:8060]
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// The file with the admin token [default: [admin] of bindery.conf, else admin.token in the
    /// state folder]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The server's configuration folder [default: ./conf, else /etc/bindery]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The server's state folder [default: ./state, else /var/lib/bindery]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A server that can be asked.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    addr: SocketAddr,
    token: Token,
    /// Where the token is from, for people.
    token_file: PathBuf,
}

impl Client {
    /// The server that the arguments mean. Nothing is asked yet.
    ///
    /// # Errors
    /// The sentence that says what is missing.
    pub fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        let admin = admin(args)?;
        let addr = reachable(admin.addr);
        if addr.port() == 0 {
            bail!("[admin] port=0 takes any port: say which with --admin ADDR:PORT");
        }
        // Answers have all that is needed, and a proxy could not reach a loopback address.
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_global(Some(ANSWER_TIME))
            .build()
            .new_agent();
        let token_file = admin.token_file;
        match Token::read(&token_file) {
            Ok(token) => Ok(Self { agent, addr, token, token_file }),
            Err(error) => {
                // That there is no server is the better thing to say.
                let answer = agent.get(format!("http://{addr}/healthz")).call();
                answer.map_err(|error| unreachable(addr, error))?;
                let path = token_file.display();
                let options = "--state DIR or --token-file FILE";
                Err(anyhow!("can't read the admin token {path}: {error} (use {options})"))
            }
        }
    }

    /// GETs a path.
    ///
    /// # Errors
    /// No server answers, or its problem.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.get(self.url(path));
        self.take(request.header("authorization", self.token.authorization()).call())
    }

    /// DELETEs a path.
    ///
    /// # Errors
    /// No server answers, or its problem.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.delete(self.url(path));
        self.take(request.header("authorization", self.token.authorization()).call())
    }

    /// POSTs to a path, without a body.
    ///
    /// # Errors
    /// No server answers, or its problem.
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.post(self.url(path));
        self.take(request.header("authorization", self.token.authorization()).send_empty())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1/{path}", self.addr)
    }

    fn take<T: DeserializeOwned>(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<T> {
        let mut answer = answer.map_err(|error| unreachable(self.addr, error))?;
        let status = answer.status();
        let foreign = || format!("{} gave an answer that is not Bindery's", self.addr);
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.with_context(foreign)?;
        if status == StatusCode::UNAUTHORIZED {
            let (addr, file) = (self.addr, self.token_file.display());
            bail!("{addr} does not take the token of {file}: is it that server's?");
        }
        if !status.is_success() {
            let problem: Problem = serde_json::from_slice(&body).with_context(foreign)?;
            bail!("{}", problem.detail);
        }
        serde_json::from_slice(&body).with_context(foreign)
    }
}

fn unreachable(addr: SocketAddr, error: ureq::Error) -> anyhow::Error {
    match error {
        ureq::Error::Io(error) => anyhow!("no server answers at {addr}: {}", plain(&error)),
        error => anyhow!("no server answers at {addr}: {error}"),
    }
}

/// An error without the number that stands behind it.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// The settings of `[admin]`, as far as the arguments leave them open.
///
/// Mistakes in the files are no matter here: `bindery reload` has the server tell them.
fn admin(args: &ServerArgs) -> anyhow::Result<Admin> {
    if let (Some(addr), Some(token_file)) = (args.admin, args.token_file.clone()) {
        return Ok(Admin { addr, token_file });
    }
    let overrides = Overrides {
        admin: args.admin,
        state: args.state.clone().or_else(packaged_state),
        ..Overrides::default()
    };
    let admin = match locate(args.config.as_deref(), &FOLDERS)? {
        Located::Folder(folder) => {
            let config =
                resolve::read(&folder, &overrides, &Host::probe(), &mut Findings::default());
            let file = folder.join(resolve::FILE);
            let off = || anyhow!("the admin API is off: [admin] enable=no in {}", file.display());
            config.admin.ok_or_else(off)?
        }
        Located::Nowhere(_) => {
            let port = u16::try_from(bounds::ADMIN_PORT.default).unwrap_or_default();
            let addr = args.admin.unwrap_or((Ipv4Addr::LOCALHOST, port).into());
            let state = overrides.state.unwrap_or_else(|| PathBuf::from("./state"));
            Admin { addr, token_file: state.join(TOKEN_FILE) }
        }
    };
    let token_file = args.token_file.clone().unwrap_or(admin.token_file);
    Ok(Admin { addr: admin.addr, token_file })
}

/// The packaged server's folder, where there is no other.
fn packaged_state() -> Option<PathBuf> {
    let packaged = Path::new(PACKAGED_STATE);
    (!Path::new("./state").exists() && packaged.exists()).then(|| packaged.to_path_buf())
}

/// Where to connect to for a server that listens on `addr`, which may mean all addresses.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The path of an AoR: as it was typed or printed, `sip:` before it or not.
///
/// # Errors
/// It has a backslash that escapes nothing.
pub fn aor_path(aor: &str) -> anyhow::Result<String> {
    let octets = octets(aor).with_context(|| format!("{aor}: `\\` is written as `\\\\`"))?;
    let aor = match octets.split_at_checked(4) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"sip:") => rest,
        _ => &octets,
    };
    let mut path = String::from("bindings/");
    percent_encode_into(aor, &mut path);
    Ok(path)
}

/// Appends `octets`, all but the unreserved ones of RFC 3986 §2.3 and `@` percent-encoded.
pub fn percent_encode_into(octets: &[u8], out: &mut String) {
    for &octet in octets {
        if octet.is_ascii_alphanumeric() || b"-._~@".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
}

/// Writes one line of JSON.
///
/// # Errors
/// `out`'s.
pub fn write_json(out: &mut dyn io::Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_aor_has_a_path() {
        let path = |aor: &str| aor_path(aor).unwrap();
        assert_eq!(path("alice@example.com"), "bindings/alice@example.com");
        assert_eq!(path("sip:alice@example.com"), "bindings/alice@example.com");
        assert_eq!(path("a/b?c#d%e"), "bindings/a%2Fb%3Fc%23d%25e");
        assert_eq!(path("a\\xff\\\\"), "bindings/a%FF%5C");
        assert!(aor_path("a\\b").is_err());
    }

    #[test]
    fn the_files_say_where_the_server_is() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("bindery.conf");
        let args = ServerArgs {
            config: Some(folder.path().to_path_buf()),
            state: Some("/some/where".into()),
            ..ServerArgs::default()
        };
        // A mistake elsewhere does not matter.
        std::fs::write(&conf, "[admin]\naddr=0.0.0.0\nport=99\n[registrar]\nexpires_min=x\n")
            .unwrap();
        let found = admin(&args).unwrap();
        assert_eq!(found.token_file, Path::new("/some/where/admin.token"));
        assert_eq!(reachable(found.addr), "127.0.0.1:99".parse().unwrap());
        let given = ServerArgs {
            admin: Some("[::]:7".parse().unwrap()),
            token_file: Some("t".into()),
            ..args.clone()
        };
        let found = admin(&given).unwrap();
        assert_eq!(found.token_file, Path::new("t"));
        assert_eq!(reachable(found.addr), "[::1]:7".parse().unwrap());
        std::fs::write(&conf, "[admin]\nenable=no\n").unwrap();
        let error = admin(&args).unwrap_err().to_string();
        assert!(error.starts_with("the admin API is off: [admin] enable=no in "), "{error}");
    }
}
