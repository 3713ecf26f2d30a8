"""A `bindery serve` of a benchmark: a folder, free ports, a start that is waited for, an end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

DOMAIN = "bench.test"
# Seconds for a start, and for a stop, which takes a snapshot.
PATIENCE = 300


def free_port(kind):
    """A port that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


class Server:
    """A server in a folder with `conf`; `persist` and `registrar` are lines of these sections."""

    def __init__(self, program, folder, *, persist="", registrar="", regfile="", workers=1, cpus="0"):
        self.program, self.folder, self.workers, self.cpus = program, Path(folder), workers, cpus
        self.sip, self.admin = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        conf = self.folder / "conf"
        conf.mkdir()
        (conf / "bindery.conf").write_text(
            f"[general]\ndomains={DOMAIN}\n[listener main]\naddr=127.0.0.1\nport={self.sip}\n"
            f"[registrar]\n{registrar}\n[persist]\n{persist}\n"
            f"[admin]\naddr=127.0.0.1\nport={self.admin}\n")
        (conf / "regfile.conf").write_text(regfile)
        self.process = None

    def start(self):
        """Starts it, without waiting."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", self.cpus, self.program, "serve",
                 "--config", self.folder / "conf", "--state", self.folder / "state",
                 "--workers", str(self.workers)], stdout=log, stderr=log)

    @property
    def pid(self):
        return self.process.pid

    def check_alive(self):
        if self.process.poll() is not None:
            sys.exit(f"the server has ended:\n{(self.folder / 'log').read_text()[-2000:]}")

    def await_ready(self):
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                self.fetch("/readyz")
                return
            self.check_alive()
            if time.monotonic() > until:
                sys.exit("the server did not become ready")
            time.sleep(0.02)

    def fetch(self, path, method="GET"):
        token = self.folder / "state" / "admin.token"
        headers = {}
        if path.startswith("/api/"):
            headers["Authorization"] = f"Bearer {token.read_text().strip()}"
        url = f"http://127.0.0.1:{self.admin}{path}"
        request = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read().decode()

    def metric(self, name):
        """A counter's value, summed over its labels."""
        text = self.fetch("/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def bench(self, scenario, *args, target=None):
        """The report of `bindery bench`, which has the CPU that the server has not; `target` takes
        the load in this server's place."""
        target = target or self
        report = self.folder / "report.json"
        # What is read below must be of this run.
        report.unlink(missing_ok=True)
        done = subprocess.run(
            [self.program, "bench", scenario, "--target", f"127.0.0.1:{target.sip}",
             "--domain", DOMAIN, "--core", "1", "--pid", str(target.process.pid), "--json", report,
             *map(str, args)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"bench {scenario}: {done.stdout}{done.stderr}")
        return json.loads(report.read_text())

    @contextlib.contextmanager
    def running(self):
        self.start()
        try:
            self.await_ready()
            yield self
        finally:
            if self.process.poll() is None:
                self.end()


def heading(what):
    """The first lines of a results file: what, when, of which commit, where, by which command."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True, check=False).stdout.strip()
    # Where the program was on this machine is nobody's business.
    words = (os.path.basename(word) if os.path.isabs(word) else word for word in sys.argv[1:])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    name, system = Path(sys.argv[0]).name, os.uname()
    return (f"# {what}: {day}, commit {commit}\n\n{os.cpu_count()} CPUs, {system.sysname}"
            f" {system.release}; `benches/{name} {' '.join(words)}`\n")
