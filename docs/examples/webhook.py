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
import re
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
    if not re.fullmatch("[0-9]{1,12}", time_text) or abs(now - int(time_text)) > TOLERANCE:
        return False
    expected = hmac.new(secret, time_text.encode() + b"." + body, hashlib.sha256).hexdigest()
    # As octets: texts that aren't ASCII are not compared, but raise.
    return hmac.compare_digest(expected.encode(), fields.get("v1", "").encode(errors="replace"))


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


class Log:
    """Notifications, each in it once however often it comes."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.ids = {}
        self.is_torn = False

    def note(self, request):
        """Returns once it is written: what was answered is not sent again."""
        with self.lock:
            if request["id"] in self.ids:
                return
            line = json.dumps(request).encode() + b"\n"
            if self.is_torn:
                line = b"\n" + line
            self.is_torn = True
            # Unbuffered: what could not be written must not come later, besides the next try.
            with open(self.path or 1, "ab", buffering=0, closefd=bool(self.path)) as file:
                if file.write(line) != len(line):
                    raise OSError("there is room for a part of a line only")
            self.is_torn = False
            # Only now: what failed is sent again under the same id, and must not be taken for known.
            self.ids[request["id"]] = True
            if len(self.ids) > REMEMBERED:
                del self.ids[next(iter(self.ids))]


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
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,9}", length):
            # Nobody knows where the next request begins.
            self.close_connection = True
            return self.reply(400)
        body = self.rfile.read(int(length))
        signature = self.headers.get("Bindery-Signature", "")
        if not is_signed(server.secret, signature, body, time.time()):
            print("a request with a wrong signature", file=sys.stderr, flush=True)
            return self.reply(401)
        try:
            status, said = self.take(json.loads(body))
        except Exception as error:  # It is sent again, or counts as not answered.
            print(repr(error), file=sys.stderr, flush=True)
            status, said = 500, None
        return self.reply(status, said)

    def take(self, request):
        server = self.server
        if request["event"] in ("auth", "register", "route"):
            said = answer(server.users, request["event"], request["params"])
            return (204 if said is None else 200), said
        server.log.note(request)
        return 204, None

    def reply(self, status, said=None):
        body = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
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
        self.log = Log(log)
        super().__init__(("127.0.0.1", port), Receiver)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    port, secret, users = sys.argv[1:4]
    server = Server(int(port), secret, users, sys.argv[4] if len(sys.argv) > 4 else None)
    print(f"listening on {server.server_address[1]}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
