#!/usr/bin/env python3
"""An external module that does what regfile.conf does, from a file of lines `user password`.

    [scripts]
    regfile.py=${configpath}/users.txt

It needs nothing but Python 3 and is meant to be read: docs/scripts.md has the protocol. Calls go to
where a user registered last. Try it with

    bindery script test docs/examples/regfile.py users.txt
"""

import os
import sys


def escape(text):
    """A field as it is written."""
    out = []
    for char in text:
        if char == "%":
            out.append("%%")
        elif char < " " or char == ":":
            out.append("%" + chr(ord(char) + 64))
        else:
            out.append(char)
    return "".join(out)


def unescape(field):
    """A field as it was meant."""
    head, *rest = field.split("%")
    out, rest = [head], iter(rest)
    for piece in rest:
        if piece == "":  # `%%`: what follows is as it stands
            out.append("%" + next(rest, ""))
        else:
            out.append(chr(ord(piece[0]) - 64) + piece[1:])
    return "".join(out)


def say(*fields):
    # The keyword comes first, and is no field to be escaped.
    keyword, *rest = fields
    sys.stdout.write(":".join([keyword, *map(escape, rest)]) + "\n")
    sys.stdout.flush()


class Users:
    def __init__(self, path):
        self.path, self.stamp, self.passwords = path, None, {}
        self.bound = {}  # user -> where calls go

    def password(self, user):
        """The password, from the file as it is now."""
        stamp = os.stat(self.path).st_mtime_ns
        if stamp != self.stamp:
            with open(self.path, encoding="utf-8") as lines:
                pairs = (line.split() for line in lines if line.strip())
                self.passwords = {pair[0]: pair[1] for pair in pairs}
            self.stamp = stamp
        return self.passwords.get(user)

    def handle(self, name, params):
        """Whether a message is handled, its return value, and parameters to set."""
        user = params.get("username", "")
        if name == "user.auth":
            password = self.password(user)
            return password is not None, password or "", {}
        if name == "user.register":
            if self.password(user) is None:
                return False, "", {"reason": "forbidden"}
            self.bound[user] = params["data"]
            return True, "", {}
        if name == "user.unregister":
            return self.bound.pop(user, None) is not None, "", {}
        if name == "call.route":
            called = params.get("called", "")
            if called in self.bound:
                return True, self.bound[called], {}
            if self.password(called) is not None:
                return False, "-", {"error": "offline"}
        return False, "", {}


def main():
    users = Users(sys.argv[1])
    for message in ("user.auth", "user.register", "user.unregister", "call.route"):
        say("%%>install", "90", message)
    for line in sys.stdin:
        keyword, *fields = line.rstrip("\r\n").split(":")
        if keyword != "%%>message":
            continue  # answers to what we installed, or `Error in`
        number, _, name, _ = map(unescape, fields[:4])
        # The first `=` ends the name, before anything is unescaped.
        pairs = (field.partition("=") for field in fields[4:])
        params = {unescape(name): unescape(value) for name, _, value in pairs}
        handled, retval, changes = users.handle(name, params)
        changed = [f"{key}={value}" for key, value in changes.items()]
        say("%%<message", number, "true" if handled else "false", "", retval, *changed)


if __name__ == "__main__":
    main()
