#!/usr/bin/env python3
"""A receiver of Bindery's webhooks: a table of users, and a log of what happens to them.

    webhook.py PORT SECRET USERS [LOG]

USERS has lines `name password [target]`: where calls to `name` go, if not to its phones. Each
notification is written to LOG, once, as a line of JSON. Needs nothing but Python; docs/webhooks.md
says what is sent.
"""

import hashlib
import hmac
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Requests that are older were not sent now: somebody has kept them.
TOLERANCE = 300
# Deliveries that are remembered. Bindery sends one again only while it is not sure of it.
REMEMBERED = 100_000


def is_signed(secret, header, body, now):
    """Whether `header` is a signature of `body`: `t=UNIX,v1=HEX`, of `UNIX.BODY`."""
    fields = dict(field.split("=", 1) for field in header.split(",") if "=" in field)
    time_text = fields.get("t", "")
    if not time_text.isdecimal() or abs(now - int(time_text)) > TOLERANCE:
        return False
    expected = hmac.new(secret, time_text.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, fields.get("v1", ""))


class Users:
    """The table, read again for each question."""

    def __init__(self, path):
        self.path = path

    def find(self, name):
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                fields = line.split()
                if len(fields) > 1 and fields[0] == name:
                    return fields[1], fields[2:]
        return None


class Seen:
    """Names of deliveries, so that one that comes twice counts once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.names = {}

    def is_new(self, name):
        with self.lock:
            if name in self.names:
                return False
            self.names[name] = True
            if len(self.names) > REMEMBERED:
                del self.names[next(iter(self.names))]
            return True


def answer(users, event, params):
    """What a question is answered with; None is "not mine"."""
    if event == "auth":
        user = users.find(params.get("username", ""))
        return user and {"password": user[0]}
    if event == "route":
        user = users.find(params.get("called", ""))
        return {"targets": user[1]} if user and user[1] else None
    if event == "register":
        if params.get("username", "").startswith("blocked"):
            return {"refuse": {"code": 403, "reason": "forbidden"}}
        # No objection.
        return {}
    return None


class Receiver(BaseHTTPRequestHandler):
    # Connections are kept.
    protocol_version = "HTTP/1.1"
    # An answer's head and its body leave together.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        signature = self.headers.get("Bindery-Signature", "")
        if not is_signed(server.secret, signature, body, time.time()):
            print("a request with a wrong signature", file=sys.stderr, flush=True)
            return self.reply(401)
        request = json.loads(body)
        if request["event"] in ("auth", "register", "route"):
            said = answer(server.users, request["event"], request["params"])
            return self.reply(204 if said is None else 200, said)
        if server.seen.is_new(request["id"]):
            server.note(request)
        return self.reply(204)

    def reply(self, status, said=None):
        body = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, secret, users, log):
        self.secret = secret.encode()
        self.users = Users(users)
        self.seen = Seen()
        self.lock = threading.Lock()
        # A delivery that was answered must be there after a crash.
        self.log = open(log, "a", encoding="utf-8") if log else sys.stdout
        super().__init__(("127.0.0.1", port), Receiver)

    def note(self, request):
        with self.lock:
            self.log.write(json.dumps(request) + "\n")
            self.log.flush()


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    port, secret, users = sys.argv[1:4]
    server = Server(int(port), secret, users, sys.argv[4] if len(sys.argv) > 4 else None)
    print(f"listening on {server.server_address[1]}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
