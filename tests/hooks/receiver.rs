//! Who is asked and told: the two examples as they are, and one that misbehaves.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::support::wait_until;

/// A program that does what a receiver has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Example {
    Python,
    Node,
}

impl Example {
    pub(crate) const ALL: [Self; 2] = [Self::Python, Self::Node];

    /// What it needs, and where it is; `None`, and a line that says so, if that is not there.
    pub(crate) fn found(self, test: &str) -> Option<Self> {
        let program = self.program();
        let is_there = has(program);
        if !is_there {
            eprintln!("SKIPPED hooks {test} {self:?}: there is no {program}");
        }
        is_there.then_some(self)
    }

    fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Node => "node",
        }
    }

    fn file(self) -> PathBuf {
        let name = match self {
            Self::Python => "webhook.py",
            Self::Node => "webhook.mjs",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name)
    }
}

/// Whether a program can be run.
pub(crate) fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    let command = command.arg("--version").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An example at work.
pub(crate) struct Receiver {
    child: Child,
    pub(crate) port: u16,
    log: PathBuf,
    said: Arc<Mutex<String>>,
}

pub(crate) const SECRET: &str = "between us";

impl Receiver {
    /// Starts it on `port`, or on any; `more` are a certificate and its key.
    pub(crate) fn start(
        example: Example,
        folder: &Path,
        port: u16,
        secret: &str,
        more: &[&Path],
    ) -> Self {
        let log = folder.join("told.jsonl");
        let mut child = Command::new(example.program())
            .arg(example.file())
            .args([&port.to_string(), secret])
            .arg(folder.join("users"))
            .arg(&log)
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (pipe, all) = (child.stderr.take().unwrap(), Arc::clone(&said));
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                all.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let mut receiver = Self { child, port, log, said };
        wait_until("the receiver", || {
            let said = receiver.said();
            let port = said.split("listening on ").nth(1).and_then(|rest| rest.lines().next());
            receiver.port = port.and_then(|port| port.trim().parse().ok()).unwrap_or(0);
            receiver.port > 0
        });
        receiver
    }

    /// What it has written to standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// What it was told, in the order in which it was.
    pub(crate) fn told(&self) -> Vec<Value> {
        told(&self.log)
    }

    /// The events that it was told of an AoR.
    pub(crate) fn told_of(&self, aor: &str) -> Vec<String> {
        let of_it = |note: &Value| note["aor"] == aor;
        let event = |note: Value| note["event"].as_str().unwrap().to_owned();
        self.told().into_iter().filter(of_it).map(event).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn told(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What a receiver does that should not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vice {
    /// It takes the connection and says nothing.
    Silent,
    /// It ends the connection once it has read the request.
    Closing,
    /// This is its answer.
    Says(&'static str),
    /// Its answer has no end.
    Endless,
}

/// A receiver that misbehaves, until the test ends.
pub(crate) struct Misfit {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
}

impl Misfit {
    pub(crate) fn start(vice: Vice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&count);
                thread::spawn(move || misbehave(stream, vice, &count));
            }
        });
        Self { addr, requests }
    }
}

fn misbehave(mut stream: TcpStream, vice: Vice, requests: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let written = match vice {
            Vice::Silent => {
                // Until whoever asked gives up.
                let _ = reader.read_to_end(&mut body);
                return;
            }
            Vice::Closing => return,
            Vice::Says(answer) => stream.write_all(answer.as_bytes()),
            Vice::Endless => {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"password\":\"";
                let mut written = stream.write_all(head.as_bytes());
                while written.is_ok() {
                    written = stream.write_all(&[b'x'; 4096]);
                }
                written
            }
        };
        if written.is_err() {
            return;
        }
    }
}
