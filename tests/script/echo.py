#!/usr/bin/python3
"""An external module that knows every user, and gives back all that it is told with each answer, as
libraries do that know a message and not what of it has changed."""

import os
import sys

MORE = b"seen_by=" + 100 * b"x"


def say(line):
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


say(b"%%>install:50:user.auth")
say(b"%%>install:50:user.register")
with open(sys.argv[1], "a", encoding="ascii") as told:
    print("pid", os.getpid(), file=told)
for line in sys.stdin.buffer:
    what, _, rest = line.rstrip(b"\n").partition(b":")
    if what == b"%%>message":
        number, _, name, _, params = rest.split(b":", 4)
        say(b":".join((b"%%<message", number, b"true", name, b"secret", params, MORE)))
