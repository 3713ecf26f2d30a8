"""baresip as a phone that is told what to do over TCP, without a sound card."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
import wave
from pathlib import Path

from proxies import DOMAIN
from sipp import HOST, PATIENCE, Failed, Skipped, free_port, wait_for

FOLDERS = ("/usr/lib", "/usr/local/lib")


def modules():
    """Where baresip's modules are."""
    for top in FOLDERS:
        for path in Path(top).glob("**/baresip/modules/ctrl_tcp.so"):
            return path.parent
    raise Skipped("baresip's modules are not where they were looked for")


def speak(path):
    """What a phone says, for ten seconds; what it hears goes nowhere."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", 8000 * (sample // 10 % 2))
                                  for sample in range(80_000)))


class Softphone:
    """A baresip with one account; what it tells of is kept in `events`, the oldest first."""

    def __init__(self, folder, name, user, proxy):
        self.name, self.user, self.folder = name, f"u{user:05}", Path(folder) / name
        self.folder.mkdir()
        self.control = free_port()
        where, tone = modules(), self.folder / "tone.wav"
        speak(tone)
        (self.folder / "config").write_text(
            f"module_path {where}\nsip_listen {HOST}:0\n"
            # Away from the ports that are given to others here (sipp.py).
            "rtp_ports 10000-16000\n"
            f"audio_player aubridge,nowhere\naudio_source aufile,{tone}\n"
            "audio_alert aubridge,alert\naudio_srate 8000\nausrc_srate 8000\nauplay_srate 8000\n"
            f"ctrl_tcp_listen {HOST}:{self.control}\ncall_max_calls 4\n"
            "module g711.so\nmodule aubridge.so\nmodule aufile.so\n"
            "module_app account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n")
        (self.folder / "accounts").write_text(
            f"<sip:{self.user}@{DOMAIN}>;auth_user={self.user};auth_pass=p{user:05};"
            f'outbound="sip:{proxy.address};transport=udp";regint=120;answermode=manual\n')
        (self.folder / "contacts").write_text("")
        self.events, self.rest, self.line = [], b"", None
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["baresip", "-4", "-s", "-f", str(self.folder)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env={**os.environ, "HOME": str(self.folder)},
                cwd=self.folder)

    def __enter__(self):
        wait_for(f"{self.name} to be ready", lambda: "baresip is ready" in self.log())
        if "Local network address: \n" in self.log():
            raise Skipped("baresip wants a network interface besides the loopback")
        self.line = socket.create_connection((HOST, self.control), PATIENCE)
        self.line.setblocking(False)
        # What happens before it has taken the connection it tells nobody.
        self.tell("reginfo")
        wait_for(f"{self.name} to be told something", self.look)
        self.await_registered()
        return self

    def __exit__(self, kind, *_):
        if self.line:
            self.line.close()
        if kind is None and self.process.poll() is None:
            # It takes its binding away.
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_text(errors="replace")
        return ""

    def await_registered(self):
        wait_for(f"{self.name} to be registered", lambda: "200 OK" in self.log())

    def tell(self, command, params=""):
        """Has it do something; its answer is an event like all others."""
        message = json.dumps({"command": command, "params": params, "token": command}).encode()
        self.line.sendall(b"%d:%s," % (len(message), message))

    def look(self):
        """Reads what it has told: netstrings of JSON."""
        with contextlib.suppress(BlockingIOError):
            while True:
                octets = self.line.recv(65_536)
                if not octets:
                    break
                self.rest += octets
        while b":" in self.rest:
            size, _, rest = self.rest.partition(b":")
            if len(rest) <= int(size):
                break
            self.events.append(json.loads(rest[:int(size)]))
            self.rest = rest[int(size) + 1:]
        return self.events

    def await_event(self, kind, count=1, seconds=PATIENCE):
        """Waits for the event of a type to have come so many times; returns the last."""
        def came():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended\n{self.log()[-3000:]}")
            found = [event for event in self.look() if event.get("type") == kind]
            return found if len(found) >= count else None

        try:
            return wait_for(f"{self.name} to tell of {kind}", came, seconds)[-1]
        except Failed as failed:
            raise Failed(f"{failed}\n{self.events}\n{self.log()[-3000:]}") from None

    def has_told(self, kind):
        return any(event.get("type") == kind for event in self.look())

    def dial(self, other):
        self.tell("dial", f"sip:{other.user}@{DOMAIN}")


def softphones_call(folder, proxy):
    """Two phones call each other, both ways, and each hangs up once."""
    with Softphone(folder, "alice", 1, proxy) as alice, Softphone(folder, "bob", 2, proxy) as bob:
        talk(alice, bob, alice, proxy)
        talk(bob, alice, alice, proxy, count=2)


def talk(caller, callee, leaver, proxy, count=1, meanwhile=lambda: None):
    """A call from the ringing to its end."""
    incoming = sum(event.get("type") == "CALL_INCOMING" for event in callee.look())
    caller.dial(callee)
    callee.await_event("CALL_INCOMING", incoming + 1)
    callee.tell("accept")
    for phone in (caller, callee):
        phone.await_event("CALL_ESTABLISHED", count)
    if proxy.open_calls() not in (None, 1):
        raise Failed(f"one call is going on, the proxy tells of {proxy.open_calls()}")
    # What they say to each other does not go through us; that they do shows whom they found.
    for phone in (caller, callee):
        wait_for(f"{phone.name} to hear something",
                 lambda phone=phone: phone.log().count("incoming rtp") >= count)
    meanwhile()
    leaver.tell("hangup")
    for phone in (caller, callee):
        phone.await_event("CALL_CLOSED", count)


def softphones_fork(folder, proxy):
    """Two phones of one account ring; the one that picks up has the call, the other stops."""
    with Softphone(folder, "alice", 1, proxy) as alice, \
            Softphone(folder, "bob-desk", 2, proxy) as desk, \
            Softphone(folder, "bob-mobile", 2, proxy) as mobile:
        alice.dial(desk)
        for phone in (desk, mobile):
            phone.await_event("CALL_INCOMING")
        mobile.tell("accept")
        for phone in (alice, mobile):
            phone.await_event("CALL_ESTABLISHED")
        desk.await_event("CALL_CLOSED")
        if desk.has_told("CALL_ESTABLISHED"):
            raise Failed(f"both phones have the call\n{desk.events}")
        time.sleep(0.2)
        if alice.has_told("CALL_CLOSED") or mobile.has_told("CALL_CLOSED"):
            raise Failed("the call did not outlive the phone that was not picked up")
        mobile.tell("hangup")
        for phone in (alice, mobile):
            phone.await_event("CALL_CLOSED")


def probed(method):
    """Both phones of a call are asked whether they have it, and go on as if nobody had asked."""
    def test(folder, proxy):
        def probes(result):
            return proxy.metric(f'bindery_probes_ended_total{{result="{result}"}}')

        with Softphone(folder, "alice", 1, proxy) as alice, \
                Softphone(folder, "bob", 2, proxy) as bob:
            for count, leaver in ((1, alice), (2, bob)):
                talk(alice, bob, leaver, proxy, count,
                     lambda so_far=4 * count: wait_for(f"{so_far} answers to probes",
                                                       lambda: probes("alive") >= so_far))
        if probes("gone") or probes("silent"):
            raise Failed("a phone that was in a call is said not to have been")

    test.__name__ = f"softphones_probed_by_{method.lower()}"
    test.settings = {"probe": 1, "probe_by": method}
    return test


def everything():
    tests = softphones_call, softphones_fork, probed("OPTIONS"), probed("UPDATE")
    return {test.__name__: test for test in tests}
