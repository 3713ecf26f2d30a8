//! Starting and stopping the program under test.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

/// How long anything may take before a test gives up; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `bindery serve` in a folder of its own.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    log: Arc<Mutex<String>>,
    /// Where it listens for SIP, in the configured order.
    pub(crate) sip: Vec<SocketAddr>,
    /// Where its admin API is.
    pub(crate) admin: SocketAddr,
}

impl Server {
    /// Writes these files to the configuration folder and starts on free ports.
    pub(crate) fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("conf")).expect("a configuration folder");
        for (name, text) in files {
            fs::write(folder.path().join("conf").join(name), text).expect("a configuration file");
        }
        let extra = ["--config", "conf", "--admin", "127.0.0.1:0"];
        Self::launch(folder, &extra, true)
    }

    /// Starts in `folder` with `args`; waits until it listens if it is to.
    pub(crate) fn launch(folder: tempfile::TempDir, args: &[&str], waits: bool) -> Self {
        Self::run(folder, command, args, waits)
    }

    /// Starts where no file may be longer than so many times 512 octets: a write beyond fails, as
    /// on a full disk.
    pub(crate) fn launch_with_short_files(
        folder: tempfile::TempDir,
        args: &[&str],
        blocks: u32,
    ) -> Self {
        let shell = |folder: &Path| {
            let mut shell = Command::new("sh");
            // An ignored signal stays so in the program.
            let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
            shell.current_dir(folder).args(["-c", &limit, "sh", env!("CARGO_BIN_EXE_bindery")]);
            shell.env_remove("RUST_LOG");
            shell
        };
        Self::run(folder, shell, args, true)
    }

    /// Starts what `command` makes of the folder.
    pub(crate) fn run(
        folder: tempfile::TempDir,
        command: impl FnOnce(&Path) -> Command,
        args: &[&str],
        waits: bool,
    ) -> Self {
        let mut child = command(folder.path())
            .arg("serve")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stdout = lines(child.stdout.take().expect("stdout is piped"), &log);
        let stderr = lines(child.stderr.take().expect("stderr is piped"), &log);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server =
            Self { folder, child, stdout, stderr, log, sip: Vec::new(), admin: nowhere };
        if waits {
            server.await_addresses();
        }
        server
    }

    /// Reads the log up to the line that names the admin API, the last one of a start.
    fn await_addresses(&mut self) {
        loop {
            let Ok(line) = self.stderr.recv_timeout(PATIENCE) else {
                panic!("it did not start:\n{}", self.log());
            };
            if let Some(addr) = after(&line, "listening on udp:") {
                self.sip.push(addr);
            } else if let Some(addr) = after(&line, "admin API on http://") {
                self.admin = addr;
                return;
            }
        }
    }

    /// Stops it by SIGTERM and starts it again on other ports, in the same folder.
    pub(crate) fn restart(self) -> Self {
        let (status, folder) = self.stop();
        assert!(status.success(), "{status}");
        Self::launch(folder, &["--config", "conf", "--admin", "127.0.0.1:0"], true)
    }

    /// Kills it; the folder is as it left it.
    pub(crate) fn killed(self) -> tempfile::TempDir {
        self.signal("KILL");
        self.stop().1
    }

    /// Stops it by SIGTERM, if it still runs.
    pub(crate) fn stop(mut self) -> (ExitStatus, tempfile::TempDir) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // One that was killed may not be gone yet; another signal does no harm.
            self.signal("TERM");
        }
        let status = self.wait();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (status, folder)
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the program was started")
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .expect("kill is there");
        assert!(sent.success());
    }

    /// Waits for a line of the log that has `text` in it.
    pub(crate) fn await_log(&self, text: &str) -> String {
        loop {
            match self.stderr.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(_) => panic!("no line with {text:?}:\n{}", self.log()),
            }
        }
    }

    /// The next line of standard output.
    pub(crate) fn stdout_line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line:\n{}", self.log()))
    }

    /// Everything it has written so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// The folder it was started in.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a configuration file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path("conf").join(name), text).expect("a configuration file");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test, to be run in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bindery"));
    command.current_dir(folder).env_remove("RUST_LOG");
    command
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let (_sender, never) = mpsc::channel::<()>();
    let step = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        if condition() {
            return;
        }
        let _ = never.recv_timeout(step);
    }
    panic!("waited in vain for {what}");
}

/// Hands on the lines of a pipe, and keeps them for messages.
fn lines(pipe: impl Read + Send + 'static, log: &Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Ok(mut log) = log.lock() {
                log.push_str(&line);
                log.push('\n');
            }
            // The test may have stopped listening.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The address that follows `mark` in a line.
fn after(line: &str, mark: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(mark)?;
    rest.split_whitespace().next()?.parse().ok()
}
