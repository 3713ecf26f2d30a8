"""SIPp processes: phones that call, phones that are called, and what each of them counted."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

# Below the ephemeral ports, so that no client takes one between the look and the bind.
PORTS = iter(range(20_000 + (time.time_ns() // 1_000_000) % 10_000, 32_000))
LOCK = threading.Lock()
HOST = "127.0.0.1"
# Seconds in which a process has to come up or end.
PATIENCE = 15


def end_in_order():
    """Has the signals that end a program end it by an exception, so that it ends what it began."""
    def interrupted(number, _frame):
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupted)


class Failed(Exception):
    """What a test expects did not come about; the text says what."""


class Skipped(Exception):
    """A test that could not be done here; the text says why."""


def free_port():
    """A port that no UDP or TCP socket of this machine has, and that nobody else got from here."""
    with LOCK:
        for port in PORTS:
            with contextlib.suppress(OSError):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    with socket.socket(socket.AF_INET, kind) as trying:
                        trying.bind((HOST, port))
                return port
    raise Failed("no port is free")


def wait_for(what, condition, seconds=PATIENCE):
    """Looks until the condition holds, and returns what it found."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise Failed(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)


class Sipp:
    """A SIPp at work. `target`: where it calls; without one it waits for calls."""

    def __init__(self, folder, script, *, port=None, target=None, users=None, calls=None, rate=1,
                 domain="test.example", trace=True, core=None, more=()):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self.port = script.name, port or free_port()
        self.stat = self.folder / f"{self.name}.csv"
        path = script.write(self.folder)
        command = ["taskset", "-c", str(core)] if core is not None else []
        command += ["sipp", "-i", HOST, "-bind_local", "-p", str(self.port), "-cp",
                    str(free_port()), "-sf", path.name, "-key", "domain", domain, "-nostdin",
                    "-default_behaviors", "abortunexp", "-trace_stat", "-stf", self.stat.name,
                    "-fd", "200ms", "-f", "3600", "-trace_counts", "-trace_err", "-error_file",
                    f"{self.name}.errors"]
        if trace:
            command += ["-trace_msg", "-message_file", f"{self.name}.messages"]
        if users is not None:
            (self.folder / f"{self.name}.users").write_text(
                "SEQUENTIAL\n" + "".join(f"{';'.join(user)}\n" for user in users))
            command += ["-inf", f"{self.name}.users"]
        if target is not None:
            command += ["-m", str(calls), "-r", str(rate), "-l", str(calls), target]
        with (self.folder / f"{self.name}.screen").open("wb") as screen:
            self.process = subprocess.Popen([*command, *more], cwd=self.folder, stdout=screen,
                                            stderr=screen, stdin=subprocess.DEVNULL)
        if target is None:
            wait_for(f"{self.name} to listen", self.listens)

    def listens(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}\n{self.story()}")
        told = Path("/proc/net/udp").read_text()
        return f":{self.port:04X} " in told

    def counts(self):
        """Calls created, successful, failed and still open, and messages sent again, so far."""
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError, KeyError):
            head, *lines = self.stat.read_text().splitlines()
            whole = dict(zip(head.split(";"), lines[-1].split(";"), strict=False))
            return {"created": int(whole["TotalCallCreated"]),
                    "successful": int(whole["SuccessfulCall(C)"]),
                    "failed": int(whole["FailedCall(C)"]), "open": int(whole["CurrentCall"]),
                    "again": int(whole["Retransmissions(C)"])}
        return {"created": 0, "successful": 0, "failed": 0, "open": 0, "again": 0}

    def count(self, message, what):
        """How often a message was `Sent`, `Recv` or, where it had come already, `Retrans`."""
        with contextlib.suppress(ValueError, IndexError):
            (path,) = self.folder.glob(f"*{self.process.pid}_counts.csv")
            head, *lines = path.read_text().splitlines()
            whole = zip(head.split(";"), lines[-1].split(";"), strict=False)
            return sum(int(value) for name, value in whole if name.endswith(f"_{message}_{what}"))
        return 0

    def finish(self, seconds):
        """Waits for the end of a caller, of whose calls none may have failed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {seconds} s: {self.counts()}\n"
                         f"{self.story()}") from None
        if status != 0:
            raise Failed(f"{self.name} ended with {status}: {self.counts()}\n{self.story()}")

    def await_calls(self, number, seconds=PATIENCE):
        """Waits until a callee is done with so many calls; all of them must have gone well."""
        def done():
            counts = self.counts()
            return counts["successful"] + counts["failed"] >= number and counts["open"] == 0

        with contextlib.suppress(Failed):
            wait_for("the calls", done, seconds)
        counts = self.counts()
        if (counts["created"], counts["successful"], counts["failed"]) != (number, number, 0):
            raise Failed(f"{self.name} was to have {number} calls: {counts}\n{self.story()}")

    def story(self):
        """What it wrote about what went wrong."""
        told = []
        for kind, most in (("errors", 6000), ("messages", 12000), ("screen", 0)):
            with contextlib.suppress(FileNotFoundError):
                text = (self.folder / f"{self.name}.{kind}").read_text(errors="replace")
                told += [f"-- {self.name}.{kind}", text[:most]] if text and most else []
        return "\n".join(told)

    def stop(self, number=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait()
