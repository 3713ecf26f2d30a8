"""A name server of a case's own: dnsmasq on a free port, with the records that the case tells."""

import getpass
import shutil
import socket
import subprocess
import time

from sipp import HOST, PATIENCE, Failed, free_port, wait_for

# Under it there is nothing but what a case says. What is under LATE is asked of somebody who takes
# each question, and answers none.
ZONE, LATE = "example", "late.example"
# A question that it answers by itself: the addresses of "localhost".
QUESTION = bytes.fromhex("beef01000001000000000000") + b"\x09localhost\x00\x00\x01\x00\x01"


class Names:
    """dnsmasq with these lines of its configuration."""

    def __init__(self, folder, lines):
        self.folder, self.lines = folder, lines
        self.port = free_port()
        self.silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.process = None

    @property
    def address(self):
        return f"{HOST}:{self.port}"

    def __enter__(self):
        self.silent.bind((HOST, 0))
        path = self.folder / "dnsmasq.conf"
        path.write_text("".join(f"{line}\n" for line in (
            f"port={self.port}", f"listen-address={HOST}", "bind-interfaces", "no-resolv",
            "no-hosts", "pid-file", f"user={getpass.getuser()}", f"local=/{ZONE}/",
            f"server=/{LATE}/{HOST}#{self.silent.getsockname()[1]}",
            "host-record=localhost,127.0.0.1", *self.lines)))
        with (self.folder / "dnsmasq.log").open("wb") as log:
            self.process = subprocess.Popen(
                [shutil.which("dnsmasq"), "--no-daemon", f"--conf-file={path}"], stdout=log,
                stderr=log, stdin=subprocess.DEVNULL)
        wait_for("dnsmasq to answer", self.answers)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.silent.close()

    def answers(self):
        if self.process.poll() is not None:
            log = (self.folder / "dnsmasq.log").read_text(errors="replace")
            raise Failed(f"dnsmasq ended with {self.process.returncode}\n{log}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect((HOST, self.port))
            try:
                client.send(QUESTION)
                return client.recv(512)[:2] == QUESTION[:2]
            except OSError:
                time.sleep(0.05)
                return False
