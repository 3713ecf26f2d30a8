"""A PostgreSQL of its own, in a temporary folder on a free port."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from sipp import HOST, Failed, Skipped, free_port, wait_for

PASSWORD = "secret"
# Seconds for a start: initialising one on a busy machine takes a while.
PATIENCE = 60


def program(name):
    """In the path, or where Debian keeps those of PostgreSQL."""
    for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")):
        return str(path)
    return shutil.which(name)


class Postgres:
    """The server; a superuser `tester`, the database `postgres`."""

    def __init__(self):
        if not program("initdb"):
            raise Skipped("postgresql is not installed")
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="bindery-postgres-")), free_port()
        self.process, self.user = None, []
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            # It doesn't run as root.
            owner = pwd.getpwnam("postgres")
            self.user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            for path in (self.folder, self.folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        done = subprocess.run(
            self.command("initdb", "-D", self.folder / "data", "-U", "tester",
                         "--auth=scram-sha-256", f"--pwfile={self.folder}/password", "--no-sync",
                         "--encoding=UTF8", "--locale=C"),
            capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode:
            raise Failed(f"initdb: {done.stdout}{done.stderr}")

    def command(self, name, *args):
        """As its user; it ends with this process."""
        return ["setpriv", *self.user, "--pdeathsig=KILL", program(name), *map(str, args)]

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command("postgres", "-D", self.folder / "data", "-p", self.port, "-k",
                             self.folder, "-c", f"listen_addresses={HOST}", "-c", "fsync=off"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

        def answers():
            if self.process.poll() is not None:
                raise Failed(f"postgres ended\n{(self.folder / 'log').read_text()[-2000:]}")
            return self.psql("SELECT 1", check=False).returncode == 0

        wait_for("PostgreSQL to answer", answers, PATIENCE)

    def crash(self):
        """Ends it at once, without saving or saying anything."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(PATIENCE)

    def psql(self, sql, check=True):
        done = subprocess.run(
            [program("psql"), "-h", HOST, "-p", str(self.port), "-U", "tester", "-d", "postgres",
             "-v", "ON_ERROR_STOP=1", "-qtA", "-F", "\t"], input=sql, capture_output=True,
            text=True, check=False, env={**os.environ, "PGPASSWORD": PASSWORD})
        if check and done.returncode:
            raise Failed(f"{sql}: {done.stderr}")
        return done

    def rows(self, sql):
        """What a query gives, as text."""
        return [line.split("\t") for line in self.psql(sql).stdout.splitlines()]

    def conf(self):
        """Bindery's pgsqldb.conf."""
        return (f"[default]\nhost={HOST}\nport={self.port}\ndatabase=postgres\nuser=tester\n"
                f"password={PASSWORD}\n")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)
