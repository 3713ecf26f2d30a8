"""The proxies that calls go through: Bindery, and Debian's Kamailio, which nobody here wrote."""

import collections
import contextlib
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from sipp import HOST, PATIENCE, Failed, Skipped, free_port, wait_for

ROOT = Path(__file__).resolve().parents[3]
DOMAIN = "test.example"
TICKS = os.sysconf("SC_CLK_TCK")
# Seconds that a stop may take.
LAST_WORDS = 15


class Proxy:
    """A proxy in a folder of its own, on a free port. Users are u00001, ... with p00001, ..."""

    # Another listener, whence a call may come that goes out by the first.
    OTHER = "127.0.0.2"

    def __init__(self, folder, *, users=100, settings=None, core=None, domain=DOMAIN,
                 alternatives=None):
        self.folder, self.users, self.core = Path(folder), users, core
        self.domain = domain
        self.settings, self.alternatives = settings or {}, alternatives or {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.other_port = free_port(), free_port()
        self.process = None

    @property
    def address(self):
        return f"{HOST}:{self.port}"

    @property
    def other_address(self):
        return f"{self.OTHER}:{self.other_port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.kill()

    def start(self):
        pinned = ["taskset", "-c", str(self.core)] if self.core is not None else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*pinned, *self.command()], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        wait_for(f"{self.name} to be ready", self.is_ready)

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}\n{self.log()}")

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def stop(self):
        """It has to end in peace."""
        self.process.terminate()
        try:
            status = self.process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {LAST_WORDS} s\n{self.log()}") from None
        if status != 0 or "panicked" in self.log():
            raise Failed(f"{self.name} ended with {status}\n{self.log()}")

    def kill(self):
        for pid in reversed(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait()

    def pids(self):
        """The process and its descendants."""
        if self.process.poll() is not None:
            return []
        children = collections.defaultdict(list)
        for each in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (each / "stat").read_text().rpartition(") ")[2].split()
                children[int(fields[1])].append(int(each.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(children[pid])
        return found

    def cpu_seconds(self):
        """User and system time of all its processes so far."""
        spent = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                spent += int(fields[11]) + int(fields[12])
        return spent / TICKS


class Bindery(Proxy):
    """The program that BINDERY names. `settings` are keys of `[calls]`, `extra` other sections."""

    name = "bindery"

    def __init__(self, folder, *, program=None, extra="", workers=None, files=None, **options):
        super().__init__(folder, **options)
        self.program = program or os.environ.get("BINDERY", "")
        self.extra, self.workers, self.files = extra, workers, files or {}
        self.admin = free_port()
        self.configure()

    def configure(self):
        conf = self.folder / "conf"
        conf.mkdir(exist_ok=True)
        calls = "".join(f"{key}={value}\n" for key, value in self.settings.items())
        calls = f"[calls]\n{calls}" if calls else ""
        (conf / "bindery.conf").write_text(
            f"[general]\nrealm={self.domain}\ndomains={self.domain}\n"
            f"[listener v4]\ntype=udp\naddr={HOST}\nport={self.port}\n"
            f"[listener other]\ntype=udp\naddr={self.OTHER}\nport={self.other_port}\n"
            f"[auth]\nalgorithms=MD5\n{calls}{self.extra}"
            f"[admin]\naddr={HOST}\nport={self.admin}\n")
        (conf / "regfile.conf").write_text("".join(
            f"[u{number:05}]\npassword=p{number:05}\n"
            + (f"alternatives={self.alternatives[number]}\n" if number in self.alternatives else "")
            for number in range(1, self.users + 1)))
        for name, text in self.files.items():
            (conf / name).write_text(text)

    def command(self):
        workers = ["--workers", str(self.workers)] if self.workers else []
        return [self.program, "serve", "--config", "conf", "--state", "state", *workers]

    def is_ready(self):
        self.check_alive()
        with contextlib.suppress(OSError):
            return self.fetch("/readyz")

    def fetch(self, path):
        headers = {}
        if path.startswith("/api/"):
            token = (self.folder / "state" / "admin.token").read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"http://{HOST}:{self.admin}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read().decode()

    def metric(self, name):
        """A metric's value, summed over its labels."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.fetch("/metrics"), re.MULTILINE)
        if not found:
            raise Failed(f"/metrics has no {name}")
        return sum(map(float, found))

    def open_transactions(self):
        return int(self.metric("bindery_transactions"))

    def open_calls(self):
        return int(self.metric("bindery_calls"))


class Kamailio(Proxy):
    """Debian's Kamailio with benches/peers/kamailio-calls.cfg."""

    name = "kamailio"

    def command(self):
        ring = self.settings.get("ring_timeout", 120)
        (self.folder / "run").mkdir(exist_ok=True)
        # Names that its preprocessor puts in place of those in the file.
        define = {"TESTS": None, "CONTROL": f'"unix:{self.folder}/control"',
                  "DOMAIN": f'"{self.domain}"', "AUTH": None, "USERS": self.users,
                  "FR_TIMER": 3000, "FR_INV_TIMER": 1000 * ring}
        words = [f"-A{name}" if value is None else f"-A{name}={value}"
                 for name, value in define.items()]
        return ["kamailio", "-x", "tlsf", "-DD", "-E", "-f",
                str(ROOT / "benches/peers/kamailio-calls.cfg"), "-l", f"udp:{self.address}",
                "-l", f"udp:{self.other_address}", "-m", "64", "-M", "8", "-Y", "run", *words]

    def is_ready(self):
        self.check_alive()
        return self.ask("core.version")

    def ask(self, *words):
        done = subprocess.run(["kamcmd", "-s", f"unix:{self.folder}/control", *words], text=True,
                              capture_output=True, check=False, timeout=PATIENCE)
        return done.stdout if done.returncode == 0 else None

    def open_transactions(self):
        told = self.ask("tm.stats") or ""
        found = re.search(r"current: (\d+)", told)
        if not found:
            raise Failed(f"tm.stats says {told!r}")
        return int(found[1])

    def open_calls(self):
        """It keeps no account of calls."""
        return None


def of(name):
    """The class of a proxy by its name; a word on why not, where its program is missing."""
    if name == "kamailio":
        return Kamailio
    if not os.environ.get("BINDERY"):
        raise Skipped("BINDERY names no program")
    return Bindery


def quiet(proxy, seconds=60):
    """Waits until no transaction and no call is left; how long that took."""
    begun = time.monotonic()

    def nothing():
        return not proxy.open_transactions() and not proxy.open_calls()

    try:
        wait_for("no transaction and no call", nothing, seconds)
    except Failed:
        raise Failed(f"after {seconds} s there are still {proxy.open_transactions()} transactions "
                     f"and {proxy.open_calls()} calls") from None
    return time.monotonic() - begun
