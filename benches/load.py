#!/usr/bin/env python3
"""load.py PORT PID[,PID...] USERS: what a registrar's CPU pays for registrations, on loopback.

Registers the users u000000, u000001, ... (password p000000, ...; realm bench.test) in bursts of 128
from one socket, twice more with a new challenge each, then refreshes each five times with its nonce
and the next nonce count. Every answer is checked. The CPU time is what the kernel accounts to the
processes PID (10 ms steps), divided by the operations. Both Bindery and Kamailio
(taskset -c 0; this on -c 1) can be measured by it in one run.
"""

import hashlib
import re
import socket
import sys
import time

BURST, REALM = 128, "bench.test"
NONCE, USER = re.compile(rb'nonce="([^"]*)"'), re.compile(rb"\r\nTo: <sip:u(\d+)@")


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


class Load:
    def __init__(self, port, pids, users):
        self.pids, self.users = pids, range(users)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(3)
        self.port = self.socket.getsockname()[1]
        self.ha1 = [md5(f"u{u:06d}:{REALM}:p{u:06d}") for u in self.users]
        self.ha2 = md5(f"REGISTER:sip:{REALM}")
        self.nonce, self.count = {}, {}

    def request(self, user, cseq, authorization=""):
        name = f"u{user:06d}"
        return (
            f"REGISTER sip:{REALM} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{user}x{cseq};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{name}@{REALM}>;tag=t{user}\r\n"
            f"To: <sip:{name}@{REALM}>\r\nCall-ID: {user}-c0ffee12345678@127.0.0.1\r\n"
            f"CSeq: {cseq} REGISTER\r\nContact: <sip:{name}@127.0.0.1:{self.port}>\r\n"
            f"Expires: 3600\r\nUser-Agent: load/1.0\r\n{authorization}Content-Length: 0\r\n\r\n"
        ).encode()

    def authorization(self, user):
        self.count[user] += 1
        count, nonce = f"{self.count[user]:08x}", self.nonce[user]
        response = md5(f"{self.ha1[user]}:{nonce}:{count}:abcd:auth:{self.ha2}")
        return (
            f'Authorization: Digest username="u{user:06d}", realm="{REALM}", nonce="{nonce}", '
            f'uri="sip:{REALM}", response="{response}", algorithm=MD5, qop=auth, nc={count}, '
            'cnonce="abcd"\r\n'
        )

    def exchange(self, requests, code):
        for request in requests:
            self.socket.send(request)
        answers = [self.socket.recv(65535) for _ in requests]
        for answer in answers:
            assert answer.startswith(b"SIP/2.0 %d " % code), answer.decode()
        return answers

    def register(self, users, cseq):
        for answer in self.exchange([self.request(u, cseq) for u in users], 401):
            user = int(USER.search(answer)[1])
            self.nonce[user], self.count[user] = NONCE.search(answer)[1].decode(), 0
        self.refresh(users, cseq + 1)

    def refresh(self, users, cseq):
        self.exchange([self.request(u, cseq, self.authorization(u)) for u in users], 200)

    def cpu(self):
        stats = [open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split() for pid in self.pids]
        return sum(int(s[11]) for s in stats) / 100, sum(int(s[12]) for s in stats) / 100

    def phase(self, name, operation, cseqs):
        (user, system), start = self.cpu(), time.time()
        for cseq in cseqs:
            for first in range(0, len(self.users), BURST):
                operation(self.users[first : first + BURST], cseq)
        (user_end, system_end), end = self.cpu(), time.time()
        done = len(self.users) * len(cseqs)
        micros = [1e6 * t / done for t in (user_end - user, system_end - system)]
        print(
            f"{name}: {sum(micros):.1f} us CPU each, {micros[0]:.1f} of it user; "
            f"{done / (end - start):.0f}/s",
            flush=True,
        )


if __name__ == "__main__":
    port, pids, users = sys.argv[1:]
    load = Load(int(port), pids.split(","), int(users))
    load.phase("first registration", load.register, [1])
    load.phase("registration", load.register, [11, 21])
    load.phase("refresh", load.refresh, [101, 102, 103, 104, 105])
